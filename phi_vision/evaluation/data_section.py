"""Where it is good and where not: slices of the samples, and samples that training has seen."""

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby, islice

from phi_vision.evaluation.labels import (
    ARROWS,
    UNKNOWN,
    name_field,
    name_metric,
    write_difference,
    write_interval,
    write_number,
    write_percent,
)
from phi_vision.evaluation.metadata import Findings
from phi_vision.evaluation.page_components import (
    Section,
    write_details,
    write_facts,
    write_note,
    write_table,
)
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.scores import Scores
from phi_vision.metrics.slices import Leakage, Slice

LISTED = 200
"""How many leaks are named on the page; nobody reads more."""


def report_slices(findings: Findings) -> Section | None:
    """Show the headline figures on parts of the samples."""
    scores = findings.scores
    if not scores.slices:
        return None
    metrics = [scores.metrics[name] for name in headline_metrics(scores.template)]
    rows: list[list[str]] = [_row("all samples", scores.samples, _overall(scores), metrics, scores)]
    for by, parts in groupby(scores.slices, key=lambda part: part.by):
        rows.append([escape(f"by {name_field(by)}")])
        rows += [_slice(part, metrics, scores) for part in parts]
    heads = [
        "",
        "samples",
        *(f"{name_metric(each)}\u00a0{ARROWS[each.better]}" for each in metrics),
    ]
    return Section(
        anchor="slices",
        title="Where is it good, and where not?",
        short="Slices",
        lead="▲ and ▼ stand where the figure of all samples lies outside the 95 % interval of the "
        "part. With this many parts, one in twenty does so by chance alone.",
        html=write_table(
            heads, rows, about="Headline figures on parts of the samples", kind="lines"
        ),
    )


def report_leakage(findings: Findings) -> Section:
    """Show what training has all but seen, and what that does to the figures."""
    leakage = findings.scores.leakage
    return Section(
        anchor="leakage",
        title="Has training seen the answers?",
        short="Leaks",
        lead="A judged sample leaks if training has nearly the same image or its group: then "
        "remembering can pass for seeing.",
        html=write_note("Nobody looked for leaks.")
        if leakage is None
        else _leakage(leakage, findings),
    )


def _overall(scores: Scores) -> dict[str, Estimate]:
    return dict(scores.estimates["model"])


def _slice(part: Slice, metrics: Sequence[Metric], scores: Scores) -> list[str]:
    return _row(part.name, part.samples, dict(part.estimates), metrics, scores)


def _row(
    name: str,
    samples: int,
    estimates: dict[str, Estimate],
    metrics: Sequence[Metric],
    scores: Scores,
) -> list[str]:
    cells = []
    for metric in metrics:
        estimate = estimates.get(metric.name)
        if estimate is None or not math.isfinite(estimate.value):
            cells.append(UNKNOWN)
            continue
        sign = _sign(estimate, scores.estimates["model"][metric.name].value, metric)
        value = write_number(estimate.value, metric.decimals)
        cells.append(f"{sign}{value}<small>{write_interval(estimate, metric.decimals)}</small>")
    return [escape(name) or "(nothing)", f"{samples:,}", *cells]


def _sign(estimate: Estimate, overall: float, metric: Metric) -> str:
    """Mark a part that is clearly better or worse than all samples."""
    # An interval without width is that of too few samples to draw from.
    if not estimate.low < estimate.high or estimate.low <= overall <= estimate.high:
        return ""
    better = estimate.value > overall
    if metric.better == "lower":
        better = not better
    if metric.better == "zero":
        better = abs(estimate.value) < abs(overall)
    mood, sign, words = ("good", "▲", "better") if better else ("bad", "▼", "worse")
    return (
        f'<span class="verdict {mood}" role="img" aria-label="{words} than all">'
        f"<b>{sign}</b></span> "
    )


def _leakage(leakage: Leakage, findings: Findings) -> str:
    samples = findings.scores.samples
    if not leakage.leaked:
        return write_note(f"None of the {samples:,} samples leaks.", "good")
    share = write_percent(len(leakage.leaked) / samples)
    html = write_note(f"{len(leakage.leaked):,} of the {samples:,} samples leak ({share}).", "bad")
    if leakage.effect:
        names = headline_metrics(findings.scores.template)
        html += _effects(
            [findings.scores.metrics[name] for name in names], leakage, findings.scores
        )
        html += write_details(
            "All figures", _effects(_measured(findings.scores), leakage, findings.scores)
        )
    listed = dict(islice(leakage.leaked.items(), LISTED))
    if len(leakage.leaked) > LISTED:
        listed["…"] = f"{len(leakage.leaked) - LISTED:,} more are listed in scores.json"
    return html + write_details("Which samples, and why", write_facts(listed))


def _effects(metrics: Sequence[Metric], leakage: Leakage, scores: Scores) -> str:
    rows = [_effect(metric, leakage, scores) for metric in metrics]
    heads = ["", "all samples", "without leaks", "the leaks add"]
    return write_table(heads, rows, about="What the leaks do to the figures", kind="lines")


def _measured(scores: Scores) -> list[Metric]:
    """Give the metrics that have a value at all."""
    own = scores.estimates["model"]
    return [each for name, each in scores.metrics.items() if math.isfinite(own[name].value)]


def _effect(metric: Metric, leakage: Leakage, scores: Scores) -> list[str]:
    estimates = (scores.estimates["model"][metric.name], leakage.without[metric.name])
    value, interval = write_difference(leakage.effect[metric.name], metric.decimals)
    return [
        f"{escape(name_metric(metric))}\u00a0{ARROWS[metric.better]}",
        *(write_number(estimate.value, metric.decimals) for estimate in estimates),
        f"{value}<small>{interval}</small>",
    ]
