"""Two processes train like one with the same global batch, and nothing is silently replaced."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from torch import nn

from phi_vision.model.checkpoint import load_model
from phi_vision.training.distributed import (
    check_folder_is_shared,
    check_launch,
    check_same_processes,
    check_same_settings,
    check_sharding,
    divide,
    gather,
)
from phi_vision.training.recipes import RECIPES, Recipe, to_yaml
from phi_vision.training.trainer import train

WORKER = Path(__file__).with_name("two_processes.py")
JOBS = ("ddp_full", "fsdp_full", "ddp_lora", "fsdp_dora", "fsdp_bf16", "ddp_dpo")
AGAIN = ("fsdp_full", "fsdp_dora", "ddp_lora")


@dataclass(frozen=True)
class Trained:
    """What one launch of two processes, and single processes with the same batches, have left."""

    folder: Path

    def told(self, job: str) -> list[dict[str, Any]]:
        return [json.loads((self.folder / f"{job}-{rank}.json").read_text()) for rank in (0, 1)]

    def log(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / name / "log.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def half_text(tmp_path_factory: pytest.TempPathFactory, products: Path) -> Path:
    """The drawn products: 16 to learn from, every third without its image, and 4 held out."""
    rows = pq.read_table(products).to_pylist()
    for number, row in enumerate(rows):
        image = row.pop("image")
        row["images"] = [image] if number % 3 or number >= 16 else []
        row["rejected"] = f"Product: {row['title']}, Category: SHOES, Full Price: {number + 7}.0"
    folder = tmp_path_factory.mktemp("half_text")
    for name, part in (("train", rows[:16]), ("validation", rows[16:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{name}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, half_text: Path
) -> Trained:
    """Train once for all workers of pytest-xdist, as its documentation recommends."""
    folder = tmp_path_factory.getbasetemp() / "trained"
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent.with_name("trained")
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            train_all(folder, tiny_checkpoint, half_text)
    return Trained(folder)


def train_all(folder: Path, tiny_checkpoint: Path, half_text: Path) -> None:
    folder.mkdir()
    full = replace(
        RECIPES["full"](),
        model=str(tiny_checkpoint),
        data=str(half_text),
        learning_rate=3e-3,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        max_steps=4,
        eval_steps=4,
        eval_samples=2,
        save_steps=2,
        bf16=False,
        report_to="none",
    )
    adapters = {"r": 4, "lora_alpha": 8.0, "lora_dropout": 0.0}
    lora = replace(full, method="lora", target_modules=("qkv_proj", "o_proj"), **adapters)
    lora = replace(lora, train_projector=True, train_vision=False, per_device_train_batch_size=2)
    lora = replace(lora, gradient_accumulation_steps=2, eval_samples=0)
    dora = replace(lora, use_dora=True)
    bf16 = replace(lora, bf16=True, gradient_checkpointing=True)
    dpo = replace(lora, objective="dpo", beta=0.1)
    recipes = dict(zip(JOBS, (full, full, lora, dora, bf16, dpo), strict=True))
    jobs = [write_job(folder, name, recipe) for name, recipe in recipes.items()]
    for name in AGAIN:
        again = write_job(folder, f"{name}_again", recipes[name])
        jobs.append({**again, "go_on_from": str(folder / name), "forget": "checkpoint-4"})
    other = write_job(folder, "ddp_other", full)
    jobs.append({**other, "second_process_has": {"seed": 7}})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    run_twice(folder)
    for name in ("ddp_full", "ddp_lora", "fsdp_dora", "ddp_dpo"):
        accumulation = 2 * recipes[name].gradient_accumulation_steps
        out = folder / f"one_{name}"
        train(replace(recipes[name], gradient_accumulation_steps=accumulation, output_dir=out))


def write_job(folder: Path, name: str, recipe: Recipe) -> dict[str, Any]:
    file = folder / f"{name}.yaml"
    sharding = "fsdp" if name.startswith("fsdp") else "none"
    file.write_text(to_yaml(replace(recipe, output_dir=folder / name, sharding=sharding)))
    return {"name": name, "recipe": str(file)}


def run_twice(folder: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(WORKER), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize(
    ("job", "single"),
    [
        ("ddp_full", "ddp_full"),
        ("fsdp_full", "ddp_full"),
        ("ddp_lora", "ddp_lora"),
        ("fsdp_dora", "fsdp_dora"),
        ("ddp_dpo", "ddp_dpo"),
    ],
)
def test_two_processes_train_like_one(trained: Trained, job: str, single: str) -> None:
    ours, theirs = trained.log(job), trained.log(f"one_{single}")
    assert len(ours) == len(theirs) == 4 + 1, "every step and evaluation is written once"
    for left, right in zip(ours, theirs, strict=True):
        for figure in ("loss", "grad_norm", "learning_rate", "validation_loss"):
            # float32 sums in another order, through up to four steps of Adam
            assert left.get(figure, 0) == pytest.approx(right.get(figure, 0), rel=1e-3), figure
        assert left.get("model") == right.get("model"), "the panel is answered alike"
    ours_model, theirs_model = (
        load_model(trained.folder / name)[0].state_dict() for name in (job, f"one_{single}")
    )
    assert ours_model.keys() == theirs_model.keys()
    for name, weight in theirs_model.items():
        torch.testing.assert_close(ours_model[name], weight, rtol=0, atol=3e-4, msg=name)


def test_ddp_holds_the_model_whole_in_both(trained: Trained) -> None:
    for told in trained.told("ddp_full"):
        assert told["model"] == "DistributedDataParallel"
        assert told["held"] == told["weights"]


@pytest.mark.parametrize("job", ["fsdp_full", "fsdp_dora", "fsdp_bf16"])
def test_fsdp_holds_half_of_the_model_in_each(trained: Trained, job: str) -> None:
    told = trained.told(job)
    assert all(each["model"].startswith("FSDP") for each in told)
    assert sum(each["held"] for each in told) == told[0]["weights"]
    assert told[0]["held"] < 0.6 * told[0]["weights"]


def test_fsdp_in_bf16_reports_losses_in_float32(trained: Trained) -> None:
    ours, theirs = (
        [line["loss"] for line in trained.log(name) if "loss" in line]
        for name in ("fsdp_bf16", "one_ddp_lora")
    )
    # bf16 keeps three digits of each product
    assert ours == pytest.approx(theirs, rel=1e-2)
    assert any(loss != float(torch.tensor(loss).bfloat16()) for loss in ours)


@pytest.mark.parametrize("job", AGAIN)
def test_a_resumed_run_of_two_is_the_uninterrupted_run(trained: Trained, job: str) -> None:
    whole, again = (trained.folder / name / "model" for name in (job, f"{job}_again"))
    (file,) = (each.name for each in whole.glob("*.safetensors"))
    assert (again / file).read_bytes() == (whole / file).read_bytes()
    assert [line.get("loss") for line in trained.log(f"{job}_again")] == [
        line.get("loss") for line in trained.log(job)
    ]


def test_processes_with_different_recipes_are_rejected(trained: Trained) -> None:
    for told in trained.told("ddp_other"):
        assert "process 1 has another seed than process 0 (7 instead of 0)" in told["refused"]
    assert not (trained.folder / "ddp_other").exists()


def fsdp(recipe: Recipe | None = None) -> Recipe:
    return replace(recipe or RECIPES["lora"](), sharding="fsdp")


LAUNCHED = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
LAUNCHED |= {"MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("recipe", "environment", "gpus", "message"),
    [
        (RECIPES["lora"](), {}, 4, "4 GPUs but one process.*torchrun --nproc-per-node 4"),
        (RECIPES["lora"](), LAUNCHED, 1, "2 processes were started on a machine with 1 GPUs"),
        (fsdp(), {}, 0, "there is only one; start `torchrun --nproc-per-node 2"),
        (fsdp(), {"WORLD_SIZE": "1"}, 1, "there is only one"),
        (RECIPES["lora"](), {"OMPI_COMM_WORLD_SIZE": "8"}, 0, "started 8 times"),
        (RECIPES["lora"](), {"WORLD_SIZE": "2", "RANK": "0"}, 0, "LOCAL_RANK.*are not set"),
        (RECIPES["lora"](), {"ACCELERATE_USE_DEEPSPEED": "true"}, 0, "asks for DeepSpeed"),
        (RECIPES["lora"](), LAUNCHED | {"ACCELERATE_USE_FSDP": "true"}, 0, "has sharding none"),
        (fsdp(), LAUNCHED | {"ACCELERATE_USE_FSDP": "true"}, 0, "FSDP with settings of its own"),
        (RECIPES["lora"](), {"ACCELERATE_MIXED_PRECISION": "fp16"}, 0, "has bf16 None"),
        (RECIPES["lora"](), {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, 0, "asks for inductor"),
    ],
)
def test_a_launch_that_would_become_another_is_rejected(
    recipe: Recipe, environment: Mapping[str, str], gpus: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_launch(recipe, environment, gpus=gpus)


@pytest.mark.parametrize(
    ("recipe", "environment", "gpus"),
    [
        (RECIPES["lora"](), {}, 1),
        (fsdp(), LAUNCHED, 2),
        (RECIPES["lora"](), LAUNCHED | {"SLURM_STEP_NUM_TASKS": "2"}, 2),
        # What `accelerate launch` sets where nothing was wished.
        (
            RECIPES["lora"](),
            LAUNCHED
            | {
                "ACCELERATE_MIXED_PRECISION": "no",
                "ACCELERATE_DYNAMO_BACKEND": "NO",
                "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
            },
            2,
        ),
    ],
)
def test_a_plain_launch_is_taken(recipe: Recipe, environment: Mapping[str, str], gpus: int) -> None:
    check_launch(recipe, environment, gpus=gpus)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (RECIPES["qlora"](), "leaves weights in nf4 whole"),
        (replace(RECIPES["full"](), optim="adamw_8bit"), "cannot compute with sharded"),
        (RECIPES["dpo"](), "does not support objective dpo"),
    ],
)
def test_settings_that_cannot_be_sharded_are_rejected(recipe: Recipe, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fsdp(recipe)


def test_a_mode_other_than_the_requested_one_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="fsdp was asked for, but 2 weights are whole"):
        check_sharding(fsdp(), model)
    with pytest.raises(ValueError, match=r"2 processes with sharding none .* became a Linear"):
        check_sharding(RECIPES["lora"](), model)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match="became a DataParallel"):
        check_sharding(RECIPES["lora"](), nn.DataParallel(model))


def test_a_run_is_resumed_by_as_many_processes(tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / f"rng_state_{rank}.pth").touch()
    with pytest.raises(ValueError, match="a run of 2 processes, and now there are 1"):
        check_same_processes(tmp_path)


def test_a_folder_that_is_not_shared_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on storage that all machines share"):
        check_folder_is_shared(tmp_path, tmp_path / "recipe.yaml")


def test_split_inputs_are_gathered_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        parts.append([*divide("abcde")])
    assert parts == [["a", "b"], ["c", "d", "e"]]
    assert gather("ab") == ["a", "b"], "alone there is nothing to wait for"
    check_same_settings({"recipe": "one"})


MakeRecipe = Callable[..., Recipe]


def test_several_gpus_in_one_process_are_rejected_before_anything_is_written(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    recipe = make_recipe("lora")
    with pytest.raises(ValueError, match="2 GPUs but one process"):
        train(recipe)
    assert not recipe.output_dir.exists()
