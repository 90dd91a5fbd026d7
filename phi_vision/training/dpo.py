"""Preference optimization (DPO): a chosen beside a rejected completion of the same prompt.

TRL's DPOTrainer has the loss, the reference and the rewards; batches come from our collator, since
TRL's own would truncate rows and encode each image twice. Text and images of the prompt are those
of supervised fine-tuning and of inference.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerState

from phi_vision.data.collator import CompletionCollator
from phi_vision.data.preference_collator import SHARED_PIXELS, SHARED_SIZES, collate_pairs
from phi_vision.data.samples import Sample
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM, Phi3VModel
from phi_vision.training.hf_fields import further_of
from phi_vision.training.optim import describe_optimizer
from phi_vision.training.recipes import Recipe
from phi_vision.training.setup import Setup

PLACE = "images"
"""Column of the dataset for TRL, with the places of samples. TRL takes rows with a column of this
name for images with text, and leaves them to the collator."""

REFERENCE = "ref"
"""TRL's name for the reference copy of an adapter."""


def make_dpo_trainer(
    recipe: Recipe,
    setup: Setup,
    arguments: Mapping[str, Any],
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    """Make a Trainer that learns to prefer chosen to rejected completions.

    The reference is the model at the start: a frozen copy of all weights (full), the model without
    its adapters if these are new, else a frozen copy of the adapters. Logs the rewards of both
    completions, their margin, and how often the chosen one is preferred.

    Args:
        recipe: With objective dpo.
        setup: Its samples have a rejected completion, see `preference_collator.check_pairs`.
        arguments: Fields of transformers' TrainingArguments.
        callbacks: For the Trainer.
    """
    from trl import DPOConfig, DPOTrainer

    model, training, validation = setup.trainable.model, setup.training, setup.validation
    is_adapter = isinstance(model, PeftModel)
    reference = None if is_adapter else copy.deepcopy(model).eval().requires_grad_(False)
    weights = {name: weight.data for name, weight in model.named_parameters()}
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(
            **arguments,
            beta=recipe.beta,
            # By default TRL truncates rows to 1024 tokens, and switches dropout off.
            max_length=None,
            disable_dropout=False,
            **further_of(recipe.further, "DPOConfig"),
        ),
        train_dataset=_places(0, len(training)),
        eval_dataset=_places(len(training), len(validation)) if validation else None,
        data_collator=PairCollator(collator=setup.collator, samples=(*training, *validation)),
        processing_class=setup.trainable.processor,
        callbacks=[ResumableLogs(), *callbacks],
    )
    # TRL rounds adapters over 4-bit weights to bf16.
    for name, weight in model.named_parameters():
        if name in weights and weight.dtype != weights[name].dtype:
            weight.data = weights[name]
    if isinstance(model, PeftModel):
        _configure_reference(model)
    _share_images(model, reference)
    # With a processor the Trainer would set the model's stop tokens to the tokenizer's single one.
    trainer.processing_class = None
    trainer.optimizer_cls_and_kwargs = describe_optimizer(recipe, model, trainer.args)
    return trainer


@dataclass(frozen=True, kw_only=True)
class PairCollator:
    """Collates pairs from TRL's dataset, which holds the places of samples."""

    collator: CompletionCollator
    samples: tuple[Sample, ...]

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """Collate the samples at the given places."""
        return collate_pairs(self.collator, [self.samples[row[PLACE]] for row in rows])


class ResumableLogs(TrainerCallback):
    """Removes from the logs what TRL would count from zero again after a resume."""

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: Any,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Remove the number of tokens so far."""
        if logs is not None:
            logs.pop("num_tokens", None)


class SharedImages:
    """Encodes the images of a batch of pairs once, for both rows of each pair.

    A hook on the decoder, which runs where TRL calls the model: within its autocast and inside of
    DDP wrappers. If tower and projector are frozen, reference and trained model have the same
    features, so one encoding serves all four rows of a pair.
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


def _share_images(*models: Phi3VForCausalLM | PeftModel | None) -> None:
    shared = SharedImages()
    for model in models:
        if model is not None:
            whole: Any = model.get_base_model() if isinstance(model, PeftModel) else model
            whole.model.register_forward_pre_hook(shared, with_kwargs=True)


def _places(first: int, count: int) -> Dataset:
    return Dataset.from_dict({PLACE: list(range(first, first + count))})


def _configure_reference(model: PeftModel) -> None:
    """Use the model without adapters as reference if they are new, else TRL's copy of them.

    New ones have no effect, so that a copy would only take memory and space in checkpoints.
    """
    started = [
        bool(weight.any()) for name, weight in model.named_parameters() if "lora_B.default" in name
    ]
    if not any(started):
        model.delete_adapter(REFERENCE)
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and name.endswith(f"lora_dropout.{REFERENCE}"):
            module.p = 0.0  # a reference with dropout would be noise in the rewards
