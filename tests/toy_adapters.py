"""Adapters for tests: of every form that a recipe trains, with random weights."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from phi_vision.model.checkpoint import load_model

FORMS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "projector": {"modules_to_save": ["img_projection.0", "img_projection.2"]},
    "tower": {"target_modules": ["q_proj", "v_proj", "fc1", "qkv_proj"]},
    "bias": {"target_modules": ["fc2", "o_proj"], "bias": "lora_only"},
}
"""Name -> what the adapter's config says besides rank and scale."""


def write_adapter(base: str | Path, folder: Path, *, form: str = "lora", size: float = 0.1) -> Path:
    """Write an adapter of a base, whose weights have a standard deviation of about `size`."""
    model, processor = load_model(base)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "o_proj", "down_proj"]}
    adapted = get_peft_model(
        model,
        LoraConfig(task_type="CAUSAL_LM", **{**config, **FORMS[form]}),  # type: ignore[arg-type]
    )
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    torch.manual_seed(0)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += size * torch.randn_like(weight)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    processor.save_pretrained(folder)
    return folder
