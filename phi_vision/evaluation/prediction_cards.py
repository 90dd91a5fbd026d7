"""Cards: single samples with their image, what was said and what is true."""

import base64
import io
import random
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Kind, Template
from phi_vision.evaluation.labels import name_field, write_value
from phi_vision.evaluation.metadata import Findings
from phi_vision.evaluation.page_components import Section
from phi_vision.metrics.distances import edit_similarity
from phi_vision.metrics.field_metrics import is_correct, relative_error

TYPICAL = 12
"""How many samples are shown that were drawn at random: an honest impression, no choice."""

WORST = 12
"""How many of the worst are shown."""

THUMBNAIL = 280
"""Longest side of a shown image, in pixels: sharp at the page's size, some 10 kB each."""

LONGEST = 400
"""Letters of a value that are shown; a model that cannot stop must not fill the page."""

Shown = tuple[ScoredPrediction, Sample]


def report_cases(findings: Findings) -> Section:
    """Show samples drawn at random, and those that went worst."""
    template, seed = findings.scores.template, findings.scores.seed
    shown = list(zip(findings.scores.predictions, findings.samples, strict=True))
    typical = random.Random(seed).sample(shown, min(TYPICAL, len(shown)))
    # Of equally bad ones those with the smaller id, so that the page does not depend on the order.
    ranked = sorted(shown, key=lambda each: (-badness(each[0], template), each[0].id))
    worst = [each for each in ranked[:WORST] if badness(each[0], template) > 0]
    html = f"<h3>Typical: drawn at random</h3>{_write_cards(typical, template)}"
    if worst:
        html += f"<h3>The worst</h3>{_write_cards(worst, template)}"
    return Section(
        anchor="cases",
        title="What does that look like?",
        short="Cases",
        lead="✓ is right, ✗ is wrong; a number is right within 10 %. The worst are those that are "
        "farthest off in most fields.",
        html=html,
    )


def badness(answer: ScoredPrediction, template: Template) -> float:
    """Say how bad an answer is, from 0 to 1 on average over its fields; 1 if it cannot be read.

    Input:  a right category, and a price of 150 where 100 is true
    Output: 0.25
    """
    if answer.prediction.record is None:
        return 1.0
    return sum(_badness(field, kind, answer) for field, kind in template.kinds.items()) / len(
        template.kinds
    )


def _badness(field: str, kind: Kind, answer: ScoredPrediction) -> float:
    assert answer.prediction.record is not None
    predicted, true = answer.prediction.record.get(field), answer.truth[field]
    if predicted == true:
        return 0.0
    if kind == "text":
        return 1 - edit_similarity(str(predicted), str(true))
    if kind == "number":
        error = relative_error(predicted, true)
        return min(error, 1.0) if error >= 0 else float(predicted != true)
    return 1.0


def _write_cards(shown: Iterable[Shown], template: Template) -> str:
    cards = "\n".join(_write_card(answer, sample, template) for answer, sample in shown)
    return f'<div class="cases">{cards}</div>'


def _write_card(answer: ScoredPrediction, sample: Sample, template: Template) -> str:
    image = "".join(_thumbnail(image, sample.id) for image in _first(sample))
    name = f'<p class="id">{escape(sample.id)}</p>'
    if answer.prediction.record is None:
        metadata = "".join(
            f"<dt>{escape(name_field(field))}</dt><dd>{_show(value)}</dd>"
            for field, value in answer.truth.items()
        )
        predicted = escape(_cut(answer.prediction.text)) or "(nothing)"
        unread = f'<p class="unread"><b class="wrong">✗ Not readable:</b> {predicted}</p>'
        return (
            f'<figure class="case">{image}<figcaption><dl>{metadata}</dl>{unread}{name}'
            "</figcaption></figure>"
        )
    metadata = "".join(_write_field(field, kind, answer) for field, kind in template.kinds.items())
    return (
        f'<figure class="case">{image}<figcaption><dl>{metadata}</dl>{name}</figcaption></figure>'
    )


def _write_field(field: str, kind: Kind, answer: ScoredPrediction) -> str:
    """Write a field's answer, and the truth under it where it is not the same."""
    assert answer.prediction.record is not None
    true, predicted = answer.truth[field], answer.prediction.record.get(field)
    right = is_correct(kind, predicted, true)
    mark = '<b class="right">✓</b>' if right else '<b class="wrong">✗</b>'
    truth = "" if predicted == true else f'<span class="truth">really {_show(true)}</span>'
    sure = answer.prediction.confidence.get(field)
    told = "" if sure is None else f" · {100 * sure:.0f} % sure"
    name = f"{escape(name_field(field))}{told}"
    return f"<dt>{name}</dt><dd>{mark}{_show(predicted)}{truth}</dd>"


def _show(value: object) -> str:
    known = value if isinstance(value, str | int | float | bool | None) else str(value)
    return escape(_cut(write_value(known)))


def _cut(words: str) -> str:
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"


def _first(sample: Sample) -> Sequence[Image.Image]:
    return sample.open_images()[:1]


def _thumbnail(image: Image.Image, name: str) -> str:
    """Embed a small JPEG of an image, on white where it is transparent."""
    image = image.convert("RGBA")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    ground = Image.new("RGBA", image.size, "white")
    buffer = io.BytesIO()
    Image.alpha_composite(ground, image).convert("RGB").save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(name)}" title="{escape(name)}">'
