"""Verification: held-out samples, the tolerance of rounding, and a lost adapter is detected."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from toy_adapters import write_adapter
from toy_products import product_rows

from phi_vision.data.dataset import load_samples, split_by_group
from phi_vision.data.template import PRODUCT
from phi_vision.export.verify import (
    Verification,
    collect_outputs,
    compare_outputs,
    is_near_tie,
    verification_samples,
)
from phi_vision.generation.request import Generation
from phi_vision.model.checkpoint import load_model


def make_verification(**changes: object) -> Verification:
    found = {"samples": 4, "identical": 4, "tokens": 96, "max_difference": 2e-5}
    return Verification(**{"tolerance": 1e-3, **found, **changes})  # type: ignore[arg-type]


def run_of(folder: Path, **recipe: object) -> str:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"model": "base", "seed": 3, **recipe}))
    return str(folder)


# Which samples.


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (["train", "validation", "test"], "test"),
        (["train", "validation"], "validation"),
    ],
)
def test_samples_come_from_a_split_without_training(
    tmp_path: Path, splits: list[str], chosen: str
) -> None:
    rows = product_rows(12)
    for place, split in enumerate(splits):
        part = pa.Table.from_pylist(rows[4 * place : 4 * place + 4])
        pq.write_table(part, tmp_path / f"{split}-0.parquet")
    samples, template = verification_samples(run_of(tmp_path / "run", data=str(tmp_path)), None, 2)
    assert samples == load_samples(tmp_path, split=chosen)[:2]
    assert template == PRODUCT


def test_without_such_a_split_they_are_those_that_the_run_held_out(
    products: Path, tmp_path: Path
) -> None:
    run = run_of(tmp_path / "run", data=str(products), validation_fraction=0.3)
    learnt, held_out = split_by_group(load_samples(products), validation_fraction=0.3, seed=3)
    samples, _ = verification_samples(run, None, 99)
    assert samples == held_out
    assert not {sample.group for sample in samples} & {sample.group for sample in learnt}


def test_other_data_with_a_test_split_needs_no_groups(products: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "test-0.parquet").write_bytes(next(products.glob("*.parquet")).read_bytes())
    run = run_of(tmp_path / "run", data="gone", group_column="style")
    assert len(verification_samples(run, data, 2)[0]) == 2


def test_a_run_without_images_is_evaluated_without_images(products: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", data=str(products), withhold_images=True)
    samples, _ = verification_samples(run, None, 1)
    assert samples[0].images == ()


def test_the_wording_is_the_runs_else_the_datas(products: Path, tmp_path: Path) -> None:
    words = {"question": "What?", "answer": "It is {title}", "name": "own"}
    data, run = tmp_path / "data", run_of(tmp_path / "run")
    data.mkdir()
    (data / "train-0.parquet").write_bytes(next(products.glob("*.parquet")).read_bytes())
    (data / "template.yaml").write_text(yaml.safe_dump(words))
    assert verification_samples(run, data, 0)[1].question == "What?"
    (Path(run) / "template.yaml").write_text(yaml.safe_dump({**words, "question": "Who?"}))
    assert verification_samples(run, data, 0)[1].question == "Who?"


def test_missing_data_is_reported_with_the_option_to_pass(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", data="catalogs/coats")
    with pytest.raises(ValueError, match="data catalogs/coats does not exist; pass"):
        verification_samples(run, None, 4)
    assert verification_samples(run, None, 0)[0] == []
    with pytest.raises(ValueError, match="no data given; pass samples with --data, or skip"):
        verification_samples("phi-vision-small", None, 4)


# What is found.


def test_a_lost_adapter_is_seen(tiny_checkpoint: Path, products: Path, tmp_path: Path) -> None:
    samples = load_samples(products)[:2]
    adapted = load_model(write_adapter(tiny_checkpoint, tmp_path))
    before = collect_outputs(*adapted, samples, PRODUCT)
    assert before.adapter_delta is not None
    assert before.adapter_delta > 0.1
    without = collect_outputs(*load_model(tiny_checkpoint), samples, PRODUCT)
    lost = compare_outputs(before, without, dtype=torch.float32)
    assert lost.max_difference == pytest.approx(before.adapter_delta)
    with pytest.raises(ValueError, match=r"does not predict as its source does: .* please report"):
        lost.check()
    again = compare_outputs(
        before, collect_outputs(*adapted, samples, PRODUCT), dtype=torch.float32
    )
    assert (again.max_difference, again.identical) == (0, 2)
    again.check()


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"max_difference": 2e-3}, False),
        ({"max_difference": math.nan}, False),
        ({"identical": 3}, False),
        ({"identical": 3, "near_ties": 1}, True),
        ({"identical": 0, "max_difference": 9.0, "tolerance": None}, True),
        ({"samples": 0, "identical": 0}, True),
    ],
)
def test_differences_beyond_rounding_are_rejected(changes: dict[str, object], holds: bool) -> None:
    found = make_verification(**changes)
    if holds:
        found.check()
    else:
        with pytest.raises(ValueError, match="does not predict as its source does"):
            found.check()


def test_a_summary_lists_the_compared_values() -> None:
    assert make_verification(adapter_delta=14.2).summary() == (
        "4 of 4 predictions identical; logits of 96 tokens differ by at most 2e-05 "
        "(rounding explains 0.001; the adapter changes them by up to 14.2)"
    )
    assert make_verification(
        identical=3, near_ties=1, tolerance=None, compared="log-probabilities"
    ).summary() == (
        "3 of 4 predictions identical, 1 diverge at a near tie; "
        "log-probabilities of 96 tokens differ by at most 2e-05"
    )
    assert make_verification(samples=0).summary() == "not verified: no samples were compared"


def said(text: str, token_ends: tuple[int, ...], *probabilities: float) -> Generation:
    logprobs = tuple(math.log(probability) for probability in probabilities)
    return Generation(
        text=text, token_ends=token_ends, logprobs=logprobs, finish_reason="stop", prompt_tokens=1
    )


@pytest.mark.parametrize(
    ("before", "after", "near_tie"),
    [
        # The probabilities are those of the tokens; the answers part at the first other one.
        (said("a b", (1, 3, 3), 0.9, 0.5, 0.9), said("a c", (1, 3, 3), 0.9, 0.5, 0.9), True),
        (said("a b", (1, 3, 3), 0.9, 0.6, 0.9), said("a c", (1, 3, 3), 0.9, 0.5, 0.9), False),
        (said("a b", (1, 3, 3), 0.3, 0.9, 0.9), said("a c", (1, 3, 3), 0.3, 0.5, 0.9), False),
        (said("a", (1, 1), 0.9, 0.5), said("a c", (1, 3, 3), 0.9, 0.5, 0.9), True),
        (said("a", (1, 1), 0.9, 0.9), said("a", (1, 1), 0.9, 0.9), False),
    ],
)
def test_rounding_may_change_a_prediction_only_between_equally_likely_tokens(
    before: Generation, after: Generation, near_tie: bool
) -> None:
    assert is_near_tie(before, after, 0.01) is near_tie
