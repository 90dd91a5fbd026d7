"""What samples weigh: their tokens and crops, read off the words and the images' heads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from phi_vision.data.collator import CompletionCollator, image_size
from phi_vision.data.packing import original_context
from phi_vision.data.samples import Sample
from phi_vision.model.checkpoint import adapter_base, load_config, load_processor, resolve
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor, resized_size
from phi_vision.training import checks as guards
from phi_vision.training.memory import BatchShape
from phi_vision.training.recipes import Recipe
from phi_vision.training.rows import Steps, choose_template, count_steps, load_split, make_rows


@dataclass(frozen=True, kw_only=True)
class Weight:
    """What one sample weighs in a batch."""

    image_tokens: int
    text_tokens: int
    learnt: int
    """How many of the text tokens are learnt."""
    images: tuple[tuple[int, int], ...]
    """Height and width of its images in pixels, padded to whole crops."""

    @property
    def length(self) -> int:
        """All its tokens."""
        return self.image_tokens + self.text_tokens


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How numbers are distributed."""

    mean: float
    median: float
    most_of_95: int
    """95 of 100 are at most this."""
    most: int

    def as_text(self) -> str:
        """Write it for people: `mean 757, median 757, 95 % up to 1021, most 1021`."""
        return (
            f"mean {self.mean:.0f}, median {self.median:.0f}, 95 % up to {self.most_of_95}, "
            f"most {self.most}"
        )


def spread(numbers: Sequence[int]) -> Spread:
    """Describe a distribution.

    Input:  1 2 3 … 100
    Output: mean 50.5, median 50.5, 95 % up to 95, most 100
    """
    ordered = sorted(numbers)
    place = math.ceil(0.95 * len(ordered)) - 1
    return Spread(
        mean=mean(ordered), median=median(ordered), most_of_95=ordered[place], most=ordered[-1]
    )


def weigh(collator: CompletionCollator, sample: Sample) -> Weight:
    """Weigh a sample without decoding its images.

    Raises:
        ValueError: An image cannot be read or is too thin to cut, or the record lacks a field.
    """
    images, texts = collator.count_tokens(sample)
    tokenizer = collator.processor.tokenizer
    learnt = [piece.text for piece in collator.segments(sample) if piece.is_supervised]
    cutter = collator.processor.image_processor
    return Weight(
        image_tokens=images,
        text_tokens=texts,
        learnt=sum(len(ids) for ids in tokenizer(learnt, add_special_tokens=False)["input_ids"]),
        images=tuple(_padded(image_size(encoded), cutter) for encoded in sample.images),
    )


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a run reads: its samples weighed, its rows, the model's numbers."""

    config: Phi3VConfig
    training: Sequence[Weight]
    validation: Sequence[Weight]
    rows: Sequence[Sequence[Weight]]
    """The training samples, each alone or packed."""
    shared_groups: int

    def steps(self, recipe: Recipe) -> Steps:
        """Count the optimizer steps."""
        return count_steps(recipe, len(self.rows))

    def filled(self, recipe: Recipe) -> float:
        """Give the share of positions in batches of one length after the other that hold tokens."""
        shape = usual(self.rows, recipe.per_device_train_batch_size)
        tokens = sum(weight.length for row in self.rows for weight in row)
        return min(1.0, tokens / len(self.rows) / shape.length)


def weigh_data(recipe: Recipe) -> Load:
    """Load and check the samples as training does, and weigh them.

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
    guards.check_samples(collator, [*training, *validation])
    weights = {id(sample): weigh(collator, sample) for sample in (*training, *validation)}
    lengths = [weights[id(sample)].length for sample in training]
    rows = make_rows(recipe, training, lengths, split_at=original_context(config))
    groups = [{sample.group for sample in part} for part in (training, validation)]
    return Load(
        config=config,
        training=[weights[id(sample)] for sample in training],
        validation=[weights[id(sample)] for sample in validation],
        rows=[[weights[id(sample)] for sample in row] for row in rows],
        shared_groups=len(groups[0] & groups[1]),
    )


def heaviest(rows: Sequence[Sequence[Weight]], count: int) -> BatchShape:
    """Join the `count` longest rows to one batch, the worst that a run can meet."""
    ordered = sorted(rows, key=_length, reverse=True)
    return join(ordered[:count])


def usual(rows: Sequence[Sequence[Weight]], count: int) -> BatchShape:
    """Join `count` rows evenly spread over all lengths, as shuffling gives them."""
    ordered = sorted(rows, key=_length)
    count = min(count, len(ordered))
    return join([ordered[(2 * at + 1) * len(ordered) // (2 * count)] for at in range(count)])


def join(rows: Sequence[Sequence[Weight]]) -> BatchShape:
    """Give the shape of a batch of rows, each of one sample or of several packed."""
    weights = [weight for row in rows for weight in row]
    return BatchShape(
        rows=len(rows),
        length=max(_length(row) for row in rows),
        learnt=sum(weight.learnt for weight in weights),
        images=tuple(size for weight in weights for size in weight.images),
    )


def _length(row: Sequence[Weight]) -> int:
    return sum(weight.length for weight in row)


def _padded(size: tuple[int, int], cutter: Phi3VImageProcessor) -> tuple[int, int]:
    """Give height and width of an image after it was resized and padded to whole crops.

    Input:  500 wide, 333 high, at most 4 crops of 336
    Output: (672, 672)
    """
    width, height = size
    side = cutter.crop_size
    longer, shorter = max(size), min(size)
    long, short = resized_size(longer, shorter, cutter.num_crops, side)
    short = math.ceil(short / side) * side
    return (long, short) if height > width else (short, long)
