"""Scores -> a folder for eyes and for other programs.

It holds report.html and report.md to read, scores.json and predictions.jsonl to compute with, and
the template.yaml that reads the predictions. `reading.py` reads it back.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import write_template
from phi_vision.evaluation.markdown_report import as_markdown
from phi_vision.evaluation.metadata import EvaluationMetadata, Findings
from phi_vision.evaluation.page import as_page
from phi_vision.io.atomic import write_text
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.calibration import Bin, Calibration, RiskPoint, SelectiveThreshold
from phi_vision.metrics.field_metrics import Metric
from phi_vision.metrics.scores import Scores
from phi_vision.metrics.slices import Leakage, Slice
from phi_vision.runs import ReportDir

KEPT_ELSEWHERE = {
    Scores: ("predictions",),
    EvaluationMetadata: ("log",),
    Metric: ("per_sample", "aggregate"),
}
"""Class -> fields that scores.json leaves out: predictions.jsonl, the run's log.jsonl and the code
have them."""


def write_report(
    scores: Scores, samples: Sequence[Sample], metadata: EvaluationMetadata, out: Path
) -> Path:
    """Write a report into a folder; return the path of its page.

    Every file appears whole or not at all.

    Args:
        scores: What `score` found.
        samples: The samples it was asked about, in the same order, for their images.
        facts: What is known besides.
        out: The folder; made where it does not exist.

    Raises:
        ValueError: The samples are not those of the scores, or `out` is a file.
    """
    if [sample.id for sample in samples] != [answer.id for answer in scores.predictions]:
        raise ValueError(
            f"the scores are of {len(scores.predictions)} other samples than the {len(samples)} "
            "given; pass the samples that were scored, in the same order"
        )
    if out.exists() and not out.is_dir():
        raise ValueError(f"cannot write a report to {out}: found a file; give a folder")
    findings = Findings(scores=scores, samples=samples, metadata=metadata)
    summary = {**_jsonable(scores), "metadata": _jsonable(metadata)}
    report = ReportDir(out)
    files = {
        report.scores_file: json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
        + "\n",
        report.predictions_file: "".join(_line(answer) for answer in scores.predictions),
        report.summary_file: as_markdown(findings),
        report.page_file: as_page(findings),
    }
    out.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        write_text(file, text)
    write_template(scores.template, report.template_file)
    return report.page_file


def _line(answer: ScoredPrediction) -> str:
    """Write an answer as one line; with ASCII alone no character in it can end the line."""
    line = {
        "id": answer.id,
        "group": answer.group,
        "truth": answer.truth,
        "text": answer.prediction.text,
        "parsed": answer.prediction.record,
        "confidence": answer.prediction.confidence,
    }
    return json.dumps(_jsonable(line), ensure_ascii=True, allow_nan=False) + "\n"


def _jsonable(value: Any) -> Any:
    """Take apart what JSON does not know; a number that is none or endless is null.

    Input:  Figure(0.5, nan, nan)
    Output: {"value": 0.5, "low": None, "high": None}
    """
    match value:
        case Estimate() | Bin() | RiskPoint():
            return _jsonable(value._asdict())
        case (
            Scores()
            | EvaluationMetadata()
            | Metric()
            | Slice()
            | Leakage()
            | Calibration()
            | SelectiveThreshold()
        ):
            left_out = KEPT_ELSEWHERE.get(type(value), ())
            kept = [each.name for each in fields(value) if each.name not in left_out]
            return {name: _jsonable(getattr(value, name)) for name in kept}
        case Mapping():
            return {str(key): _jsonable(each) for key, each in value.items()}
        case list() | tuple():
            return [_jsonable(each) for each in value]
        case float() if not math.isfinite(value):
            return None
        case None | bool() | int() | float() | str():
            return value
        case _:
            return asdict(value)
