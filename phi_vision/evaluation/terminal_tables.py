"""The tables of `phi-vision evaluate` and `phi-vision compare` in the terminal."""

import math

from rich.markup import escape
from rich.table import Table

from phi_vision.evaluation.labels import (
    format_difference,
    format_interval,
    headline,
    metric_heading,
    system_label,
)
from phi_vision.io.formatting import MISSING, format_number
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.comparison import Comparison
from phi_vision.metrics.field_metrics import Metric
from phi_vision.metrics.scores import Scores, significance

RESULTS = {
    "better": " [green]better[/green]",
    "worse": " [red]worse[/red]",
    "not significant": " [dim]≈[/dim]",
}


def scores_table(scores: Scores) -> Table:
    """Lay out scores: a row for each system, a column for the headline metric of each field.

    Output:                        category: accuracy ↑   …
            the model                       0.930
                                   0.880 to 0.970
            constant baseline                  0.110 better
    """
    table = Table(
        title=f"{scores.samples:,} held-out samples in {scores.groups:,} groups",
        caption="better, worse, ≈ not significant: the model against this row · below its value "
        "the 95 % confidence interval · ↑ higher is better, ↓ lower",
    )
    metrics = [*headline(scores), scores.metrics["parse_rate"]]
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(escape(metric_heading(metric)), justify="right")
    for system, estimates in scores.estimates.items():
        differences = scores.differences.get(system, {})
        cells = [
            _cell(estimates.get(metric.name), differences.get(metric.name), metric)
            for metric in metrics
        ]
        table.add_row(system_label(system), *cells)
    if scores.best_achievable:
        best = [scores.best_achievable.get(metric.name, math.nan) for metric in metrics]
        cells = [
            f"[dim]{format_number(value, metric.decimals)}[/dim]" if math.isfinite(value) else ""
            for value, metric in zip(best, metrics, strict=True)
        ]
        table.add_row("[dim]best achievable[/dim]", *cells)
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Lay out a comparison: a row for each metric, a column for each run.

    Output: category3 code: accuracy ↑            0.800            0.850
                                         0.720 to 0.880   +0.050, better
                                                        +0.010 to +0.090
    """
    table = Table(
        title=f"{comparison.samples} samples in {comparison.groups} groups with a prediction from "
        "every run",
        caption=f"below: paired difference from {escape(comparison.reference)}, positive where "
        "better, and its 95 % confidence interval",
        show_lines=True,
    )
    table.add_column("metric", overflow="fold")
    for name in comparison.names:
        table.add_column(escape(name), justify="right", overflow="fold")
    for metric in (comparison.metrics["parse_rate"], *headline(comparison)):
        cells = [_compared(comparison, name, metric) for name in comparison.names]
        table.add_row(metric_heading(metric), *cells)
    return table


def _cell(estimate: Estimate | None, difference: Estimate | None, metric: Metric) -> str:
    """Format an estimate: of the model with its interval, of another system with the result."""
    if estimate is None or not math.isfinite(estimate.value):
        return MISSING
    value = format_number(estimate.value, metric.decimals)
    if difference is None:
        interval = format_interval(estimate, metric.decimals)
        return f"[bold]{value}[/bold]" + (f"\n[dim]{interval}[/dim]" if interval else "")
    return value + (RESULTS[significance(difference)] if math.isfinite(difference.low) else "")


def _compared(comparison: Comparison, name: str, metric: Metric) -> str:
    estimate = comparison.estimates[name][metric.name]
    value = format_number(estimate.value, metric.decimals)
    if name == comparison.reference:
        return f"{value}\n[dim]{format_interval(estimate, metric.decimals)}[/dim]"
    difference = comparison.differences[name][metric.name]
    by, interval = format_difference(difference, metric.decimals)
    result = f", {significance(difference)}" if interval else ""
    return f"{value}\n[dim]{by}{result}\n{interval}[/dim]"
