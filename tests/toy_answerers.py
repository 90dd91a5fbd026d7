"""An answerer for tests: says what colour it sees, fails where it is told to, and takes notes."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import PRODUCT, Template
from phi_vision.inference.batch_job_spec import JobSpec
from phi_vision.inference.predictor import Predictor


class Painter:
    """Answers about the last sample first.

    Args:
        notes: File to which the id of each sample is added that is answered.
        fails_on: Ids at which it raises, also in the midst of others.
        error: What it raises there.
        says: Id -> answer, where another one is wanted.
        template: Words the question.
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
    ) -> None:
        self.template = template
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
                Prediction.parse(text, self.template, source=sample.id, confidence={"title": 0.5}),
            )


def inquiry_to(answerer: Predictor) -> JobSpec:
    """Ask an answerer that is there already."""
    return JobSpec(
        opening=partial(_identical, answerer),
        name=answerer.name,
        identity=[answerer.name],
        template=answerer.template,
    )


def _identical(answerer: Predictor) -> Predictor:
    return answerer
