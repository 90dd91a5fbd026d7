"""Comparison -> one self-contained HTML page: who is better, where, and what was done differently.

Looks as the report does (`look.py`, `charts.py`). Shows words only: images lie in the reports.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePath

from phi_vision.evaluation.comparison_predictions import show_changes, show_disagreements
from phi_vision.evaluation.comparison_runs import show_cost, show_learning, show_recipes
from phi_vision.evaluation.comparison_table import sum_up
from phi_vision.evaluation.figures import Row, draw_intervals
from phi_vision.evaluation.labels import (
    ARROWS,
    join_words,
    name_field,
    name_measure,
    name_metric,
    write_interval,
    write_margin,
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
    write_table,
    write_verdict,
)
from phi_vision.evaluation.report_reader import Report
from phi_vision.io.atomic import write_text
from phi_vision.metrics.bootstrap import Figure
from phi_vision.metrics.comparison import Comparison
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.scores import verdict

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
    told = {report.entry.name: report for report in reports}
    sections = [
        _show_margins(comparison, labels),
        _show_figures(comparison, labels),
        show_changes(comparison, labels),
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
    first = labels[comparison.first]
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
    said = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<h1>{escape(join_words([*labels.values()]))}</h1>{said}" + (
        write_facts(names) if names else ""
    )


def _show_margins(comparison: Comparison, labels: Mapping[str, str]) -> Section:
    first = labels[comparison.first]
    lines = "".join(
        f"<h3>{escape(f'{label} against {first}')}</h3>{_sum_up(comparison, name)}"
        for name, label in labels.items()
        if name != comparison.first
    )
    return Section(
        anchor="better",
        title=f"Which is better than {first}?",
        short="Which is better",
        lead="A margin is told apart from nothing when its 95 % interval leaves out 0. Both sides "
        "answered the same samples, so what is hard for both does not blur it.",
        html=write_charts(_draw_margins(comparison, labels))
        + lines
        + write_note(_caution(comparison)),
    )


def _draw_margins(comparison: Comparison, labels: Mapping[str, str]) -> list[str]:
    """Draw for each headline metric the margins, beside the 0 of the first entry."""
    charts = []
    for metric in _headline(comparison):
        title = f"{name_metric(metric)}: gain over {labels[comparison.first]}"
        rows = [Row(labels[comparison.first], Figure(0.0, math.nan, math.nan), strong=True)]
        rows += [
            Row(labels[other], margins[metric.name])
            for other, margins in comparison.margins.items()
        ]
        drawn = draw_intervals(rows, title=title, decimals=metric.decimals, zero=True)
        charts.append(write_chart(drawn, title=title, caption=metric.words))
    return charts


def _headline(comparison: Comparison) -> list[Metric]:
    """One metric for each field that all templates write."""
    names = headline_metrics(comparison.template)
    return [comparison.metrics[name] for name in names if name in comparison.metrics]


def _sum_up(comparison: Comparison, other: str) -> str:
    """Say what the margins of the headline metrics show, and count those of all."""
    items = []
    for metric in _headline(comparison):
        margin = comparison.margins[other][metric.name]
        shows = verdict(margin)
        by = "" if shows == "not told apart" else f" by {_by(metric, margin)}"
        items.append(f"{write_verdict(shows)} in {escape(name_metric(metric))}{by}")
    shown = sum_up(comparison, other)
    counts = [f"{word} in {len(names)}" for word, names in shown.items() if names]
    if not counts:
        return write_list(["Nothing can be told apart: there are too few groups for intervals."])
    return write_list(
        [*items, f"Of {_metrics(sum(map(len, shown.values())))} it is {join_words(counts)}."]
    )


def _by(metric: Metric, margin: Figure) -> str:
    """Write the size of a margin that is told apart from nothing, and its interval.

    Input:  a metric of 3 decimals, Figure(-0.05, -0.09, -0.01)
    Output: 0.050 (0.010 to 0.090)
    """
    size = Figure(abs(margin.value), *sorted((abs(margin.low), abs(margin.high))))
    interval = write_interval(size, metric.decimals)
    return f"{write_number(size.value, metric.decimals)} ({interval})"


def _caution(comparison: Comparison) -> str:
    margins = [
        margin
        for theirs in comparison.margins.values()
        for margin in theirs.values()
        if not math.isnan(margin.low)
    ]
    if not margins:
        return "There are no intervals: all samples are of one group."
    return (
        f"Where nothing differs, about one margin in {ONE_IN} is told apart by chance; here are "
        f"{len(margins)}. And the intervals speak of other samples, not of another training: the "
        "same recipe with another seed gives other answers, too."
    )


def _metrics(count: int) -> str:
    return "1 metric" if count == 1 else f"{count} metrics"


def _show_figures(comparison: Comparison, labels: Mapping[str, str]) -> Section:
    first = labels[comparison.first]
    rows: list[list[str]] = []
    before: str | None = None
    for metric in comparison.metrics.values():
        if metric.field is not None and metric.field != before:
            rows.append([escape(name_field(metric.field))])
        before = metric.field
        cells = [_cell(comparison, metric, who) for who in comparison.names]
        rows.append([f"{escape(name_measure(metric))} {ARROWS[metric.better]}", *cells])
    words = {name_metric(metric): metric.words for metric in comparison.metrics.values()}
    return Section(
        anchor="figures",
        title="All metrics",
        short="All metrics",
        lead="Below each figure its 95 % interval, from drawing whole groups. ↑ higher is better, "
        f"↓ lower, → 0 nearer to zero. Then the margin over {first}, above 0 where it is better.",
        html=write_table(["", *labels.values()], rows, about="All metrics of all entries")
        + write_details("What the metrics measure", write_facts(words)),
    )


def _cell(comparison: Comparison, metric: Metric, who: str) -> str:
    """Write a figure; below it the margin over the first entry, and what that shows."""
    figure = comparison.figures[who][metric.name]
    value = write_number(figure.value, metric.decimals)
    html = f"{value}<small>{write_interval(figure, metric.decimals)}</small>"
    if who == comparison.first:
        return html
    margin = comparison.margins[who][metric.name]
    by, interval = write_margin(margin, metric.decimals)
    if not interval:
        return f"{html}{by}"
    return f"{html}{write_verdict(verdict(margin))}<small>by {by}<br>{interval}</small>"
