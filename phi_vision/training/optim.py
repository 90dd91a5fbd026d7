"""What moves the weights: AdamW in its kinds, and how fast each part of the model learns."""

from typing import Any

import torch
from torch import nn
from transformers.trainer_pt_utils import get_parameter_names

from phi_vision.training.recipes import Recipe

NOT_DECAYED = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
"""Names of weights that AdamW never decays, the same that the Trainer leaves out."""


def describe_optimizer(
    recipe: Recipe, model: nn.Module
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Choose the optimizer's class and what it is made with, as the Trainer takes both.

    Raises:
        ValueError: The kind needs bitsandbytes, and it is not installed.
    """
    settings = {
        "params": group_weights(recipe, model),
        "lr": recipe.learning_rate,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    }
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW, {**settings, "fused": True}
    return _find_in_bitsandbytes(recipe.optimizer), settings


def group_weights(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """Group the trainable weights by what they learn with.

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
    """Tell which part of the model a weight belongs to: language, projector or vision.

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


def _find_in_bitsandbytes(name: str) -> type[torch.optim.Optimizer]:
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError(
            f"optimizer {name} needs bitsandbytes, which is not installed; "
            "pip install 'phi-vision[quant]', or use adamw"
        ) from error
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw": bitsandbytes.optim.PagedAdamW32bit,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    return kinds[name]
