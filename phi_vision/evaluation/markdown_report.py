"""Findings -> a short text in Markdown, for a pull request or a model card."""

import math
import re

from phi_vision.evaluation.calibration_section import explain_thresholds
from phi_vision.evaluation.labels import (
    ARROWS,
    UNKNOWN,
    name_metric,
    name_system,
    write_interval,
    write_number,
    write_percent,
)
from phi_vision.evaluation.metadata import Findings
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.scores import Scores, significance


def as_markdown(findings: Findings) -> str:
    """Write what an evaluation found, in one table and a few sentences.

    Output: a title, what was judged, headline figures of all who answered, whether the model
            looked, leaks, and what can be filled automatically
    """
    scores, metadata = findings.scores, findings.metadata
    names = (*headline_metrics(scores.template), "parse_rate")
    metrics = [scores.metrics[name] for name in names]
    heads = " | ".join(f"{_plain(name_metric(each))} {ARROWS[each.better]}" for each in metrics)
    lines = [
        f"# Evaluation of {_plain(metadata.model)}",
        "",
        f"{scores.samples:,} held-out samples in {scores.groups:,} groups: split "
        f"{_plain(metadata.split)} of {_plain(metadata.data)}. In brackets 95 % intervals. ▲ the "
        "model is better than this row, ▼ worse, ≈ not significant.",
        "",
        f"| | {heads} |",
        f"|---|{'---:|' * len(metrics)}",
        *(_row(system, metrics, scores) for system in scores.estimates),
        "",
        *(f"- {sentence}" for sentence in _sentences(findings)),
    ]
    return "\n".join(lines) + "\n"


def _row(system: str, metrics: list[Metric], scores: Scores) -> str:
    cells = [_cell(system, metric, scores) for metric in metrics]
    name = f"**{name_system(system)}**" if system == "model" else name_system(system)
    return f"| {name} | {' | '.join(cells)} |"


def _cell(system: str, metric: Metric, scores: Scores) -> str:
    estimate = scores.estimates[system].get(metric.name)
    if estimate is None or not math.isfinite(estimate.value):
        return UNKNOWN
    value = write_number(estimate.value, metric.decimals)
    if system == "model":
        interval = write_interval(estimate, metric.decimals)
        return f"**{value}** ({interval})" if interval else f"**{value}**"
    difference = scores.differences[system][metric.name]
    return f"{value} {SIGNS[significance(difference)]}" if math.isfinite(difference.low) else value


def _sentences(findings: Findings) -> list[str]:
    scores = findings.scores
    told = [scores.shuffled_image_check]
    if scores.leakage is not None:
        share = write_percent(len(scores.leakage.leaked) / scores.samples)
        told.append(f"{len(scores.leakage.leaked):,} samples ({share}) leak from training.")
    told += explain_thresholds(scores)
    return [_plain(sentence) for sentence in told]


def _plain(words: str) -> str:
    """Take away what Markdown or HTML would read as markup, and line breaks."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", " ".join(words.split()))


SIGNS = {"better": "▲", "worse": "▼", "not significant": "≈"}
