"""What is written down about an evaluation."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toy_findings import toy_findings

from phi_vision.data.template import find_template
from phi_vision.evaluation.metadata import Findings
from phi_vision.evaluation.report import write_report
from phi_vision.evaluation.report_reader import read_report
from phi_vision.metrics.scores import SYSTEMS

FILES = {"report.html", "report.md", "scores.json", "predictions.jsonl", "template.yaml"}


@pytest.fixture(scope="module")
def findings() -> Findings:
    return toy_findings()


@pytest.fixture(scope="module")
def folder(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("new") / "folder" / "report"
    page = write_report(findings.scores, findings.samples, findings.metadata, out)
    assert page == out / "report.html"
    return out


def test_the_folder_holds_what_can_be_read_and_what_can_be_computed_with(folder: Path):
    assert {file.name for file in folder.iterdir()} == FILES


def test_scores_hold_everything_but_answers_and_log(folder: Path, findings: Findings):
    found = json.loads((folder / "scores.json").read_text())
    scores = findings.scores
    estimate = scores.estimates["model"]["category3_code_accuracy"]
    assert found["estimates"]["model"]["category3_code_accuracy"] == estimate._asdict()
    assert list(found["estimates"]) == [system for system in SYSTEMS if system in scores.estimates]
    assert found["metrics"]["full_price_mae"]["better"] == "lower"
    assert found["template"]["answer"] == scores.template.answer
    assert found["leakage"]["leaked"]["p7"] == "the same title as t7"
    assert found["calibrations"]["whole record"]["bins"][0]["samples"] > 0
    assert found["calibrations"]["whole record"]["auto_accept"]["target"] == 0.9
    assert found["slices"][0]["estimates"]
    assert found["best_achievable"] == {"full_price_median_ape": 0.03}
    assert found["metadata"]["versions"]["torch"] == "2.13.0+cpu"
    assert found["metadata"]["left_out"] == {"twin": "no twin was given; --twin names one"}
    assert "answers" not in found
    assert "log" not in found["metadata"]


def test_predictions_tell_what_was_said_and_how_sure_the_model_was(
    folder: Path, findings: Findings
):
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    predictions = findings.scores.predictions
    assert len(lines) == len(predictions)
    for line, answer in zip(map(json.loads, lines), predictions, strict=True):
        assert line == {
            "id": answer.id,
            "group": answer.group,
            "truth": answer.truth,
            "text": answer.prediction.text,
            "parsed": answer.prediction.record,
            "confidence": answer.prediction.confidence,
        }


def test_the_folder_can_be_read_back(folder: Path, findings: Findings):
    assert find_template(str(folder)) == findings.scores.template
    report = read_report(folder)
    assert report.system.predictions == findings.scores.predictions
    assert report.cost == findings.metadata.cost
    assert report.recipe["method"] == "lora"


def test_the_short_text_has_one_table_and_says_whether_the_model_looked(folder: Path):
    text = (folder / "report.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count(" | ") for row in rows if "---" not in row}) == 1
    assert "| **the model** | **0." in text
    assert "| the untuned model | 0." in text
    assert "- The images matter" in text
    assert "- 2 samples (3.3 %) leak from training." in text
    assert "\n- At 90 % precision, " in text
    assert "<script" not in text.replace("\\<", "")


def test_an_interrupted_write_leaves_the_old_report(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    page = write_report(findings.scores, findings.samples, findings.metadata, tmp_path)
    before = page.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_report(
            replace(findings.scores, samples=1), findings.samples, findings.metadata, tmp_path
        )
    assert page.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == FILES


def test_values_that_json_does_not_know_are_null(findings: Findings, tmp_path: Path):
    first, *others = findings.scores.predictions
    unknown = replace(
        first,
        truth={**first.truth, "full_price": float("nan")},
        prediction=replace(first.prediction, record=None),
    )
    scores = replace(findings.scores, predictions=(unknown, *others))
    write_report(scores, findings.samples, findings.metadata, tmp_path)
    line = (tmp_path / "predictions.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["truth"]["full_price"] is None


def test_wrong_samples_and_a_file_in_the_way_are_said(findings: Findings, tmp_path: Path):
    with pytest.raises(ValueError, match="60 other samples than the 59 given"):
        write_report(findings.scores, findings.samples[1:], findings.metadata, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="found a file; give a folder"):
        write_report(findings.scores, findings.samples, findings.metadata, tmp_path / "file")
