"""Explanation: what becomes of a sample before a model reads it, as numbers and text.

Read off the batch that training makes of the sample, crops and labels included, so that it cannot
say anything else. `explanation_drawing` draws it.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from PIL import Image

from phi_vision.data.collator import IGNORED, Batch, CompletionCollator
from phi_vision.data.packing import original_context
from phi_vision.data.samples import Sample
from phi_vision.io.image_decoding import image_size
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor, resized_size

SpanKind = Literal["prompt", "image", "completion"]
TokenPart = Literal["crops", "row separators", "view separator", "global view"]
MAX_SHOWN = 240  # characters of a span's text, on the console


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} × {self.height}"


@dataclass(frozen=True, kw_only=True)
class CutImage:
    """An image, and the crops that the model gets of it.

    Input:  500 × 333 pixels, at most 4 crops of 336
    Output: resized (672, 447), padded (672, 672), rows 2, columns 2, 757 tokens
    """

    original: Image.Image
    crops: list[Image.Image]  # the global view, then the crops row by row, as the model sees them
    resized: Size
    padded: Size
    parts: list[TokenPart]  # of each image token, in order

    @property
    def size(self) -> Size:
        """The size that it has as a file, upright."""
        return Size(*self.original.size)

    @property
    def crop_size(self) -> int:
        """The side of a crop."""
        return self.crops[0].width

    @property
    def rows(self) -> int:
        """Rows of crops."""
        return self.padded.height // self.crop_size

    @property
    def columns(self) -> int:
        """Columns of crops."""
        return self.padded.width // self.crop_size

    @property
    def padding(self) -> dict[str, int]:
        """White pixels on each side."""
        across = self.padded.width - self.resized.width
        down = self.padded.height - self.resized.height
        sides = {"left": across // 2, "right": across - across // 2}
        return {**sides, "top": down // 2, "bottom": down - down // 2}

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers."""
        return {
            "size": self.size._asdict(),
            "resized": self.resized._asdict(),
            "padded": self.padded._asdict(),
            "padding": self.padding,
            "crop_size": self.crop_size,
            "rows": self.rows,
            "columns": self.columns,
            "crops": len(self.crops),
            "tokens": len(self.parts),
            "tokens_by_part": {
                part.replace(" ", "_"): count for part, count in Counter(self.parts).items()
            },
        }

    def lines(self) -> Iterator[str]:
        """Describe the cutting."""
        white = " and ".join(f"{count} {side}" for side, count in self.padding.items() if count)
        padded = f", padded with white to {self.padded} ({white})" if white else ""
        yield f"  resized   {self.resized} pixels{padded}"
        cut = f"{self.rows} × {self.columns}" if self.rows * self.columns > 1 else "1"
        yield f"  crops     {cut} of {self.crop_size} × {self.crop_size}, and the global view"
        counts = Counter(self.parts)
        sums = " + ".join(f"{counts[part]} {part}" for part in dict.fromkeys(self.parts))
        yield f"  tokens    {len(self.parts):,} = {sums}"


class Span(NamedTuple):
    """Neighbouring tokens of one kind; those of a completion are supervised."""

    kind: SpanKind
    start: int
    end: int
    text: str
    tokens: list[str]  # as the tokenizer spells them; of an image none
    image: int | None  # its number from 1, of an image

    @property
    def length(self) -> int:
        """Tokens."""
        return self.end - self.start

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that the kind has."""
        fields = {**self._asdict(), "supervised": self.kind == "completion"}
        unused = ("text", "tokens") if self.kind == "image" else ("image",)
        return {name: value for name, value in fields.items() if name not in unused}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A sample as the model reads it."""

    sample_id: str
    images: list[CutImage]
    input_ids: list[int]
    labels: list[int]  # -100 where there is no supervision
    spans: list[Span]
    short_context: int  # tokens beyond which the rotary factors of the whole batch change
    context: int  # tokens that the model can read

    def count(self, kind: SpanKind) -> int:
        """Count the tokens of a kind."""
        return sum(span.length for span in self.spans if span.kind == kind)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the pixels."""
        return {
            "sample": self.sample_id,
            "images": [image.as_dict() for image in self.images],
            "tokens": {
                "total": len(self.input_ids),
                "image": self.count("image"),
                "prompt": self.count("prompt"),
                "supervised": self.count("completion"),
            },
            "short_context": self.short_context,
            "context": self.context,
            "spans": [span.as_dict() for span in self.spans],
            "input_ids": self.input_ids,
            "labels": self.labels,
        }

    def lines(self) -> Iterator[str]:
        """Describe the images and the sequence."""
        for number, image in enumerate(self.images, start=1):
            yield f"image {number}: {image.size} pixels"
            yield from image.lines()
        supervised = self.count("completion")
        share = f", {supervised / len(self.input_ids):.1%} of all" if supervised else ""
        yield (
            f"sequence: {len(self.input_ids):,} tokens: {self.count('image'):,} of images, "
            f"{self.count('prompt')} of the prompt, {supervised} supervised{share}"
        )
        for span in self.spans:
            name = f"image {span.image}" if span.kind == "image" else span.kind
            shown = _shorten(span.text) if span.kind != "image" else f"{span.text} × {span.length}"
            yield f"  {span.start:>6}  {name:<11}{span.length:>6}  {shown}"
        for span in self.spans:
            if span.kind == "completion":
                yield f"  supervised: {_shorten(' '.join(span.tokens), is_quoted=False)}"
        short = f"{self.short_context:,} with the short rotary factors"
        yield f"context: {self.context:,} tokens, {short}"


def explain(
    collator: CompletionCollator, sample: Sample, config: Phi3VConfig, *, has_record: bool = True
) -> Explanation:
    """Explain a sample as training reads it; without a record, its prompt as inference reads it."""
    count = collator.processor.image_processor.calc_num_image_tokens_from_image_size
    sample.map_images(lambda encoded: count(*image_size(encoded)))  # names one that is too thin
    batch = collator([sample]) if has_record else _prompt_batch(collator, sample)
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    return Explanation(
        sample_id=sample.id,
        images=list(_cut_images(collator.processor.image_processor, sample, batch)),
        input_ids=ids,
        labels=labels,
        spans=list(_spans(collator, ids, labels)),
        short_context=original_context(config),
        context=config.max_position_embeddings,
    )


def image_token_parts(rows: int, columns: int, side: int) -> list[TokenPart]:
    """List the image tokens of an image in order, each by what it is.

    Input:  2 rows and 2 columns of crops, each of 12 × 12 tokens
    Output: 24 times (24 crops, 1 row separator), 1 view separator, 12 times (12 global view, 1 row
            separator): 757
    """

    def lines(part: TokenPart, count: int, length: int) -> list[TokenPart]:
        return [*itertools.repeat(part, length), "row separators"] * count

    crops = lines("crops", rows * side, columns * side)
    return [*crops, "view separator", *lines("global view", side, side)]


def _prompt_batch(collator: CompletionCollator, sample: Sample) -> Batch:
    processor, images = collator.processor, sample.open_images()
    prompt = collator.template.prompt(processor, len(images))
    made = processor(text=prompt, images=images or None, return_tensors="pt")
    return cast(Batch, {**made, "labels": torch.full_like(made["input_ids"], IGNORED)})


def _cut_images(cutter: Phi3VImageProcessor, sample: Sample, batch: Batch) -> Iterator[CutImage]:
    """Take the crops of a batch apart, in the order of the images in the text."""
    if "image_sizes" not in batch:
        return
    size, start = cutter.crop_size, 0
    side = round(cutter.num_img_tokens**0.5)
    for image, (height, width) in zip(
        sample.open_images(), batch["image_sizes"].tolist(), strict=True
    ):
        rows, columns = height // size, width // size
        pixels = batch["pixel_values"][start : start + 1 + rows * columns]
        start += len(pixels)
        parts = image_token_parts(rows, columns, side)
        assert len(parts) == cutter.count_tokens(height, width)
        thick, thin = max(image.size), min(image.size)
        longer, shorter = resized_size(thick, thin, cutter.num_crops, size)
        is_portrait = image.width < image.height
        yield CutImage(
            original=image,
            crops=[_as_image(cutter, crop) for crop in pixels],
            resized=Size(shorter, longer) if is_portrait else Size(longer, shorter),
            padded=Size(width, height),
            parts=parts,
        )


def _as_image(cutter: Phi3VImageProcessor, pixels: torch.Tensor) -> Image.Image:
    """Undo the normalisation of a crop (3, S, S)."""
    means, deviations = (
        torch.tensor(each)[:, None, None] for each in (cutter.image_mean, cutter.image_std)
    )
    levels = (pixels * deviations + means).mul(255).round().clamp(0, 255)
    return Image.fromarray(levels.permute(1, 2, 0).numpy().astype(np.uint8))


def _spans(collator: CompletionCollator, ids: list[int], labels: list[int]) -> Iterator[Span]:
    """Group a row's tokens by kind, image by image: `<s>` follows each."""
    processor, image_token = collator.processor, collator.processor.image_token_id
    images = itertools.count(1)

    def kind_of(place: int) -> SpanKind:
        if ids[place] == image_token:
            return "image"
        return "prompt" if labels[place] == IGNORED else "completion"

    for kind, group in itertools.groupby(range(len(ids)), kind_of):
        places = list(group)
        own = [ids[place] for place in places]
        is_image = kind == "image"
        yield Span(
            kind=kind,
            start=places[0],
            end=places[-1] + 1,
            text=processor.image_token if is_image else processor.tokenizer.decode(own),
            tokens=[] if is_image else processor.tokenizer.convert_ids_to_tokens(own),
            image=next(images) if is_image else None,
        )


def _shorten(text: str, *, is_quoted: bool = True) -> str:
    half = MAX_SHOWN // 2
    short = text if len(text) <= MAX_SHOWN else f"{text[:half]} … {text[-half:]}"
    return json.dumps(short, ensure_ascii=False) if is_quoted else short
