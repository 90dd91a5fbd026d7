"""Labels and number formats of the pages, tables and summaries."""

import math
from collections.abc import Iterable, Mapping

from phi_vision.data.samples import Value
from phi_vision.io.formatting import (
    MISSING,
    format_number,
    format_percent,
    format_signed,
    join_words,
)
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.calibration import RECORD, SelectiveThreshold
from phi_vision.metrics.comparison import Comparison
from phi_vision.metrics.field_metrics import Better, Metric, headline_metrics
from phi_vision.metrics.scores import Scores

BASELINES = ("base", "constant", "category_median", "nearest", "boosting", "twin")
"""Systems that the model should beat, in the order of `metrics.scores.SYSTEMS`."""

IMAGE_ABLATIONS = ("shuffled", "blank", "withheld")
"""The model, with changed images."""

# The arrow stands behind a no-break space: it would be lost alone on a line.
ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "zero": "→\u00a00"}
SIGNS = {"better": "▲", "not significant": "≈", "worse": "▼"}
TONES = {"better": "good", "worse": "bad", "not significant": "neutral"}


def field_label(field: str) -> str:
    """Format the name of a field: full_price -> "full price"."""
    return field.replace("_", " ").strip() or field


def measure_label(metric: Metric) -> str:
    """Format a metric without its field: full_price_mape -> "mean relative error"."""
    short = metric.name if metric.field is None else metric.name.removeprefix(f"{metric.field}_")
    return MEASURES.get(short, short.replace("_", " "))


def metric_label(metric: Metric) -> str:
    """Format a metric with its field: full_price_mape -> "full price: mean relative error"."""
    field = "" if metric.field is None else f"{field_label(metric.field)}: "
    return field + measure_label(metric)


def metric_heading(metric: Metric) -> str:
    """Format a metric with an arrow for the direction that is better."""
    return f"{metric_label(metric)}\u00a0{ARROWS[metric.better]}"


def system_label(system: str) -> str:
    """Format one of `metrics.scores.SYSTEMS`: constant -> "constant baseline"."""
    return SYSTEM_LABELS.get(system, system)


def target_label(target: str) -> str:
    """Format the target of a calibration: a field, or the whole record."""
    return "all fields at once" if target == RECORD else field_label(target)


def headline(scores: Scores | Comparison) -> list[Metric]:
    """List the first metric of each field; of a comparison, of the fields that all systems have."""
    names = headline_metrics(scores.template)
    return [scores.metrics[name] for name in names if name in scores.metrics]


def format_interval(estimate: Estimate, decimals: int) -> str:
    """Format a confidence interval: Estimate(0.5, 0.41, 0.593), 2 -> "0.41 to 0.59"; "" without."""
    if not math.isfinite(estimate.low):
        return ""
    return f"{format_number(estimate.low, decimals)} to {format_number(estimate.high, decimals)}"


def format_percent_interval(estimate: Estimate) -> str:
    """Format a confidence interval in percent: Estimate(0.5, 0.41, 0.593) -> "41.0 to 59.3 %"."""
    if not math.isfinite(estimate.low):
        return ""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f} %"


def format_difference(difference: Estimate, decimals: int) -> tuple[str, str]:
    """Format a difference and its confidence interval, with signs.

    Input:  Estimate(0.05, -0.01, 0.11), 2
    Output: "+0.05", "−0.01 to +0.11"
    """
    if not math.isfinite(difference.value):
        return MISSING, ""
    value, low, high = (format_signed(number, decimals) for number in difference)
    return value, f"{low} to {high}" if math.isfinite(difference.low) else ""


def format_value(value: Value) -> str:
    """Format the value of a field: 390.0 -> "390.00"; None -> "(empty)"."""
    if value is None or value == "":
        return "(empty)"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def explain_thresholds(scores: Scores) -> list[str]:
    """Describe the share of each field that can be accepted automatically.

    Fields without a threshold share a sentence; [] where no target precision was given.
    """
    thresholds = {
        target_label(target): each.auto_accept
        for target, each in scores.calibrations.items()
        if each.auto_accept is not None
    }
    without = [name for name, each in thresholds.items() if each.threshold is None]
    found = [
        explain_threshold(name, each) for name, each in thresholds.items() if name not in without
    ]
    return found + [
        explain_threshold(join_words(without), thresholds[name]) for name in without[:1]
    ]


def explain_threshold(name: str, auto_accept: SelectiveThreshold) -> str:
    """Describe the share of a field that can be accepted automatically.

    Output: At a target precision of 95 %, category can be accepted automatically for 71.0 % of the
            samples (65.0 to 77.0 %), from a recalibrated confidence of 0.83; the measured precision
            is 96.1 % (92.0 to 98.4 %).
    """
    target = f"At a target precision of {100 * auto_accept.target:.4g} %, "
    if auto_accept.threshold is None:
        return f"{target}{name} cannot be accepted automatically."
    coverage, precision = (
        (format_percent(share.value), f" ({interval})" if interval else "")
        for share in (auto_accept.coverage, auto_accept.precision)
        for interval in [format_percent_interval(share)]
    )
    text = (
        f"{target}{name} can be accepted automatically for {coverage[0]} of the samples"
        f"{coverage[1]}, from a recalibrated confidence of {auto_accept.threshold:.2f}"
    )
    if math.isfinite(auto_accept.precision.value):
        text += f"; the measured precision is {''.join(precision)}"
    return f"{text}."


def by_result(results: Iterable[tuple[str, str]]) -> Mapping[str, list[str]]:
    """Group names by the result of their comparison, in the order of `SIGNS`.

    Input:  ("title", "better"), ("price", "not significant"), ("category", "better")
    Output: {"better": ["title", "category"], "not significant": ["price"], "worse": []}
    """
    groups: dict[str, list[str]] = {result: [] for result in SIGNS}
    for name, result in results:
        groups[result].append(name)
    return groups


SYSTEM_LABELS = {
    "model": "the model",
    "constrained": "constrained decoding",
    "base": "base model",
    "constant": "constant baseline",
    "category_median": "category median",
    "nearest": "nearest neighbour",
    "boosting": "gradient boosting",
    "withheld": "no image",
    "twin": "text-only twin",
    "blank": "blank images",
    "shuffled": "shuffled images",
}
"""System -> a few words, for columns, charts and sentences."""

MEASURES = {
    "parse_rate": "parse rate",
    "exact": "exact match",
    "similarity": "similarity",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "hierarchical_f1": "hierarchical F1",
    "mae": "mean absolute error",
    "median_ape": "median relative error",
    "mape": "mean relative error",
    "smape": "symmetric relative error",
    "rmsle": "root mean squared log error",
    "within_5": "within 5 %",
    "within_10": "within 10 %",
    "within_25": "within 25 %",
    "spearman": "rank correlation",
    "bias": "bias",
}
"""Short name of a metric -> label; another metric is labelled by its short name."""
