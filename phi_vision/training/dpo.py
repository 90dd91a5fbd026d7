"""Training on preferences: the right answer beside a worse one to the same prompt (DPO).

TRL's DPOTrainer has the loss, the reference and the rewards; batches come from our collator, since
TRL's own would cut rows and show each image twice. Text and images of the prompt are those of
supervised training and of inference.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phi_vision.data.collator import CompletionCollator
from phi_vision.data.preference_collator import SHARED_PIXELS, SHARED_SIZES, collate_pairs
from phi_vision.data.samples import Sample
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM, Phi3VModel
from phi_vision.training.adapters import TrainableModel
from phi_vision.training.hf_fields import further_of
from phi_vision.training.optim import describe_optimizer
from phi_vision.training.recipes import Recipe

PLACE = "images"
"""Column of the dataset that TRL is given. By this name it takes rows for images with words, and
leaves them to the collator."""

REFERENCE = "ref"
"""TRL's name for the copy of an adapter that it compares with."""


def make_dpo_trainer(
    recipe: Recipe,
    learner: TrainableModel,
    collator: CompletionCollator,
    arguments: Mapping[str, Any],
    *,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    """Make a Trainer that learns to prefer right answers to rejected ones.

    What it compares with is the model as it is now: a frozen copy of all weights (full), the model
    without its adapters where these are fresh, else a frozen copy of the adapters. Logs the rewards
    of both answers, their margin, and how often the right one is preferred.

    Args:
        recipe: With objective dpo.
        learner: What is trained.
        collator: What words a sample.
        arguments: Fields of transformers' TrainingArguments.
        training: Samples with a rejected answer, see `pairs.check_pairs`.
        validation: Of these too, or none.
        callbacks: As the Trainer takes them.
    """
    from trl import DPOConfig, DPOTrainer

    model = learner.model
    reference = None if isinstance(model, PeftModel) else _freeze(copy.deepcopy(model))
    weights = {name: weight.data for name, weight in model.named_parameters()}
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        # TRL would cut rows at 1024 tokens, and switch off the dropout that the recipe names.
        args=DPOConfig(
            **arguments,
            beta=recipe.beta,
            max_length=None,
            disable_dropout=False,
            **further_of(recipe.further, "DPOConfig"),
        ),
        train_dataset=_places(0, len(training)),
        eval_dataset=_places(len(training), len(validation)) if validation else None,
        data_collator=PairCollator(collator=collator, samples=(*training, *validation)),
        processing_class=learner.processor,
        callbacks=[PlainLogs(), *callbacks],
    )
    _keep_weights(model, weights)
    if isinstance(model, PeftModel):
        _settle_reference(model)
    _share_images(model, reference)
    # With a processor the Trainer would set the model's stop tokens to the tokenizer's single one.
    trainer.processing_class = None
    trainer.optimizer_cls_and_kwargs = describe_optimizer(recipe, model, trainer.args)
    return trainer


@dataclass(frozen=True, kw_only=True)
class PairCollator:
    """Makes a batch of pairs of what TRL's dataset holds: the places of samples."""

    collator: CompletionCollator
    samples: tuple[Sample, ...]

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """Collate the samples at the given places."""
        return collate_pairs(self.collator, [self.samples[row[PLACE]] for row in rows])


class PlainLogs(TrainerCallback):
    """Takes out of a step's figures what TRL would count from zero again after a resume."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Forget the tokens so far; those of a second are counted elsewhere."""
        if logs is not None:
            logs.pop("num_tokens", None)


class SharedImages:
    """Encodes the images of a batch of pairs once, for both rows of each.

    A hook on the decoder, which runs where TRL calls the model: within its autocast and inside of
    what distributes it. Where tower and projector are frozen they give the reference the same
    features as the model that learns, so one encoding serves all four rows of a pair.
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
        """Encode images; twice the same ones by frozen weights are encoded once."""
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


def _freeze(model: Phi3VForCausalLM) -> Phi3VForCausalLM:
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def _keep_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Undo what TRL does to adapters over 4-bit weights: it rounds them to bf16."""
    for name, weight in model.named_parameters():
        if name in weights and weight.dtype != weights[name].dtype:
            weight.data = weights[name]


def _settle_reference(model: PeftModel) -> None:
    """Compare with the model without adapters if they are fresh, else with TRL's copy of them.

    Fresh ones change nothing, so that a copy would only take memory and a place in checkpoints.
    """
    started = [
        bool(weight.any()) for name, weight in model.named_parameters() if "lora_B.default" in name
    ]
    if not any(started):
        model.delete_adapter(REFERENCE)
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and name.endswith(f"lora_dropout.{REFERENCE}"):
            module.p = 0.0  # a reference that answers anew each time would be noise in the rewards
