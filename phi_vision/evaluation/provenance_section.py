"""Where the figures come from: learning curves, data, recipe, versions, cost."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from phi_vision.evaluation.figures import Series, draw_lines
from phi_vision.evaluation.labels import name_metric, name_system
from phi_vision.evaluation.metadata import Findings
from phi_vision.evaluation.page_components import (
    Section,
    write_chart,
    write_charts,
    write_details,
    write_facts,
)
from phi_vision.metrics.field_metrics import headline_metrics
from phi_vision.runs import SMOOTHING, Curve, History, curve, smooth, thin

POINTS = 200
"""Points of a drawn curve: a phone is 390 pixels wide."""


def report_learning(findings: Findings) -> Section | None:
    """Draw the losses and the headline metrics of the training."""
    log = findings.metadata.log
    if log is None or not (log.steps or log.evaluations):
        return None
    charts = [_losses(log), *_metrics(log, findings)]
    return Section(
        anchor="learning",
        title="How did it learn?",
        short="Learning",
        lead="Curves of the training, by step. The figures are those of the validation split, "
        "asked during training; the judged samples were never among them.",
        html=write_charts(charts),
    )


def report_origin(findings: Findings) -> Section:
    """List what was judged, how it was trained, with which versions, and what it cost."""
    metadata, scores = findings.metadata, findings.scores
    judged = {
        "model": metadata.model,
        "data": metadata.data,
        "split": metadata.split,
        "question": scores.template.question,
        "form of an answer": scores.template.answer,
        "seed of the draws": str(scores.seed),
        **metadata.data_card,
    }
    html = f"<h3>Model and data</h3>{write_facts(judged)}"
    if metadata.cost:
        html += f"<h3>Cost</h3>{write_facts(metadata.cost)}"
    if metadata.left_out:
        left_out = {name_system(system): why for system, why in metadata.left_out.items()}
        html += f"<h3>Not asked</h3>{write_facts(left_out)}"
    if metadata.recipe:
        recipe = f'<pre tabindex="0">{escape(metadata.recipe)}</pre>'
        html += write_details("Recipe: how it was trained", recipe)
    if metadata.versions:
        html += write_details("Versions of libraries and data", write_facts(metadata.versions))
    return Section(
        anchor="origin",
        title="Where do these figures come from?",
        short="Origin",
        lead="What it takes to do all this again.",
        html=html,
    )


def _losses(log: History) -> str:
    training = curve(log.steps, "loss")
    smoothed = smooth(training.values, max(1, round(SMOOTHING * len(training.values))))
    series = [
        Series(name="each step", points=_points(training), faint=True, color=1),
        Series(name="training", points=_points(Curve(training.steps, smoothed)), color=1),
        Series(
            name="validation",
            points=_points(curve(log.evaluations, "validation_loss")),
            marked=True,
            color=2,
        ),
    ]
    chart = draw_lines(series, title="Loss over steps", x="step", y="")
    return write_chart(chart, title="Loss", caption="Lower is better; smoothed over 6 % of a run.")


def _metrics(log: History, findings: Findings) -> list[str]:
    """Draw each headline metric that the training measured, with right and wrong images."""
    scores, charts = findings.scores, []
    for name in headline_metrics(scores.template):
        metric = scores.metrics[name]
        series = [
            Series(name=name_system(system), points=_points(found), marked=True, color=color)
            for system, color in (("model", 1), ("shuffled", 6))
            if (found := curve(_lines_of(log.evaluations, system), name)).steps
        ]
        if not series or series[0].name != name_system("model"):
            continue
        title = name_metric(metric)
        caption = {
            "higher": "Higher is better.",
            "lower": "Lower is better.",
            "zero": "0 is best.",
        }
        chart = draw_lines(series, title=f"{title} over steps", x="step", y="")
        charts.append(write_chart(chart, title=title, caption=caption[metric.better]))
    return charts


def _lines_of(evaluations: Sequence[Mapping[str, Any]], system: str) -> list[dict[str, Any]]:
    """Take one answerer's metrics out of each evaluation.

    Input:  {"step": 5, "model": {"title_exact": 0.5}}, "model"
    Output: {"step": 5, "title_exact": 0.5}
    """
    return [{**(line.get(system) or {}), "step": line["step"]} for line in evaluations]


def _points(found: Curve) -> list[tuple[float, float]]:
    kept = thin(found, POINTS)
    pairs = zip(kept.steps, kept.values, strict=True)
    return [(at, value) for at, value in pairs if math.isfinite(value)]
