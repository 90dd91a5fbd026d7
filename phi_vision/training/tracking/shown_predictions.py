"""Predictions as trackers show them: image, ground truth, prediction, which fields are right."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Sample, Value, open_image
from phi_vision.data.template import Template
from phi_vision.metrics.field_metrics import is_correct
from phi_vision.training.tracking.plots import GREEN, SOFT, WIDTH, new_figure, to_png

MAX_SHOWN = 64
"""Predictions that each evaluation shows; the log has the metrics of all."""

IMAGE_SIZE = 224
"""Width and height of the shown images in pixels; W&B's page wants them alike."""

COLUMNS, MAX_ROWS = 4, 3
"""Predictions beside and below each other on a sheet; more would be too small to read."""

RED = "#c02626"

MAX_LETTERS = 28
"""Letters that fit under an image."""

FONT_SIZE = 7.5
"""In points; lines are half as high again."""

BELOW_IMAGE: dict[str, Any] = {
    **{"xycoords": "axes fraction", "textcoords": "offset points"},
    **{"fontsize": FONT_SIZE, "parse_math": False},
}


@dataclass(frozen=True, kw_only=True)
class ShownPrediction:
    """A scored prediction with the image of its sample."""

    scored: ScoredPrediction
    image: Image.Image | None
    """The first image on a white square; None if the sample has none."""
    ground_truth: str
    """The true record as the template renders it."""
    is_correct: Mapping[str, bool]
    """Field -> whether its value is right."""


def show_predictions(
    predictions: Sequence[ScoredPrediction], samples: Sequence[Sample], template: Template
) -> list[ShownPrediction]:
    """Join predictions with their samples, the first `MAX_SHOWN` of them."""
    pairs = list(zip(predictions, samples, strict=True))[:MAX_SHOWN]
    return [
        ShownPrediction(
            scored=scored,
            image=_thumbnail(sample.images[0]) if sample.images else None,
            ground_truth=template.render(scored.truth),
            is_correct=mark_fields(scored, template),
        )
        for scored, sample in pairs
    ]


def mark_fields(scored: ScoredPrediction, template: Template) -> dict[str, bool]:
    """Mark each field as right or wrong: equal, or a number within 10 %.

    Input:  truth {"category3_code": "HATS", "full_price": 100.0}, predicted HATS and 120.0
    Output: {"category3_code": True, "full_price": False}
    """
    record = scored.prediction.record
    return {
        field: record is not None and is_correct(template.kinds[field], record.get(field), true)
        for field, true in scored.truth.items()
    }


# The same images are shown at every evaluation, and large photos take long to decode.
@functools.lru_cache(maxsize=MAX_SHOWN)
def _thumbnail(encoded: bytes) -> Image.Image:
    """Fit an image into the square, on white if it is transparent or not square."""
    square = (IMAGE_SIZE, IMAGE_SIZE)
    image = open_image(encoded).convert("RGBA")
    image.thumbnail(square)
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return ImageOps.pad(flat, square, color="white")


def draw_predictions(predictions: Sequence[ShownPrediction], step: int) -> bytes:
    """Draw the first predictions of an evaluation as the bytes of a PNG file.

    Output: of each its image; below it "✓ HATS" in green, or "✗ BAGS" in red with "HATS" in gray.
    """
    shown = predictions[: COLUMNS * MAX_ROWS]
    captions = [list(caption(each)) for each in shown]
    rows = math.ceil(len(shown) / COLUMNS) or 1
    # Inches of an image with the text below it; text and gaps are between the images.
    text_height = 1.5 * FONT_SIZE / 72 * max(map(len, captions), default=0) + 0.25
    gap, width = 0.12, WIDTH / COLUMNS - 0.15
    height = 0.5 + rows * (width + text_height)
    figure = new_figure(f"Predictions at step {step}", height=height)
    figure.subplots_adjust(
        left=gap / WIDTH,
        right=1 - gap / WIDTH,
        top=1 - 0.5 / height,
        bottom=text_height / height,
        hspace=text_height / width,
        wspace=gap / width,
    )
    for place, (each, texts) in enumerate(zip(shown, captions, strict=True)):
        axes = figure.add_subplot(rows, COLUMNS, place + 1, xticks=[], yticks=[], anchor="N")
        axes.spines[:].set_visible(False)
        if each.image is not None:
            axes.imshow(each.image)
        for number, (text, color) in enumerate(texts, start=1):
            at = (0, -1.5 * FONT_SIZE * number)
            axes.annotate(text, (0, 0), at, color=color, **BELOW_IMAGE)
    return to_png(figure)


def caption(shown: ShownPrediction) -> Iterator[tuple[str, str]]:
    """Format the fields of a prediction, each with its color.

    Input:  truth {"category3_code": "HATS"}, predicted {"category3_code": "BAGS"}
    Output: ("✗ BAGS", red) ("true: HATS", gray)
    """
    record = shown.scored.prediction.record
    if record is None:
        yield _short(f"✗ {shown.scored.prediction.text or '(nothing)'}"), RED
    for field, true in shown.scored.truth.items():
        value = (record or {}).get(field)
        is_right = shown.is_correct[field]
        if record is not None:
            mark, color = ("✓", GREEN) if is_right else ("✗", RED)
            yield _short(f"{mark} {_format(value)}"), color
        if not is_right or value != true:
            yield _short(f"    true: {_format(true)}"), SOFT


def _format(value: Value) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1] + "…"
