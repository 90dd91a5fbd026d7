"""Evaluations reject invalid data before any prediction, and leave out what is impossible."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_products import product_rows

from phi_vision.data.template import PRODUCT
from phi_vision.evaluation.config import SKIPPABLE, EvaluationConfig
from phi_vision.evaluation.evaluator import best_achievable, run_evaluation

Row = dict[str, object]
Lay = Callable[..., Path]

LITTLE = tuple(name for name in SKIPPABLE if name not in ("constant", "nearest"))
"""What is skipped where something else is looked at."""


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """Lay out a folder of samples: `lay(train=rows, test=rows)`."""

    def write(**splits: list[Row]) -> Path:
        folder = tmp_path / "shop"
        folder.mkdir()
        for split, rows in splits.items():
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
        return folder

    return write


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    """A file of right answers about all products."""
    rows = product_rows(8)
    lines = [
        {"id": row["id"], "record": {name: row[name] for name in PRODUCT.fields}} for row in rows
    ]
    file = tmp_path / "said.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_data_without_a_split_to_learn_from_is_rejected(lay: Lay, predicted: Path, tmp_path: Path):
    folder = lay(test=product_rows(8))
    config = EvaluationConfig(data=folder, out=tmp_path / "report")
    with pytest.raises(ValueError, match=r"no split 'train', .*; found test; pass a folder"):
        run_evaluation(str(predicted), config)
    file = EvaluationConfig(data=next(folder.iterdir()), out=tmp_path / "report")
    with pytest.raises(ValueError, match="found one file without splits; pass a folder"):
        run_evaluation(str(predicted), file)


def test_samples_without_a_field_are_rejected_before_any_request(
    lay: Lay, tiny_checkpoint: Path, tmp_path: Path
):
    without = [
        {name: value for name, value in row.items() if name != "full_price"}
        for row in product_rows(4)
    ]
    talk = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "A hat"}]
    config = EvaluationConfig(
        data=lay(train=product_rows(4), test=without), out=tmp_path / "report"
    )
    with pytest.raises(ValueError, match=r"sample 'p0' cannot be evaluated: .* needs the field"):
        run_evaluation(str(tiny_checkpoint), config)
    pq.write_table(
        pa.Table.from_pylist([row | {"messages": talk} for row in without]),
        tmp_path / "shop" / "test-00000-of-00001.parquet",
    )
    with pytest.raises(ValueError, match="sample 'p0' is a conversation and cannot be evaluated"):
        run_evaluation(str(tiny_checkpoint), config)
    assert not (tmp_path / "report").exists()


def test_samples_without_images_leave_only_the_nearest_out(
    lay: Lay, tiny_checkpoint: Path, tmp_path: Path
):
    rows = [
        {name: value for name, value in row.items() if name != "image"}
        | {"images": [row["image"]] if place else []}
        for place, row in enumerate(product_rows(4))
    ]
    config = EvaluationConfig(data=lay(train=rows, test=rows), out=tmp_path / "report", skip=LITTLE)
    outcome = run_evaluation(str(tiny_checkpoint), config)
    assert list(outcome.scores.estimates) == ["model", "constant"]
    told = json.loads((tmp_path / "report" / "scores.json").read_text())["metadata"]["left_out"]
    assert told["nearest"] == "sample 'p0' has no image"


def test_a_report_inside_the_evaluated_model_does_not_change_its_identity(
    lay: Lay, tiny_checkpoint: Path, tmp_path: Path
):
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_checkpoint.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    skip = (*(name for name in LITTLE if name != "shuffled"), "nearest")
    config = EvaluationConfig(
        data=lay(train=product_rows(4), test=product_rows(4)), out=model / "report", skip=skip
    )
    for _ in range(2):
        run_evaluation(str(model), config)
        kept = sorted(file.name.split("-")[0] for file in (model / "report" / "answers").iterdir())
        assert kept == ["model", "shuffled"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"known_categories": True, "skip": ("constrained",)},
            "known_categories cannot take effect: constrained is skipped",
        ),
        ({"base": "m", "skip": ("base",)}, "base cannot take effect: base is skipped"),
    ],
)
def test_settings_without_effect_are_rejected(fields: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(data=Path("shop"), **fields)  # type: ignore[arg-type]


def test_a_file_of_answers_cannot_be_limited_to_categories(
    lay: Lay, predicted: Path, tmp_path: Path
):
    folder = lay(train=product_rows(8), test=product_rows(8))
    config = EvaluationConfig(data=folder, out=tmp_path / "report", known_categories=True)
    with pytest.raises(ValueError, match="known_categories cannot take effect: a file has no"):
        run_evaluation(str(predicted), config)


@pytest.mark.parametrize("words", ["no JSON", "[]", '{"splits": {}}', '{"splits": {"test": 1}}'])
def test_another_metadata_file_has_no_noise_ceiling(words: str, tmp_path: Path):
    (tmp_path / "facts.json").write_text(words)
    assert best_achievable(tmp_path, "test") == {}
