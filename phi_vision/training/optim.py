"""The optimizer: the Trainer's class for `optim`, with a parameter group per part of the model."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_parameter_names

from phi_vision.training.recipes import Recipe

NOT_DECAYED = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
"""Names of weights without weight decay, as in `Trainer.get_decay_parameter_names`."""


def describe_optimizer(
    recipe: Recipe, model: nn.Module, arguments: TrainingArguments
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Return the optimizer's class and arguments, in the form that the Trainer takes.

    Raises:
        ValueError: The optimizer needs bitsandbytes, and it is not installed.
    """
    if not recipe.optim.startswith("adamw_torch") and find_spec("bitsandbytes") is None:
        raise ValueError(
            f"optim {recipe.optim} needs bitsandbytes, which is not installed; "
            "pip install 'phi-vision[quant]', or use adamw_torch_fused"
        )
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return kind, {**settings, "params": group_weights(recipe, model)}


def group_weights(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """Group the trainable weights by learning rate and weight decay.

    Input:  a recipe with learning_rate 1e-4, vision_learning_rate 1e-5, weight_decay 0.01
    Output: [{"name": "language", "lr": 1e-4, "weight_decay": 0.01, "params": […]},
             {"name": "language", "lr": 1e-4, "weight_decay": 0.0, "params": […]},
             {"name": "vision", "lr": 1e-5, …}, …]
    """
    decayed = set(get_parameter_names(model, [nn.LayerNorm], list(NOT_DECAYED)))
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            part = part_of(name)
            decay = recipe.weight_decay if name in decayed else 0.0
            groups.setdefault((part, _learning_rate(recipe, part, name), decay), []).append(weight)
    return [
        {"name": part, "lr": rate, "weight_decay": decay, "params": weights}
        for (part, rate, decay), weights in groups.items()
    ]


def part_of(name: str) -> str:
    """Return the part of the model that a weight belongs to: language, projector or vision.

    Input:  base_model.model.model.vision_embed_tokens.img_projection.0.weight
    Output: projector
    """
    if "img_processor" in name:
        return "vision"
    return "projector" if "vision_embed_tokens" in name else "language"


def _learning_rate(recipe: Recipe, part: str, name: str) -> float:
    own = {"projector": recipe.projector_learning_rate, "vision": recipe.vision_learning_rate}
    rate = own.get(part) or recipe.learning_rate
    # LoRA+ (arXiv:2402.12354): the matrix that starts at zero has to go further.
    return rate * (recipe.loraplus_ratio or 1.0) if "lora_B" in name else rate
