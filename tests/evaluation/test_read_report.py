"""Reading reports back."""

import json
import math
from pathlib import Path

import pytest
from toy_evaluation import toy_evaluation

from phi_vision.data.template import TEMPLATES, write_template
from phi_vision.evaluation.report import read_report, write_report

PRODUCT = TEMPLATES["product"]
TRUTH = {"title": "Coat", "category3_code": "A", "full_price": 100.0}


def write_run(folder: Path, lines: list[dict[str, object]] | None = None) -> Path:
    """A run folder with a report of two samples; the second's price is infinite."""
    report = folder / "report"
    report.mkdir(parents=True)
    texts = [PRODUCT.render(TRUTH), PRODUCT.render({**TRUTH, "full_price": math.inf})]
    lines = lines or [
        {"id": f"s{at}", "group": f"g{at}", "truth": TRUTH, "text": text, "parsed": None}
        for at, text in enumerate(texts)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (report / "predictions.jsonl").write_text(text)
    (report / "scores.json").write_text('{"samples": 2}')
    write_template(PRODUCT, report / "template.yaml")
    (folder / "recipe.yaml").write_text("method: lora\nlora_targets:\n- qkv_proj\n")
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    (folder / "versions.json").write_text('{"torch": "2.13.0"}')
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_a_run_is_read_with_its_recipe_log_and_versions(run: Path):
    found = read_report(run)
    assert found.system.name == str(run)
    assert found.folder == run / "report"
    assert found.recipe == {"method": "lora", "lora_targets": ["qkv_proj"]}
    assert found.versions == {"torch": "2.13.0"}
    assert found.history is not None
    assert found.history.steps[0]["loss"] == 2.5


@pytest.mark.parametrize(("uses_image", "kept"), [(True, False), (False, True), (None, True)])
def test_a_report_without_evidence_about_the_images_says_why(
    run: Path, uses_image: bool | None, kept: bool
):
    scores = {"uses_image": uses_image, "shuffled_image_check": "Not tested"}
    (run / "report" / "scores.json").write_text(json.dumps(scores))
    assert read_report(run).image_check == ("Not tested" if kept else "")


def test_the_report_inside_a_run_reads_the_same(run: Path):
    inside = read_report(run / "report")
    assert inside.system.predictions == read_report(run).system.predictions
    assert inside.recipe == {"method": "lora", "lora_targets": ["qkv_proj"]}


def test_texts_are_parsed_again_because_json_has_no_infinity(run: Path):
    first, second = read_report(run).system.predictions
    assert first.prediction.record == TRUTH
    assert second.prediction.record == {**TRUTH, "full_price": math.inf}
    assert first.prediction.confidence == {}


def test_a_report_outside_of_a_run_uses_its_own_metadata(run: Path, tmp_path: Path):
    alone = (run / "report").rename(tmp_path / "alone")
    metadata = {"recipe": "method: dora\n", "cost": {"training": "4 min"}, "versions": {"a": "1"}}
    (alone / "scores.json").write_text(json.dumps({"metadata": metadata}))
    found = read_report(alone)
    assert found.recipe == {"method": "dora"}
    assert found.cost == {"training": "4 min"}
    assert found.versions == {"a": "1"}
    assert found.history is None


def test_a_written_report_reads_back_equal(tmp_path: Path):
    evaluation = toy_evaluation(20)
    write_report(evaluation, tmp_path)
    found = read_report(tmp_path)
    assert found.system.predictions == evaluation.scores.predictions
    assert found.system.template == evaluation.scores.template
    assert found.cost == evaluation.metadata.cost
    assert found.versions == evaluation.metadata.versions
    assert found.recipe["method"] == "lora"


@pytest.mark.parametrize("name", ["template.yaml", "scores.json"])
def test_a_report_of_an_older_version_is_rejected(name: str, run: Path):
    (run / "report" / name).unlink()
    with pytest.raises(ValueError, match=rf"lacks {name}: an older version wrote it; evaluate ag"):
        read_report(run)


def test_the_error_without_a_report_names_the_command_that_writes_one(tmp_path: Path):
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ValueError, match=r"it holds log\.jsonl; write one with `phi-vision eval"):
        read_report(tmp_path)
    with pytest.raises(ValueError, match="there is no such folder"):
        read_report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="it is a file"):
        read_report(tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"id": "s0", "group": "g", "truth": TRUTH}, "line 1 is not a prediction: KeyError"),
        ({"id": "s0", "group": "g", "truth": {}, "text": ""}, "needs the field 'title'"),
        ({"id": "s0", "group": "g", "truth": None, "text": ""}, "line 1 is not a prediction: Type"),
    ],
)
def test_a_damaged_prediction_is_located(line: dict[str, object], problem: str, tmp_path: Path):
    with pytest.raises(ValueError, match=problem):
        read_report(write_run(tmp_path / "run", [line]))


def test_damaged_scores_are_located(run: Path):
    (run / "report" / "scores.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*scores\.json.*evaluate again"):
        read_report(run)
