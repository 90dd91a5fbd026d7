"""Evaluations: which systems are run, which are left out and why, and the files of the report."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from phi_vision.data.dataset import load_samples
from phi_vision.data.template import PRODUCT, write_template
from phi_vision.evaluation.config import SKIPPABLE, EvaluationConfig
from phi_vision.evaluation.evaluator import (
    base_model_of,
    group_column_of,
    report_folder,
    run_evaluation,
)
from phi_vision.inference.predictor import model_identity
from phi_vision.metrics.scores import SYSTEMS, significance

QUICK = {"skip": ("boosting", "nearest", "leakage", "blank", "withheld", "constrained")}


@pytest.fixture
def shop(products: Path, tmp_path: Path) -> Path:
    """A folder whose one split serves as training and test data."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(
            next(products.glob("**/*.parquet")).read_bytes()
        )
    return folder


@pytest.fixture
def predictions(products: Path, tmp_path: Path) -> Path:
    """A file of right answers."""
    lines = [
        {"id": sample.id, "record": PRODUCT.select(sample.record)}
        for sample in load_samples(products)
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def estimates(report: Path) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    found = json.loads((report / "scores.json").read_text())["estimates"]
    assert isinstance(found, dict)
    return found


def test_a_checkpoint_is_evaluated_with_every_system(
    shop: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = EvaluationConfig(
        data=shop, out=tmp_path / "report", limit=4, base=str(tiny_checkpoint)
    )
    outcome = run_evaluation(str(tiny_checkpoint), config)
    assert outcome.page == tmp_path / "report" / "report.html"
    assert set(outcome.scores.estimates) == set(SYSTEMS) - {"twin"}
    assert outcome.scores.estimates["constrained"]["parse_rate"].value == 1.0
    # The same model before and after: no difference, as far as four samples can tell.
    differences = outcome.scores.differences["base"].values()
    assert {each.value for each in differences if not math.isnan(each.value)} == {0.0}
    assert all(significance(each) == "not significant" for each in differences)
    assert outcome.scores.leakage is not None
    assert len(outcome.scores.leakage.leaked) == 4
    told = json.loads((tmp_path / "report" / "scores.json").read_text())["metadata"]
    assert told["left_out"] == {}
    assert set(told["cost"]) == {"prediction", "machine"}


def test_a_twin_is_evaluated_without_images(
    shop: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = EvaluationConfig(
        data=shop, out=tmp_path, limit=4, twin=str(tiny_checkpoint), skip=QUICK["skip"][:4]
    )
    outcome = run_evaluation(str(tiny_checkpoint), config)
    estimates = outcome.scores.estimates
    assert estimates["twin"] == estimates["withheld"]
    assert len(list((tmp_path / "answers").glob("twin-*.jsonl"))) == 1
    (file,) = (tmp_path / "answers").glob("twin-*.jsonl")
    assert len(file.read_text().splitlines()) == 2  # the head, and one question for all


def test_a_file_of_predictions_is_evaluated_like_a_model(
    shop: Path, predictions: Path, tmp_path: Path
) -> None:
    outcome = run_evaluation(
        str(predictions), EvaluationConfig(data=shop, out=tmp_path / "report", **QUICK)
    )
    assert list(outcome.scores.estimates) == ["model", "constant", "category_median"]
    assert outcome.scores.estimates["model"]["title_exact"].value == 1.0
    told = json.loads((tmp_path / "report" / "scores.json").read_text())["metadata"]["left_out"]
    assert told["shuffled"] == "a file has no predictions for other images"
    assert "base" in told


def test_a_report_says_where_numbers_are_the_median_of_draws(
    shop: Path, predictions: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    write_template(replace(PRODUCT, numbers="median"), tmp_path / "template.yaml")
    told = []
    for place, model in enumerate([tiny_checkpoint, predictions]):
        out = tmp_path / str(place)
        given = {"data": shop, "out": out, "template": str(tmp_path), "limit": 2, **QUICK}
        run_evaluation(str(model), EvaluationConfig(**given))  # type: ignore[arg-type]
        cost = json.loads((out / "scores.json").read_text())["metadata"]["cost"]
        told.append(cost.get("numbers"))
    assert told == ["each the median of draws", None]


def test_a_second_evaluation_predicts_nothing(
    shop: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvaluationConfig(data=shop, out=tmp_path / "report", limit=4, **QUICK)
    first = run_evaluation(str(tiny_checkpoint), config)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("predicted again")

    monkeypatch.setattr("phi_vision.inference.local.generate", refuse)
    again = run_evaluation(str(tiny_checkpoint), config)
    assert again.scores.estimates == first.scores.estimates
    with pytest.raises(AssertionError, match="predicted again"):
        run_evaluation(
            str(tiny_checkpoint), EvaluationConfig(data=shop, out=config.out, limit=5, **QUICK)
        )


def test_a_report_is_written_into_the_run_by_default(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: phi-vision-small\n")
    assert report_folder(str(tmp_path), None) == tmp_path / "report"
    assert report_folder(str(tmp_path), tmp_path / "other") == tmp_path / "other"
    with pytest.raises(
        ValueError, match="is not a run, so it has no place for a report; pass --out"
    ):
        report_folder("phi-vision-small", None)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; choose another place"):
        report_folder("phi-vision-small", tmp_path / "file")


@pytest.mark.parametrize(
    ("recipe", "start"),
    [("model: base\n", "base"), ("model: base\nrandom_weights: true\n", None)],
)
def test_the_base_model_of_a_run_is_that_of_its_recipe(
    tmp_path: Path, recipe: str, start: str | None
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert base_model_of(str(tmp_path)) == start


def test_other_models_have_no_known_base(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "said.jsonl").touch()
    for words in (str(tiny_checkpoint), str(tmp_path / "said.jsonl"), "http://localhost:1/v1"):
        assert base_model_of(words) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"skip": ("shufled",)}, r"cannot skip 'shufled' \(did you mean shuffled\?\)"),
        ({"target_precision": 95.0}, "target_precision is 95.0; pass a share between 0 and 1"),
        ({"limit": 0}, "limit is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ],
)
def test_invalid_options_are_rejected(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(data=Path("shop"), **fields)  # type: ignore[arg-type]


def test_everything_but_the_model_and_its_twin_can_be_skipped() -> None:
    assert set(SKIPPABLE) == set(SYSTEMS) - {"model", "twin"} | {"leakage"}
    help_text = Path(__file__).parents[2] / "phi_vision" / "evaluation" / "config.py"
    assert all(
        name in help_text.read_text().split("Limit the constrained")[0] for name in SKIPPABLE
    )


def test_the_group_column_is_that_of_the_run(tmp_path: Path) -> None:
    assert group_column_of(str(tmp_path)) is None
    (tmp_path / "recipe.yaml").write_text("model: base\ngroup_column: brand\n")
    assert group_column_of(str(tmp_path)) == "brand"


def test_another_base_below_an_adapter_is_another_model(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    (base / "weights").write_text("1")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = model_identity(str(adapter))
    (base / "weights").write_text("22")
    assert model_identity(str(adapter)) != before
    assert model_identity("http://localhost:1/v1") == ["http://localhost:1/v1"]
