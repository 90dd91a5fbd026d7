"""Scores -> a table for the terminal."""

import math

from rich.markup import escape
from rich.table import Table

from phi_vision.evaluation.labels import (
    ARROWS,
    UNKNOWN,
    name_metric,
    name_system,
    write_interval,
    write_number,
)
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.scores import Scores, significance

SAID = {
    "better": "[green]better[/green]",
    "worse": "[red]worse[/red]",
    "not significant": "[dim]≈[/dim]",
}
"""Verdict on the model -> how a cell says it."""


def as_table(scores: Scores) -> Table:
    """Lay scores out for the terminal: who answered, and one figure for each field.

    Input:  Scores of a model that reads 93 of 100 categories
    Output:                        category: accuracy ↑   …
            the model              0.930
                                   0.880 – 0.970
            one answer for all     0.110 better
    """
    names = [*headline_metrics(scores.template), "parse_rate"]
    metrics = [scores.metrics[name] for name in names]
    table = _table(
        scores,
        "better, worse, ≈ not significant: the model, beside this row · below its figure the",
    )
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(_head(metric), justify="right")
    for system, row in scores.estimates.items():
        cells = [_cell(row.get(metric.name), metric) for metric in metrics]
        if system == "model":
            cells = [_with_interval(row[metric.name], metric) for metric in metrics]
        else:
            differences = [scores.differences[system].get(metric.name) for metric in metrics]
            cells = [_beside(*pair) for pair in zip(cells, differences, strict=True)]
        table.add_row(name_system(system), *cells)
    if scores.best_achievable:
        table.add_row(
            "[dim]best possible[/dim]", *(_best_achievable(scores, metric) for metric in metrics)
        )
    return table


def _table(scores: Scores, caption: str) -> Table:
    return Table(
        title=f"{scores.samples:,} held-out samples in {scores.groups:,} groups",
        caption=f"{caption} 95 % interval · ↑ higher is better, ↓ lower",
    )


def _head(metric: Metric) -> str:
    return f"{escape(name_metric(metric))} {ARROWS[metric.better]}"


def _cell(estimate: Estimate | None, metric: Metric) -> str:
    if estimate is None or not math.isfinite(estimate.value):
        return UNKNOWN
    return write_number(estimate.value, metric.decimals)


def _with_interval(estimate: Estimate, metric: Metric) -> str:
    interval = write_interval(estimate, metric.decimals)
    value = f"[bold]{_cell(estimate, metric)}[/bold]"
    return f"{value}\n[dim]{interval}[/dim]" if interval else value


def _beside(cell: str, difference: Estimate | None) -> str:
    if difference is None or not math.isfinite(difference.low):
        return cell
    return f"{cell} {SAID[significance(difference)]}"


def _best_achievable(scores: Scores, metric: Metric) -> str:
    best_achievable = scores.best_achievable.get(metric.name)
    return (
        ""
        if best_achievable is None
        else f"[dim]{write_number(best_achievable, metric.decimals)}[/dim]"
    )
