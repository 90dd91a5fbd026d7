"""Findings -> a short text in Markdown, for a pull request or a model card."""

import math
import re

from phi_vision.evaluation.calibration_section import explain_fills
from phi_vision.evaluation.labels import (
    ARROWS,
    UNKNOWN,
    name_metric,
    name_who,
    write_interval,
    write_number,
    write_percent,
)
from phi_vision.evaluation.metadata import Findings
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.scores import Scores, verdict


def as_markdown(findings: Findings) -> str:
    """Write what an evaluation found, in one table and a few sentences.

    Output: a title, what was judged, headline figures of all who answered, whether the model
            looked, leaks, and what can be filled automatically
    """
    scores, facts = findings.scores, findings.facts
    names = (*headline_metrics(scores.template), "parse_rate")
    metrics = [scores.metrics[name] for name in names]
    heads = " | ".join(f"{_plain(name_metric(each))} {ARROWS[each.better]}" for each in metrics)
    lines = [
        f"# Evaluation of {_plain(facts.model)}",
        "",
        f"{scores.samples:,} held-out samples in {scores.groups:,} groups: split "
        f"{_plain(facts.split)} of {_plain(facts.data)}. In brackets 95 % intervals. ▲ the model "
        "is better than this row, ▼ worse, ≈ not told apart.",
        "",
        f"| | {heads} |",
        f"|---|{'---:|' * len(metrics)}",
        *(_row(who, metrics, scores) for who in scores.figures),
        "",
        *(f"- {sentence}" for sentence in _sentences(findings)),
    ]
    return "\n".join(lines) + "\n"


def _row(who: str, metrics: list[Metric], scores: Scores) -> str:
    cells = [_cell(who, metric, scores) for metric in metrics]
    name = f"**{name_who(who)}**" if who == "model" else name_who(who)
    return f"| {name} | {' | '.join(cells)} |"


def _cell(who: str, metric: Metric, scores: Scores) -> str:
    figure = scores.figures[who].get(metric.name)
    if figure is None or not math.isfinite(figure.value):
        return UNKNOWN
    value = write_number(figure.value, metric.decimals)
    if who == "model":
        interval = write_interval(figure, metric.decimals)
        return f"**{value}** ({interval})" if interval else f"**{value}**"
    margin = scores.margins[who][metric.name]
    return f"{value} {SIGNS[verdict(margin)]}" if math.isfinite(margin.low) else value


def _sentences(findings: Findings) -> list[str]:
    scores = findings.scores
    told = [scores.canary]
    if scores.leaks is not None:
        share = write_percent(len(scores.leaks.found) / scores.samples)
        told.append(f"{len(scores.leaks.found):,} samples ({share}) leak from training.")
    told += explain_fills(scores)
    return [_plain(sentence) for sentence in told]


def _plain(words: str) -> str:
    """Take away what Markdown or HTML would read as markup, and line breaks."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", " ".join(words.split()))


SIGNS = {"better": "▲", "worse": "▼", "not told apart": "≈"}
