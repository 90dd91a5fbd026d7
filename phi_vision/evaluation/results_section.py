"""Where the model stands: the first section, rivals, all figures, constrained answers, images."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from phi_vision.evaluation.calibration_section import explain_thresholds
from phi_vision.evaluation.figures import Row, draw_intervals
from phi_vision.evaluation.labels import (
    ARROWS,
    BASELINES,
    CHANGED,
    UNKNOWN,
    explain_headline,
    join_words,
    name_field,
    name_measure,
    name_metric,
    name_system,
    write_difference,
    write_interval,
    write_number,
    write_percent,
    write_percents,
)
from phi_vision.evaluation.metadata import Findings
from phi_vision.evaluation.page_components import (
    Mood,
    Section,
    Tile,
    write_chart,
    write_charts,
    write_details,
    write_facts,
    write_list,
    write_note,
    write_significance,
    write_table,
    write_tiles,
)
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.scores import SYSTEMS, Scores, significance

LOOKED = {
    True: "It looks at the images: shown those of other samples, its answers get worse.",
    False: "The images do not matter: shown those of other samples, its answers are as good. "
    "What stands below says nothing about seeing.",
}


def report_headline(findings: Findings) -> Section:
    """Show one big number for each field, what it beats, and whether it looks."""
    scores = findings.scores
    names = (*headline_metrics(scores.template), "parse_rate")
    tiles = [_tile(scores.metrics[name], scores) for name in names]
    looked = scores.shuffled_image_check if scores.uses_image is None else LOOKED[scores.uses_image]
    html = write_tiles(tiles) + write_note(looked, MOODS[scores.uses_image])
    sentences = [_sum_up(scores, scores.metrics[name]) for name in names[:-1]]
    told = [sentence for sentence in sentences if sentence]
    return Section(
        anchor="headline",
        title="In short",
        short="In short",
        lead="Below each number is the range in which it lies with 95 % certainty.",
        html=html + write_list([*told, *map(escape, explain_thresholds(scores))]),
    )


def report_baselines(findings: Findings) -> Section:
    """Hold the model against what a buyer would try first."""
    scores, left_out = findings.scores, findings.metadata.left_out
    missing = [
        f"<b>{escape(name_system(system))}</b> is missing: {escape(left_out[system])}."
        for system in BASELINES
        if system in left_out
    ]
    html = _hold_against(scores, BASELINES) or write_note("No rival was asked.")
    return Section(
        anchor="baselines",
        title="Does it beat what one would try first?",
        short="Rivals",
        lead="Each rival answered the same samples. The margin says by how much the model is "
        "better. Where its 95 % interval holds 0, the difference is not significant.",
        html=html + (write_list(missing) if missing else ""),
    )


def report_estimates(findings: Findings) -> Section:
    """Show all metrics of all who answered."""
    scores = findings.scores
    heads = [name_system(system) for system in scores.estimates]
    heads += ["best possible"] if scores.best_achievable else []
    rows: list[list[str]] = []
    before: str | None = ""
    for name, metric in scores.metrics.items():
        if metric.field != before:
            rows.append([escape(name_field(metric.field or "whole answer"))])
            before = metric.field
        cells = [_cell(row.get(name), metric) for row in scores.estimates.values()]
        if scores.best_achievable:
            best_achievable = scores.best_achievable.get(name, math.nan)
            cells.append(
                write_number(best_achievable, metric.decimals)
                if name in scores.best_achievable
                else ""
            )
        rows.append([f"{escape(name_measure(metric))}\u00a0{ARROWS[metric.better]}", *cells])
    meanings = {name: metric.description for name, metric in scores.metrics.items()}
    system = {name_system(system): SYSTEMS.get(system, system) for system in scores.estimates}
    if scores.best_achievable:
        system["best possible"] = "what noise in the data allows, as far as it is known"
    return Section(
        anchor="estimates",
        title="All figures",
        short="All figures",
        lead="Below each figure its 95 % interval, from drawing whole groups of samples again "
        "and again. ↑ higher is better, ↓ lower, →\u00a00 nearer to zero. An answer that cannot be "
        "read counts as wrong, and as the number 0.",
        html=write_table(["", *heads], rows, about="All figures of all who answered", kind="all")
        + write_details("What each figure means", write_facts(meanings))
        + write_details("Who is who", write_facts(system)),
    )


def report_constrained(findings: Findings) -> Section | None:
    """Compare free answers with those limited to the template."""
    scores = findings.scores
    if "constrained" not in scores.estimates:
        return None
    rows = []
    for name in ("parse_rate", *headline_metrics(scores.template)):
        metric = scores.metrics[name]
        value, low, high = scores.differences["constrained"][name]
        gain = Estimate(-value, -high, -low)
        cells = [
            _cell(scores.estimates[system][name], metric) for system in ("model", "constrained")
        ]
        rows.append([_label(metric), *_difference(gain, metric), *cells])
    free, limited = (scores.estimates[system]["parse_rate"] for system in ("model", "constrained"))
    words = (
        f"Free, {write_percent(free.value)} of the answers can be read; limited to the template, "
        f"{write_percent(limited.value)}."
    )
    return Section(
        anchor="constrained",
        title="Free or limited to the template?",
        short="Constrained",
        lead="Limited, the model can only write what has the template's form. The margin says by "
        "how much that is better than letting it write freely.",
        html=f"<p>{escape(words)}</p>"
        + write_table(
            ["", "limited is", "margin", "free", "limited"],
            rows,
            about="Free answers and answers limited to the template",
            kind="lines",
        ),
    )


def report_looking(findings: Findings) -> Section:
    """Show what happens where the image is another, white, or missing."""
    scores = findings.scores
    return Section(
        anchor="looking",
        title="Did it look?",
        short="Did it look?",
        lead="The model was asked again with the images changed. If it looks, it does better "
        "with the right ones.",
        html=write_note(scores.shuffled_image_check, MOODS[scores.uses_image])
        + _hold_against(scores, (*CHANGED, "twin"), folded=True),
    )


def _tile(metric: Metric, scores: Scores) -> Tile:
    estimate = scores.estimates["model"][metric.name]
    if not math.isfinite(estimate.value):
        words = f"No sample tells: {metric.description}"
        return Tile(name=name_metric(metric), value=UNKNOWN, interval="", words=words)
    return Tile(
        name=name_field(metric.field or "readable"),
        value=write_percent(estimate.value),
        interval=write_percents(estimate),
        words=explain_headline(metric, scores),
    )


def _sum_up(scores: Scores, metric: Metric) -> str:
    """Say whom the model beats in a metric, and whom not.

    Output: <b>full price</b>: better than one answer for all; not significant vs. the nearest…
    """
    found: dict[str, list[str]] = {}
    for system in BASELINES:
        difference = scores.differences.get(system, {}).get(metric.name)
        if difference is not None and math.isfinite(difference.low):
            found.setdefault(significance(difference), []).append(name_system(system))
    parts = [
        f"{write_significance(word)} {'from' if word == 'not significant' else 'than'} "
        f"{escape(join_words(found[word]))}"
        for word in ("better", "not significant", "worse")
        if word in found
    ]
    name = escape(name_field(metric.field or metric.name))
    return f"<b>{name}</b>: {'; '.join(parts)}." if parts else ""


def _hold_against(scores: Scores, others: Sequence[str], *, folded: bool = False) -> str:
    """Draw and list the model against others, metric by metric; "" where none answered."""
    charts, rows = [], []
    for name in headline_metrics(scores.template):
        metric = scores.metrics[name]
        there = [system for system in others if name in scores.differences.get(system, {})]
        if not there or not math.isfinite(scores.estimates["model"][name].value):
            continue
        charts.append(_chart(scores, metric, there))
        rows.append([f"{escape(name_metric(metric))}\u00a0{ARROWS[metric.better]}"])
        rows += [_row(scores, metric, system) for system in there]
    if not charts:
        return ""
    heads = ["", "the model is", "margin", "the model", "the other"]
    table = write_table(heads, rows, about="The model against each other one", kind="lines")
    return write_charts(charts) + (write_details("The margins", table) if folded else table)


def _chart(scores: Scores, metric: Metric, others: Sequence[str]) -> str:
    shown = [Row(name_system("model"), scores.estimates["model"][metric.name], strong=True)]
    shown += [Row(name_system(system), scores.estimates[system][metric.name]) for system in others]
    title = name_metric(metric)
    chart = draw_intervals(shown, title=title, decimals=metric.decimals)
    way = "Further right is better." if metric.better == "higher" else "Further left is better."
    return write_chart(chart, title=title, caption="Near 0 is best." if _at_zero(metric) else way)


def _at_zero(metric: Metric) -> bool:
    return metric.better == "zero"


def _row(scores: Scores, metric: Metric, system: str) -> list[str]:
    difference = scores.differences[system][metric.name]
    own, theirs = (
        write_number(row[metric.name].value, metric.decimals)
        for row in (scores.estimates["model"], scores.estimates[system])
    )
    return [escape(name_system(system)), *_difference(difference, metric), own, theirs]


def _difference(difference: Estimate, metric: Metric) -> list[str]:
    """Write what a margin shows, and itself; a margin without interval shows nothing."""
    value, interval = write_difference(difference, metric.decimals)
    shown = write_significance(significance(difference)) if interval else ""
    return [shown, f"{value}<small>{interval}</small>"]


def _cell(estimate: Estimate | None, metric: Metric) -> str:
    if estimate is None or not math.isfinite(estimate.value):
        return ""
    interval = write_interval(estimate, metric.decimals)
    return f"{write_number(estimate.value, metric.decimals)}<small>{interval}</small>"


def _label(metric: Metric) -> str:
    return f"{escape(name_metric(metric))}\u00a0{ARROWS[metric.better]}"


MOODS: Mapping[bool | None, Mood] = {True: "good", False: "bad", None: "open"}
"""Whether the model looks -> mood."""
