"""Refuses to train blind: what goes wrong silently elsewhere is an error here, before it costs.

Each guard looks at the very batch or model that training uses, and says what is wrong, what was
found and what to do. What looks while it trains is in `watch.py`; the canary, which shuffles the
images, belongs to the evaluation (`evaluate/score.py`) and is sounded by `examiner.py`.
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
"""Fields of LoraConfig that decide the shape of adapters and what they are trained with."""

MOST_SUPERVISED = 0.9
"""An answer is a small part of its row. A larger share means that prompt or padding is learnt."""


def check_images_are_shown(
    batch: Batch, samples: Sequence[Sample], processor: Phi3VProcessor
) -> None:
    """Refuse a batch whose images the model would not see.

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
                "would train on words alone; pass everything that the processor returns"
            )
    sizes = batch["image_sizes"].tolist()
    expected = sum(processor.image_processor.count_tokens(*size) for size in sizes)
    found = int((batch["input_ids"] == processor.image_token_id).sum())
    if len(sizes) != images or found != expected:
        raise ValueError(
            f"{images} images need {expected} image positions but the text has {found} of them "
            f"for {len(sizes)} images; write one <|image_1|> tag per image and never cut rows"
        )


def check_supervision(batch: Batch) -> None:
    """Refuse labels on padding, rows without labels, and a share that no answer has.

    Raises:
        ValueError: See above.
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
            f"{empty} of {len(labelled)} rows have no label, so nothing is learnt from them; "
            "label the answer and its <|end|>"
        )
    share = int(labelled.sum()) / int(real.sum())
    if share > MOST_SUPERVISED:
        raise ValueError(
            f"{share:.0%} of all tokens are labelled, more than {MOST_SUPERVISED:.0%}: the prompt "
            f"or the image is learnt too; set all but the answer to {IGNORED}"
        )


def check_prompt_is_inference_prompt(
    collator: CompletionCollator, sample: Sample, batch: Batch
) -> None:
    """Refuse a training row that does not begin with exactly what the model is asked later.

    Args:
        collator: What made the batch.
        sample: The first sample of the batch.
        batch: Its first row must be of `sample`.

    Raises:
        ValueError: The unlabelled part of the row is not what the processor gives for the prompt.
    """
    prompt = collator.segments(sample)[0].text
    asked = collator.processor(
        text=prompt, images=sample.open_images() or None, return_tensors="pt"
    )["input_ids"][0]
    first_label = int((batch["labels"][0] != IGNORED).int().argmax())
    learnt = batch["input_ids"][0, :first_label]
    if not torch.equal(asked, learnt):
        raise ValueError(
            f"sample {sample.id!r} trains after {len(learnt)} prompt tokens but the model is asked "
            f"with {len(asked)}, or with others; build both with template "
            f"{collator.template.name!r}"
        )


def check_best_metric(recipe: Recipe, template: Template) -> None:
    """Refuse to choose the best weights by a metric that the answers do not have.

    Raises:
        ValueError: Names the metrics that there are.
    """
    metrics = metrics_for(template).values()
    known = (VALIDATION_LOSS, *(metric.name for metric in metrics if metric.better != "zero"))
    if recipe.metric_for_best_model not in known:
        raise ValueError(
            f"metric_for_best_model is {recipe.metric_for_best_model}, but predictions in the "
            f"template {template.name!r} have no such metric; choose one of {', '.join(known)}"
        )


def check_samples(collator: CompletionCollator, samples: Sequence[Sample]) -> list[int]:
    """Refuse samples that would fail in the middle of the training, or would have to be cut.

    Returns:
        Their lengths in tokens.

    Raises:
        ValueError: A record lacks a field of the template, an image cannot be read or is too thin,
            or samples have more tokens than the collator's `max_length`.
    """
    lengths = [sum(collator.count_tokens(sample)) for sample in samples]
    if collator.max_length is None:
        return lengths
    too_long = [length for length in lengths if length > collator.max_length]
    if too_long:
        raise ValueError(
            f"{len(too_long)} of {len(samples)} samples have more than max_length "
            f"{collator.max_length} tokens (the longest {max(too_long)}), and cutting them would "
            "cut image tokens; raise max_length or leave it out"
        )
    return lengths


def check_adapter_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Refuse names of layers that the language model does not have.

    Raises:
        ValueError: Says which names it has.
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
    """Refuse a model of which a part that should learn carries no adapter.

    Raises:
        ValueError: The decoder's layers, or those of the tower, have no LoRA weights.
    """
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    if recipe.train_language and not any(map(_is_decoder_layer, adapted)):
        raise ValueError(
            "no language-model layer carries an adapter, so it would not learn; name its linear "
            "layers in target_modules"
        )
    if recipe.train_vision and all(map(_is_decoder_layer, adapted)):
        raise ValueError(
            "no layer of the CLIP tower carries an adapter, so it would not learn; start from an "
            "adapter that has them, or leave train_vision out"
        )


def check_same_adapters(found: LoraConfig, wanted: LoraConfig, source: str) -> None:
    """Refuse to go on with adapters of another shape than the recipe's.

    Raises:
        ValueError: Says what differs.
    """
    for name in ADAPTER_FIELDS:
        held, asked = (_plain(getattr(each, name)) for each in (found, wanted))
        if held != asked:
            name = "train_projector" if name == "modules_to_save" else name
            raise ValueError(
                f"the adapter {source} was made with {name} {held}, this recipe has {asked}; give "
                "the same to train it further, or start from its base"
            )


def _is_decoder_layer(name: str) -> bool:
    """Tell `model.layers.0.mlp.down_proj`, also below PEFT's prefix, from the tower's layers."""
    return ".layers." in f".{name}" and "vision_embed_tokens" not in name


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _plain(value: object) -> object:
    """Make lists and sets of names comparable: `{"b", "a"}` -> `["a", "b"]`; None is empty."""
    if value is None:
        return []
    return sorted(value) if isinstance(value, list | set | tuple) else value
