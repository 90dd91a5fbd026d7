"""The charts and tables of a report's sections; their sentences are in `templates/`."""

import base64
import io
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from PIL import Image

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Sample, Value
from phi_vision.data.template import Kind, Template
from phi_vision.evaluation.figures import (
    Interval,
    Series,
    draw_confusion,
    draw_intervals,
    draw_lines,
    draw_reliability,
    draw_scatter,
)
from phi_vision.evaluation.labels import (
    BASELINES,
    by_result,
    field_label,
    headline,
    metric_label,
    system_label,
    target_label,
)
from phi_vision.evaluation.svg import Chart
from phi_vision.io.formatting import format_percent, join_words
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.calibration import Calibration
from phi_vision.metrics.confusion import OTHERS, confusion
from phi_vision.metrics.field_metrics import (
    Metric,
    as_number,
    edit_similarity,
    is_correct,
    relative_error,
)
from phi_vision.metrics.scores import Scores, significance
from phi_vision.runs import SMOOTHING, Curve, History, curve, smooth, thin

MAX_POINTS = 2000
"""Points of a scatter plot: more cover each other and slow a phone down."""

MAX_CURVE_POINTS = 200
"""Points of a curve: a phone is 390 pixels wide."""

MAX_ERRORS = 5
"""Confusions listed in words."""

RANDOM_SHOWN, WORST_SHOWN = 12, 12
"""Predictions shown as cards."""

THUMBNAIL = 280
"""Longest side of a shown image in pixels: sharp at the page's size, some 10 kB."""

MAX_VALUE_LENGTH = 400
"""Characters of a shown value; endless generations must not fill the page."""


def metrics_by_field(metrics: Mapping[str, Metric]) -> list[tuple[str | None, list[Metric]]]:
    """Group metrics by their field; None: of the whole record."""
    return [
        (field, list(group)) for field, group in groupby(metrics.values(), lambda each: each.field)
    ]


def compare_systems(
    scores: Scores, systems: Sequence[str]
) -> list[tuple[Metric, list[str], Chart]]:
    """Draw the model and other systems by the headline metric of each field."""
    found = []
    for metric in headline(scores):
        present = [each for each in systems if metric.name in scores.differences.get(each, {})]
        if not present or not math.isfinite(scores.estimates["model"][metric.name].value):
            continue
        rows = [
            Interval(system_label(system), scores.estimates[system][metric.name], system == "model")
            for system in ("model", *present)
        ]
        chart = draw_intervals(rows, title=metric_label(metric), decimals=metric.decimals)
        found.append((metric, present, chart))
    return found


def summarize_baselines(scores: Scores) -> list[tuple[Metric, Mapping[str, list[str]]]]:
    """Group the baselines by the result of the comparison with the model, for each field.

    Output: (title_similarity, {"better": ["constant baseline"], "not significant": [], ...}), ...
    """
    found = []
    for metric in headline(scores):
        differences = {
            system_label(system): scores.differences[system][metric.name]
            for system in BASELINES
            if metric.name in scores.differences.get(system, {})
        }
        results = [
            (name, significance(difference))
            for name, difference in differences.items()
            if math.isfinite(difference.low)
        ]
        if results:
            found.append((metric, by_result(results)))
    return found


def compare_to_overall(estimate: Estimate, overall: float, metric: Metric) -> str:
    """Compare a slice with all samples: "better", "worse", or "" where it may be chance."""
    # Of an interval without width there are too few samples to resample.
    if not estimate.low < estimate.high or estimate.low <= overall <= estimate.high:
        return ""
    is_better = {
        "higher": estimate.value > overall,
        "lower": estimate.value < overall,
        "zero": abs(estimate.value) < abs(overall),
    }
    return "better" if is_better[metric.better] else "worse"


def draw_history(history: History, scores: Scores) -> list[tuple[Chart, str]]:
    """Draw the losses and the headline metrics of the training, each with its better direction."""
    loss = curve(history.steps, "loss")
    series = [
        Series(name="each step", points=curve_points(loss), faint=True, color=1),
        Series(name="training", points=curve_points(smoothed(loss)), color=1),
        Series(
            name="validation",
            points=curve_points(curve(history.evaluations, "validation_loss")),
            markers=True,
            color=2,
        ),
    ]
    found = [(draw_lines(series, title="Loss", x="step", y=""), "lower")]
    for metric in headline(scores):
        curves = {
            system: curve_points(curve(system_lines(history, system), metric.name))
            for system in ("model", "shuffled")
        }
        series = [
            Series(name=system_label(system), points=curves[system], markers=True, color=color)
            for system, color in (("model", 1), ("shuffled", 6))
            if curves[system]
        ]
        if curves["model"]:
            chart = draw_lines(series, title=metric_label(metric), x="step", y="")
            found.append((chart, metric.better))
    return found


def system_lines(history: History, system: str) -> list[dict[str, Any]]:
    """Take the metrics of one system out of each evaluation of a training.

    Input:  {"step": 5, "epoch": 1.0, "model": {"title_exact": 0.5}}, "model"
    Output: {"step": 5, "epoch": 1.0, "title_exact": 0.5}
    """
    return [{**(line.get(system) or {}), **line} for line in history.evaluations]


def smoothed(points: Curve) -> Curve:
    """Smooth the loss of a training for a chart."""
    window = max(1, round(SMOOTHING * len(points.values)))
    return Curve(points.steps, smooth(points.values, window))


def curve_points(points: Curve) -> list[tuple[float, float]]:
    """Reduce a curve to the points of a chart."""
    shown = thin(points, MAX_CURVE_POINTS)
    return [pair for pair in zip(shown.steps, shown.values, strict=True) if math.isfinite(pair[1])]


def draw_calibration(scores: Scores) -> list[Chart]:
    """Draw a reliability diagram and a risk-coverage curve for each field."""
    charts = []
    for target, found in scores.calibrations.items():
        name = target_label(target)
        if found.bins:
            title = f"{name}: reliability diagram"
            charts.append(draw_reliability(found.bins, found.recalibrated_bins, title=title))
        if found.bins and len(found.risk_curve) > 1:
            charts.append(_draw_risk(name, found))
    return charts


def list_limitations(scores: Scores) -> list[str]:
    """List what could not be measured of the confidence, once for all fields it is true of."""
    fields: dict[str, list[str]] = {}
    for target, found in scores.calibrations.items():
        fields.setdefault(found.limitations, []).append(target_label(target))
    return [f"{join_words(names)}: {text}" for text, names in fields.items() if text]


def draw_confusions(scores: Scores) -> list[tuple[str, Chart, list[str]]]:
    """Draw the confusion matrix of each category field, with its most frequent errors in words."""
    found = []
    for field in scores.template.fields_of("category"):
        matrix = confusion(scores.predictions, field)
        name = field_label(field)
        chart = draw_confusion(
            matrix.labels,
            matrix.predicted,
            matrix.counts,
            title=f"{name}: confusion matrix",
            pooled=OTHERS,
        )
        found.append((name, chart, _frequent_errors(field, scores)))
    return found


def draw_numbers(scores: Scores) -> list[tuple[str, Chart | None, str]]:
    """Draw predicted over true numbers of each number field, with a caption."""
    return [_draw_numbers(field, scores) for field in scores.template.fields_of("number")]


def select_predictions(
    scores: Scores, samples: Sequence[Sample]
) -> dict[str, list[tuple[ScoredPrediction, Sample]]]:
    """Select predictions at random, and those with the largest error."""
    pairs = list(zip(scores.predictions, samples, strict=True))
    drawn = random.Random(scores.seed).sample(pairs, min(RANDOM_SHOWN, len(pairs)))
    errors = {each.id: prediction_error(each, scores.template) for each in scores.predictions}
    # Ties are broken by id, so that the page does not depend on the order of the samples.
    ranked = sorted(pairs, key=lambda pair: (-errors[pair[0].id], pair[0].id))
    worst = [pair for pair in ranked[:WORST_SHOWN] if errors[pair[0].id] > 0]
    return {"Random sample": drawn, "Worst predictions": worst}


def prediction_error(scored: ScoredPrediction, template: Template) -> float:
    """Average the errors of the fields, each from 0 to 1; 1 where the prediction does not parse.

    Input:  the right category, and a price of 150 where 100 is true
    Output: 0.25
    """
    record = scored.prediction.record
    if record is None:
        return 1.0
    errors = [
        _field_error(kind, record.get(field), scored.truth[field])
        for field, kind in template.kinds.items()
    ]
    return sum(errors) / len(errors)


def thumbnail(sample: Sample) -> str:
    """Encode the first image as the data URI of a small JPEG, on white; "" without images."""
    if not sample.images:
        return ""
    image = sample.open_images()[0].convert("RGBA")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file, background = io.BytesIO(), Image.new("RGBA", image.size, "white")
    Image.alpha_composite(background, image).convert("RGB").save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def shorten(text: str, limit: int = MAX_VALUE_LENGTH) -> str:
    """Cut a text that is too long."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def _draw_risk(name: str, found: Calibration) -> Chart:
    curve = [(point.coverage, point.risk) for point in found.risk_curve]
    # Of the first few predictions one error is half of all: the curve means nothing yet.
    steady = [point for point in curve if point[0] * found.samples >= 10] or curve
    accepted, mark = found.auto_accept, None
    if accepted and accepted.threshold is not None and math.isfinite(accepted.precision.value):
        mark = (accepted.coverage.value, 1 - accepted.precision.value)
    return draw_lines(
        [Series(name=name, points=steady)],
        title=f"{name}: risk-coverage curve",
        x="coverage",
        y="error rate among the accepted",
        percent=True,
        mark=mark,
    )


def _frequent_errors(field: str, scores: Scores) -> list[str]:
    """Describe the most frequent confusions; predictions that do not parse are not among them.

    Output: ["HATS predicted as BAGS: 3 times, 60.0 % of its samples"]
    """
    totals = Counter(each.truth[field] for each in scores.predictions)
    errors = Counter(
        (each.truth[field], each.prediction.record[field])
        for each in scores.predictions
        if each.prediction.record and each.prediction.record[field] != each.truth[field]
    )
    return [
        f"{true} predicted as {predicted}: {count}×, {format_percent(count / totals[true])} of its "
        "samples"
        for (true, predicted), count in errors.most_common(MAX_ERRORS)
    ]


def _draw_numbers(field: str, scores: Scores) -> tuple[str, Chart | None, str]:
    pairs = [
        (as_number(each.truth[field]), as_number((each.prediction.record or {}).get(field)))
        for each in scores.predictions
    ]
    true = [(truth, predicted) for truth, predicted in pairs if truth is not None and truth > 0]
    points = [(truth, number) for truth, number in true if number is not None and number > 0]
    name = field_label(field)
    if not points:
        return name, None, "No sample has a positive number as truth and as prediction."
    within = sum(is_correct("number", predicted, truth) for truth, predicted in points)
    caption = f"{within} of {len(true)} predictions are within 10 %."
    if len(true) > len(points):
        caption += f" Not shown: {len(true) - len(points)} without a positive prediction."
    shown = points[:: math.ceil(len(points) / MAX_POINTS)]
    title = f"{name}: predicted and true"
    return name, draw_scatter(shown, title=title, x="true", y="predicted"), caption


def _field_error(kind: Kind, predicted: Value, true: Value) -> float:
    if predicted == true:
        return 0.0
    if kind == "text":
        return 1 - edit_similarity(str(predicted), str(true))
    error = relative_error(predicted, true) if kind == "number" else 1.0
    return min(error, 1.0) if error >= 0 else 1.0
