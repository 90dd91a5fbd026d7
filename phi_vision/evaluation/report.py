"""Write the folder of an evaluation: a page and a summary to read, files for programs.

report.html        every result with charts and images, in one page
report.md          one table and a few sentences
scores.json        every estimate with its confidence interval
predictions.jsonl  text, record, truth and confidence of each sample
template.yaml      the template that parses the texts
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import write_template
from phi_vision.evaluation import sections
from phi_vision.evaluation.labels import BASELINES, IMAGE_ABLATIONS, explain_thresholds, headline
from phi_vision.evaluation.rendering import render
from phi_vision.io.atomic import write_text
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.calibration import Bin, RiskPoint
from phi_vision.metrics.field_metrics import Metric
from phi_vision.metrics.scores import Scores
from phi_vision.runs import History, ReportDir


@dataclass(frozen=True, kw_only=True)
class EvaluationMetadata:
    """Model, data, training and cost of an evaluation."""

    model: str
    """Name of the predictor, such as "checkpoint runs/coats/model"."""

    data: str
    """Folder of the samples."""

    split: str

    data_card: Mapping[str, str]
    """Part of the data -> its size, in words."""

    recipe: str
    """The training recipe as YAML; "" where it is unknown."""

    versions: Mapping[str, str]
    """Library or data -> version or fingerprint."""

    history: History | None
    """The run's, for its learning curves."""

    cost: Mapping[str, str]
    """Item -> cost in words: training, a prediction, the machine."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """System of `metrics.scores.SYSTEMS` that was not run -> reason."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that a report shows."""

    scores: Scores

    samples: Sequence[Sample]
    """The samples of the scores, in the same order, for their images."""

    metadata: EvaluationMetadata


def write_report(evaluation: Evaluation, out: Path) -> Path:
    """Write a report into a folder, each file atomically; return the path of its page.

    Args:
        evaluation: What to report.
        out: The folder; created where it does not exist.

    Raises:
        ValueError: The samples are not those of the scores, or `out` is a file.
    """
    scores, metadata = evaluation.scores, evaluation.metadata
    if [each.id for each in evaluation.samples] != [each.id for each in scores.predictions]:
        raise ValueError(
            f"the scores are of {len(scores.predictions)} other samples than the "
            f"{len(evaluation.samples)} given; pass the samples that were scored, in the same order"
        )
    if out.exists() and not out.is_dir():
        raise ValueError(f"cannot write a report to {out}: found a file; give a folder")
    content = {**_jsonable(scores), "metadata": _jsonable(metadata)}
    report = ReportDir(out)
    files = {
        report.scores_file: json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        + "\n",
        report.predictions_file: "".join(map(_line, scores.predictions)),
        report.summary_file: render_summary(evaluation),
        report.page_file: render_report(evaluation),
    }
    out.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        write_text(file, text)
    write_template(scores.template, report.template_file)
    return report.page_file


def render_report(evaluation: Evaluation) -> str:
    """Render the page of an evaluation: one file of HTML without scripts or requests."""
    scores, metadata = evaluation.scores, evaluation.metadata
    history, estimates = metadata.history, scores.estimates["model"]
    return render(
        "report.html.j2",
        scores=scores,
        metadata=metadata,
        headline=headline(scores),
        metrics_by_field=sections.metrics_by_field(scores.metrics),
        measured=[
            each for each in scores.metrics.values() if math.isfinite(estimates[each.name].value)
        ],
        baseline_results=sections.summarize_baselines(scores),
        thresholds=explain_thresholds(scores),
        baselines=sections.compare_systems(scores, BASELINES),
        missing_baselines=[system for system in BASELINES if system in metadata.left_out],
        image_ablations=sections.compare_systems(scores, (*IMAGE_ABLATIONS, "twin")),
        history=sections.draw_history(history, scores) if history and any(history) else [],
        limitations=sections.list_limitations(scores),
        calibration_charts=sections.draw_calibration(scores),
        confusions=sections.draw_confusions(scores),
        numbers=sections.draw_numbers(scores),
        predictions=sections.select_predictions(scores, evaluation.samples),
        slice_groups=[
            (by, list(group)) for by, group in groupby(scores.slices, lambda each: each.by)
        ],
    )


def render_summary(evaluation: Evaluation) -> str:
    """Render the Markdown summary, for a pull request or a model card."""
    scores = evaluation.scores
    return render(
        "report.md.j2",
        scores=scores,
        metadata=evaluation.metadata,
        metrics=[*headline(scores), scores.metrics["parse_rate"]],
        thresholds=explain_thresholds(scores),
    )


def _line(scored: ScoredPrediction) -> str:
    fields = {
        "id": scored.id,
        "group": scored.group,
        "truth": scored.truth,
        "text": scored.prediction.text,
        "parsed": scored.prediction.record,
        "confidence": scored.prediction.confidence,
    }
    # In ASCII no character of a text can end the line.
    return json.dumps(_jsonable(fields), ensure_ascii=True, allow_nan=False) + "\n"


def _jsonable(value: Any) -> Any:
    """Convert to what JSON can hold; NaN and infinity become null.

    Input:  Estimate(0.5, nan, nan)
    Output: {"value": 0.5, "low": None, "high": None}
    """
    if isinstance(value, Estimate | Bin | RiskPoint):
        return _jsonable(value._asdict())
    if is_dataclass(value):
        omitted = OMITTED.get(type(value), ())
        kept = [each.name for each in fields(value) if each.name not in omitted]
        return {name: _jsonable(getattr(value, name)) for name in kept}
    if isinstance(value, Mapping):
        return {str(key): _jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


OMITTED: dict[type, tuple[str, ...]] = {
    Scores: ("predictions",),
    EvaluationMetadata: ("history",),
    Metric: ("per_sample", "aggregate", "hierarchy", "needs_hierarchy"),
}
"""Fields that scores.json leaves to predictions.jsonl, to the run's log.jsonl and to the code."""
