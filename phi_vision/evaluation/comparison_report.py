"""Comparison -> one self-contained HTML page: who is better, where, and what was done differently.

Looks as the report does (`look.py`, `charts.py`). Shows words only: images lie in the reports.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePath

from phi_vision.evaluation.comparison_predictions import show_correct_counts, show_disagreements
from phi_vision.evaluation.comparison_runs import show_cost, show_learning, show_recipes
from phi_vision.evaluation.comparison_table import sum_up
from phi_vision.evaluation.figures import Row, draw_intervals
from phi_vision.evaluation.labels import (
    ARROWS,
    join_words,
    name_field,
    name_measure,
    name_metric,
    write_difference,
    write_interval,
    write_number,
)
from phi_vision.evaluation.page_components import (
    Section,
    write_chart,
    write_charts,
    write_details,
    write_facts,
    write_list,
    write_note,
    write_page,
    write_significance,
    write_table,
)
from phi_vision.evaluation.report_reader import Report
from phi_vision.io.atomic import write_text
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.comparison import Comparison
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.scores import significance

TITLE = "Runs side by side"

LONGEST = 28
"""Letters of a name in columns and legends: two columns of it fit on a phone."""

ONE_IN = 20
"""95 % intervals leave out 0 this often where there is no difference at all."""


def write_comparison(comparison: Comparison, reports: Sequence[Report], out: Path) -> Path:
    """Write the page of a comparison, whole or not at all; give its path back.

    Args:
        comparison: What `compare` found in the entries of the reports.
        reports: The reports, in the same order.
        out: The HTML file; its folder is made where it does not exist.

    Raises:
        ValueError: `out` is a folder.
    """
    if out.is_dir():
        raise ValueError(f"cannot write a page to {out}: found a folder; give a file, as a.html")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, as_comparison_page(comparison, reports))
    return out


def as_comparison_page(comparison: Comparison, reports: Sequence[Report]) -> str:
    """Word the page of a comparison."""
    labels = short_names(comparison.names)
    told = {report.system.name: report for report in reports}
    sections = [
        _show_differences(comparison, labels),
        _show_estimates(comparison, labels),
        show_correct_counts(comparison, labels),
        show_disagreements(comparison, labels),
        show_recipes(told, labels),
        show_learning(told, labels, _headline(comparison)),
        show_cost(told, labels),
    ]
    return write_page(
        title=TITLE,
        html_header=_header(comparison, labels),
        sections=[section for section in sections if section is not None],
    )


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Leave out the folders that all names begin with, and the end of what is still long.

    Input:  "runs/coats/lora", "runs/coats/full"
    Output: {"runs/coats/lora": "lora", "runs/coats/full": "full"}
    """
    parts = [PurePath(name).parts for name in names]
    # The last part always stays: of "runs/a" and "runs/a/old" are left "a" and "a/old".
    most = min(map(len, parts)) - 1
    alike = next((at for at in range(most) if len({part[at] for part in parts}) > 1), most)
    short = [str(PurePath(*part[alike:])) for part in parts]
    cut = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in short]
    return dict(zip(names, cut if len(set(cut)) == len(cut) else short, strict=True))


def _header(comparison: Comparison, labels: Mapping[str, str]) -> str:
    first = labels[comparison.reference]
    lines = [
        f"{comparison.samples:,} samples in {comparison.groups:,} groups that all of them "
        f"answered. {first} is what the others are measured against."
    ]
    lines += [
        f"{labels[name]} answered {count:,} more, which are left out here."
        for name, count in comparison.left_out.items()
        if count
    ]
    names = {label: name for name, label in labels.items() if label != name}
    predicted = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<h1>{escape(join_words([*labels.values()]))}</h1>{predicted}" + (
        write_facts(names) if names else ""
    )


def _show_differences(comparison: Comparison, labels: Mapping[str, str]) -> Section:
    first = labels[comparison.reference]
    lines = "".join(
        f"<h3>{escape(f'{label} against {first}')}</h3>{_sum_up(comparison, name)}"
        for name, label in labels.items()
        if name != comparison.reference
    )
    return Section(
        anchor="better",
        title=f"Which is better than {first}?",
        short="Which is better",
        lead="A margin is told apart from nothing when its 95 % interval leaves out 0. Both sides "
        "answered the same samples, so what is hard for both does not blur it.",
        html=write_charts(_draw_differences(comparison, labels))
        + lines
        + write_note(_caution(comparison)),
    )


def _draw_differences(comparison: Comparison, labels: Mapping[str, str]) -> list[str]:
    """Draw for each headline metric the margins, beside the 0 of the first entry."""
    charts = []
    for metric in _headline(comparison):
        title = f"{name_metric(metric)}: gain over {labels[comparison.reference]}"
        rows = [Row(labels[comparison.reference], Estimate(0.0, math.nan, math.nan), strong=True)]
        rows += [
            Row(labels[other], differences[metric.name])
            for other, differences in comparison.differences.items()
        ]
        drawn = draw_intervals(rows, title=title, decimals=metric.decimals, zero=True)
        charts.append(write_chart(drawn, title=title, caption=metric.description))
    return charts


def _headline(comparison: Comparison) -> list[Metric]:
    """One metric for each field that all templates write."""
    names = headline_metrics(comparison.template)
    return [comparison.metrics[name] for name in names if name in comparison.metrics]


def _sum_up(comparison: Comparison, other: str) -> str:
    """Say what the margins of the headline metrics show, and count those of all."""
    items = []
    for metric in _headline(comparison):
        difference = comparison.differences[other][metric.name]
        shows = significance(difference)
        by = "" if shows == "not significant" else f" by {_by(metric, difference)}"
        items.append(f"{write_significance(shows)} in {escape(name_metric(metric))}{by}")
    shown = sum_up(comparison, other)
    counts = [f"{word} in {len(names)}" for word, names in shown.items() if names]
    if not counts:
        return write_list(["Nothing can be told apart: there are too few groups for intervals."])
    return write_list(
        [*items, f"Of {_metrics(sum(map(len, shown.values())))} it is {join_words(counts)}."]
    )


def _by(metric: Metric, difference: Estimate) -> str:
    """Write the size of a margin that is told apart from nothing, and its interval.

    Input:  a metric of 3 decimals, Figure(-0.05, -0.09, -0.01)
    Output: 0.050 (0.010 to 0.090)
    """
    size = Estimate(abs(difference.value), *sorted((abs(difference.low), abs(difference.high))))
    interval = write_interval(size, metric.decimals)
    return f"{write_number(size.value, metric.decimals)} ({interval})"


def _caution(comparison: Comparison) -> str:
    differences = [
        difference
        for theirs in comparison.differences.values()
        for difference in theirs.values()
        if not math.isnan(difference.low)
    ]
    if not differences:
        return "There are no intervals: all samples are of one group."
    return (
        f"Where nothing differs, about one margin in {ONE_IN} is told apart by chance; here are "
        f"{len(differences)}. And the intervals speak of other samples, not of another training: "
        "the same recipe with another seed gives other answers, too."
    )


def _metrics(count: int) -> str:
    return "1 metric" if count == 1 else f"{count} metrics"


def _show_estimates(comparison: Comparison, labels: Mapping[str, str]) -> Section:
    first = labels[comparison.reference]
    rows: list[list[str]] = []
    before: str | None = None
    for metric in comparison.metrics.values():
        if metric.field is not None and metric.field != before:
            rows.append([escape(name_field(metric.field))])
        before = metric.field
        cells = [_cell(comparison, metric, system) for system in comparison.names]
        rows.append([f"{escape(name_measure(metric))} {ARROWS[metric.better]}", *cells])
    words = {name_metric(metric): metric.description for metric in comparison.metrics.values()}
    return Section(
        anchor="estimates",
        title="All metrics",
        short="All metrics",
        lead="Below each figure its 95 % interval, from drawing whole groups. ↑ higher is better, "
        f"↓ lower, → 0 nearer to zero. Then the margin over {first}, above 0 where it is better.",
        html=write_table(["", *labels.values()], rows, about="All metrics of all entries")
        + write_details("What the metrics measure", write_facts(words)),
    )


def _cell(comparison: Comparison, metric: Metric, system: str) -> str:
    """Write a figure; below it the margin over the first entry, and what that shows."""
    estimate = comparison.estimates[system][metric.name]
    value = write_number(estimate.value, metric.decimals)
    html = f"{value}<small>{write_interval(estimate, metric.decimals)}</small>"
    if system == comparison.reference:
        return html
    difference = comparison.differences[system][metric.name]
    by, interval = write_difference(difference, metric.decimals)
    if not interval:
        return f"{html}{by}"
    return (
        f"{html}{write_significance(significance(difference))}<small>by {by}<br>{interval}</small>"
    )
