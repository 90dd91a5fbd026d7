"""LocalPredictor: a checkpoint that answers about images, one by one or by the thousand.

from phi_vision import LocalPredictor
predictor = LocalPredictor("phi-vision-small")
print(predictor.predict([Path("coat.jpg")])[0].record)
"""

import io
import math
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.Image import Image

from phi_vision.data.prediction import Prediction, field_confidence
from phi_vision.data.samples import Sample, open_image
from phi_vision.data.template import find_template
from phi_vision.generation.generate import GenerativeModel, generate
from phi_vision.generation.request import Generation, GenerationRequest, OnToken
from phi_vision.inference.onnx_predictor import GENAI_FILE, OnnxModel
from phi_vision.model.checkpoint import fast_dtype, load_model, load_processor
from phi_vision.model.image_processing_phi3_v import resized_size
from phi_vision.model.modeling_phi3_v import Phi3VTower

T = TypeVar("T")

BATCHES_AT_ONCE = 4
"""Batches decoded together where the order is the caller's: enough to sort rows by length, few
enough to hold in memory."""


class LocalPredictor:
    """A loaded model with a wording, ready to answer.

    Args:
        model: Run, checkpoint or adapter folder, hub id, "phi-vision-small", or a folder of graphs
            for ONNX Runtime.
        template: Name of the wording, or a YAML file or a run that has one; the one the model was
            trained with.
        device: Where it computes; a GPU where there is one. Graphs compute on the CPU.
        dtype: Numbers it computes in; `fast_dtype` of the device unless given. Graphs have theirs.
        batch_size: Most images answered together.

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
        self.source = str(model)
        self.template = find_template(template)
        self.batch_size = batch_size
        self.model: GenerativeModel
        self.is_onnx = (Path(model) / GENAI_FILE).is_file()
        if self.is_onnx:
            self.name = f"ONNX folder {model}"
            self.model, self.processor = OnnxModel(Path(model)), load_processor(model)
            return
        self.name = f"checkpoint {model}"
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        numbers = dtype or fast_dtype(place)
        self.model, self.processor = load_model(model, dtype=numbers, device=place)

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Answer the question about each sample's images, and yield replies as they are written.

        The longest prompts come first: a machine that is too small for them shows it at once.

        Input:  two samples, the second with the larger image
        Output: (1, Prediction(text="Product: Wool Coat, Category: COATS, Full Price: 390.0",
                          confidence={"title": 0.81, "category3_code": 0.97, "full_price": 0.4})),
                (0, Prediction(...))

        Args:
            samples: What is asked about; one without images is asked in words alone.
            grammar: All that may be written (`data.grammar.grammar_of`); anything unless given.

        Raises:
            ValueError: An image cannot be read, or has an impossible shape; names the sample.
        """
        lengths = [self._image_tokens(sample) for sample in samples]
        order = sorted(range(len(samples)), key=lambda place: -lengths[place])
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            images = [self._images(samples[place]) for place in places]
            ids = [samples[place].id for place in places]
            yield from zip(places, self._predict(images, ids, grammar), strict=True)

    def features(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Describe each sample's first image by what the model's CLIP tower sees in it.

        The mean over the patches of the global view, scaled to length 1, so that the dot product of
        two is their cosine.

        Output: (samples, width of the tower)

        Raises:
            ValueError: A sample has no image, or one that cannot be read (named); or the model is
                a folder of graphs, whose tower does not stand alone.
        """
        if not isinstance(self.model, torch.nn.Module):
            raise ValueError(f"{self.name} does not tell what its tower sees; give a checkpoint")
        tower = next(module for module in self.model.modules() if isinstance(module, Phi3VTower))
        described = [np.empty((0, tower.vision_model.config.hidden_size), np.float32)]
        for some in self._portions(samples):
            views = [self._global_view(sample) for sample in some]
            with torch.inference_mode():
                features_NPD = tower(torch.cat(views).to(self.model.device))
                means_ND = features_NPD.float().mean(dim=1)
            described.append(torch.nn.functional.normalize(means_ND, dim=-1).cpu().numpy())
        return np.concatenate(described)

    def predict(
        self, images: Sequence[str | Path | bytes | Image], *, grammar: str | None = None
    ) -> list[Prediction]:
        """Read the record off each image.

        Input:  [Path("coat.jpg")]
        Output: [Prediction(source="coat.jpg",
                            text="Product: Wool Coat, Category: COATS, Full Price: 390.0",
                            record={"title": "Wool Coat", "category3_code": "COATS",
                                    "full_price": 390.0},
                            confidence={"title": 0.81, "category3_code": 0.97,
                                        "full_price": 0.4})]

        Args:
            images: Paths, encoded images or decoded ones.
            grammar: All that may be written (`data.grammar.grammar_of`); anything unless given.

        Raises:
            ValueError: An image cannot be read, or has an impossible shape; names the image.
        """
        sources = [
            str(image) if isinstance(image, str | Path) else f"image {number}"
            for number, image in enumerate(images, start=1)
        ]
        predictions: list[Prediction] = []
        for some in self._portions(list(zip(images, sources, strict=True))):
            opened = [[self._open(image, source)] for image, source in some]
            predictions += self._predict(opened, [source for _, source in some], grammar)
        return predictions

    def stream(
        self, image: str | Path | bytes | Image, *, grammar: str | None = None
    ) -> Iterator[str]:
        """Read the record off an image, and yield the answer's text piece by piece.

        Who stops listening (`close`, or leaving the loop) breaks the answer off.

        Output: "Product:", " Wool", " Coat", ", Category:", ...

        Args:
            image: A path, an encoded image or a decoded one.
            grammar: As for `predict`.

        Raises:
            ValueError: The image cannot be read, or has an impossible shape.
        """
        opened = self._open(image, str(image) if isinstance(image, str | Path) else "the image")
        return _on_a_thread(lambda on_token: self._listen(opened, grammar, on_token))

    def request(
        self,
        images: Sequence[Image],
        *,
        grammar: str | None = None,
        on_token: OnToken | None = None,
    ) -> GenerationRequest:
        """Word the template's question about images that are shown together.

        Args:
            images: Decoded, of possible shapes.
            grammar: One of `data.grammar.grammar_of`; anything may be written unless given.
            on_token: Hears the answer while it is written.
        """
        return GenerationRequest(
            prompt=self.template.prompt(self.processor, images=len(images)),
            images=tuple(images),
            grammar=grammar,
            finite_grammar=grammar is not None,
            on_token=on_token,
        )

    def to_prediction(
        self, generation: Generation, *, seconds: float | None = None, source: str = ""
    ) -> Prediction:
        """Parse a generation, and estimate the confidence in each field."""
        return Prediction.parse(
            generation.text,
            self.template,
            confidence=field_confidence(
                self.template, generation.text, generation.token_ends, generation.logprobs
            ),
            finish_reason=generation.finish_reason,
            seconds=seconds,
            source=source,
        )

    def check_shape(self, image: Image, source: str) -> None:
        """Refuse what the image processor would, but say whose image it is.

        Raises:
            ValueError: The image is so long and thin that one side would vanish.
        """
        crops = self.processor.image_processor
        longer, shorter = max(image.size), min(image.size)
        try:
            resized_size(longer, shorter, crops.num_crops, crops.crop_size)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

    def _listen(self, image: Image, grammar: str | None, on_token: OnToken) -> None:
        request = self.request([image], grammar=grammar, on_token=on_token)
        generate(self.model, self.processor, [request])

    def _portions(self, things: Sequence[T]) -> Iterator[Sequence[T]]:
        step = self.batch_size * BATCHES_AT_ONCE
        return (things[start : start + step] for start in range(0, len(things), step))

    def _predict(
        self, images: Sequence[list[Image]], sources: Sequence[str], grammar: str | None
    ) -> list[Prediction]:
        start = time.perf_counter()
        requests = [self.request(shown, grammar=grammar) for shown in images]
        made = generate(self.model, self.processor, requests, batch_size=self.batch_size)
        seconds = (time.perf_counter() - start) / max(1, len(made))
        return [
            self.to_prediction(each, seconds=seconds, source=source)
            for each, source in zip(made, sources, strict=True)
        ]

    def _images(self, sample: Sample) -> list[Image]:
        images = sample.open_images()
        for image in images:
            self.check_shape(image, f"sample {sample.id!r}")
        return images

    def _global_view(self, sample: Sample) -> torch.Tensor:
        """Prepare a sample's first image as one crop: (1, 3, S, S)."""
        if not sample.images:
            raise ValueError(
                f"sample {sample.id!r} has no image to describe; leave it out of this comparison"
            )
        first = self._images(replace(sample, images=sample.images[:1]))
        # With one crop the global view equals it; making all crops of a large image takes long.
        views: torch.Tensor = self.processor.image_processor(first, num_crops=1)["pixel_values"]
        return views[:1]

    def _image_tokens(self, sample: Sample) -> float:
        """Count the image tokens of a sample's images without decoding them.

        An EXIF orientation is left out: good enough to sort by. What cannot be shown counts as
        endless, so that it comes first and is refused at once.
        """
        tokens = 0
        for encoded in sample.images:
            try:
                with PillowImage.open(io.BytesIO(encoded)) as image:
                    tokens += self.processor.calc_num_image_tokens_from_image_size(*image.size)
            except (OSError, ValueError):
                return math.inf
        return tokens

    def _open(self, image: str | Path | bytes | Image, source: str) -> Image:
        if isinstance(image, str | Path):
            opened = open_image(Path(image))
        elif isinstance(image, bytes):
            opened = _decode(image, source)
        else:
            opened = image
        self.check_shape(opened, source)
        return opened


def _on_a_thread(write: Callable[[OnToken], None]) -> Iterator[str]:
    """Let an answer be written on a thread of its own, and yield its pieces as they come."""
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    is_wanted = True

    def hear(piece: str) -> bool:
        pieces.put(piece)
        return is_wanted

    with ThreadPoolExecutor(1, thread_name_prefix="answer") as thread:
        writing = thread.submit(write, hear)
        writing.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                if piece:
                    yield piece
            writing.result()  # raises what went wrong
        finally:
            is_wanted = False


def _decode(encoded: bytes, source: str) -> Image:
    try:
        return open_image(encoded)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
