"""The acceptance thresholds of an evaluated run, for its own target precision or any other."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from phi_vision.data.acceptance import RECORD, Acceptance, AcceptanceRule, PlattScaler
from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.template import Template
from phi_vision.io.formatting import join_words
from phi_vision.metrics.calibration import calibrations
from phi_vision.metrics.field_metrics import failure
from phi_vision.runs import ReportDir, RunDir

logger = logging.getLogger(__name__)


def load_acceptance(
    model: str | Path, template: Template, *, target: float | None = None, constrained: bool = False
) -> Acceptance | None:
    """Load how a run's evaluation calibrates its predictions, and what it accepts of them.

    The thresholds are those of the target precision, by default of that of the evaluation, if it
    had one. What has no threshold is logged. None where nothing was evaluated, or other predictions
    than these: under another template, or free ones where these are constrained. With a target that
    is a ValueError, as is a damaged report.
    """
    if target is not None and not 0 < target < 1:
        raise failure("target_precision", target=target)
    report = RunDir(model).report
    if not report.scores_file.is_file():
        if target is None:
            return None
        key = "no_evaluation" if RunDir.is_run(model) else "no_run"
        raise failure(key, model=model, target=f"{target:g}")
    try:
        scores = report.scores()
        used, fitted = Template(**scores["template"]), scores["calibrations"]
        acceptance = _build(fitted, template)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise failure("scores", file=report.scores_file, error=repr(error)) from error
    problem = "constrained" if constrained else ""
    if (used.as_dict() | {"name": ""}) != (template.as_dict() | {"name": ""}):
        problem = "other_template"
    if problem:
        reason = failure(problem, report=report.path, model=model)
        if target is not None:
            raise reason
        logger.warning("%s", reason)
        return None
    if target not in (None, acceptance.target):
        acceptance = _choose_again(report, scores, template, target)
    _log_limitations(acceptance, model)
    return acceptance


def choose_acceptance(
    predictions: Sequence[ScoredPrediction], template: Template, *, target: float, seed: int = 0
) -> Acceptance:
    """Calibrate evaluated predictions, and choose the thresholds of a target precision."""
    no_resamples = np.empty((0, len(predictions)))
    found = calibrations(predictions, template, no_resamples, target=target, seed=seed)
    return _build({name: asdict(each) for name, each in found.items()}, template, target)


def _choose_again(
    report: ReportDir, scores: Mapping[str, Any], template: Template, target: float
) -> Acceptance:
    predictions = report.predictions(template)
    held, wanted, seed = len(predictions), scores.get("samples"), scores.get("seed")
    if held != wanted or not isinstance(seed, int):
        raise failure("other_predictions", path=report.path, held=held, wanted=wanted)
    return choose_acceptance(predictions, template, target=target, seed=seed)


def _build(
    fitted: Mapping[str, Any], template: Template, target: float | None = None
) -> Acceptance:
    """Build the rules from the calibrations of an evaluation, as scores.json holds them."""
    rules = dict[str, AcceptanceRule]()
    # Of levels that no prediction has, and in reports of earlier versions, nothing is fitted.
    levels = {
        field: tuple(name for name in names if name in fitted)
        for field, names in template.levels.items()
    }
    for name in (*template.fields, *chain(*levels.values()), RECORD):
        found = fitted.get(name) or {"slope": None, "intercept": None}
        chosen = found.get("auto_accept") or {}
        target = target or chosen.get("target")
        if None in (found["slope"], found["intercept"]):
            rules[name] = AcceptanceRule(None, None, "No prediction has a confidence.")
            continue
        scaler = PlattScaler(float(found["slope"]), float(found["intercept"]))
        threshold = chosen.get("threshold")
        rules[name] = AcceptanceRule(
            scaler,
            None if threshold is None else float(threshold),
            str(found.get("limitations", "")),
        )
    return Acceptance(rules=rules, target=target, levels=levels)


def _log_limitations(acceptance: Acceptance, model: str | Path) -> None:
    """Log once for each reason what is never accepted, with what to do."""
    without: dict[str, list[str]] = {}
    for name, rule in acceptance.rules.items():
        if acceptance.target is not None and rule.threshold is None:
            without.setdefault(rule.limitation, []).append(name)
    for limitation, names in without.items():
        logger.warning(
            "Of %s nothing is accepted: %s Evaluate more samples, as with `phi-vision evaluate %s "
            "--data DATA --target-precision %g`, or promise less",
            *(join_words(names), limitation, model, acceptance.target),
        )
