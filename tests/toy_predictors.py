"""A predictor for tests: writes the color of the image, and fails where a test wants it to."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from phi_vision.data.acceptance import Acceptance
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import PRODUCT, Template
from phi_vision.inference.batch_engines import JobSpec
from phi_vision.inference.predictor import Predictor


class Painter:
    """Predicts the last sample first.

    Args:
        notes: File to which the id of each predicted sample is appended.
        fails_on: Ids at which it raises, also among others.
        error: What it raises there.
        says: Id -> text, in place of the color.
        template: Renders the text.
        confidence: In each prediction.
    """

    name = "painter"

    def __init__(
        self,
        notes: Path | None = None,
        *,
        fails_on: Sequence[str] = (),
        error: Exception | None = None,
        says: dict[str, str] | None = None,
        template: Template = PRODUCT,
        confidence: Mapping[str, float] | None = None,
    ) -> None:
        self.template = template
        self._confidence = confidence or {"title": 0.5}
        self._notes, self._fails_on, self._says = notes, fails_on, says or {}
        self._error = error or ValueError("the brush broke")

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        for place, sample in reversed(list(enumerate(samples))):
            (image,) = sample.open_images()
            if sample.id in self._fails_on:
                raise self._error
            colour = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
            if self._notes is not None:
                with self._notes.open("a") as notes:
                    notes.write(f"{sample.id}\n")
            record = {"title": f"{colour}", "category3_code": "HATS", "full_price": 4.5}
            text = self._says.get(sample.id, self.template.render(record))
            yield (
                place,
                Prediction.parse(
                    text, self.template, source=sample.id, confidence=self._confidence
                ),
            )


def spec_of(predictor: Predictor, acceptance: Acceptance | None = None) -> JobSpec:
    """Describe a job of a predictor that is loaded already."""
    return JobSpec(
        load=partial(_identical, predictor),
        model=predictor.name,
        template=predictor.template,
        acceptance=acceptance,
    )


def _identical(predictor: Predictor) -> Predictor:
    return predictor
