"""Scores -> a table for the terminal."""

import math

from rich.markup import escape
from rich.table import Table

from phi_vision.evaluation.labels import (
    ARROWS,
    UNKNOWN,
    name_metric,
    name_who,
    write_interval,
    write_number,
)
from phi_vision.metrics.bootstrap import Figure
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.scores import Scores, verdict

SAID = {
    "better": "[green]better[/green]",
    "worse": "[red]worse[/red]",
    "not told apart": "[dim]≈[/dim]",
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
        scores, "better, worse, ≈ not told apart: the model, beside this row · below its figure the"
    )
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(_head(metric), justify="right")
    for who, row in scores.figures.items():
        cells = [_cell(row.get(metric.name), metric) for metric in metrics]
        if who == "model":
            cells = [_with_interval(row[metric.name], metric) for metric in metrics]
        else:
            margins = [scores.margins[who].get(metric.name) for metric in metrics]
            cells = [_beside(*pair) for pair in zip(cells, margins, strict=True)]
        table.add_row(name_who(who), *cells)
    if scores.floor:
        table.add_row("[dim]best possible[/dim]", *(_floor(scores, metric) for metric in metrics))
    return table


def _table(scores: Scores, caption: str) -> Table:
    return Table(
        title=f"{scores.samples:,} held-out samples in {scores.groups:,} groups",
        caption=f"{caption} 95 % interval · ↑ higher is better, ↓ lower",
    )


def _head(metric: Metric) -> str:
    return f"{escape(name_metric(metric))} {ARROWS[metric.better]}"


def _cell(figure: Figure | None, metric: Metric) -> str:
    if figure is None or not math.isfinite(figure.value):
        return UNKNOWN
    return write_number(figure.value, metric.decimals)


def _with_interval(figure: Figure, metric: Metric) -> str:
    interval = write_interval(figure, metric.decimals)
    value = f"[bold]{_cell(figure, metric)}[/bold]"
    return f"{value}\n[dim]{interval}[/dim]" if interval else value


def _beside(cell: str, margin: Figure | None) -> str:
    if margin is None or not math.isfinite(margin.low):
        return cell
    return f"{cell} {SAID[verdict(margin)]}"


def _floor(scores: Scores, metric: Metric) -> str:
    floor = scores.floor.get(metric.name)
    return "" if floor is None else f"[dim]{write_number(floor, metric.decimals)}[/dim]"
