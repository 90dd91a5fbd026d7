"""The sizes of samples and batches: tokens and crops, read from texts and image headers."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from phi_vision.data.collator import CompletionCollator, image_size
from phi_vision.data.packing import original_context
from phi_vision.data.samples import Sample
from phi_vision.model.checkpoint import adapter_base, load_config, load_processor, resolve
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor, resized_size
from phi_vision.training import checks
from phi_vision.training.memory import BatchShape
from phi_vision.training.recipes import Recipe
from phi_vision.training.setup import choose_template, load_split, make_rows


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """The size of one sample in a batch."""

    image_tokens: int
    text_tokens: int
    supervised: int
    """How many of the text tokens have labels."""
    images: tuple[tuple[int, int], ...]
    """Height and width of its images in pixels, padded to whole crops."""

    @property
    def length(self) -> int:
        """All its tokens."""
        return self.image_tokens + self.text_tokens


Rows = Sequence[Sequence[SampleSize]]
"""Rows of one sample each, or of several packed."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The measured samples and rows of a run, and the config of its model."""

    config: Phi3VConfig
    training: Sequence[SampleSize]
    validation: Sequence[SampleSize]
    rows: Rows
    shared_groups: int


def measure_data(recipe: Recipe) -> Workload:
    """Load and check the samples as training does, and measure them.

    Raises:
        ValueError: They cannot be trained with.
    """
    training, validation = load_split(recipe)
    config = load_config(adapter_base(resolve(recipe.model)) or recipe.model)
    collator = CompletionCollator(
        processor=load_processor(recipe.model),
        template=choose_template(recipe),
        max_length=recipe.max_length,
    )
    checks.check_samples(collator, [*training, *validation])
    sizes = {id(sample): measure(collator, sample) for sample in (*training, *validation)}
    lengths = [sizes[id(sample)].length for sample in training]
    rows = make_rows(recipe, training, lengths, split_at=original_context(config))
    groups = [{sample.group for sample in part} for part in (training, validation)]
    return Workload(
        config=config,
        training=[sizes[id(sample)] for sample in training],
        validation=[sizes[id(sample)] for sample in validation],
        rows=[[sizes[id(sample)] for sample in row] for row in rows],
        shared_groups=len(groups[0] & groups[1]),
    )


def measure(collator: CompletionCollator, sample: Sample) -> SampleSize:
    """Measure a sample without decoding its images.

    Raises:
        ValueError: An image cannot be read or is too thin, or the record lacks a field.
    """
    image_tokens, text_tokens = collator.count_tokens(sample)
    supervised = [piece.text for piece in collator.segments(sample) if piece.is_supervised]
    ids = collator.processor.tokenizer(supervised, add_special_tokens=False)["input_ids"]
    cutter = collator.processor.image_processor
    return SampleSize(
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        supervised=sum(map(len, ids)),
        images=tuple(_padded(image_size(encoded), cutter) for encoded in sample.images),
    )


def largest_batch(rows: Rows, count: int) -> BatchShape:
    """Return the shape of the `count` longest rows: the worst batch of a run."""
    return batch_shape(sorted(rows, key=_length, reverse=True)[:count])


def typical_batch(rows: Rows, count: int) -> BatchShape:
    """Return the shape of `count` rows evenly spread over all lengths, as shuffling gives them."""
    ordered = sorted(rows, key=_length)
    count = min(count, len(ordered))
    return batch_shape([ordered[(2 * at + 1) * len(ordered) // (2 * count)] for at in range(count)])


def batch_shape(rows: Rows) -> BatchShape:
    """Return the shape of a batch of rows."""
    sizes = [size for row in rows for size in row]
    return BatchShape(
        rows=len(rows),
        length=max(map(_length, rows)),
        supervised=sum(size.supervised for size in sizes),
        images=tuple(image for size in sizes for image in size.images),
    )


def describe_distribution(numbers: Sequence[int]) -> str:
    """Format a distribution: 1 2 … 100 -> "mean 50, median 50, 95 % up to 95, max 100"."""
    ordered = sorted(numbers)
    percentile = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return (
        f"mean {statistics.mean(ordered):.0f}, median {statistics.median(ordered):.0f}, "
        f"95 % up to {percentile}, max {ordered[-1]}"
    )


def _length(row: Sequence[SampleSize]) -> int:
    return sum(size.length for size in row)


def _padded(size: tuple[int, int], cutter: Phi3VImageProcessor) -> tuple[int, int]:
    """Return height and width of an image after it was resized and padded to whole crops.

    Input:  500 wide, 333 high, at most 4 crops of 336
    Output: (672, 672)
    """
    width, height = size
    side = cutter.crop_size
    longer, shorter = max(size), min(size)
    long, short = resized_size(longer, shorter, cutter.num_crops, side)
    short = math.ceil(short / side) * side
    return (long, short) if height > width else (short, long)
