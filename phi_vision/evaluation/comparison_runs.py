"""What was done differently: recipes, versions, how the runs learnt, and what they cost."""

from collections.abc import Mapping, Sequence
from html import escape

from phi_vision.evaluation.figures import Series, draw_lines
from phi_vision.evaluation.labels import UNKNOWN, name_metric
from phi_vision.evaluation.page_components import (
    Section,
    write_chart,
    write_charts,
    write_note,
    write_table,
)
from phi_vision.evaluation.report_reader import Report
from phi_vision.metrics.field_metrics import Metric
from phi_vision.runs import SMOOTHING, Curve, LogLine, smooth, thin

Reports = Mapping[str, Report]
"""Entry -> its report."""

Told = Mapping[str, object]
"""What -> how it was."""

MOST_POINTS = 200
"""Of a curve: a chart is 360 pixels wide."""

SAYS_NOTHING = ("output_dir",)
"""Fields of a recipe that differ in every run: where it was written to."""


def differences(told: Mapping[str, Told]) -> dict[str, dict[str, object]]:
    """Find what is not the same everywhere, among entries of which something is known.

    Input:  {"a": {"epochs": 5, "seed": 0}, "b": {"epochs": 8, "seed": 0}, "c": {}}
    Output: {"epochs": {"a": 5, "b": 8}}
    """
    known = {name: theirs for name, theirs in told.items() if theirs}
    fields = dict.fromkeys(field for theirs in known.values() for field in theirs)
    found = {}
    for field in fields:
        values = {name: theirs[field] for name, theirs in known.items() if field in theirs}
        if len(set(map(repr, values.values()))) > 1 or len(values) < len(known):
            found[field] = values
    return found


def show_recipes(reports: Reports, labels: Mapping[str, str]) -> Section:
    """Show the fields of the recipes, and the versions, that differ; only those."""
    recipes = {
        name: {field: value for field, value in report.recipe.items() if field not in SAYS_NOTHING}
        for name, report in reports.items()
    }
    versions = {name: report.versions for name, report in reports.items()}
    rows = _rows(differences(recipes), labels)
    others = _rows(differences(versions), labels)
    if others:
        rows += [["Versions and data"], *others]
    unknown = [labels[name] for name, recipe in recipes.items() if not recipe]
    html = ""
    if rows:
        html = write_table(["", *labels.values()], rows, about="What differs", kind="words")
    elif len(recipes) - len(unknown) > 1:
        html = write_note("Nothing differs: the same recipe, the same versions, the same data.")
    if unknown:
        html += write_note(f"It is not known how {', '.join(unknown)} learnt: no recipe is there.")
    return Section(
        anchor="recipes",
        title="What was done differently",
        short="Recipes",
        lead="Fields of the recipes that are not the same everywhere; all others are.",
        html=html,
    )


def show_learning(
    reports: Reports, labels: Mapping[str, str], metrics: Sequence[Metric]
) -> Section | None:
    """Lay the learning curves over each other; None where no run left a log.

    Args:
        reports: What is known of each entry.
        labels: What each is called.
        metrics: Whose values on the validation samples are drawn, besides the losses.
    """
    logs = {name: report.log for name, report in reports.items() if report.log is not None}
    training = {name: _smoothed(along(log.steps, "loss")) for name, log in logs.items()}
    held_out = {name: along(log.evaluations, "validation_loss") for name, log in logs.items()}
    charts = [
        _chart(training, labels, title="Training loss", y="loss"),
        _chart(held_out, labels, title="Validation loss", y="loss", marked=True),
    ]
    for metric in metrics:
        title = name_metric(metric)
        curves = {
            name: along(
                [{**line.get("model", {}), **line} for line in log.evaluations], metric.name
            )
            for name, log in logs.items()
        }
        charts.append(_chart(curves, labels, title=title, y="on validation samples", marked=True))
    drawn = [chart for chart in charts if chart]
    if not drawn:
        return None
    return Section(
        anchor="learning",
        title="How they learnt",
        short="Learning curves",
        lead="Along the passes over each run's own training samples.",
        html=write_charts(drawn),
    )


def show_cost(reports: Reports, labels: Mapping[str, str]) -> Section | None:
    """Show what the runs cost; None where nobody knows."""
    told = {name: report.cost for name, report in reports.items()}
    kinds = dict.fromkeys(kind for theirs in told.values() for kind in theirs)
    if not kinds:
        return None
    rows = [
        [escape(kind), *(escape(told[name].get(kind, UNKNOWN)) for name in labels)]
        for kind in kinds
    ]
    return Section(
        anchor="cost",
        title="What they cost",
        short="Cost",
        html=write_table(["", *labels.values()], rows, about="Cost of each", kind="words"),
    )


def along(lines: Sequence[LogLine], name: str) -> Curve:
    """Take one figure out of a log's lines, along the passes over the data.

    Steps of runs with other batches do not hold the same number of samples; passes do.

    Input:  {"step": 1, "epoch": 0.5, "loss": 2.5} {"step": 2, "epoch": 1.0, "loss": None}
    Output: at 0.5, values 2.5
    """
    found = [
        (float(line["epoch"]), float(line[name]))
        for line in lines
        if line.get(name) is not None and line.get("epoch") is not None
    ]
    return Curve([at for at, _ in found], [value for _, value in found])


def _smoothed(points: Curve) -> Curve:
    window = max(1, round(SMOOTHING * len(points.steps)))
    return thin(Curve(points.steps, smooth(points.values, window)), MOST_POINTS)


def _chart(
    curves: Mapping[str, Curve],
    labels: Mapping[str, str],
    *,
    title: str,
    y: str,
    marked: bool = False,
) -> str:
    """Draw one figure of all runs; "" where none has it."""
    # An entry without a log keeps its colour, and says in the legend that it has no curve.
    series = []
    for name, label in labels.items():
        points = list(zip(*curves.get(name, Curve([], [])), strict=True))
        told = label if points else f"{label} (not known)"
        series.append(Series(name=told, points=points, marked=marked))
    if not any(each.points for each in series):
        return ""
    return write_chart(draw_lines(series, title=title, x="passes", y=y), title=title)


def _rows(found: Mapping[str, Mapping[str, object]], labels: Mapping[str, str]) -> list[list[str]]:
    return [
        [escape(field), *(_show(values, name) for name in labels)]
        for field, values in found.items()
    ]


def _show(values: Mapping[str, object], name: str) -> str:
    """Write a value as YAML would: `null` is nothing."""
    if name not in values:
        return UNKNOWN
    value = values[name]
    if isinstance(value, list):
        return escape(", ".join(map(str, value)))
    return "none" if value is None else escape(str(value))
