"""The model as a training takes it, and as it is saved: which parts learn, in which numbers.

Full training and adapters differ only here.
"""

import copy
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from phi_vision.model.checkpoint import fast_dtype, load_model
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.train import guards
from phi_vision.train.recipes import Recipe

PROJECTION = ("img_projection.0", "img_projection.2")
"""The two linear layers from vision features to words, saved whole beside adapters. Named one by
one, since the model indexes `img_projection`, which PEFT's wrapper of the whole would not allow."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A model ready to be trained, with what it takes to use and to save it."""

    model: Phi3VForCausalLM | PeftModel
    processor: Phi3VProcessor
    precision: torch.dtype
    """In which the matrix products are computed."""
    saved_dtype: torch.dtype
    """In which full weights are saved: that of the checkpoint they came from."""


def make_learner(recipe: Recipe) -> Learner:
    """Load the model and make the parts trainable that the recipe names.

    Weights that are trained are held in float32. Under adapters the frozen ones are held in the
    precision of the arithmetic, which halves their memory in bf16.
    """
    model, processor = load_model(recipe.model)
    saved_dtype = model.dtype
    precision = choose_precision(recipe.precision)
    if isinstance(model, PeftModel):
        if recipe.method == "lora":
            raise ValueError(
                f"{recipe.model} is an adapter, and a second one on top would not find it again; "
                "start from its base, use full, or continue its run with --resume"
            )
        model = model.merge_and_unload()
    if recipe.random_weights:
        model = Phi3VForCausalLM(model.config)
    if precision == torch.bfloat16 and not torch.cuda.is_available():
        # The fused attention's backward in bf16 on a CPU is two to five times slower than the
        # plain one (docs/log.md); in float32 and on a GPU it is the fused one that wins.
        model.set_attn_implementation("eager")
    if recipe.method == "lora":
        model = _attach_adapters(model.to(precision), recipe)
    else:
        _choose_trained_parts(model.float(), recipe)
    _freeze_unused_layers(model)
    return Learner(model=model, processor=processor, precision=precision, saved_dtype=saved_dtype)


def choose_precision(wished: str) -> torch.dtype:
    """Choose the arithmetic: bf16 where the machine multiplies in it, not where it emulates it."""
    if wished != "auto":
        return torch.bfloat16 if wished == "bf16" else torch.float32
    return fast_dtype(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def save_model(learner: Learner, recipe: Recipe, folder: Path) -> None:
    """Save adapter or weights with the processor, ready to load; whole or not at all."""
    unfinished, former = (folder.with_name(f".{folder.name}-{state}") for state in ("new", "old"))
    for leftover in (unfinished, former):
        shutil.rmtree(leftover, ignore_errors=True)
    if isinstance(learner.model, PeftModel):
        _save_adapter(learner.model, recipe.model, unfinished)
    else:
        _save_weights(learner.model, learner.saved_dtype, unfinished)
    learner.processor.save_pretrained(unfinished)
    if folder.exists():
        folder.rename(former)
    unfinished.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def _attach_adapters(model: Phi3VForCausalLM, recipe: Recipe) -> PeftModel:
    targets = recipe.lora_targets or ()
    guards.check_adapter_targets(model, targets)
    unused = [name for name in _unused_modules(model) if name.rpartition(".")[2] in targets]
    described = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=list(targets),
        exclude_modules=unused or None,
        modules_to_save=list(PROJECTION) if recipe.train_projector else None,
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for checkpointing by its former name.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, described)
    guards.check_adapter_is_attached(adapted)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return adapted


def _choose_trained_parts(model: Phi3VForCausalLM, recipe: Recipe) -> None:
    model.requires_grad_(True)
    vision = model.model.vision_embed_tokens
    vision.requires_grad_(recipe.train_projector)
    vision.img_processor.requires_grad_(recipe.train_vision)


def _freeze_unused_layers(model: Phi3VForCausalLM | PeftModel) -> None:
    """Freeze what CLIP has but nothing reads: its last layer and the norm after it."""
    for name in _unused_modules(model):
        model.get_submodule(name).requires_grad_(False)


def _unused_modules(model: Phi3VForCausalLM | PeftModel) -> list[str]:
    config: Any = model.config
    layers = config.vision_config.num_hidden_layers
    last = f"img_processor.vision_model.encoder.layers.{layers - 1}"
    norm = "img_processor.vision_model.post_layernorm"
    return [
        name
        for name, _ in model.named_modules()
        if f".{last}." in f".{name}." or name.endswith(norm)
    ]


def _save_adapter(model: PeftModel, base: str, folder: Path) -> None:
    """Save an adapter that names its base as the user did, not where that lay on this machine."""
    described = model.peft_config["default"]
    loaded_from = described.base_model_name_or_path
    described.base_model_name_or_path = base
    # PEFT would look for the base on the hub, to see whether the vocabulary grew. It did not.
    model.save_pretrained(folder, save_embedding_layers=False)
    described.base_model_name_or_path = loaded_from
    (folder / "README.md").unlink(missing_ok=True)  # a model card of blanks to fill in


def _save_weights(model: Phi3VForCausalLM, dtype: torch.dtype, folder: Path) -> None:
    """Save full weights in the official layout and in `dtype`; training holds them in float32."""
    weights = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=weights)
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    config.use_cache = True  # the Trainer switches it off
    config.save_pretrained(folder)
