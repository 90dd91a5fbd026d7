"""How figures, fields and those who answer are called where people read: pages, tables, texts."""

import math

from phi_vision.data.samples import Value
from phi_vision.data.template import Kind
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.field_metrics import Better, Metric
from phi_vision.metrics.scores import Scores

BASELINES = ("base", "constant", "category_median", "nearest", "boosting", "twin")
"""What a buyer would try first; the order in which `evaluate.score.WHO` has them."""

CHANGED = ("shuffled", "blank", "withheld")
"""The model, with something done to its images."""

ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "zero": "→\u00a00"}
"""Which way is good. It stands behind a blank that does not break, as it would be lost alone."""

UNKNOWN = "–"


def name_field(field: str) -> str:
    """Write a field's name as words.

    Input:  full_price
    Output: full price
    """
    return field.replace("_", " ").strip() or field


def name_measure(metric: Metric) -> str:
    """Say what a metric measures, without its field.

    Input:  the metric full_price_median_ape
    Output: median relative error
    """
    short = metric.name if metric.field is None else metric.name.removeprefix(f"{metric.field}_")
    return MEASURES.get(short, short.replace("_", " "))


def name_metric(metric: Metric) -> str:
    """Say what a metric measures, and of which field.

    Output: full price: median relative error
    """
    field = "" if metric.field is None else f"{name_field(metric.field)}: "
    return field + name_measure(metric)


def name_system(system: str) -> str:
    """Say in a few words who of `evaluate.score.WHO` answered."""
    return SHORT.get(system, system)


def write_number(value: float, decimals: int) -> str:
    """Write a number, or a dash where there is none; a minus is no hyphen.

    Input:  -1234.567, 2
    Output: −1,234.57
    """
    return f"{value:,.{decimals}f}".replace("-", "−") if math.isfinite(value) else UNKNOWN


def write_interval(estimate: Estimate, decimals: int) -> str:
    """Write the interval of a figure; "" where it has none.

    Input:  Figure(0.5, 0.41, 0.593), 2
    Output: 0.41 to 0.59
    """
    if not math.isfinite(estimate.low):
        return ""
    return f"{write_number(estimate.low, decimals)} to {write_number(estimate.high, decimals)}"


def write_difference(difference: Estimate, decimals: int) -> tuple[str, str]:
    """Write a difference and its interval, both with their signs.

    Input:  Figure(0.05, -0.01, 0.11), 2
    Output: "+0.05", "−0.01 to +0.11"
    """
    if not math.isfinite(difference.value):
        return UNKNOWN, ""
    value, low, high = (_write_signed(number, decimals) for number in difference)
    return value, f"{low} to {high}" if math.isfinite(difference.low) else ""


def write_percent(share: float) -> str:
    """Write a share in percent.

    Input:  0.9345
    Output: 93.5 %
    """
    return f"{100 * share:.1f} %" if math.isfinite(share) else UNKNOWN


def write_percents(estimate: Estimate) -> str:
    """Write the interval of a share in percent; "" where it has none.

    Input:  Figure(0.5, 0.41, 0.593)
    Output: 41.0 to 59.3 %
    """
    if not math.isfinite(estimate.low):
        return ""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f} %"


def write_value(value: Value) -> str:
    """Write what a field holds.

    Input:  390.0; ""
    Output: 390.00; (nothing)
    """
    if value is None or value == "":
        return "(nothing)"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def explain_headline(metric: Metric, scores: Scores) -> str:
    """Say in a sentence what a headline figure means.

    Output: of the answers name the right category.
    """
    if metric.field is None or metric.kind is None:
        return "of the answers can be read: they have exactly the form that was asked for."
    own = scores.estimates["model"]
    others = {
        short: write_percent(own[f"{metric.field}_{short}"].value)
        for short in ("exact", "within_10")
        if f"{metric.field}_{short}" in own
    }
    return HEADLINE_WORDS[metric.kind].format(field=name_field(metric.field), **others)


def join_words(words: list[str]) -> str:
    """Write a list as one does in a sentence.

    Input:  ["a", "b", "c"]
    Output: a, b and c
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _write_signed(number: float, decimals: int) -> str:
    """Write a number with its sign; 0 has none."""
    written = f"{abs(number):,.{decimals}f}"
    if not any(digit in written for digit in "123456789"):
        return written
    return ("−" if number < 0 else "+") + written


HEADLINE_WORDS: dict[Kind, str] = {
    "text": "alike to the true {field}, on average; {exact} are the same letter for letter.",
    "category": "of the answers name the right {field}.",
    "number": "Half of the answers are at most this far off; {within_10} are within 10 %.",
}
"""Kind of field -> what stands below its headline figure."""

SHORT = {
    "model": "the model",
    "constrained": "limited to the template",
    "base": "the untuned model",
    "constant": "one answer for all",
    "category_median": "the category's median",
    "nearest": "the nearest image",
    "boosting": "gradient boosting",
    "withheld": "no image",
    "twin": "a twin without eyes",
    "blank": "white images",
    "shuffled": "others' images",
}
"""Who of `evaluate.score.WHO` -> a few words, for columns, charts and sentences."""

MEASURES = {
    "parse_rate": "readable answers",
    "exact": "exactly right",
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
"""Short name of a metric -> in words; one that is not here is called by its short name."""
