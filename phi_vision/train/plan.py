"""What a run will take, said before it is spent: samples, steps, tokens, parameters, memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch

from phi_vision.train.learner import Learner
from phi_vision.train.recipes import Recipe
from phi_vision.train.trainer import Prepared, prepare

FLOAT_BYTES = 4
ADAM_MOMENTS = 2
"""AdamW keeps two float32 numbers for each trained weight."""

KEPT_OF_WIDTH, KEPT_OF_FEED_FORWARD = 10, 5
"""Numbers a layer keeps per token for the backward pass, in widths and in feed-forward widths:
two residuals, two norms, query, key and value before and after rotation, attention's output;
gate, up, the activated gate, their product, and what goes down."""
KEPT_OF_ADAPTER = 4
"""The same for each number that goes into an adapter: itself, dropped out, the mask, cast."""
MIXED_BYTES = 3
"""Bytes of a kept number in bf16 over float32 weights: the residual stream stays in float32."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `--dry-run` says beside the recipe."""

    training: int
    validation: int
    shared_groups: int
    """Groups on both sides of the split, which make validation look better than it is."""
    steps: int
    steps_per_epoch: int
    image_tokens: tuple[float, int]
    """Image tokens of a training sample: mean and most."""
    text_tokens: tuple[float, int]
    """Its other tokens, prompt and answer: mean and most."""
    parameters: int
    trained: int
    precision: str
    memory: float
    """Rough estimate in bytes for a step of the longest samples, without the libraries' own."""

    def as_text(self) -> str:
        """Write the plan for people.

        Output: samples      2432 to train on, 304 to validate on, 0 groups on both sides
                tokens       mean 25 + 61 a sample (image + text), most 25 + 74
                …
        """
        share = self.trained / self.parameters
        lines = {
            "samples": f"{self.training} to train on, {self.validation} to validate on, "
            f"{self.shared_groups} groups on both sides",
            "tokens": f"mean {self.image_tokens[0]:.0f} + {self.text_tokens[0]:.0f} a sample "
            f"(image + text), most {self.image_tokens[1]} + {self.text_tokens[1]}",
            "steps": f"{self.steps}, {self.steps_per_epoch} an epoch",
            "parameters": f"{self.trained:,} of {self.parameters:,} are trained ({share:.2%})",
            "precision": self.precision,
            "memory": f"about {self.memory / 2**30:.2f} GiB for a step, besides the libraries",
        }
        return "".join(f"{name:<12} {words}\n" for name, words in lines.items())


def make_plan(recipe: Recipe) -> Plan:
    """Load and check everything as for training, and count. Writes nothing.

    Raises:
        ValueError: As `trainer.train` would before its first step.
    """
    prepared = prepare(recipe)
    counts = [prepared.collator.count_tokens(sample) for sample in prepared.training]
    images, texts = zip(*counts, strict=True)
    weights = list(prepared.learner.model.parameters())
    groups = [{s.group for s in part} for part in (prepared.training, prepared.validation)]
    return Plan(
        training=len(prepared.training),
        validation=len(prepared.validation),
        shared_groups=len(groups[0] & groups[1]),
        steps=prepared.steps,
        steps_per_epoch=prepared.steps_per_epoch,
        image_tokens=(mean(images), max(images)),
        text_tokens=(mean(texts), max(texts)),
        parameters=sum(weight.numel() for weight in weights),
        trained=sum(weight.numel() for weight in weights if weight.requires_grad),
        precision="bf16" if prepared.learner.precision == torch.bfloat16 else "fp32",
        memory=_estimate_memory(recipe, prepared, counts),
    )


def _estimate_memory(
    recipe: Recipe, prepared: Prepared, counts: Sequence[tuple[int, int]]
) -> float:
    """Add weights, gradients and optimizer state, which are exact, to estimated activations."""
    weights = list(prepared.learner.model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    held = sum(weight.numel() * weight.element_size() for weight in weights)
    state = trained * FLOAT_BYTES * (1 + ADAM_MOMENTS)
    activations = max(_activations(recipe, prepared.learner, *tokens) for tokens in counts)
    return float(held + state + recipe.batch_size * activations)


def _activations(recipe: Recipe, learner: Learner, image_tokens: int, text_tokens: int) -> float:
    """Estimate the bytes kept for the backward pass of one sample.

    Measured against the peak of a step (6 layers of 512, 392 tokens, 8 samples): within 15 %
    for full and lora, fp32 and bf16. With checkpointing it is a lower bound: what a layer needs
    only for a moment then weighs more.
    """
    config: Any = learner.model.config
    tower = config.vision_config
    is_bf16 = learner.precision == torch.bfloat16
    each = learner.precision.itemsize
    adapters = 0
    if recipe.method == "full" and is_bf16:
        each = MIXED_BYTES
    if recipe.method == "lora":
        adapters = KEPT_OF_ADAPTER * (3 * config.hidden_size + config.intermediate_size)
    layer = _layer(config.hidden_size, config.intermediate_size) + adapters
    tokens = image_tokens + text_tokens
    numbers = _stack(recipe, tokens, config.num_hidden_layers, config.hidden_size, layer)
    if recipe.train_vision:
        crops = image_tokens / learner.processor.image_processor.num_img_tokens
        patches = crops * ((tower.image_size // tower.patch_size) ** 2 + 1)
        layer = _layer(tower.hidden_size, tower.intermediate_size)
        numbers += _stack(recipe, patches, tower.num_hidden_layers - 1, tower.hidden_size, layer)
    # Logits of the answer, their float32 copy and their gradient.
    logits = text_tokens * config.vocab_size * (each + 2 * FLOAT_BYTES)
    return float(numbers * each + logits)


def _layer(width: int, feed_forward: int) -> int:
    return KEPT_OF_WIDTH * width + KEPT_OF_FEED_FORWARD * feed_forward


def _stack(recipe: Recipe, tokens: float, layers: int, width: int, layer: int) -> float:
    """Count what a stack of layers keeps: with checkpointing its inputs, and one layer whole."""
    if recipe.gradient_checkpointing:
        return tokens * (layers * width + layer)
    return tokens * layers * layer
