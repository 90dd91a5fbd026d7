"""What is taken for what: a heat map for each category field, a scatter for each number field."""

import math
from collections import Counter
from html import escape

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.evaluation.figures import draw_counts, draw_numbers
from phi_vision.evaluation.labels import name_field, write_percent
from phi_vision.evaluation.metadata import Findings
from phi_vision.evaluation.page_components import Section, write_chart, write_charts, write_list
from phi_vision.metrics.confusion import OTHERS, confusion
from phi_vision.metrics.field_metrics import as_number, is_correct
from phi_vision.metrics.scores import Scores

FREQUENT = 5
"""How many of the most frequent mistakes are told in words."""

MOST_POINTS = 3000
"""Points of a scatter: more cover each other, and make a page that a phone is slow to show."""


def report_categories(findings: Findings) -> Section | None:
    """Show which categories are taken for which."""
    scores = findings.scores
    fields = scores.template.fields_of("category")
    if not fields:
        return None
    return Section(
        anchor="categories",
        title="Which categories are taken for which?",
        short="Categories",
        lead="A row for each true category, the most frequent first; a column for what was said.",
        html="".join(_category(field, scores) for field in fields),
    )


def report_numbers(findings: Findings) -> Section | None:
    """Show said numbers over true ones."""
    scores = findings.scores
    fields = scores.template.fields_of("number")
    if not fields:
        return None
    return Section(
        anchor="numbers",
        title="How near are the numbers?",
        short="Numbers",
        lead="A point for each sample. On the line what was said is true; in the band around it, "
        "it is within 10 %.",
        html=write_charts([_numbers(field, scores) for field in fields]),
    )


def _category(field: str, scores: Scores) -> str:
    found = confusion(scores.predictions, field)
    name = name_field(field)
    title = f"{name}: what was said for what"
    chart = draw_counts(found.labels, found.predicted, found.counts, title=title, pooled=OTHERS)
    told = _tell_mistakes(field, scores)
    words = "<p>No readable answer was wrong.</p>"
    if told:
        words = f"<p>The most frequent mistakes:</p>{write_list(told)}"
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
    return f"<h3>{escape(name)}</h3>{box}{chart}</div>{words}"


def _tell_mistakes(field: str, scores: Scores) -> list[str]:
    """Word the most frequent mistakes of a field; answers that could not be read are none of them.

    Output: ["HATS was taken for BAGS 3×, in 60 % of its samples."]
    """
    true = Counter(answer.truth[field] for answer in scores.predictions)
    mistakes = Counter(
        (answer.truth[field], answer.prediction.record[field])
        for answer in scores.predictions
        if answer.prediction.record is not None
        and answer.prediction.record[field] != answer.truth[field]
    )
    return [
        f"{escape(str(truth))} was taken for {escape(str(predicted))} {count}×, in "
        f"{write_percent(count / true[truth])} of its samples."
        for (truth, predicted), count in mistakes.most_common(FREQUENT)
    ]


def _numbers(field: str, scores: Scores) -> str:
    name = name_field(field)
    pairs = [
        (as_number(answer.truth[field]), _predicted(answer, field)) for answer in scores.predictions
    ]
    true = [(number, predicted) for number, predicted in pairs if number is not None and number > 0]
    points = [
        (number, predicted) for number, predicted in true if predicted is not None and predicted > 0
    ]
    near = sum(is_correct("number", predicted, number) for number, predicted in points)
    left_out = len(true) - len(points)
    caption = f"{near} of {len(true)} samples are within 10 %."
    if left_out:
        caption += f" Not shown: {left_out}, for which no number above 0 was said."
    if not points:
        caption = f"None of {len(scores.predictions)} samples has a number above 0 on both sides."
        return write_chart("", title=name, caption=caption)
    drawn = points[:: math.ceil(len(points) / MOST_POINTS)]
    chart = draw_numbers(drawn, title=f"{name}: said and true", x="true", y="said")
    return write_chart(chart, title=name, caption=caption)


def _predicted(answer: ScoredPrediction, field: str) -> float | None:
    return (
        None if answer.prediction.record is None else as_number(answer.prediction.record.get(field))
    )
