"""Answers as trackers show them: image, ground truth, what was predicted, right or wrong."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Sample, open_image
from phi_vision.data.template import Template
from phi_vision.metrics.field_metrics import is_correct

MOST_SHOWN = 64
"""Answers that each evaluation shows; all are in no tracker, but in the run's log as figures."""

SHOWN_SIZE = 224
"""Width and height of the shown images in pixels; W&B's page wants them alike."""


@dataclass(frozen=True, kw_only=True)
class ShownPrediction:
    """A scored prediction with the image of its sample."""

    scored: ScoredPrediction
    image: Image.Image | None
    """The first image on a white square; None where the sample has none."""

    ground_truth: str
    """The true record as the template renders it."""

    is_correct: Mapping[str, bool]
    """Field -> whether its value is right."""


def show_answers(
    answers: Sequence[ScoredPrediction], samples: Sequence[Sample], template: Template
) -> list[ShownPrediction]:
    """Lay answers beside the samples they are about, the first `MOST_SHOWN` of them."""
    pairs = list(zip(answers, samples, strict=True))[:MOST_SHOWN]
    return [
        ShownPrediction(
            scored=answer,
            image=_shrink(sample.images[0]) if sample.images else None,
            ground_truth=template.render(answer.truth),
            is_correct=judge(answer, template),
        )
        for answer, sample in pairs
    ]


def judge(answer: ScoredPrediction, template: Template) -> dict[str, bool]:
    """Tell for each field whether it is right: equal, or a number within 10 %.

    Input:  truth {"category3_code": "HATS", "full_price": 100.0}, said HATS and 120.0
    Output: {"category3_code": True, "full_price": False}
    """
    said = answer.prediction.record
    if said is None:
        return dict.fromkeys(answer.truth, False)
    return {
        field: is_correct(template.kinds[field], said.get(field), true)
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
