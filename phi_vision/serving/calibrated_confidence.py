"""Confidence as it is told: corrected by what an evaluation of the run found, if there was one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phi_vision.data.template import Template
from phi_vision.evaluation.report import SCORES_FILE
from phi_vision.evaluation.report_reader import REPORT_FOLDER
from phi_vision.metrics.recalibration import Line


def read_lines(run: Path, template: Template) -> dict[str, Line]:
    """Read how the confidence in each field of a run is to be recalibrated.

    Input:  runs/coats, whose report/scores.json has calibrations
    Output: {"title": Line(slope=0.7, intercept=-0.42), "category3_code": Line(...), ...}

    Returns:
        Field -> line, for all fields of the template; {} where the run was not evaluated, or with
        another template, or too little is known of a field.

    Raises:
        ValueError: There are scores, but they are damaged.
    """
    file = run / REPORT_FOLDER / SCORES_FILE
    if not file.is_file():
        return {}
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))
        asked, found = scores["template"], scores["calibrations"]
        same = (asked["question"], asked["answer"]) == (template.question, template.answer)
        lines = {field: _line(found.get(field)) for field in template.fields} if same else {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read {file}: {error!r}; evaluate again") from error
    return {field: line for field, line in lines.items() if line} if all(lines.values()) else {}


def recalibrate(confidence: Mapping[str, float], lines: Mapping[str, Line]) -> dict[str, float]:
    """Turn confidences into probabilities of being right; as they are where there are no lines.

    Input:  {"title": 0.9}, {"title": Line(slope=0.5, intercept=0.0)}
    Output: {"title": 0.75}
    """
    if not lines:
        return dict(confidence)
    return {
        field: float(lines[field].apply(np.array([raw]))[0]) for field, raw in confidence.items()
    }


def _line(calibration: Mapping[str, Any] | None) -> Line | None:
    if calibration is None or None in (calibration["slope"], calibration["intercept"]):
        return None
    return Line(float(calibration["slope"]), float(calibration["intercept"]))
