"""The charts and tables of the pages' sections; their sentences are in `templates/`."""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.kinds.field_kind import has_value
from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Sample, Value
from phi_vision.data.template import KINDS, Template
from phi_vision.evaluation import figures, labels
from phi_vision.evaluation.figures import Chart, Series
from phi_vision.evaluation.labels import BASELINES, EMPTY
from phi_vision.io.image_decoding import thumbnail_base64
from phi_vision.metrics import field_metrics
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.comparison import Comparison
from phi_vision.metrics.field_metrics import Metric
from phi_vision.metrics.scores import Scores
from phi_vision.runs import SMOOTHING, Curve, History, LogLine, curve, smooth, thin

OTHERS = "all others"  # rare categories, and predicted ones that are never true

UNPARSED = "unparsed"  # predictions that do not parse, or lack the field

MAX_POINTS, MAX_CURVE_POINTS = 2000, 200
"""Points of a scatter plot and of a curve: more cover each other, and slow a phone down."""

MAX_ERRORS, RANDOM_SHOWN, WORST_SHOWN = 5, 12, 12
"""Confusions listed in words, and predictions shown as cards."""

THUMBNAIL = 280  # longest side of a shown image in pixels: sharp at the page's size, some 10 kB

MAX_LABEL = 28  # characters of a name in columns and legends: two columns of it fit on a phone


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A confusion matrix: labels COATS and HATS, predicted COATS, HATS and "unparsed", counts
    [[2, 1, 0], [0, 1, 1]] where one of three coats is predicted as a hat, and one of two hats does
    not parse."""

    labels: tuple[str, ...]
    """True categories, a row each: the most frequent first, `OTHERS` last where some are pooled."""
    predicted: tuple[str, ...]
    """Predicted categories, a column each: the labels, then `OTHERS` and `UNPARSED` where they
    occur. The cell of `OTHERS` predicted for `OTHERS` holds correct and wrong predictions."""
    counts: NDArray[np.int64]  # samples, of shape (labels, predicted)


def compare_systems(
    scores: Scores, others: Sequence[str], *, ranked: bool = False
) -> list[tuple[Metric, list[str], Chart]]:
    """Draw the model and other systems by the headline metric of each field, ranked or as given."""
    found = []
    for metric in labels.headline(scores):
        ordered = rank(scores, others, metric) if ranked else others
        present = [each for each in ordered if metric.name in scores.differences.get(each, {})]
        if present and math.isfinite(scores.estimates["model"][metric.name].value):
            estimates = {each: scores.estimates[each][metric.name] for each in ("model", *present)}
            rows = {labels.system_label(system): each for system, each in estimates.items()}
            title = labels.metric_label(metric)
            chart = figures.draw_intervals(rows, title=title, decimals=metric.decimals)
            found.append((metric, present, chart))
    return found


def rank(scores: Scores, systems: Sequence[str], metric: Metric) -> list[str]:
    """Sort systems by a metric, the best first; equals, and those without it, stay in order."""

    def badness(system: str) -> float:
        found = scores.estimates.get(system, {}).get(metric.name)
        if found is None or math.isnan(found.value):
            return math.inf
        value = abs(found.value) if metric.better == "zero" else found.value
        return -value if metric.better == "higher" else value

    return sorted(systems, key=badness)


def baselines_by_result(scores: Scores, metric: Metric) -> dict[str, list[str]]:
    """Group the baselines, the best first, by the comparison with the model, as `by_result`."""
    ordered = rank(scores, BASELINES, metric)
    rows = {labels.system_label(each): scores.differences.get(each, {}) for each in ordered}
    return labels.by_result((n, row[metric.name]) for n, row in rows.items() if metric.name in row)


def metrics_by_result(comparison: Comparison, other: str) -> dict[str, list[str]]:
    """Group the metrics by the result of a system against the reference, as `by_result`."""
    names = {name: labels.metric_label(metric) for name, metric in comparison.metrics.items()}
    return labels.by_result((names[n], each) for n, each in comparison.differences[other].items())


def compare_to_overall(estimate: Estimate, overall: float, metric: Metric) -> str:
    """Compare a slice with all samples: "better", "worse", or "" where it may be chance."""
    if not (overall < estimate.low or estimate.high < overall):
        return ""
    is_lower = estimate.value < overall
    if metric.better == "zero":
        is_lower = abs(estimate.value) < abs(overall)
    return "better" if is_lower == (metric.better != "higher") else "worse"


def curve_points(
    lines: Sequence[LogLine],
    name: str,
    *,
    system: str = "model",
    x: str = "step",
    window: float = 0,
) -> figures.Points:
    """Reduce one value of a training log, or one metric of a system in it, to a chart's points."""
    known = [line for line in lines if line.get(x) is not None]
    found = curve([{**(line.get(system) or {}), **line, "step": line[x]} for line in known], name)
    if window:
        width = max(1, round(window * len(found.values)))
        found = Curve(found.steps, smooth(found.values, width))
    return list(zip(*thin(found, MAX_CURVE_POINTS), strict=True))


def draw_history(history: History | None, scores: Scores) -> list[tuple[Chart, str]]:
    """Draw the losses and the headline metrics of the training, each with its better direction."""
    if history is None or not any(history):
        return []
    steps, evaluations = history
    losses = [
        Series("each step", curve_points(steps, "loss"), faint=True, color=1),
        Series("training", curve_points(steps, "loss", window=SMOOTHING), color=1),
        Series("validation", curve_points(evaluations, "validation_loss"), markers=True, color=2),
    ]
    found = [(figures.draw_lines(losses, title="Loss", x="step", y=""), "lower")]
    for metric in labels.headline(scores):
        series = [
            Series(labels.system_label(system), points, markers=True, color=color)
            for system, color in (("model", 1), ("shuffled", 6))
            if (points := curve_points(evaluations, metric.name, system=system))
        ]
        if series:
            chart = figures.draw_lines(series, title=labels.metric_label(metric), x="step", y="")
            found.append((chart, metric.better))
    return found


def draw_calibration(scores: Scores) -> list[Chart]:
    """Draw a reliability diagram and a risk-coverage curve for each field."""
    charts = []
    for target, found in scores.calibrations.items():
        name, accepted, mark = labels.target_label(target), found.auto_accept, None
        if found.bins:
            title, bins = f"{name}: reliability diagram", (found.bins, found.recalibrated_bins)
            charts.append(figures.draw_reliability(*bins, title=title))
        # Of the first few predictions one error is half of all: the curve means nothing yet.
        steady = [each for each in found.risk_curve if each.coverage * found.samples >= 10]
        if accepted and accepted.threshold is not None and math.isfinite(accepted.precision.value):
            mark = (accepted.coverage.value, 1 - accepted.precision.value)
        if found.bins and len(found.risk_curve) > 1:
            curves = [Series(name, steady or found.risk_curve)]
            title = f"{name}: risk-coverage curve"
            names = ("coverage", "error rate among the accepted")
            charts.append(figures.draw_lines(curves, title, *names, percent=True, mark=mark))
    return charts


def confusion(
    predictions: Sequence[ScoredPrediction], field: str, max_labels: int = 20
) -> Confusion:
    """Compute the confusion matrix of a category field, with rows for the most frequent ones."""
    frequency = Counter(each.truth[field] for each in predictions)
    ranked = sorted(frequency, key=lambda value: (-frequency[value], str(value)))[:max_labels]
    places = {value: place for place, value in enumerate(ranked)}
    others, unparsed = len(ranked), len(ranked) + 1
    counts = np.zeros((others + 1, others + 2), dtype=np.int64)
    for each in predictions:
        record = each.prediction.record or {}
        column = places.get(record[field], others) if field in record else unparsed
        counts[places.get(each.truth[field], others), column] += 1
    names = [EMPTY if value is None else str(value) for value in ranked]
    titles = np.array([*names, OTHERS, UNPARSED])
    rows, columns = np.arange(others + 1), np.arange(others + 2)
    rows = rows[(rows < others) | counts.any(axis=1)]
    columns = columns[(columns < others) | counts.any(axis=0) | np.isin(columns, rows)]
    return Confusion(
        labels=tuple(titles[rows].tolist()),
        predicted=tuple(titles[columns].tolist()),
        counts=counts[np.ix_(rows, columns)],
    )


def frequent_errors(field: str, scores: Scores) -> list[tuple[Value, Value, int, float]]:
    """List the most frequent confusions among those that parse: ("HATS", "BAGS", 3, 0.6) where 3
    HATS, 60 % of them, are predicted as BAGS."""
    parsed = [each for each in scores.predictions if each.prediction.record]
    pairs = [(each.truth[field], (each.prediction.record or {})[field]) for each in parsed]
    errors = Counter(pair for pair in pairs if pair[0] != pair[1])
    totals = Counter(each.truth[field] for each in scores.predictions)
    found = errors.most_common(MAX_ERRORS)
    return [(true, wrong, count, count / totals[true]) for (true, wrong), count in found]


def count_missing(scores: Scores, field: str) -> dict[str, int]:
    """Count samples without a value, predictions that parse, and those of them without one."""
    records = [each.prediction.record for each in scores.predictions if each.prediction.record]
    return {
        "true": sum(not has_value(each.truth[field]) for each in scores.predictions),
        "parsed": len(records),
        "predicted": sum(not has_value(record[field]) for record in records),
    }


def draw_numbers(field: str, scores: Scores) -> tuple[Chart | None, str]:
    """Draw predicted over true numbers, in the most frequent unit, with a caption."""
    values = [each.truth[field] for each in scores.predictions]
    values += [(each.prediction.record or {}).get(field) for each in scores.predictions]
    scale = KINDS[scores.template.kinds[field]].scale
    assert scale is not None, "a field without numbers"
    numbers, half = [each or 0.0 for each in scale(values).numbers], len(scores.predictions)
    pairs = zip(numbers[:half], numbers[half:], strict=True)
    true = [(truth, predicted) for truth, predicted in pairs if truth > 0]
    points = [pair for pair in true if pair[1] > 0]
    if not points:
        return None, "No sample has a positive number as truth and as prediction."
    within = sum(field_metrics.is_correct("number", number, truth) for truth, number in points)
    caption = f"{within} of {len(true)} predictions are within 10 %."
    if len(true) > len(points):
        caption += f" Not shown: {len(true) - len(points)} without a positive prediction."
    shown = points[:: math.ceil(len(points) / MAX_POINTS)]
    title = f"{labels.field_label(field)}: predicted and true"
    return figures.draw_scatter(shown, title=title, x="true", y="predicted"), caption


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
    """Average the errors of the fields, each from 0 to 1; 1 where the prediction does not parse."""
    record = scored.prediction.record
    if record is None:
        return 1.0
    return fmean(
        field_metrics.value_error(kind, record.get(field), scored.truth[field])
        for field, kind in template.kinds.items()
    )


def thumbnail(sample: Sample) -> str:
    """Encode the first image as the data URI of a small JPEG; "" without images."""
    if not sample.images:
        return ""
    return f"data:image/jpeg;base64,{thumbnail_base64(sample.open_images()[0], THUMBNAIL)}"


def short_labels(names: Sequence[str]) -> dict[str, str]:
    """Drop the folders that all names share, and the end of a name that is still too long: "lora"
    and "full" for "runs/coats/lora" and "runs/coats/full"."""
    parts = [PurePath(name).parts for name in names]
    # The last part always stays: "runs/a" and "runs/a/old" become "a" and "a/old".
    most = min(map(len, parts)) - 1
    shared = next((at for at in range(most) if len({part[at] for part in parts}) > 1), most)
    short = [str(PurePath(*part[shared:])) for part in parts]
    cut = [name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…" for name in short]
    return dict(zip(names, cut if len(set(cut)) == len(cut) else short, strict=True))


def by_field(known: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """Turn a table: {"a": {"seed": 0}, "b": {"seed": 1}} -> {"seed": {"a": 0, "b": 1}}."""
    table: dict[str, dict[str, object]] = {}
    for name, values in known.items():
        for field, value in values.items():
            table.setdefault(field, {})[name] = value
    return table


def differing(known: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """Find the fields that are not the same in all systems of which any field is known."""
    count = sum(map(bool, known.values()))
    return {
        field: values
        for field, values in by_field(known).items()
        if len(set(map(repr, values.values()))) > 1 or len(values) < count
    }


def draw_differences(metric: Metric, comparison: Comparison, names: Mapping[str, str]) -> Chart:
    """Draw the differences from the reference, which is at 0."""
    reference = names[comparison.reference]
    rows = {reference: Estimate(0.0, math.nan, math.nan)}
    rows |= {names[name]: each[metric.name] for name, each in comparison.differences.items()}
    title = f"{labels.metric_label(metric)}: improvement over {reference}"
    return figures.draw_intervals(rows, title=title, decimals=metric.decimals, zero=True)


def draw_learning(
    histories: Mapping[str, History | None], names: Mapping[str, str], metrics: Sequence[Metric]
) -> list[Chart]:
    """Draw the learning curves of all runs over each other; [] without a log."""
    titles = {"loss": "training loss", "validation_loss": "validation loss"}
    titles |= {each.name: f"{labels.metric_label(each)}, validation split" for each in metrics}
    charts = []
    for value, title in titles.items():
        is_loss, series = value == "loss", []
        for run, name in names.items():
            steps, evaluations = histories[run] or History([], [])
            lines = steps if is_loss else evaluations
            points = curve_points(lines, value, x="epoch", window=SMOOTHING * is_loss)
            # A run without a log keeps its colour, and its name in the legend.
            series.append(Series(name + " (unknown)" * (not points), points, markers=not is_loss))
        if any(each.points for each in series):
            charts.append(figures.draw_lines(series, title=title, x="epochs", y=""))
    return charts
