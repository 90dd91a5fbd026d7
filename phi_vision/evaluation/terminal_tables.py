"""The tables of `phi-vision evaluate` and `phi-vision compare` in the terminal."""

import math

from rich.markup import escape
from rich.table import Column, Table

from phi_vision.evaluation import labels
from phi_vision.io.formatting import MISSING, format_number
from phi_vision.metrics.calibration import UNKNOWN
from phi_vision.metrics.comparison import Comparison
from phi_vision.metrics.scores import Scores, significance

RESULTS = {"better": "[green]better", "worse": "[red]worse", "not significant": "[dim]≈"}


def scores_table(scores: Scores) -> Table:
    """Lay out scores: a row for each system, a column for the headline metric of each field.

    Output:                        category: accuracy ↑   …
            the model                       0.930
                                   0.880 to 0.970
            constant baseline                  0.110 better
    """
    metrics = [*labels.headline(scores), scores.metrics["parse_rate"]]
    table = Table(
        Column(no_wrap=True),
        *(Column(escape(labels.metric_heading(metric)), justify="right") for metric in metrics),
        title=f"{scores.samples:,} held-out samples in {scores.groups:,} groups",
        caption="better, worse, ≈ not significant: the model against this row · below its value "
        "the 95 % confidence interval · ↑ higher is better, ↓ lower",
    )
    for system, estimates in scores.estimates.items():
        cells = []
        for metric in metrics:
            estimate = estimates.get(metric.name, UNKNOWN)
            difference = scores.differences.get(system, {}).get(metric.name, UNKNOWN)
            cell = format_number(estimate.value, metric.decimals)
            if system == "model" and cell != MISSING:
                interval = labels.format_interval(estimate, metric.decimals)
                cell = f"[bold]{cell}[/bold]" + (f"\n[dim]{interval}[/dim]" if interval else "")
            elif not math.isnan(difference.low) and cell != MISSING:
                cell += f" {RESULTS[significance(difference)]}"
            cells.append(cell)
        table.add_row(labels.system_label(system), *cells)
    if best := scores.best_achievable:
        known = [metric if metric.name in best else None for metric in metrics]
        texts = [format_number(best[each.name], each.decimals) if each else "" for each in known]
        table.add_row("best achievable", *texts, style="dim")
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Lay out a comparison: a row for each metric, a column for each run.

    Output: category3 code: accuracy ↑            0.800            0.850
                                         0.720 to 0.880   +0.050, better
                                                        +0.010 to +0.090
    """
    table = Table(
        Column("metric", overflow="fold"),
        *(Column(escape(name), justify="right", overflow="fold") for name in comparison.names),
        title=f"{comparison.samples} samples in {comparison.groups} groups with a prediction from "
        "every run",
        caption=f"below: paired difference from {escape(comparison.reference)}, positive where "
        "better, and its 95 % confidence interval",
        show_lines=True,
    )
    for metric in (comparison.metrics["parse_rate"], *labels.headline(comparison)):
        cells = []
        for name in comparison.names:
            estimate = comparison.estimates[name][metric.name]
            below = labels.format_interval(estimate, metric.decimals)
            if name != comparison.reference:
                difference = comparison.differences[name][metric.name]
                by, interval = labels.format_difference(difference, metric.decimals)
                result = "" if math.isnan(difference.low) else f", {significance(difference)}"
                below = f"{by}{result}\n{interval}"
            cells.append(f"{format_number(estimate.value, metric.decimals)}\n[dim]{below}[/dim]")
        table.add_row(labels.metric_heading(metric), *cells)
    return table
