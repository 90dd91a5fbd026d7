"""The trainable model: weights or adapters, their precision, and how they are saved.

Full fine-tuning and adapters differ only here.
"""

import copy
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig

from phi_vision.io.atomic import atomic_folder
from phi_vision.model.checkpoint import fast_dtype, load_model, resolve
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training import checks
from phi_vision.training.distributed import is_main
from phi_vision.training.hf_fields import further_of
from phi_vision.training.recipes import Recipe
from phi_vision.training.sharding import whole_weights

PROJECTION = ("img_projection.0", "img_projection.2")
"""The two linear layers from vision features to embeddings, saved whole beside adapters. One by
one: the model indexes `img_projection`, which PEFT's wrapper of the whole would not allow."""

TOWER_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""All linear layers of the CLIP tower; the decoder has none of these names."""

Model: TypeAlias = Phi3VForCausalLM | PeftModel


@dataclass(frozen=True, kw_only=True)
class TrainableModel:
    """A model ready for training, with its processor and how to save it."""

    model: Model
    processor: Phi3VProcessor
    base: str
    """The base checkpoint of adapters, as the user wrote it."""
    precision: torch.dtype
    """Of the matrix products."""
    saved_dtype: torch.dtype
    """Of saved full weights: that of the checkpoint they came from."""


def load_trainable(recipe: Recipe) -> TrainableModel:
    """Load the model and make the parts trainable that the recipe selects.

    Trained weights are held in float32. Frozen ones under adapters are held in the precision of
    the matrix products, which halves their memory in bf16, or in 4 bits.

    Raises:
        ValueError: There is no such model, or the recipe does not fit it.
    """
    precision = choose_precision(recipe.bf16)
    quantization = describe_quantization(precision) if recipe.quantization else None
    model, processor = load_model(recipe.model, quantization=quantization)
    saved_dtype, base = model.dtype, recipe.model
    if isinstance(model, PeftModel):
        base = model.peft_config["default"].base_model_name_or_path or base
        if recipe.method == "full":
            model = model.merge_and_unload()
    if recipe.random_weights:
        model = Phi3VForCausalLM(model.config)
    if precision == torch.bfloat16 and not torch.cuda.is_available():
        # The fused attention's backward in bf16 on a CPU is two to five times slower than the
        # plain one (docs/log.md); in float32 and on a GPU the fused one is faster.
        model.set_attn_implementation("eager")
    return TrainableModel(
        model=select_trained_parts(model, recipe, precision),
        processor=processor,
        base=base,
        precision=precision,
        saved_dtype=saved_dtype,
    )


def select_trained_parts(model: Model, recipe: Recipe, precision: torch.dtype) -> Model:
    """Attach adapters or unfreeze weights as the recipe says, and freeze the rest.

    Reads no values, so it also works on a model without storage (the meta device).

    Raises:
        ValueError: The recipe has layers that the model does not have, or other adapters.
    """
    if recipe.method == "lora":
        model = _with_adapters(_cast(model, precision), recipe)
    else:
        model.float().requires_grad_(recipe.train_language)
        vision = model.model.vision_embed_tokens
        vision.requires_grad_(recipe.train_projector)
        vision.img_processor.requires_grad_(recipe.train_vision)
    for name in _unused_modules(model):
        model.get_submodule(name).requires_grad_(False)
    return model


def list_trained(model: nn.Module) -> dict[str, int]:
    """Count the trained weights of each kind of module; layer numbers are `*`.

    Input:  a decoder of six layers with adapters of rank 16 on `o_proj`
    Output: {"model.layers.*.self_attn.o_proj (lora)": 98304}
    """
    counts: dict[str, int] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            kind = describe_weight(name)
            counts[kind] = counts.get(kind, 0) + weight.numel()
    return counts


def describe_weight(name: str) -> str:
    """Return the kind of module that a weight belongs to, and whether it is an adapter's.

    Input:  base_model.model.model.layers.3.self_attn.o_proj.lora_A.default.weight
    Output: model.layers.*.self_attn.o_proj (lora)
    """
    name = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
    module, adapter, _ = name.partition(".lora_")
    if not adapter:
        module = re.sub(r"\.(weight|bias)$", "", name)
    return re.sub(r"\.\d+\.", ".*.", module) + (" (lora)" if adapter else "")


def describe_quantization(precision: torch.dtype) -> BitsAndBytesConfig:
    """Configure 4-bit weights for the decoder alone; head and tower stay unquantized.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "quantization nf4 needs bitsandbytes, which is not installed; "
            "pip install 'phi-vision[quant]', or use lora"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision,
        # Names are matched from their beginning; `vision_embed_tokens` alone would not be found.
        llm_int8_skip_modules=["lm_head", "model.vision_embed_tokens"],
    )


def choose_precision(bf16: bool | None) -> torch.dtype:
    """Choose the arithmetic: by default bf16 where the machine computes in it natively."""
    if bf16 is not None:
        return torch.bfloat16 if bf16 else torch.float32
    return fast_dtype(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def save_model(trainable: TrainableModel, folder: Path) -> None:
    """Save adapter or weights with the processor, ready to load, atomically.

    Every process calls this, as each may hold a part of the weights; the first writes.
    """
    model, weights = trainable.model, whole_weights(trainable.model)
    if not is_main():
        return
    with atomic_folder(folder, replace=True) as unfinished:
        if isinstance(model, PeftModel):
            _save_adapter(model, weights, trainable.base, unfinished)
        else:
            _save_weights(model, weights, trainable.saved_dtype, unfinished)
        trainable.processor.save_pretrained(unfinished)


def _cast(model: Model, precision: torch.dtype) -> Any:
    config: Any = model.config
    if "quantization_config" not in config.to_dict():
        return model.to(precision)
    for module in model.modules():
        if module.__class__.__name__ == "Linear4bit":
            # bitsandbytes 0.50 repacks the weights for inference at the first evaluation, and
            # then trains without gradients through them.
            module.support_avx512bf16_for_cpu = False
    return model


def _with_adapters(model: Model, recipe: Recipe) -> PeftModel:
    """Attach new adapters to a model, or continue with those that it has."""
    config = _lora_config(model, recipe)
    if isinstance(model, PeftModel):
        found = model.peft_config["default"]
        checks.check_same_adapters(found, config, recipe.model)
        found.inference_mode = False
        # Or PEFT looks on the hub for a base that has another name here.
        found.base_model_name_or_path = resolve(found.base_model_name_or_path)
        model.set_requires_grad("default", requires_grad=True)
        adapted = model
    else:
        with warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5.23 for checkpointing by its former name.
            warnings.simplefilter("ignore", FutureWarning)
            adapted = get_peft_model(model, config)
    checks.check_adapters_are_attached(adapted, recipe)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return adapted


def _lora_config(model: Model, recipe: Recipe) -> LoraConfig:
    targets = [*(recipe.target_modules or ())] if recipe.train_language else []
    if not isinstance(model, PeftModel):
        checks.check_adapter_targets(model, targets)
    targets += TOWER_TARGETS if recipe.train_vision else []
    unused = [name for name in _unused_modules(model) if name.rpartition(".")[2] in targets]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        use_dora=recipe.use_dora,
        use_rslora=recipe.use_rslora,
        target_modules=targets,
        exclude_modules=unused or None,
        modules_to_save=list(PROJECTION) if recipe.train_projector else None,
        **further_of(recipe.further, "LoraConfig"),
    )


def _unused_modules(model: Model) -> list[str]:
    """List the modules of CLIP whose output nothing reads: its last layer and norm."""
    config: Any = model.config
    last = config.vision_config.num_hidden_layers - 1
    layer = f"img_processor.vision_model.encoder.layers.{last}"
    norm = "img_processor.vision_model.post_layernorm"
    return [
        name
        for name, _ in model.named_modules()
        if f".{layer}." in f".{name}." or name.endswith(norm)
    ]


def _save_adapter(
    model: PeftModel, weights: Mapping[str, torch.Tensor], base: str, folder: Path
) -> None:
    """Save an adapter whose config has its base as the user wrote it, not its path here."""
    config = model.peft_config["default"]
    loaded_from = config.base_model_name_or_path
    config.base_model_name_or_path = base
    # PEFT would look for the base on the hub, to see whether the vocabulary grew. It did not.
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
    config.base_model_name_or_path = loaded_from
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card


def _save_weights(
    model: Phi3VForCausalLM, weights: Mapping[str, torch.Tensor], dtype: torch.dtype, folder: Path
) -> None:
    """Save full weights in the official layout and in `dtype`; training holds them in float32."""
    converted = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in weights.items()
    }
    model.save_pretrained(folder, state_dict=converted)
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    config.use_cache = True  # the Trainer switches it off
    config.save_pretrained(folder)
