"""Write the page of a comparison: which run is better, where, and how the runs differ.

It shows text only: the images are in the reports.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from phi_vision.evaluation.figures import Interval, Series, draw_intervals, draw_lines
from phi_vision.evaluation.labels import by_result, field_label, headline, metric_label
from phi_vision.evaluation.rendering import render
from phi_vision.evaluation.report_reader import Report
from phi_vision.evaluation.sections import curve_points, metrics_by_field, smoothed, system_lines
from phi_vision.evaluation.svg import Chart
from phi_vision.io.atomic import write_text
from phi_vision.io.formatting import join_words
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.comparison import Comparison, count_correct, find_disagreements
from phi_vision.metrics.field_metrics import Metric
from phi_vision.metrics.scores import significance
from phi_vision.runs import Curve, LogLine

MAX_LABEL = 28
"""Characters of a name in columns and legends: two columns of it fit on a phone."""

SHOWN, FOLDED = 8, 32
"""Disagreements shown at once, a screen or two, and those that unfold."""

RUN_SPECIFIC = ("output_dir",)
"""Recipe fields that differ between any two runs."""

Labels = Mapping[str, str]
"""System -> its short label."""


def write_comparison(comparison: Comparison, reports: Sequence[Report], out: Path) -> Path:
    """Write the page of a comparison atomically; return its path.

    Args:
        comparison: Comparison of the systems of the reports.
        reports: The reports, in the same order.
        out: The HTML file; its folder is created where it does not exist.

    Raises:
        ValueError: `out` is a folder.
    """
    if out.is_dir():
        raise ValueError(f"cannot write a page to {out}: found a folder; give a file, as a.html")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, render_comparison(comparison, reports))
    return out


def render_comparison(comparison: Comparison, reports: Sequence[Report]) -> str:
    """Render the page of a comparison: one file of HTML without scripts or requests."""
    labels = short_labels(comparison.names)
    named = {report.system.name: report for report in reports}
    recipes = {
        name: {field: value for field, value in report.recipe.items() if field not in RUN_SPECIFIC}
        for name, report in named.items()
    }
    intervals = [
        difference
        for differences in comparison.differences.values()
        for difference in differences.values()
        if math.isfinite(difference.low)
    ]
    return render(
        "comparison.html.j2",
        comparison=comparison,
        labels=labels,
        title=join_words([*labels.values()]),
        reference=labels[comparison.reference],
        metrics_by_field=metrics_by_field(comparison.metrics),
        headline=headline(comparison),
        charts=[_draw_differences(metric, comparison, labels) for metric in headline(comparison)],
        results={name: metrics_by_result(comparison, name) for name in comparison.names[1:]},
        intervals=len(intervals),
        correct_counts={
            name: {
                field_label(field): each for field, each in count_correct(comparison, name).items()
            }
            for name in comparison.names[1:]
        },
        disagreements=find_disagreements(comparison),
        shown=SHOWN,
        folded=FOLDED,
        recipes=differing(recipes),
        versions=differing({name: each.versions for name, each in named.items()}),
        unknown=[labels[name] for name, recipe in recipes.items() if not recipe],
        learning_curves=_draw_learning(named, labels, headline(comparison)),
        costs={
            item: {name: report.cost[item] for name, report in named.items() if item in report.cost}
            for item in dict.fromkeys(item for report in reports for item in report.cost)
        },
    )


def metrics_by_result(comparison: Comparison, other: str) -> Mapping[str, list[str]]:
    """Group the metrics that have a confidence interval by the result against the reference.

    Output: {"better": ["title: exact match"], "not significant": [...], "worse": []}
    """
    return by_result(
        (metric_label(comparison.metrics[name]), significance(difference))
        for name, difference in comparison.differences[other].items()
        if math.isfinite(difference.low)
    )


def short_labels(names: Sequence[str]) -> dict[str, str]:
    """Drop the folders that all names share, and the end of a name that is still too long.

    Input:  "runs/coats/lora", "runs/coats/full"
    Output: {"runs/coats/lora": "lora", "runs/coats/full": "full"}
    """
    parts = [PurePath(name).parts for name in names]
    # The last part always stays: "runs/a" and "runs/a/old" become "a" and "a/old".
    most = min(map(len, parts)) - 1
    shared = next((at for at in range(most) if len({part[at] for part in parts}) > 1), most)
    short = [str(PurePath(*part[shared:])) for part in parts]
    cut = [name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…" for name in short]
    return dict(zip(names, cut if len(set(cut)) == len(cut) else short, strict=True))


def differing(known: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """Find the fields that are not the same in all systems of which any field is known.

    Input:  {"a": {"epochs": 5, "seed": 0}, "b": {"epochs": 8, "seed": 0}, "c": {}}
    Output: {"epochs": {"a": 5, "b": 8}}
    """
    known = {name: values for name, values in known.items() if values}
    found = {}
    for field in dict.fromkeys(field for values in known.values() for field in values):
        values = {name: theirs[field] for name, theirs in known.items() if field in theirs}
        if len(set(map(repr, values.values()))) > 1 or len(values) < len(known):
            found[field] = values
    return found


def curve_by_epoch(lines: Iterable[LogLine], name: str) -> Curve:
    """Take one metric out of a log by epoch: runs with other batch sizes have other steps.

    Input:  {"step": 1, "epoch": 0.5, "loss": 2.5} {"step": 2, "epoch": 1.0, "loss": None}
    Output: steps 0.5, values 2.5
    """
    found = [
        (float(line["epoch"]), float(line[name]))
        for line in lines
        if line.get(name) is not None and line.get("epoch") is not None
    ]
    return Curve([at for at, _ in found], [value for _, value in found])


def _draw_differences(metric: Metric, comparison: Comparison, labels: Labels) -> tuple[Chart, str]:
    """Draw the differences from the reference, which is at 0."""
    rows = [Interval(labels[comparison.reference], Estimate(0.0, math.nan, math.nan), True)]
    rows += [
        Interval(labels[name], differences[metric.name])
        for name, differences in comparison.differences.items()
    ]
    title = f"{metric_label(metric)}: improvement over {labels[comparison.reference]}"
    chart = draw_intervals(rows, title=title, decimals=metric.decimals, zero=True)
    return chart, metric.description


def _draw_learning(
    reports: Mapping[str, Report], labels: Labels, metrics: Sequence[Metric]
) -> list[Chart]:
    """Draw the learning curves of all runs over each other; [] without a log."""
    histories = {
        name: report.history for name, report in reports.items() if report.history is not None
    }
    curves = {
        "training loss": {
            name: smoothed(curve_by_epoch(history.steps, "loss"))
            for name, history in histories.items()
        },
        "validation loss": {
            name: curve_by_epoch(history.evaluations, "validation_loss")
            for name, history in histories.items()
        },
    } | {
        f"{metric_label(metric)}, validation split": {
            name: curve_by_epoch(system_lines(history, "model"), metric.name)
            for name, history in histories.items()
        }
        for metric in metrics
    }
    return [
        _draw_curves(title, of_runs, labels)
        for title, of_runs in curves.items()
        if any(curve.steps for curve in of_runs.values())
    ]


def _draw_curves(title: str, curves: Mapping[str, Curve], labels: Labels) -> Chart:
    # A run without a log keeps its colour, and its label in the legend.
    series = []
    for name, label in labels.items():
        points = curve_points(curves.get(name, Curve([], [])))
        series.append(
            Series(
                name=label if points else f"{label} (unknown)",
                points=points,
                markers=title != "training loss",
            )
        )
    return draw_lines(series, title=title, x="epochs", y="")
