"""Training from a stream: rows in one order for any workers, exact resume, faults at their step."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import DataLoader
from toy_products import product_rows

from phi_vision.data.dataset import load_samples
from phi_vision.data.streaming import StreamedRows, open_streams, read_head
from phi_vision.runs import RunDir
from phi_vision.training.recipes import Recipe
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of 24 products in three shards, and four to evaluate."""
    folder, rows = tmp_path / "shards", product_rows(28)
    folder.mkdir()
    for number in range(3):
        part = pa.Table.from_pylist(rows[number * 8 : number * 8 + 8])
        pq.write_table(part, folder / f"train-{number:05d}-of-00003.parquet")
    pq.write_table(pa.Table.from_pylist(rows[24:]), folder / "validation.parquet")
    return folder


def ids(rows: StreamedRows, count: int, *, workers: int = 0) -> list[str]:
    loader = DataLoader(rows, batch_size=4, num_workers=workers, collate_fn=list)
    batches = itertools.islice(loader, count // 4)
    return [sample.id for batch in batches for (sample,) in batch]


def test_each_epoch_has_all_samples_in_an_order_of_its_own(shards: Path) -> None:
    rows = StreamedRows(str(shards), None, seed=0, batch_rows=4)
    found = ids(rows, 48)
    assert sorted(found[:24]) == sorted(found[24:]) == sorted(f"p{n}" for n in range(24))
    assert found[:24] != found[24:]
    assert found == ids(rows, 48)
    assert found != ids(StreamedRows(str(shards), None, seed=1, batch_rows=4), 48)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_order_does_not_depend_on_the_workers(shards: Path, workers: int) -> None:
    rows = StreamedRows(str(shards), None, seed=0, batch_rows=4)
    assert ids(rows, 48, workers=workers) == ids(rows, 48)


def test_processes_take_the_rows_of_a_batch_in_turn(shards: Path) -> None:
    alone = ids(StreamedRows(str(shards), None, seed=0, batch_rows=4), 48)
    parts = []
    for process in range(2):
        rows = StreamedRows(str(shards), None, seed=0, batch_rows=4)
        # As accelerate divides the batches of a Trainer.
        own = IterableDatasetShard(rows, batch_size=2, num_processes=2, process_index=process)
        loader = DataLoader(own, batch_size=2, num_workers=2, collate_fn=list)
        parts.append([[s.id for (s,) in batch] for batch in itertools.islice(loader, 12)])
    together = [id for batches in zip(*parts, strict=True) for batch in batches for id in batch]
    assert together == alone


def test_streamed_samples_are_those_of_the_files(shards: Path) -> None:
    streams = open_streams(str(shards))
    assert list(streams) == ["train", "validation"]
    for name, stream in streams.items():
        assert read_head(stream, str(shards), None) == load_samples(shards, split=name)


def test_a_streamed_run_resumes_exactly(
    make_recipe: MakeRecipe, shards: Path, tmp_path: Path
) -> None:
    # Six batches an epoch, two a step: steps 4 and 5 are in the second one.
    whole = make_recipe(
        "lora", data=str(shards), streaming=True, validation_fraction=None, max_steps=5,
        per_device_train_batch_size=4, gradient_accumulation_steps=2, save_steps=2, eval_steps=5,
        lora_dropout=0.3, dataloader_num_workers=2,
    )  # fmt: skip
    train(whole)
    cut = replace(whole, output_dir=tmp_path / "cut", dataloader_num_workers=0)
    shutil.copytree(whole.output_dir, cut.output_dir)
    for name in ("model", "checkpoints/checkpoint-5"):
        shutil.rmtree(cut.output_dir / name)
    train(cut, resume=True)
    for run in (whole, cut):
        assert RunDir(run.output_dir).last_checkpoint().name == "checkpoint-5"  # type: ignore[union-attr]
    weights = "checkpoints/checkpoint-5/adapter_model.safetensors"
    assert (cut.output_dir / weights).read_bytes() == (whole.output_dir / weights).read_bytes()


def test_a_long_sample_beyond_the_head_is_named_at_its_step(
    make_recipe: MakeRecipe, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi_vision.data.streaming.HEAD", 4)
    rows = product_rows(24)[16:]
    rows[3]["title"] = "long " * 900
    pq.write_table(pa.Table.from_pylist(rows), shards / "train-00002-of-00003.parquet")
    recipe = make_recipe(
        "lora", data=str(shards), streaming=True, validation_fraction=None, max_steps=12,
        max_length=300, per_device_train_batch_size=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"sample 'p19' has \d+ tokens, more than max_length 300"):
        train(recipe)


def test_what_cannot_be_streamed_is_a_clear_error(
    make_recipe: MakeRecipe, shards: Path, tmp_path: Path
) -> None:
    recipe = make_recipe("lora", streaming=True, validation_fraction=None, max_steps=1)
    with pytest.raises(
        ValueError, match=r"cannot stream no-such/data: .*name of a dataset on the hub"
    ):
        train(replace(recipe, data="no-such/data"))
    for file in shards.glob("train*"):
        file.unlink()
    with pytest.raises(ValueError, match="has no train split; it has validation"):
        train(replace(recipe, data=str(shards)))
