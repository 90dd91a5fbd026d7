"""Preference optimization (DPO): a chosen beside a rejected completion of the same prompt.

TRL's DPOTrainer has the loss, the reference and the rewards; batches come from our collator, since
TRL's own would truncate rows and encode each image twice.
"""

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import Trainer, TrainerCallback

from phi_vision.data.collator import CompletionCollator
from phi_vision.data.preference_collator import SHARED_PIXELS, SHARED_SIZES, collate_pairs
from phi_vision.data.samples import Sample, join_samples
from phi_vision.model.modeling_phi3_v import Phi3VModel
from phi_vision.training.recipes import Recipe, further_of
from phi_vision.training.setup import Setup

# Column of the dataset for TRL, with the places of samples. TRL takes rows with a column of this
# name for images with text, and leaves them to the collator.
PLACE = "images"
REFERENCE = "ref"  # TRL's name for the reference copy of an adapter


def make_dpo_trainer(
    recipe: Recipe, setup: Setup, arguments: Mapping[str, Any], callbacks: Sequence[TrainerCallback]
) -> Trainer:
    """Make a Trainer that learns to prefer chosen to rejected completions.

    The reference is the model at the start: a frozen copy of all weights (full), the model without
    its adapters if these are new, else a frozen copy of the adapters.
    """
    from trl import DPOConfig, DPOTrainer

    model, samples = setup.trainable.model, join_samples(setup.training, setup.validation)
    has_adapters, reference = isinstance(model, PeftModel), None
    network: Any = model.get_base_model() if has_adapters else model
    if not has_adapters:
        reference = copy.deepcopy(network).eval().requires_grad_(False)
    weights = {name: weight.data for name, weight in model.named_parameters()}
    places = Dataset.from_dict({PLACE: range(len(samples))})
    held_out = places.skip(len(setup.training)) if setup.validation else None
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        # By default TRL truncates rows to 1024 tokens, and switches dropout off.
        args=DPOConfig(
            **{**arguments, "beta": recipe.beta, "max_length": None, "disable_dropout": False},
            **further_of(recipe, "DPOConfig"),
        ),
        train_dataset=places.take(len(setup.training)),
        eval_dataset=held_out,
        data_collator=functools.partial(_collate, setup.collator, samples),
        processing_class=setup.trainable.processor,
        callbacks=[ResumableLogs(), *callbacks],
    )
    # TRL rounds adapters over 4-bit weights to bf16.
    for name, weight in model.named_parameters():
        if name in weights and weight.dtype != weights[name].dtype:
            weight.data = weights[name]
    if has_adapters:
        _configure_reference(model)
    shared = SharedImages()
    for each in filter(None, (network, reference)):
        each.model.register_forward_pre_hook(shared, with_kwargs=True)
    # With a processor the Trainer would set the model's stop tokens to the tokenizer's single one.
    trainer.processing_class = None
    return trainer


def _collate(collator: CompletionCollator, samples: Sequence[Sample], rows: Any) -> dict[str, Any]:
    return collate_pairs(collator, [samples[row[PLACE]] for row in rows])


class ResumableLogs(TrainerCallback):
    """Removes from the logs the number of tokens, which TRL counts from zero after a resume."""

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Remove it."""
        given["logs"].pop("num_tokens", None)


class SharedImages:
    """A hook on the decoder that encodes images of pairs once for both rows.

    With frozen tower and projector, one encoding also serves the rows of the reference.
    """

    def __init__(self) -> None:
        self._pixels: torch.Tensor | None = None
        self._features: list[torch.Tensor] = []

    def __call__(
        self, decoder: Phi3VModel, given: tuple[Any, ...], inputs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace the shared images by their features; leave other inputs alone."""
        own = (SHARED_PIXELS, SHARED_SIZES, "sample_ids")
        others = {name: value for name, value in inputs.items() if name not in own}
        if SHARED_PIXELS in inputs:
            features = self._encode(decoder, inputs[SHARED_PIXELS], inputs[SHARED_SIZES])
            others["mm_encoder_outputs"] = {"image": {"pooler_output": [*features, *features]}}
        return given, others

    def _encode(
        self, decoder: Phi3VModel, pixels_NCSS: torch.Tensor, sizes: torch.Tensor
    ) -> list[torch.Tensor]:
        if any(weight.requires_grad for weight in decoder.vision_embed_tokens.parameters()):
            return list(decoder.get_image_features(pixels_NCSS, sizes)["pooler_output"])
        if self._pixels is not pixels_NCSS:
            with torch.no_grad():
                features = decoder.get_image_features(pixels_NCSS, sizes)["pooler_output"]
            self._pixels, self._features = pixels_NCSS, list(features)
        return self._features


def _configure_reference(model: PeftModel) -> None:
    """Use the model without adapters as reference if they are new, else TRL's copy of them."""
    # New ones have no effect, so that a copy would only take memory and space in checkpoints.
    named = model.named_parameters()
    if not any(bool(weight.any()) for name, weight in named if "lora_B.default" in name):
        model.delete_adapter(REFERENCE)
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and name.endswith(f"lora_dropout.{REFERENCE}"):
            module.p = 0.0  # a reference with dropout would be noise in the rewards
