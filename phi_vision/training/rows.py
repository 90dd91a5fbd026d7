"""Data -> rows: which samples are learnt and which held out, what shares a row, how many steps."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import Dataset

from phi_vision.data.collator import Batch, CompletionCollator, select_labelled
from phi_vision.data.dataset import (
    VALIDATION_FRACTION,
    available_splits,
    load_samples,
    split_by_group,
)
from phi_vision.data.image_ablations import withhold_images
from phi_vision.data.packing import check_context_sides, collate_packs, pack_samples
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template, find_template
from phi_vision.training.distributed import world_size
from phi_vision.training.recipes import Recipe

Row = tuple[Sample, ...]
"""What one row of a batch holds: a sample, or several packed."""


class Steps(NamedTuple):
    """Optimizer steps."""

    an_epoch: int
    in_all: int


def load_split(recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    """Load training and validation samples: the data's own `validation`, or whole groups held out.

    They come without images where the recipe withholds them.

    Raises:
        ValueError: There is no data, or it cannot be split.
    """
    training, validation = _split(recipe)
    if recipe.withhold_images:
        return withhold_images(training), withhold_images(validation)
    return training, validation


def choose_template(recipe: Recipe) -> Template:
    """Take the wording the recipe names, else the data's own, else the one of products."""
    has_own = (Path(recipe.data) / TEMPLATE_FILE).is_file()
    return find_template(recipe.template or (recipe.data if has_own else "product"))


def make_rows(
    recipe: Recipe, training: Sequence[Sample], lengths: Sequence[int], *, split_at: int
) -> list[Row]:
    """Give each sample a row of its own, or pack them where the recipe says so.

    Args:
        recipe: Says how long a packed row may be.
        training: The samples to learn from.
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
    """Count the optimizer steps that so many rows make.

    Input:  250 rows, batches of 8, two of them a step, three epochs, one process
    Output: 16 steps an epoch, 48 in all
    """
    # Whole batches are dealt out to the processes; the last ones are filled up from the first.
    batches = math.ceil(math.ceil(rows / recipe.per_device_train_batch_size) / world_size())
    an_epoch = math.ceil(batches / recipe.gradient_accumulation_steps)
    steps = math.ceil(recipe.num_train_epochs * an_epoch)
    return Steps(an_epoch, min(steps, recipe.max_steps or steps))


def rows_examined(recipe: Recipe) -> int:
    """Rows in a forward pass of an evaluation: twice as many, without gradients, but one is one."""
    return 1 if recipe.per_device_train_batch_size == 1 else 2 * recipe.per_device_train_batch_size


def collate_rows(
    collator: CompletionCollator, pack_length: int | None, rows: Sequence[Row]
) -> Batch:
    """Collate and select; a function of the module, so that worker processes can be given it."""
    if pack_length is not None:
        return select_labelled(collate_packs(collator, rows))
    return select_labelled(collator([sample for (sample,) in rows]))


class RowDataset(Dataset[Row]):
    """Rows as PyTorch's DataLoader wants them; images are decoded by the collator."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Row:
        return self.rows[place]


def _split(recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    if not recipe.data:
        raise ValueError(
            "no data given; name a folder or file of samples with --data "
            "(`phi-vision sample --out FOLDER` draws some)"
        )
    splits = available_splits(recipe.data)
    load = functools.partial(load_samples, recipe.data, group_column=recipe.group_column)
    if "validation" in splits and "train" in splits and recipe.validation_fraction is None:
        return load(split="train"), load(split="validation")
    if splits and "train" not in splits:
        raise ValueError(
            f"{recipe.data} has no split 'train' to learn from; it has {', '.join(splits)}"
        )
    fraction = recipe.validation_fraction
    return split_by_group(
        load(split="train" if splits else None),
        validation_fraction=VALIDATION_FRACTION if fraction is None else fraction,
        seed=recipe.seed,
    )
