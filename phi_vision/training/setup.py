"""Everything a training needs, loaded and checked before its first step. Writes nothing."""

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import set_seed

from phi_vision.data import dataset, packing
from phi_vision.data.augmentation import AugmentedRows, check_hue, recur
from phi_vision.data.collator import IGNORED, Batch, CompletionCollator, select_labelled
from phi_vision.data.conversation import are_conversations, conversation_template
from phi_vision.data.feature_cache import cache_features
from phi_vision.data.preference_collator import check_pairs
from phi_vision.data.samples import (
    Sample,
    SampleRows,
    join_samples,
    may_have_messages,
    select,
    withhold_images,
)
from phi_vision.data.streaming import StreamedRows, open_streams, read_head
from phi_vision.data.template import CONVERSATION, TEMPLATE_FILE, Template, find_template
from phi_vision.generation.request import MAX_NEW_TOKENS, MAX_TURN_TOKENS
from phi_vision.io.formatting import error_texts
from phi_vision.io.process import check_installed
from phi_vision.metrics.field_metrics import headline_metrics, metrics_for
from phi_vision.model.checkpoint import UNTRAINED
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training.adapters import TrainableModel, fingerprint_base, load_trainable
from phi_vision.training.distributed import world_size
from phi_vision.training.projector_start import add_noise, start_projection
from phi_vision.training.recipes import VALIDATION_LOSS, Recipe

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

# A completion is a small part of its row; with a larger share prompt or padding has labels. The
# completions of a conversation may be nearly all of it.
MAX_SUPERVISED_SHARE = 0.9
MAX_LEFT_OUT = 0.1  # share of the samples that may be left out as too long
CHUNK = 200  # samples that are tokenized together

Row = tuple[Sample, ...]  # of a batch: one sample, or several packed


class Steps(NamedTuple):
    """Optimizer steps."""

    per_epoch: int
    total: int


@dataclass(frozen=True)
class Setup:
    """Everything a training needs, checked."""

    trainable: TrainableModel
    base_fingerprint: str
    collator: CompletionCollator
    training: Sequence[Sample]
    validation: Sequence[Sample]
    rows: SampleRows | AugmentedRows | StreamedRows
    steps: Steps


def prepare(recipe: Recipe) -> Setup:
    """Load data and model and run every check that precedes the first step, or raise ValueError."""
    check_libraries(recipe)
    training, validation = load_split(recipe)
    samples = join_samples(training, validation)
    template = choose_template(recipe, training)
    if are_conversations(training) or (validation and recipe.eval_samples):
        check_fields(samples, template)
    best_metric(recipe, template)  # raises for an unknown one
    check_hue(recipe.augmentation, training, template)
    set_seed(recipe.seed)
    trainable = load_trainable(recipe)
    base_fingerprint, config = fingerprint_base(recipe.model), trainable.model.config
    # Sharded, the processes run the tower together, or not at all.
    known = None
    if not recipe.train_vision and recipe.sharding == "none":
        cutter = trainable.processor.image_processor
        known = cache_features(trainable.model, cutter, in_training=recur(recipe.augmentation))
    _start_projector(recipe, trainable, training, template)
    # What is streamed is checked in its step.
    longest = config.max_position_embeddings if recipe.streaming else None
    collator = CompletionCollator(
        processor=trainable.processor,
        template=template,
        max_length=recipe.max_length or longest,
        known_images=known,
    )
    split_at = packing.original_context(config)
    # Packing needs all lengths; else it is enough to know that they are within the limits.
    enough = 0 if recipe.pack_length else min(split_at, recipe.max_length or split_at)
    lengths = check_samples(collator, samples, enough=enough)
    if recipe.objective == "dpo":
        lengths = check_pairs(collator, samples, lengths, split_at=split_at, enough=enough)
    count = len(training)
    training, training_lengths = leave_out_long(recipe, config, training, lengths[:count])
    validation, _ = leave_out_long(recipe, config, validation, lengths[count:])
    first = training[: recipe.per_device_train_batch_size]
    batch = collator(first)
    check_images(batch, first, trainable.processor)
    check_labels(batch, max_share=1.0 if are_conversations(first) else MAX_SUPERVISED_SHARE)
    check_prompt(collator, first[0], batch)
    rows = make_rows(recipe, config, training, training_lengths)
    steps = count_steps(recipe, 0 if isinstance(rows, StreamedRows) else len(rows))
    return Setup(trainable, base_fingerprint, collator, training, validation, rows, steps)


def check_libraries(recipe: Recipe) -> None:
    """Check that the libraries that the recipe needs are installed, or raise ValueError."""
    quant = ("bitsandbytes", "phi-vision[quant]")
    if recipe.quantization:
        check_installed(*quant, f"quantization {recipe.quantization}", ", or use lora")
    if not recipe.optim.startswith("adamw_torch"):
        check_installed(*quant, f"optim {recipe.optim}", ", or use adamw_torch_fused")
    if recipe.objective == "dpo":
        check_installed("trl", "phi-vision[dpo]", "objective dpo")
    if recipe.report_to == "tensorboard":
        package = "phi-vision[tensorboard]"
        check_installed("tensorboard", package, "report_to tensorboard", ", or use wandb")


def _start_projector(
    recipe: Recipe, trainable: TrainableModel, training: Sequence[Sample], template: Template
) -> None:
    """Start the projection as the recipe says, or raise ValueError; add the noise of training."""
    model = trainable.model
    is_new = getattr(model.config, UNTRAINED, False) and not recipe.withhold_images
    if is_new and not recipe.train_projector:
        raise failure("untrained_projector", model=recipe.model)
    if recipe.projector_start == "closed-form" or (is_new and recipe.projector_start is None):
        start_projection(model, trainable.processor, training, template)
    if is_new:
        delattr(model.config, UNTRAINED)  # or a saved model would start anew
    add_noise(model, feature_noise=recipe.feature_noise, token_dropout=recipe.image_token_dropout)


def load_split(recipe: Recipe) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Load training and validation samples: the data's own `validation`, or groups held out."""
    if not recipe.data:
        raise failure("no_data")
    if recipe.streaming:
        return load_heads(recipe)
    splits, fraction = dataset.available_splits(recipe.data), recipe.validation_fraction
    load = functools.partial(dataset.load_samples, recipe.data, group_column=recipe.group_column)
    if splits and "train" not in splits:
        raise failure("no_train_split", data=recipe.data, splits=", ".join(splits))
    training: Sequence[Sample] = load(split="train" if splits else None)
    validation: Sequence[Sample] = ()
    if "validation" in splits and fraction is None:
        validation = load(split="validation")
    else:
        fraction = dataset.VALIDATION_FRACTION if fraction is None else fraction
        training, validation = dataset.split_by_group(
            training, validation_fraction=fraction, seed=recipe.seed
        )
    if recipe.withhold_images:
        return withhold_images(training), withhold_images(validation)
    return training, validation


def load_heads(recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    """Load the first training and validation samples of a stream."""
    streams = open_streams(recipe.data)
    if "train" not in streams:
        raise failure("no_train_split", data=recipe.data, splits=", ".join(streams))
    heads = {
        name: read_head(streams[name], recipe.data, recipe.group_column)
        for name in ("train", "validation")
        if name in streams
    }
    if not heads["train"]:
        raise failure("no_samples", data=recipe.data)
    return heads["train"], heads.get("validation", [])


def choose_template(recipe: Recipe, training: Sequence[Sample]) -> Template:
    """Return the recipe's template, else the data's, else `conversation` or `product`."""
    has_own = (Path(recipe.data) / TEMPLATE_FILE).is_file()
    default = CONVERSATION.name if are_conversations(training) else "product"
    template = find_template(recipe.template or (recipe.data if has_own else default))
    return conversation_template(training) if template == CONVERSATION else template


def leave_out_long(
    recipe: Recipe, config: Phi3VConfig, samples: Sequence[Sample], lengths: Sequence[int]
) -> tuple[Sequence[Sample], Sequence[int]]:
    """Leave out a few samples too long for the model or others of their batch, or raise ValueError.

    Rows beyond the original context would change the rotary factors of shorter rows beside them.
    """
    split_at, most_rows = packing.original_context(config), recipe.per_device_train_batch_size
    is_mixed = most_rows > 1 and min(lengths, default=0) <= split_at
    limit = split_at if is_mixed else config.max_position_embeddings
    kept = [place for place, length in enumerate(lengths) if length <= limit]
    count = len(samples) - len(kept)
    if count > max(1, MAX_LEFT_OUT * len(samples)) or (count and not kept):
        packing.check_context_sides(samples, lengths, most_rows=most_rows, split_at=split_at)
        raise failure("beyond_context", count=count, total=len(samples), limit=limit)
    if count:
        longest = max(range(len(samples)), key=lengths.__getitem__)
        logger.warning(
            "%d of %d samples have more than %d tokens (%r has %d) and are left out%s",
            *(count, len(samples), limit, samples[longest].id, lengths[longest]),
            "; --per-device-train-batch-size 1 trains them too" if is_mixed else "",
        )
        return select(samples, kept), [lengths[place] for place in kept]
    return samples, lengths


def make_rows(
    recipe: Recipe, config: Phi3VConfig, training: Sequence[Sample], lengths: Sequence[int]
) -> SampleRows | AugmentedRows | StreamedRows:
    """Put each sample into a row of its own, or pack them; change images as the recipe says."""
    if recipe.streaming:
        batch = recipe.per_device_train_batch_size * world_size()
        return StreamedRows(recipe.data, recipe.group_column, seed=recipe.seed, batch_rows=batch)
    rows = SampleRows(training)
    if recipe.pack_length is not None:
        split_at = packing.original_context(config)
        rows = packing.pack_samples(training, lengths, recipe.pack_length, split_at=split_at)
    if recipe.augmentation:
        return AugmentedRows(rows, recipe.augmentation, seed=recipe.seed)
    return rows


def count_steps(recipe: Recipe, rows: int) -> Steps:
    """Count the optimizer steps for a number of rows.

    Input:  250 rows, batches of 8, two of them per step, three epochs, one process
    Output: 16 steps per epoch, 48 in total
    """
    if recipe.streaming:
        assert recipe.max_steps is not None
        return Steps(recipe.max_steps, recipe.max_steps)
    # Whole batches are distributed to the processes; the last ones are filled up from the first.
    batches = math.ceil(math.ceil(rows / recipe.per_device_train_batch_size) / world_size())
    per_epoch = math.ceil(batches / recipe.gradient_accumulation_steps)
    steps = math.ceil(recipe.num_train_epochs * per_epoch)
    return Steps(per_epoch, min(steps, recipe.max_steps or steps))


def eval_batch_size(recipe: Recipe) -> int:
    """Return the rows per forward pass without gradients: twice as many, but 1 stays 1."""
    return 1 if recipe.per_device_train_batch_size == 1 else 2 * recipe.per_device_train_batch_size


def max_new_tokens(template: Template) -> int:
    """Return the maximum length of the predictions that an evaluation generates."""
    return MAX_TURN_TOKENS if template.is_conversation else MAX_NEW_TOKENS


def collate_rows(
    collator: CompletionCollator, pack_length: int | None, rows: Sequence[Row]
) -> Batch:
    """Collate rows and select the positions with labels."""
    if pack_length is not None:
        return select_labelled(packing.collate_packs(collator, rows))
    return select_labelled(collator([sample for (sample,) in rows]))


def collate_streamed(collator: CompletionCollator, split_at: int, rows: Sequence[Row]) -> Batch:
    """Collate rows of a stream, of which no lengths are known before; see `collate_rows`."""
    samples = [sample for (sample,) in rows]
    batch = collator(samples)
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    packing.check_context_sides(samples, lengths, most_rows=len(rows), split_at=split_at)
    return select_labelled(batch)


def row_collator(recipe: Recipe, setup: Setup) -> Callable[[Sequence[Row]], Batch]:
    """Return what collates the rows of a recipe; picklable for worker processes."""
    if recipe.streaming:
        split_at = packing.original_context(setup.trainable.model.config)
        return functools.partial(collate_streamed, setup.collator, split_at)
    return functools.partial(collate_rows, setup.collator, recipe.pack_length)


def check_images(batch: Batch, samples: Sequence[Sample], processor: Phi3VProcessor) -> None:
    """Check that the model gets every image of a batch, at as many positions as it has tokens."""
    images = sum(len(sample.images) for sample in samples)
    if not images:
        return
    for name in ("pixel_values", "image_sizes"):
        if name not in batch:
            raise failure("no_image_input", images=images, name=name)
    sizes = batch["image_sizes"].tolist()
    expected = sum(processor.image_processor.count_tokens(*size) for size in sizes)
    found = int((batch["input_ids"] == processor.image_token_id).sum())
    if len(sizes) != images or found != expected:
        raise failure(
            "image_positions", images=images, expected=expected, found=found, count=len(sizes)
        )


def check_labels(batch: Batch, *, max_share: float = MAX_SUPERVISED_SHARE) -> None:
    """Raise ValueError for labels on padding, rows without labels, and labelled prompts."""
    labelled, real = batch["labels"] != IGNORED, batch["attention_mask"] == 1
    on_padding, empty = int((labelled & ~real).sum()), int((~labelled.any(dim=1)).sum())
    share = int(labelled.sum()) / int(real.sum())
    if on_padding:
        raise failure("labels_on_padding", on_padding=on_padding, ignored=IGNORED)
    if empty:
        raise failure("no_label", empty=empty, rows=len(labelled))
    if share > max_share:
        raise failure("labelled_prompt", share=share, limit=max_share, ignored=IGNORED)


def check_prompt(collator: CompletionCollator, sample: Sample, batch: Batch) -> None:
    """Check that a batch's first row, of `sample`, begins with the very prompt of inference."""
    prompt, images = collator.segments(sample)[0].text, sample.open_images() or None
    expected = collator.processor(text=prompt, images=images, return_tensors="pt")["input_ids"][0]
    first_label = int((batch["labels"][0] != IGNORED).int().argmax())
    trained = batch["input_ids"][0, :first_label]
    if not torch.equal(expected, trained):
        lengths = {"trained": len(trained), "expected": len(expected)}
        raise failure("other_prompt", sample=sample.id, **lengths, template=collator.template.name)


def check_fields(samples: Sequence[Sample], template: Template) -> None:
    """Check that an evaluation can compare every conversation, or raise ValueError."""
    if template.is_conversation or not may_have_messages(samples):
        return
    lacking = [
        sample
        for sample in samples
        if sample.messages and any(sample.record.get(field) is None for field in template.fields)
    ]
    if lacking:
        fields = ", ".join(template.fields)
        counts = {"count": len(lacking), "total": len(samples), "sample": lacking[0].id}
        raise failure("not_comparable", **counts, template=template.name, fields=fields)


def best_metric(recipe: Recipe, template: Template) -> tuple[str, bool]:
    """Return the Trainer's name of `metric_for_best_model`, and whether higher is better.

    By default the headline metric of a category with which generated answers begin, else the loss.
    Raises ValueError if predictions in the template have no such metric.
    """
    name, metrics, first = recipe.metric_for_best_model, metrics_for(template), template.fields[0]
    if name is None:
        is_category = template.kinds[first] == "category" and recipe.objective == "sft"
        headline = headline_metrics(template)[0]
        name = headline if is_category and recipe.eval_samples else VALIDATION_LOSS
    if name == VALIDATION_LOSS:
        return "eval_loss", False
    known = [VALIDATION_LOSS, *(each for each in metrics if metrics[each].better != "zero")]
    if name not in known:
        raise failure("no_metric", metric=name, template=template.name, known=", ".join(known))
    return f"eval_{name}", metrics[name].better == "higher"


def check_samples(
    collator: CompletionCollator, samples: Sequence[Sample], *, enough: int = 0
) -> list[int]:
    """Check samples for what would fail during the training; return their lengths in tokens.

    Texts are tokenized and headers of images read for up to `MAX_CHECKED` samples, evenly spread,
    and for those that may have more than `enough` tokens; the others have a bound of their length.
    """
    lengths, total = list[int](), len(samples)
    fields, missing, records = collator.template.fields, Counter[str](), 0
    chosen = set(dataset.spread(total, dataset.MAX_CHECKED))
    # Only these are held, a few at a time.
    exact = list[tuple[int, Sample]]()
    for place, (sample, bound) in enumerate(collator.bound_tokens(samples)):
        lengths.append(bound)
        if bound > enough or place in chosen:
            exact.append((place, sample))
        if not sample.messages:
            records += 1
            missing.update(field for field in fields if sample.record[field] is None)
        if len(exact) == CHUNK or place == total - 1:
            counted = collator.count_all([each for _, each in exact])
            for (at, _), tokens in zip(exact, counted, strict=True):
                lengths[at] = sum(tokens)
            exact = []
    limit = collator.max_length
    too_long = [length for length in lengths if limit is not None and length > limit]
    if too_long:
        counts = {"count": len(too_long), "total": total, "longest": max(too_long)}
        raise failure("too_long", **counts, limit=limit)
    for field in fields:
        if records and missing[field] == records:
            raise failure("all_missing", field=field, template=collator.template.name)
        lacking = (missing[field], total, field)
        if field in collator.template.optional:
            logger.info("%d of %d samples have no %s: %s", *lacking, collator.template.missing)
        elif missing[field]:
            logger.warning(
                "%d of %d samples have no %s, and the model learns to answer null there; if it is "
                "only unknown, remove these samples, or make the field optional in the template, "
                "as in {%s?}",
                *(*lacking, field),
            )
    return lengths
