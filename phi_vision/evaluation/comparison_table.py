"""Comparison -> a table for the terminal."""

import math
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from phi_vision.evaluation.labels import (
    ARROWS,
    name_metric,
    write_difference,
    write_interval,
    write_number,
)
from phi_vision.metrics.comparison import Comparison
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.scores import significance


def as_comparison_table(comparison: Comparison) -> Table:
    """Lay a comparison out for the terminal: a row for each metric, a column for each entry.

    Input:  runs/lora reads 80 of 100 categories, runs/full 85
    Output: category3 code: accuracy ↑         0.800           0.850
                                        0.720 to 0.880   +0.050, better
                                                       +0.010 to +0.090
    """
    shown = [
        name
        for name in ("parse_rate", *headline_metrics(comparison.template))
        if name in comparison.metrics
    ]
    table = Table(
        title=f"{comparison.samples} samples in {comparison.groups} groups that all answered",
        caption=f"below: by how much it is better than {escape(comparison.reference)}; "
        "95 % intervals, paired",
        show_lines=True,
    )
    table.add_column("metric", overflow="fold")
    for name in comparison.names:
        table.add_column(escape(name), justify="right", overflow="fold")
    for name in shown:
        metric = comparison.metrics[name]
        cells = [_cell(comparison, system, metric) for system in comparison.names]
        table.add_row(f"{name_metric(metric)} {ARROWS[metric.better]}", *cells)
    return table


def sum_up(comparison: Comparison, other: str) -> dict[str, Sequence[str]]:
    """Sort the metrics that have an interval by what the margin over the first entry shows.

    Output: {"better": ["title: exactly right"], "worse": [], "not significant": [...]}
    """
    found: dict[str, list[str]] = {"better": [], "worse": [], "not significant": []}
    for name, difference in comparison.differences[other].items():
        if not math.isnan(difference.low):
            found[significance(difference)].append(name_metric(comparison.metrics[name]))
    return {word: tuple(names) for word, names in found.items()}


def _cell(comparison: Comparison, system: str, metric: Metric) -> str:
    estimate = comparison.estimates[system][metric.name]
    value = write_number(estimate.value, metric.decimals)
    if system == comparison.reference:
        return f"{value}\n[dim]{write_interval(estimate, metric.decimals)}[/dim]"
    difference = comparison.differences[system][metric.name]
    by, interval = write_difference(difference, metric.decimals)
    shows = f", {significance(difference)}" if interval else ""
    return f"{value}\n[dim]{by}{shows}\n{interval}[/dim]"
