"""Predictor: a checkpoint that answers about pictures, one by one or by the thousand.

from phi_vision import Predictor
predictor = Predictor("phi-vision-small")
print(predictor.predict([Path("coat.jpg")])[0].record)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL.Image import Image

from phi_vision.data.sample import Sample, Value, open_picture
from phi_vision.data.template import find_template
from phi_vision.model.answering import answer
from phi_vision.model.checkpoint import fast_dtype, load_model
from phi_vision.model.image_processing_phi3_v import resized_size

T = TypeVar("T")

BATCHES_AT_ONCE = 4
"""Batches decoded together: enough to sort rows by length, few enough to hold in memory."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model said about one picture."""

    source: str
    """The picture's path; where it has none, its place in the list, counted from 1."""

    text: str
    """The answer as it was generated."""

    record: dict[str, Value] | None
    """The answer read by the template; None where it is not in the template's form."""


class Predictor:
    """A loaded model with a wording, ready to answer.

    Args:
        model: Run, checkpoint or adapter folder, hub id, or "phi-vision-small".
        template: Name of the wording, or a YAML file or a run that has one; the one the model was
            trained with.
        device: Where it computes; a GPU where there is one.
        dtype: Numbers it computes in; `fast_dtype` of the device unless given.
        batch_size: Most pictures answered together.

    Raises:
        ValueError: There is no such model or template.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        template: str = "product",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 16,
    ) -> None:
        self.template = find_template(template)
        self.batch_size = batch_size
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        numbers = dtype or fast_dtype(place)
        self.model, self.processor = load_model(model, dtype=numbers, device=place)

    def answer(self, samples: Sequence[Sample]) -> list[str]:
        """Answer the question about each sample's pictures; what `evaluate.score` calls.

        Output: ["Product: Wool Coat, Category: COATS, Full Price: 390.0", ...]

        Raises:
            ValueError: A picture cannot be read, or has an impossible shape; names the sample.
        """
        texts = []
        for some in self._portions(samples):
            pictures = [sample.pictures() for sample in some]
            for sample, shown in zip(some, pictures, strict=True):
                for picture in shown:
                    self._refuse_shape(picture, f"sample {sample.id!r}")
            texts += self._ask(pictures)
        return texts

    def predict(self, images: Sequence[str | Path | bytes | Image]) -> list[Prediction]:
        """Read the record off each picture.

        Input:  [Path("coat.jpg")]
        Output: [Prediction(source="coat.jpg",
                            text="Product: Wool Coat, Category: COATS, Full Price: 390.0",
                            record={"title": "Wool Coat", "category3_code": "COATS",
                                    "full_price": 390.0})]

        Args:
            images: Paths, encoded pictures or decoded ones.

        Raises:
            ValueError: A picture cannot be read, or has an impossible shape; names the picture.
        """
        sources = [
            str(image) if isinstance(image, str | Path) else f"picture {number}"
            for number, image in enumerate(images, start=1)
        ]
        texts = []
        for some in self._portions(list(zip(images, sources, strict=True))):
            texts += self._ask([[self._open(image, source)] for image, source in some])
        return [
            Prediction(source=source, text=text, record=self.template.parse(text))
            for source, text in zip(sources, texts, strict=True)
        ]

    def _portions(self, things: Sequence[T]) -> Iterator[Sequence[T]]:
        step = self.batch_size * BATCHES_AT_ONCE
        return (things[start : start + step] for start in range(0, len(things), step))

    def _ask(self, pictures: Sequence[list[Image]]) -> list[str]:
        prompts = [self.template.prompt(self.processor, images=len(shown)) for shown in pictures]
        return answer(self.model, self.processor, prompts, pictures, batch_size=self.batch_size)

    def _open(self, image: str | Path | bytes | Image, source: str) -> Image:
        if isinstance(image, str | Path):
            picture = open_picture(Path(image))
        elif isinstance(image, bytes):
            picture = _decode(image, source)
        else:
            picture = image
        self._refuse_shape(picture, source)
        return picture

    def _refuse_shape(self, picture: Image, source: str) -> None:
        """Refuse what the image processor would, but say whose picture it is."""
        crops = self.processor.image_processor
        longer, shorter = max(picture.size), min(picture.size)
        try:
            resized_size(longer, shorter, crops.num_crops, crops.crop_size)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error


def _decode(encoded: bytes, source: str) -> Image:
    try:
        return open_picture(encoded)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
