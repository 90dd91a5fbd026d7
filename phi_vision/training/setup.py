"""Everything a training needs, loaded and checked before its first step. Writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import set_seed

from phi_vision.data.collator import CompletionCollator
from phi_vision.data.packing import check_context_sides, original_context
from phi_vision.data.preference_collator import check_pairs
from phi_vision.data.samples import Sample
from phi_vision.training import checks as guards
from phi_vision.training.adapters import TrainableModel, make_learner
from phi_vision.training.recipes import Recipe
from phi_vision.training.rows import (
    Row,
    Steps,
    choose_template,
    count_steps,
    load_split,
    make_rows,
    rows_examined,
)
from phi_vision.training.sharding import check_can_be_sharded


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything a training needs, checked: what a dry run looks at and a run goes on with."""

    learner: TrainableModel
    collator: CompletionCollator
    training: Sequence[Sample]
    validation: Sequence[Sample]
    rows: Sequence[Row]
    steps: Steps


def prepare(recipe: Recipe) -> Prepared:
    """Load data and model and put every guard in front of the first step.

    Raises:
        ValueError: The recipe, the data or the model cannot be trained with.
    """
    check_can_be_sharded(recipe)
    training, validation = load_split(recipe)
    template = choose_template(recipe)
    guards.check_best_metric(recipe, template)
    set_seed(recipe.seed)
    learner = make_learner(recipe)
    collator = CompletionCollator(
        processor=learner.processor, template=template, max_length=recipe.max_length
    )
    lengths = _guard(recipe, learner, collator, [*training, *validation])
    learnt, examined = lengths[: len(training)], lengths[len(training) :]
    split_at = original_context(learner.model.config)
    rows = make_rows(recipe, training, learnt, split_at=split_at)
    check_context_sides(validation, examined, most_rows=rows_examined(recipe), split_at=split_at)
    return Prepared(
        learner=learner,
        collator=collator,
        training=training,
        validation=validation,
        rows=rows,
        steps=count_steps(recipe, len(rows)),
    )


def _guard(
    recipe: Recipe, learner: TrainableModel, collator: CompletionCollator, samples: Sequence[Sample]
) -> list[int]:
    """Look at all samples' words and sizes, and at the very first batch; give the lengths."""
    lengths = guards.check_samples(collator, samples)
    if recipe.objective == "dpo":
        split_at = original_context(learner.model.config)
        lengths = check_pairs(collator, samples, lengths, split_at=split_at)
    first = samples[: recipe.per_device_train_batch_size]
    batch = collator(first)
    guards.check_images_are_shown(batch, first, learner.processor)
    guards.check_supervision(batch)
    guards.check_prompt_is_inference_prompt(collator, first[0], batch)
    return lengths
