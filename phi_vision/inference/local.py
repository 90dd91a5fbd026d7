"""LocalPredictor: predictions of a checkpoint or an ONNX folder on this machine.

print(LocalPredictor("phi-vision-small").predict(["coat.jpg"])[0].record)
"""

import copy
import logging
import math
import queue
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from phi_vision.data.conversation import prompt_of
from phi_vision.data.prediction import Prediction, field_confidence
from phi_vision.data.samples import Sample, Value
from phi_vision.data.template import TEMPLATE_FILE, Slot, Template, find_template
from phi_vision.generation.generate import GenerativeModel, encode, generate
from phi_vision.generation.growing_batch import Inputs
from phi_vision.generation.request import (
    MAX_TURN_TOKENS,
    Generation,
    GenerationRequest,
    NumberSpan,
    OnToken,
)
from phi_vision.inference.onnx_predictor import GENAI_FILE, OnnxModel
from phi_vision.io.hashing import sha256, sha256_of_all
from phi_vision.io.image_decoding import BinaryFile, ImageSource, image_size, open_image
from phi_vision.io.process import map_in_threads
from phi_vision.model.blockwise_attention import use_blockwise_attention
from phi_vision.model.checkpoint import UNTRAINED, fast_dtype, load_model, load_processor
from phi_vision.model.image_processing_phi3_v import resized_size
from phi_vision.model.modeling_phi3_v import Phi3VTower

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch", list[int], range, Sequence[Sample])
DEFAULT_TEMPLATE = "product"  # of a model that comes without one
# Batches whose images are decoded together: enough to sort rows by length, few enough to hold.
BATCHES_PER_WINDOW = 4
OUTSIDE_NUMBERS = {",", ";", "|", "\n"}  # what is part of no written number, unit or currency
CROPS_AT_ONCE = 8  # A CPU takes a quarter longer for each of 20, and a GPU is busy with 8.


class LocalPredictor:
    """A loaded model with its prompt template; ValueError if there is no such model or template.

    Args:
        model: Run, checkpoint or adapter folder, Hub id, "phi-vision-small", or ONNX folder.
        template: Name or file of a template (see `find_template`); by default that of the training.
        device: By default a GPU if there is one; ONNX graphs run on the CPU, in their own dtype.
        dtype: By default `fast_dtype` of the device.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        template: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 16,
    ) -> None:
        self.source = str(model)
        self.template = find_template(resolve_template(str(model), template))
        self.batch_size = batch_size
        self.model: GenerativeModel
        self.is_onnx = (Path(model) / GENAI_FILE).is_file()
        self.name = f"{'ONNX folder' if self.is_onnx else 'checkpoint'} {model}"
        if self.is_onnx:
            self.model = OnnxModel(Path(model))
            self.processor = load_processor(model, self.model.config)
            return
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or fast_dtype(device)
        self.model, self.processor = loaded, _ = load_model(model, dtype=dtype, device=device)
        if getattr(loaded.config, UNTRAINED, False):
            advice = "fine-tune it first, as with `phi-vision train photo --model %s`"
            logger.warning("%s has not learned yet to see images: " + advice, model, model)
        if device.type == "cpu":
            use_blockwise_attention(loaded)
        for name, weight in loaded.named_parameters():
            if not weight.sum(dtype=torch.float32).isfinite():
                raise ValueError(
                    f"the weights of {model} are damaged: {name} holds NaN or infinite values; "
                    "copy them again, or take an earlier checkpoint"
                )

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Yield (index of the sample, prediction), batch by batch.

        The longest prompts come first: too little memory for them shows at once. The images of a
        batch are prepared while the one before is predicted. Equal inputs, such as the crops of
        white images of many sizes, are predicted once. An unusable image is a ValueError that names
        the sample.
        """
        lengths = [self._count_image_tokens(sample) for sample in samples]
        order = sorted(range(len(samples)), key=lambda index: -lengths[index])
        batches = list(_batched(order, self.batch_size))
        # Tokenizers must not be used by two threads at once.
        processor = copy.deepcopy(self.processor) if len(batches) > 1 else self.processor

        def prepare(indices: list[int]) -> list[tuple[str, GenerationRequest, Inputs, str]]:
            prepared = []
            for sample in (samples[index] for index in indices):
                request = self.request(self._open_images(sample), grammar=grammar)
                request = replace(request, prompt=prompt_of(processor, self.template, sample))
                inputs = encode(processor, request)
                prepared.append((sample.id, request, inputs, _digest(inputs)))
            return prepared

        known = dict[str, Prediction]()

        with ThreadPoolExecutor(1, thread_name_prefix="images") as thread:
            following = [thread.submit(prepare, indices) for indices in batches[:1]]
            for place, indices in enumerate(batches, start=1):
                prepared = following.pop().result()
                following += [thread.submit(prepare, each) for each in batches[place : place + 1]]
                new = {each[-1]: each for each in prepared if each[-1] not in known}
                if new:
                    ids, requests, inputs, keys = zip(*new.values(), strict=True)
                    known |= zip(keys, self._predict(requests, ids, inputs), strict=True)
                    del requests, inputs
                found = [replace(known[key], source=name) for name, *_, key in prepared]
                del prepared, new  # The next batch is already there.
                yield from zip(indices, found, strict=True)

    def predict(
        self, images: ImageSource | Iterable[ImageSource], *, grammar: str | None = None
    ) -> list[Prediction]:
        """Predict the record of one image or of each of several.

        An image is a path, encoded bytes, a file opened with "rb", a PIL image or a NumPy array;
        what is none, or has an impossible shape, is a ValueError that names it.

        Input:  [Path("coat.jpg")]
        Output: [Prediction(source="coat.jpg", text="Product: Wool Coat, Full Price: 390.0",
                            record={"title": "Wool Coat", "full_price": 390.0},
                            confidence={"title": 0.81, "full_price": 0.4})]
        """
        images = _as_list(images)
        sources = [
            str(image) if isinstance(image, str | Path) else f"image {number}"
            for number, image in enumerate(images, start=1)
        ]
        predictions: list[Prediction] = []
        for window in _batched(range(len(images)), BATCHES_PER_WINDOW * self.batch_size):
            opened = [self.open_image(images[index], sources[index]) for index in window]
            requests = [self.request([image], grammar=grammar) for image in opened]
            predictions += self._predict(requests, sources[window.start : window.stop])
        return predictions

    def stream(self, image: ImageSource, *, grammar: str | None = None) -> Iterator[str]:
        """Yield the text in chunks while it is generated; closing the iterator cancels it."""
        return self._stream(self.open_image(image), grammar)

    def request(
        self,
        images: Sequence[Image],
        *,
        grammar: str | None = None,
        on_token: OnToken | None = None,
    ) -> GenerationRequest:
        """Build the template's request for decoded images that belong together.

        Numbers are drawn where the template asks for their median, unless the text is streamed.
        """
        draws = self.template.numbers == "median"
        request = GenerationRequest(
            prompt=self.template.prompt(self.processor, images=len(images)),
            images=tuple(images),
            grammar=grammar,
            finite_grammar=grammar is not None,
            on_token=on_token,
            numbers=partial(_number_spans, self.template) if draws and not on_token else None,
        )
        is_turn = self.template.is_conversation
        return replace(request, max_new_tokens=MAX_TURN_TOKENS) if is_turn else request

    def to_prediction(
        self, generation: Generation, *, seconds: float | None = None, source: str = ""
    ) -> Prediction:
        """Parse a generation, and compute the confidence in each field."""
        text, ends, logprobs, reason, *_ = generation
        confidence = field_confidence(self.template, text, ends, logprobs)
        parsed = Prediction.parse(text, self.template, confidence=confidence, finish_reason=reason)
        return replace(parsed, seconds=seconds, source=source)

    def features(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Embed each sample's first image: (samples, 2 * width), from its global view.

        The first half is the mean over the patches, the second their standard deviation.
        """
        if not isinstance(self.model, torch.nn.Module):
            raise ValueError(f"{self.name} has no separate vision tower; use a checkpoint")
        tower = next(module for module in self.model.modules() if isinstance(module, Phi3VTower))
        embedded = [np.empty((0, 2 * tower.vision_model.config.hidden_size), np.float32)]

        def view(sample: Sample) -> torch.Tensor:
            if not sample.images:
                raise ValueError(f"sample {sample.id!r} has no image to embed; leave it out")
            first = self._open_images(replace(sample, images=sample.images[:1]))
            # With one crop the global view equals it; making all crops takes long.
            made = self.processor.image_processor(first, num_crops=1)
            pixels_1CHW: torch.Tensor = made["pixel_values"][:1]
            return pixels_1CHW

        views = map_in_threads(view, samples)
        while part := [*islice(views, CROPS_AT_ONCE)]:
            with torch.inference_mode():
                features_NPD = tower(torch.cat(part).to(self.model.device)).float()
                moments = [features_NPD.mean(dim=1), features_NPD.std(dim=1)]
            embedded.append(torch.cat(moments, dim=1).cpu().numpy())
        return np.concatenate(embedded)

    def check_shapes(self, images: Sequence[Image], source: str) -> None:
        """Raise a ValueError naming the source if a side of an image would shrink to nothing."""
        crops = self.processor.image_processor
        try:
            for size in (image.size for image in images):
                resized_size(max(size), min(size), crops.num_crops, crops.crop_size)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

    def _predict(
        self,
        requests: Sequence[GenerationRequest],
        sources: Sequence[str],
        inputs: Sequence[Inputs] = (),
    ) -> list[Prediction]:
        start = time.perf_counter()
        generations = generate(
            self.model, self.processor, requests, batch_size=self.batch_size, inputs=inputs
        )
        seconds = (time.perf_counter() - start) / max(1, len(requests))
        return [
            self.to_prediction(generation, seconds=seconds, source=source)
            for generation, source in zip(generations, sources, strict=True)
        ]

    def _stream(self, image: Image, grammar: str | None) -> Iterator[str]:
        chunks: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        is_open = True

        def on_token(chunk: str) -> bool:
            chunks.put(chunk)
            return is_open

        request = self.request([image], grammar=grammar, on_token=on_token)
        with ThreadPoolExecutor(1, thread_name_prefix="generation") as thread:
            generation = thread.submit(generate, self.model, self.processor, [request])
            generation.add_done_callback(lambda _: chunks.put(None))
            try:
                while (chunk := chunks.get()) is not None:
                    if chunk:
                        yield chunk
                generation.result()  # raises the error of the thread
            finally:
                is_open = False

    def open_image(self, image: ImageSource, source: str = "the image") -> Image:
        """Read an image; raise a ValueError naming its path or the source if it is unusable."""
        is_named = isinstance(image, str | Path)
        try:
            opened = open_image(image)
        except ValueError as error:
            raise ValueError(str(error) if is_named else f"{source}: {error}") from error
        self.check_shapes([opened], str(image) if is_named else source)
        return opened

    def _open_images(self, sample: Sample) -> list[Image]:
        images = sample.open_images()
        self.check_shapes(images, f"sample {sample.id!r}")
        return images

    def _count_image_tokens(self, sample: Sample) -> float:
        """Count image tokens without decoding, to sort by; infinite where an image is unusable."""
        count = self.processor.calc_num_image_tokens_from_image_size
        try:
            return sum(count(*image_size(encoded)) for encoded in sample.images)
        except ValueError:
            return math.inf


def _number_spans(template: Template, text: str) -> list[NumberSpan]:
    """List the numbers of a text, but not those that are missing or of no plain value."""
    spans, found = template.spans(text), []
    for slot in template.parts[1]:
        if slot.owner.scale and slot.field in spans:
            start, end = spans[slot.field]
            if _median(slot, [text[start:end]]) is None:
                continue
            # One character is generated sooner than the whole literal.
            stop = slot.until[:1] if slot.until[:1] in OUTSIDE_NUMBERS else slot.until
            found.append(NumberSpan(start, end, stop, partial(_median, slot)))
    return found


def _median(slot: Slot, texts: Sequence[str]) -> str | None:
    """Return the text of the middle number, the smaller of two; None if none is one.

    Input:  full_price:number, ["390.0", "90.0", "hat", "120.0", "95.0"]
    Output: "95.0"
    """
    assert slot.owner.scale
    read = list[tuple[str, Value]]()
    for text in texts:
        with suppress(ValueError, RecursionError):
            if slot.write(value := slot.read(text)) == text:
                read.append((text, value))
    numbers = slot.owner.scale([value for _, value in read]).numbers
    pairs = zip(numbers, read, strict=True)
    known = sorted((number, text) for number, (text, _) in pairs if number is not None)
    return known[(len(known) - 1) // 2][1] if known else None


def resolve_template(model: str, template: str | None = None, data: str | Path = "") -> str:
    """Return the name or file of the template: given, the model's own, the data's, the default.

    Input:  ("runs/coats", "walkthrough"), ("runs/coats", None),       ("phi-vision-small", None)
    Output: "walkthrough",                 "runs/coats/template.yaml", "product"
    """
    if template is not None:
        return template
    folder = Path(model).parent if Path(model).suffix == ".jsonl" else Path(model)
    places = [folder, Path(data)] if data else [folder]
    files = (place / TEMPLATE_FILE for place in places)
    return next((str(file) for file in files if file.is_file()), DEFAULT_TEMPLATE)


def _as_list(images: Any) -> list[Any]:
    """Put one image, or what is none, into a list; texts, bytes, files and arrays are iterable."""
    one = (str, bytes, bytearray, memoryview, BinaryFile, np.ndarray, torch.Tensor, Mapping)
    if isinstance(images, one) or not isinstance(images, Iterable):
        return [images]
    if found := list(images):
        return found
    raise ValueError("no image to predict: found an empty list; give at least one image")


def _digest(inputs: Inputs) -> str:
    """Hash the inputs of one row, on the CPU."""
    return sha256_of_all(f"{name} {sha256(each.numpy().data)}" for name, each in inputs.items())


def _batched(items: Batch, size: int) -> Iterator[Batch]:
    return (items[start : start + size] for start in range(0, len(items), size))
