"""Everything a training needs, loaded and checked before its first step. Writes nothing."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import Dataset
from transformers import set_seed

from phi_vision.data.collator import Batch, CompletionCollator, select_labelled
from phi_vision.data.dataset import (
    VALIDATION_FRACTION,
    available_splits,
    load_samples,
    split_by_group,
)
from phi_vision.data.image_ablations import withhold_images
from phi_vision.data.packing import (
    check_context_sides,
    collate_packs,
    original_context,
    pack_samples,
)
from phi_vision.data.preference_collator import check_pairs
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template, find_template
from phi_vision.training import checks
from phi_vision.training.adapters import TrainableModel, load_trainable
from phi_vision.training.distributed import world_size
from phi_vision.training.recipes import Recipe
from phi_vision.training.sharding import check_sharding_support

Row = tuple[Sample, ...]
"""One row of a batch: a sample, or several packed."""


class Steps(NamedTuple):
    """Optimizer steps."""

    per_epoch: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything a training needs, checked."""

    trainable: TrainableModel
    collator: CompletionCollator
    training: Sequence[Sample]
    validation: Sequence[Sample]
    rows: Sequence[Row]
    steps: Steps


def prepare(recipe: Recipe) -> Setup:
    """Load data and model and run every check that precedes the first step.

    Raises:
        ValueError: The recipe, the data or the model cannot be trained with.
    """
    check_sharding_support(recipe)
    training, validation = load_split(recipe)
    template = choose_template(recipe)
    checks.check_best_metric(recipe, template)
    set_seed(recipe.seed)
    trainable = load_trainable(recipe)
    collator = CompletionCollator(
        processor=trainable.processor, template=template, max_length=recipe.max_length
    )
    split_at = original_context(trainable.model.config)
    samples = [*training, *validation]
    lengths = checks.check_samples(collator, samples)
    if recipe.objective == "dpo":
        lengths = check_pairs(collator, samples, lengths, split_at=split_at)
    checks.check_batch(collator, samples[: recipe.per_device_train_batch_size])
    rows = make_rows(recipe, training, lengths[: len(training)], split_at=split_at)
    check_context_sides(
        validation,
        lengths[len(training) :],
        most_rows=eval_batch_size(recipe),
        split_at=split_at,
    )
    return Setup(
        trainable=trainable,
        collator=collator,
        training=training,
        validation=validation,
        rows=rows,
        steps=count_steps(recipe, len(rows)),
    )


def load_split(recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    """Load training and validation samples: the data's own `validation`, or whole groups held out.

    They have no images if the recipe withholds them.

    Raises:
        ValueError: There is no data, or it cannot be split.
    """
    training, validation = _split(recipe)
    if recipe.withhold_images:
        return withhold_images(training), withhold_images(validation)
    return training, validation


def choose_template(recipe: Recipe) -> Template:
    """Return the recipe's template, else the data's own, else `product`."""
    has_own = (Path(recipe.data) / TEMPLATE_FILE).is_file()
    return find_template(recipe.template or (recipe.data if has_own else "product"))


def make_rows(
    recipe: Recipe, training: Sequence[Sample], lengths: Sequence[int], *, split_at: int
) -> list[Row]:
    """Put each sample into a row of its own, or pack them if the recipe has a pack_length.

    Args:
        recipe: With the length of a packed row.
        training: The training samples.
        lengths: Their tokens.
        split_at: The model's original context: a batch lies on one side of it.

    Raises:
        ValueError: A batch would lie on both sides, or a sample is longer than a row.
    """
    check_context_sides(
        training, lengths, most_rows=recipe.per_device_train_batch_size, split_at=split_at
    )
    if recipe.pack_length is None:
        return [(sample,) for sample in training]
    return pack_samples(training, lengths, recipe.pack_length, split_at=split_at)


def count_steps(recipe: Recipe, rows: int) -> Steps:
    """Count the optimizer steps for a number of rows.

    Input:  250 rows, batches of 8, two of them per step, three epochs, one process
    Output: 16 steps per epoch, 48 in total
    """
    # Whole batches are distributed to the processes; the last ones are filled up from the first.
    batches = math.ceil(math.ceil(rows / recipe.per_device_train_batch_size) / world_size())
    per_epoch = math.ceil(batches / recipe.gradient_accumulation_steps)
    steps = math.ceil(recipe.num_train_epochs * per_epoch)
    return Steps(per_epoch, min(steps, recipe.max_steps or steps))


def eval_batch_size(recipe: Recipe) -> int:
    """Return the rows per forward pass without gradients: twice as many, but 1 stays 1."""
    return 1 if recipe.per_device_train_batch_size == 1 else 2 * recipe.per_device_train_batch_size


def collate_rows(
    collator: CompletionCollator, pack_length: int | None, rows: Sequence[Row]
) -> Batch:
    """Collate rows and select the positions with labels; picklable for worker processes."""
    if pack_length is not None:
        return select_labelled(collate_packs(collator, rows))
    return select_labelled(collator([sample for (sample,) in rows]))


class RowDataset(Dataset[Row]):
    """Rows for PyTorch's DataLoader; images are decoded by the collator."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Row:
        return self.rows[place]


def _split(recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    if not recipe.data:
        raise ValueError(
            "no data given; add --data with a folder or file of samples "
            "(`phi-vision sample --out FOLDER` draws some)"
        )
    splits = available_splits(recipe.data)
    load = functools.partial(load_samples, recipe.data, group_column=recipe.group_column)
    if "validation" in splits and "train" in splits and recipe.validation_fraction is None:
        return load(split="train"), load(split="validation")
    if splits and "train" not in splits:
        raise ValueError(f"{recipe.data} has no train split; it has {', '.join(splits)}")
    fraction = recipe.validation_fraction
    return split_by_group(
        load(split="train" if splits else None),
        validation_fraction=VALIDATION_FRACTION if fraction is None else fraction,
        seed=recipe.seed,
    )
