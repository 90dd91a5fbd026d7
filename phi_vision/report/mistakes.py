"""What is taken for what: a heat map for each category field, a scatter for each number field."""

import math
from collections.abc import Iterator
from html import escape

from phi_vision.evaluate.confusion import OTHERS, UNREAD, Confusion, confusion
from phi_vision.evaluate.metrics import as_number
from phi_vision.evaluate.score import Answer, Scores
from phi_vision.report.charts import draw_counts, draw_numbers
from phi_vision.report.facts import Findings
from phi_vision.report.look import Section, write_chart, write_charts, write_list
from phi_vision.report.words import name_field, write_percent

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
    found = confusion(scores.answers, field)
    name = name_field(field)
    title = f"{name}: what was said for what"
    chart = draw_counts(found.labels, found.said, found.counts, title=title, pooled=OTHERS)
    frequent = sorted(_mistakes(found), reverse=True)[:FREQUENT]
    told = [
        f"{escape(true)} was taken for {escape(said)} {count}×, in "
        f"{write_percent(count / of)} of its samples."
        for count, of, true, said in frequent
    ]
    words = write_list(told) if told else "<p>No mistake was made.</p>"
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
    return f"<h3>{escape(name)}</h3>{box}{chart}</div><p>The most frequent mistakes:</p>{words}"


def _mistakes(found: Confusion) -> Iterator[tuple[int, int, str, str]]:
    """Yield mistakes: how often, of how many samples, what is true, what was said instead."""
    for row, true in zip(found.counts, found.labels, strict=True):
        for count, said in zip(row, found.said, strict=True):
            if count and true != said and OTHERS not in (true, said) and said != UNREAD:
                yield int(count), int(row.sum()), true, said


def _numbers(field: str, scores: Scores) -> str:
    name = name_field(field)
    pairs = [(as_number(answer.truth[field]), _said(answer, field)) for answer in scores.answers]
    true = [(number, said) for number, said in pairs if number is not None and number > 0]
    points = [(number, said) for number, said in true if said is not None and said > 0]
    near = sum(abs(said - number) <= 0.1 * number for number, said in points)
    left_out = len(true) - len(points)
    caption = f"{near} of {len(true)} samples are within 10 %."
    if left_out:
        caption += f" Not shown: {left_out}, for which no number above 0 was said."
    if not points:
        caption = f"None of {len(scores.answers)} samples has a number above 0 on both sides."
        return write_chart("", title=name, caption=caption)
    drawn = points[:: math.ceil(len(points) / MOST_POINTS)]
    chart = draw_numbers(drawn, title=f"{name}: said and true", x="true", y="said")
    return write_chart(chart, title=name, caption=caption)


def _said(answer: Answer, field: str) -> float | None:
    return None if answer.parsed is None else as_number(answer.parsed.get(field))
