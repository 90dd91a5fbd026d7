"""Answers as trackers show them: image, ground truth, what was predicted, right or wrong."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from phi_vision.data.samples import Sample, Value, open_image
from phi_vision.data.template import Template
from phi_vision.metrics.field_metrics import is_right
from phi_vision.metrics.scores import Answer

MOST_SHOWN = 64
"""Answers that each evaluation shows; all are in no tracker, but in the run's log as figures."""

SHOWN_SIZE = 224
"""Width and height of the shown images in pixels; W&B's page wants them alike."""


@dataclass(frozen=True, kw_only=True)
class ShownAnswer:
    """What was said about one sample, beside the truth."""

    id: str
    image: Image.Image | None
    """The first image on a white square; None where the sample has none."""

    truth: Mapping[str, Value]
    ground_truth: str
    """The truth in the words that the model should have said."""

    predicted: str
    """What it said."""

    said: Mapping[str, Value]
    """Its fields; empty where it could not be read."""

    is_right: Mapping[str, bool]
    """Field -> whether it is right."""


def show_answers(
    answers: Sequence[Answer], samples: Sequence[Sample], template: Template
) -> list[ShownAnswer]:
    """Lay answers beside the samples they are about, the first `MOST_SHOWN` of them."""
    pairs = list(zip(answers, samples, strict=True))[:MOST_SHOWN]
    return [
        ShownAnswer(
            id=answer.id,
            image=_shrink(sample.images[0]) if sample.images else None,
            truth=answer.truth,
            ground_truth=template.render(answer.truth),
            predicted=answer.text,
            said=answer.parsed or {},
            is_right=judge(answer, template),
        )
        for answer, sample in pairs
    ]


def judge(answer: Answer, template: Template) -> dict[str, bool]:
    """Tell for each field whether it is right: equal, or a number within 10 %.

    Input:  truth {"category3_code": "HATS", "full_price": 100.0}, said HATS and 120.0
    Output: {"category3_code": True, "full_price": False}
    """
    said = answer.parsed
    if said is None:
        return dict.fromkeys(answer.truth, False)
    return {
        field: is_right(template.kinds[field], said.get(field), true)
        for field, true in answer.truth.items()
    }


# The same images are shown at every evaluation, and large photos take long to decode.
@functools.lru_cache(maxsize=MOST_SHOWN)
def _shrink(encoded: bytes) -> Image.Image:
    """Fit an image into the square, on white where it is transparent or not square."""
    image = open_image(encoded).convert("RGBA")
    image.thumbnail((SHOWN_SIZE, SHOWN_SIZE))
    ground = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(ground, image).convert("RGB")
    return ImageOps.pad(flat, (SHOWN_SIZE, SHOWN_SIZE), color="white")
