"""Labels and number formats of the pages, tables and summaries; words are in labels.yaml."""

import math
import re
from collections.abc import Iterable

from markupsafe import Markup

from phi_vision.data.acceptance import RECORD
from phi_vision.data.kinds.field_kind import Better
from phi_vision.data.samples import Value
from phi_vision.io.formatting import (
    MISSING,
    format_number,
    format_percent,
    format_signed,
    read_yaml,
)
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.comparison import Comparison
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.scores import Scores, significance

LABELS: dict[str, dict[str, str]] = read_yaml(__file__, "templates/labels.yaml")

EMPTY = "(empty)"  # a value that is missing

BASELINES = ("base", "constant", "category_median", "nearest", "probe", "boosting", "twin")
"""Systems that the model should beat, in the order of `metrics.scores.SYSTEMS`."""

# The arrow stands behind a no-break space: it would be lost alone on a line.
ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "zero": "→\u00a00"}
SIGNS = {"better": "▲", "not significant": "≈", "worse": "▼"}
PREPOSITIONS = {"better": "than", "not significant": "against", "worse": "than"}
TONES = {"better": "good", "not significant": "neutral", "worse": "bad"}


def field_label(field: str) -> str:
    """Format the name of a field: full_price -> "full price"."""
    return field.replace("_", " ").strip() or field


def system_label(system: str) -> str:
    """Format one of `metrics.scores.SYSTEMS`: constant -> "constant baseline"."""
    return LABELS["systems"].get(system, field_label(system))


def measure_label(metric: Metric) -> str:
    """Format a metric without its field: full_price_mape -> "mean relative error"."""
    short = metric.name.removeprefix(f"{metric.field}_")
    return LABELS["measures"].get(short, field_label(short))


def metric_label(metric: Metric) -> str:
    """Format a metric with its field: full_price_mape -> "full price: mean relative error"."""
    field = "" if metric.field is None else f"{field_label(metric.field)}: "
    return field + measure_label(metric)


def metric_heading(metric: Metric) -> str:
    """Format a metric with an arrow for the direction that is better."""
    return f"{metric_label(metric)}\u00a0{ARROWS[metric.better]}"


def target_label(target: str) -> str:
    """Format the target of a calibration: a field, or the whole record."""
    return "all fields at once" if target == RECORD else field_label(target)


def headline(scores: Scores | Comparison) -> list[Metric]:
    """List the first metric of each field; of a comparison, of the fields that all systems have."""
    names = headline_metrics(scores.template)
    return [scores.metrics[name] for name in names if name in scores.metrics]


def by_result(differences: Iterable[tuple[str, Estimate]]) -> dict[str, list[str]]:
    """Group names by the result of their paired difference; without an interval there is none."""
    groups: dict[str, list[str]] = {result: [] for result in SIGNS}
    for name, difference in differences:
        if not math.isnan(difference.low):
            groups[significance(difference)].append(name)
    return groups


def percent(share: float, decimals: int = 1) -> str:
    """Format a share for a page: 0.5 -> "50.0 %", with a no-break space."""
    return format_percent(share, decimals).replace(" ", "\u00a0")


def format_interval(estimate: Estimate, decimals: int) -> str:
    """Format a confidence interval: Estimate(0.5, 0.41, 0.593), 2 -> "0.41 to 0.59"; "" without."""
    if not math.isfinite(estimate.low):
        return ""
    return f"{format_number(estimate.low, decimals)} to {format_number(estimate.high, decimals)}"


def format_percent_interval(estimate: Estimate) -> str:
    """Format a confidence interval in percent: Estimate(0.5, 0.41, 0.593) -> "41.0 to 59.3 %"."""
    interval = format_interval(Estimate(*(100 * number for number in estimate)), 1)
    return f"{interval} %" if interval else ""


def format_difference(difference: Estimate, decimals: int) -> tuple[str, str]:
    """Format a difference and its interval: (0.05, -0.01, 0.11) -> "+0.05", "−0.01 to +0.11"."""
    if not math.isfinite(difference.value):
        return MISSING, ""
    value, low, high = (format_signed(number, decimals) for number in difference)
    return value, f"{low} to {high}" if math.isfinite(difference.low) else ""


def format_value(value: Value, limit: int = 400) -> str:
    """Format the value of a field: 390.0 -> "390.00"; None -> "(empty)"."""
    if value is None or value == "":
        return EMPTY
    text = f"{value:,.2f}" if isinstance(value, float) else str(value)
    # Endless generations must not fill the page.
    return text if len(text) <= limit else f"{text[:limit]}…"


def escape_markdown(text: str) -> Markup:
    """Escape what Markdown or HTML would read as markup, and join the lines."""
    return Markup(re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", " ".join(text.split())))
