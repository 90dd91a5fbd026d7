"""The Jinja environment of the pages: HTML is escaped, an unknown name is an error."""

import math
import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from phi_vision.evaluation import labels
from phi_vision.evaluation.sections import compare_to_overall, shorten, thumbnail
from phi_vision.io.formatting import format_number, format_percent, join_words
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.field_metrics import is_correct, is_field_correct
from phi_vision.metrics.scores import SYSTEMS, significance


def render(template: str, **context: object) -> str:
    """Render a file of `templates/`."""
    return _environment().get_template(template).render(**context)


def escape_markdown(text: str) -> Markup:
    """Escape what Markdown or HTML would read as markup, and join the lines."""
    return Markup(re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", " ".join(text.split())))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("phi_vision.evaluation"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(
        arrows=labels.ARROWS,
        signs=labels.SIGNS,
        tones=labels.TONES,
        system_descriptions=SYSTEMS,
        is_correct=is_correct,
        is_field_correct=is_field_correct,
    )
    return environment


def _magnitude(difference: Estimate, decimals: int) -> str:
    """Format the size of a significant difference: "0.050 (0.010 to 0.090)"."""
    low, high = sorted((abs(difference.low), abs(difference.high)))
    interval = labels.format_interval(Estimate(difference.value, low, high), decimals)
    return f"{format_number(abs(difference.value), decimals)} ({interval})"


def _recipe_value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _percent(share: float, decimals: int = 1) -> str:
    return format_percent(share, decimals).replace(" ", "\u00a0")


def _negated(difference: Estimate) -> Estimate:
    return Estimate(-difference.value, -difference.high, -difference.low)


FILTERS: dict[str, Any] = {
    "compare_to_overall": compare_to_overall,
    "difference": labels.format_difference,
    "field_label": labels.field_label,
    "target_label": labels.target_label,
    "field_value": labels.format_value,
    "interval": labels.format_interval,
    "is_finite": math.isfinite,
    "join_words": join_words,
    "magnitude": _magnitude,
    "markdown": escape_markdown,
    "measure_label": labels.measure_label,
    "metric_heading": labels.metric_heading,
    "metric_label": labels.metric_label,
    "negated": _negated,
    "number": format_number,
    "percent": _percent,
    "percent_interval": labels.format_percent_interval,
    "recipe_value": _recipe_value,
    "shorten": shorten,
    "significance": significance,
    "system_label": labels.system_label,
    "thumbnail": thumbnail,
}
