"""Checks before the first step: mistakes that are silent elsewhere are errors here.

Each looks at the very batch or model that training uses. callbacks.py checks during training; the
shuffled-image check belongs to evaluations (metrics/scores.py) and is logged by eval_callback.py.
"""

from collections.abc import Sequence

import torch
from peft import LoraConfig
from torch import nn

from phi_vision.data.collator import IGNORED, Batch, CompletionCollator
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.metrics.field_metrics import metrics_for
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training.recipes import VALIDATION_LOSS, Recipe

MAX_SUPERVISED_SHARE = 0.9
"""A completion is a small part of its row. A larger share means that prompt or padding has labels.
"""

ADAPTER_FIELDS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "use_dora",
    "use_rslora",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
)
"""Fields of LoraConfig that decide shape, scale and training of adapters."""


def check_batch(collator: CompletionCollator, samples: Sequence[Sample]) -> None:
    """Check the first batch: images, labels, and that its prompt is that of inference.

    Raises:
        ValueError: See the checks.
    """
    batch = collator(samples)
    check_images(batch, samples, collator.processor)
    check_labels(batch)
    check_prompt(collator, samples[0], batch)


def check_images(batch: Batch, samples: Sequence[Sample], processor: Phi3VProcessor) -> None:
    """Check that the model gets every image of a batch.

    Raises:
        ValueError: Samples have images, but the batch has no `pixel_values`, no `image_sizes`,
            or not as many image positions as the images have image tokens.
    """
    images = sum(len(sample.images) for sample in samples)
    if not images:
        return
    for name in ("pixel_values", "image_sizes"):
        if name not in batch:
            raise ValueError(
                f"the samples have {images} images but the batch has no {name}, so the model "
                "would train on text alone; pass everything that the processor returns"
            )
    sizes = batch["image_sizes"].tolist()
    expected = sum(processor.image_processor.count_tokens(*size) for size in sizes)
    found = int((batch["input_ids"] == processor.image_token_id).sum())
    if len(sizes) != images or found != expected:
        raise ValueError(
            f"{images} images need {expected} image positions but the text has {found} of them "
            f"for {len(sizes)} images; write one <|image_1|> tag per image and never truncate rows"
        )


def check_labels(batch: Batch) -> None:
    """Check for labels on padding, rows without labels, and a share that no completion has.

    Raises:
        ValueError: There are such.
    """
    labelled = batch["labels"] != IGNORED
    real = batch["attention_mask"] == 1
    on_padding = int((labelled & ~real).sum())
    if on_padding:
        raise ValueError(
            f"{on_padding} labels are on padding, so the model would learn to pad; "
            f"set them to {IGNORED}"
        )
    empty = int((~labelled.any(dim=1)).sum())
    if empty:
        raise ValueError(
            f"{empty} of {len(labelled)} rows have no label, so nothing is learned from them; "
            "label the completion and its <|end|>"
        )
    share = int(labelled.sum()) / int(real.sum())
    if share > MAX_SUPERVISED_SHARE:
        raise ValueError(
            f"{share:.0%} of all tokens are labelled, more than {MAX_SUPERVISED_SHARE:.0%}: the "
            f"prompt or the image is learned too; set all but the completion to {IGNORED}"
        )


def check_prompt(collator: CompletionCollator, sample: Sample, batch: Batch) -> None:
    """Check that a training row begins with exactly the prompt of inference.

    Args:
        collator: The collator of the batch.
        sample: The first sample of the batch.
        batch: Its first row must be of `sample`.

    Raises:
        ValueError: The unlabelled part of the row differs from what the processor returns.
    """
    prompt = collator.segments(sample)[0].text
    images = sample.open_images() or None
    expected = collator.processor(text=prompt, images=images, return_tensors="pt")["input_ids"][0]
    first_label = int((batch["labels"][0] != IGNORED).int().argmax())
    trained = batch["input_ids"][0, :first_label]
    if not torch.equal(expected, trained):
        raise ValueError(
            f"sample {sample.id!r} trains after {len(trained)} prompt tokens but inference has "
            f"{len(expected)}, or others; build both with template {collator.template.name!r}"
        )


def check_best_metric(recipe: Recipe, template: Template) -> None:
    """Check that predictions in a template have the recipe's `metric_for_best_model`.

    Raises:
        ValueError: They have not; with the metrics that there are.
    """
    metrics = metrics_for(template).values()
    known = (VALIDATION_LOSS, *(metric.name for metric in metrics if metric.better != "zero"))
    if recipe.metric_for_best_model not in known:
        raise ValueError(
            f"metric_for_best_model is {recipe.metric_for_best_model}, but predictions in the "
            f"template {template.name!r} have no such metric; choose one of {', '.join(known)}"
        )


def check_samples(collator: CompletionCollator, samples: Sequence[Sample]) -> list[int]:
    """Check every sample for what would fail in the middle of the training.

    Returns:
        Their lengths in tokens.

    Raises:
        ValueError: A record lacks a field of the template, an image cannot be read or is too thin,
            or samples have more tokens than the collator's `max_length`.
    """
    lengths = [sum(collator.count_tokens(sample)) for sample in samples]
    limit = collator.max_length
    too_long = [length for length in lengths if limit is not None and length > limit]
    if too_long:
        raise ValueError(
            f"{len(too_long)} of {len(samples)} samples have more than max_length {limit} tokens "
            f"(the longest {max(too_long)}), and truncating them would cut image tokens; raise "
            "max_length or leave it out"
        )
    return lengths


def check_adapter_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Check that the language model has linear layers of these names.

    Raises:
        ValueError: It has not; with the names that it has.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    of_decoder = sorted({_last(name) for name in linear if _is_decoder_layer(name)} - {"default"})
    missed = [target for target in targets if target not in of_decoder]
    if not missed:
        return
    of_tower = [target for target in missed if target in map(_last, linear)]
    if of_tower:
        raise ValueError(
            f"adapters on {', '.join(of_tower)} reach no language-model layer, only the vision "
            f"tower; the language model has {', '.join(of_decoder)}, and train_vision adapts the "
            "tower"
        )
    raise ValueError(
        f"no linear layer is named {', '.join(missed)}; the language model has "
        f"{', '.join(of_decoder)}"
    )


def check_adapters_are_attached(model: nn.Module, recipe: Recipe) -> None:
    """Check that every part to train carries adapters.

    Raises:
        ValueError: The decoder's layers, or those of the tower, have no LoRA weights.
    """
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    if recipe.train_language and not any(map(_is_decoder_layer, adapted)):
        raise ValueError(
            "no language-model layer carries an adapter, so it would not learn; list its linear "
            "layers in target_modules"
        )
    if recipe.train_vision and all(map(_is_decoder_layer, adapted)):
        raise ValueError(
            "no layer of the CLIP tower carries an adapter, so it would not learn; start from an "
            "adapter that has them, or leave train_vision out"
        )


def check_same_adapters(found: LoraConfig, wanted: LoraConfig, source: str) -> None:
    """Check that adapters to train further are those of the recipe.

    Raises:
        ValueError: They are not; with the difference.
    """
    for name in ADAPTER_FIELDS:
        theirs, ours = (_plain(getattr(each, name)) for each in (found, wanted))
        if theirs != ours:
            name = "train_projector" if name == "modules_to_save" else name
            raise ValueError(
                f"the adapter {source} was made with {name} {theirs}, this recipe has {ours}; use "
                "the same to train it further, or start from its base"
            )


def _is_decoder_layer(name: str) -> bool:
    """Whether `model.layers.0.mlp.down_proj` and the like, not a layer of the tower."""
    return ".layers." in f".{name}" and "vision_embed_tokens" not in name


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _plain(value: object) -> object:
    """Make lists and sets of names comparable: `{"b", "a"}` -> `["a", "b"]`; None is empty."""
    if value is None:
        return []
    return sorted(value) if isinstance(value, list | set | tuple) else value
