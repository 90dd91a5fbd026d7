"""The thresholds of a run: those of its report, or chosen again for another target precision."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_evaluation import toy_evaluation

from phi_vision.data.acceptance import RECORD, Acceptance
from phi_vision.data.template import PRODUCT
from phi_vision.evaluation.report import write_report
from phi_vision.metrics.thresholds import load_acceptance

NAMES = (*PRODUCT.fields, RECORD)
OWN = 0.9  # the target precision of the toy evaluation


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the report of a toy evaluation."""
    run = tmp_path_factory.mktemp("runs") / "coats"
    write_report(toy_evaluation(400), run / "report")
    (run / "recipe.yaml").write_text("method: lora\n")
    return run


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    copy = tmp_path / "coats"
    (copy / "report").mkdir(parents=True)
    for name in ("recipe.yaml", "report/scores.json", "report/predictions.jsonl"):
        (copy / name).write_bytes((evaluated / name).read_bytes())
    return copy


def load(run: Path | str, **given: Any) -> Acceptance:
    acceptance = load_acceptance(run, PRODUCT, **given)
    assert acceptance is not None
    return acceptance


def change(run: Path, **changes: Any) -> None:
    file = run / "report" / "scores.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_thresholds_are_those_of_the_report(evaluated: Path) -> None:
    acceptance = load(evaluated)
    fitted = json.loads((evaluated / "report" / "scores.json").read_text())["calibrations"]
    assert (acceptance.target, tuple(acceptance.rules)) == (OWN, NAMES)
    for name, (scaler, threshold, limitation) in acceptance.rules.items():
        found = fitted[name]
        assert scaler == (found["slope"], found["intercept"])
        assert threshold == found["auto_accept"]["threshold"]
        assert limitation == found["limitations"]
    assert load(evaluated, target=OWN) == acceptance


def test_another_target_gets_the_thresholds_that_an_evaluation_would_choose(run: Path) -> None:
    """At the evaluation's own target the same numbers result, though no estimate is drawn."""
    own = load(run)
    fitted = json.loads((run / "report" / "scores.json").read_text())["calibrations"]
    change(run, calibrations={name: each | {"auto_accept": None} for name, each in fitted.items()})
    without = load(run)
    assert without.target is None
    assert {name: rule.scaler for name, rule in without.rules.items()} == {
        name: rule.scaler for name, rule in own.rules.items()
    }
    again = load(run, target=OWN)
    for name, rule in own.rules.items():
        assert again.rules[name].scaler == pytest.approx(rule.scaler, rel=1e-9)
        assert again.rules[name].threshold == pytest.approx(rule.threshold, rel=1e-9)
    strict, lax = (load(run, target=target).rules for target in (0.99, 0.6))
    assert any(strict[name].threshold is None for name in NAMES)
    assert all(
        lax[name].threshold <= rule.threshold  # type: ignore[operator]
        for name, rule in own.rules.items()
        if rule.threshold is not None
    )


def test_what_is_never_accepted_is_one_line_with_the_next_command(
    evaluated: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        rules = load(evaluated, target=0.999).rules
    without = [name for name in NAMES if rules[name].threshold is None]
    assert without == list(NAMES)
    (message,) = caplog.messages
    assert message.startswith("Of title, category3_code, full_price and whole record nothing is ")
    assert "that takes at least 2995 of the most confident predictions" in message
    assert f"`phi-vision evaluate {evaluated} --data DATA --target-precision 0.999`" in message


def test_without_an_evaluation_nothing_is_promised(tmp_path: Path) -> None:
    for model in (tmp_path, "http://localhost:8000/v1", "phi-vision-small"):
        assert load_acceptance(model, PRODUCT) is None
        with pytest.raises(ValueError, match="it is no run with an evaluation; give the folder"):
            load_acceptance(model, PRODUCT, target=0.9)
    (tmp_path / "recipe.yaml").touch()
    assert load_acceptance(tmp_path, PRODUCT) is None
    command = rf"`phi-vision evaluate {tmp_path} --data DATA --target-precision 0\.9`"
    with pytest.raises(ValueError, match=f"the run was not evaluated; .*{command}"):
        load_acceptance(tmp_path, PRODUCT, target=0.9)


@pytest.mark.parametrize(
    ("template", "constrained", "words"),
    [
        (replace(PRODUCT, question="What is it?"), False, "is of another template, so that"),
        (replace(PRODUCT, layout="walkthrough"), False, "is of another template, so that"),
        (PRODUCT, True, "predict without --constrained and --categories-of"),
    ],
)
def test_predictions_under_other_conditions_are_not_calibrated(
    evaluated: Path, template: Any, constrained: bool, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_acceptance(evaluated, template, constrained=constrained) is None
    assert words in caplog.text
    with pytest.raises(ValueError, match=words):
        load_acceptance(evaluated, template, target=0.9, constrained=constrained)
    assert load(evaluated, target=OWN) is not None
    assert load_acceptance(evaluated, replace(PRODUCT, name="renamed")) is not None


@pytest.mark.parametrize("target", [0.0, 1.0, 95.0, -1.0, float("nan")])
def test_a_target_is_a_share(evaluated: Path, target: float) -> None:
    with pytest.raises(ValueError, match="pass a share above 0 and below 1, such as"):
        load_acceptance(evaluated, PRODUCT, target=target)


@pytest.mark.parametrize("held", ["{", "[]", '{"template": 3, "calibrations": {}}', "{}"])
def test_damaged_scores_are_an_error(run: Path, held: str) -> None:
    (run / "report" / "scores.json").write_text(held)
    with pytest.raises(ValueError, match=r"cannot read .*scores.json: .*; run the eval"):
        load_acceptance(run, PRODUCT)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: "".join(text.splitlines(keepends=True)[:-5]), "holds 395 predictions, and"),
        (lambda text: text.replace('"confidence": {', '"confidence": [', 1), "line 1 is not a pre"),
        (lambda text: text.replace('{"title": 0.', '{"title": 70.', 1), "pass a probability"),
        (lambda text: text[: len(text) - 9], "line 400 is not a prediction"),
        (lambda text: "", "holds no predictions; evaluate again"),
    ],
)
def test_damaged_predictions_are_an_error_where_they_are_needed(
    run: Path, damage: Any, words: str
) -> None:
    file = run / "report" / "predictions.jsonl"
    file.write_text(damage(file.read_text()))
    assert load(run).target == OWN
    with pytest.raises(ValueError, match=words):
        load_acceptance(run, PRODUCT, target=0.8)


def test_a_report_without_its_predictions_serves_its_own_target_alone(run: Path) -> None:
    (run / "report" / "predictions.jsonl").unlink()
    assert load(run).target == OWN
    with pytest.raises(ValueError, match=r"cannot read .*predictions.jsonl: .*evaluate again"):
        load_acceptance(run, PRODUCT, target=0.8)


def test_an_evaluation_without_confidence_accepts_nothing(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(run, calibrations={})
    acceptance = load(run)
    assert (acceptance.target, acceptance.is_calibrated) == (None, False)
    lines = (run / "report" / "predictions.jsonl").read_text().splitlines()
    bare = [json.dumps(json.loads(line) | {"confidence": {}}) for line in lines]
    (run / "report" / "predictions.jsonl").write_text("\n".join(bare))
    assert load(run, target=0.9).rules["title"] == (None, None, "No prediction has a confidence.")
    assert "nothing is accepted: No prediction has a confidence." in caplog.text
