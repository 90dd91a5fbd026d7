"""The trainable model: weights or adapters, their precision and checks, and how they are saved."""

import copy
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import BitsAndBytesConfig
from transformers.utils import CONFIG_NAME, cached_file

from phi_vision.io.atomic import atomic_folder
from phi_vision.io.formatting import error_texts
from phi_vision.io.hashing import sha256, sha256_of_all
from phi_vision.model.blockwise_attention import use_blockwise_attention
from phi_vision.model.checkpoint import adapter_base, fast_dtype, load_model, resolve
from phi_vision.model.decoder_functions import use_decoder_functions
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training.distributed import is_main, whole_weights
from phi_vision.training.lora_function import use_lora_function
from phi_vision.training.recipes import Recipe, further_of

failure = error_texts(__file__)

# The two linear layers from vision features to embeddings, saved whole beside adapters. One by one:
# the model indexes `img_projection`, which PEFT's wrapper of the whole would not allow.
PROJECTION = ("img_projection.0", "img_projection.2")
# All linear layers of the CLIP tower; the decoder has none of these names.
TOWER_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
# Fields of a recipe that LoraConfig takes as they are.
LORA_FIELDS = ("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora")
# Further fields of LoraConfig that decide shape, scale and training of adapters.
_SHAPE_FIELDS = (
    *("target_modules", "modules_to_save", "layers_to_transform", "layers_pattern"),
    *("rank_pattern", "alpha_pattern"),
)

Model: TypeAlias = Phi3VForCausalLM | PeftModel


class TrainableModel(NamedTuple):
    """A model ready for training, with its processor and how to save it."""

    model: Model
    processor: Phi3VProcessor
    base: str  # the base checkpoint of adapters, as the user wrote it
    precision: torch.dtype  # of the matrix products
    saved_dtype: torch.dtype  # of saved full weights: that of the checkpoint they came from


def load_trainable(recipe: Recipe) -> TrainableModel:
    """Load the model and make the parts trainable that the recipe selects, or raise ValueError."""
    precision = choose_precision(recipe.bf16)
    quantization = describe_quantization(precision) if recipe.quantization else None
    model, processor = load_model(recipe.model, quantization=quantization)
    cutter = processor.image_processor
    cutter.num_crops = recipe.num_crops or cutter.num_crops
    saved_dtype, base = model.dtype, recipe.model
    if isinstance(model, PeftModel):
        base = model.peft_config["default"].base_model_name_or_path or base
        if recipe.method == "full":
            model = model.merge_and_unload()
    if recipe.random_weights:
        model = Phi3VForCausalLM(model.config)
    if not torch.cuda.is_available():
        use_blockwise_attention(model)
        use_decoder_functions(model)
    model = select_trained_parts(model, recipe, precision)
    if not torch.cuda.is_available():
        use_lora_function(model)
    return TrainableModel(model, processor, base, precision, saved_dtype)


def select_trained_parts(model: Model, recipe: Recipe, precision: torch.dtype) -> Model:
    """Attach adapters or unfreeze weights as the recipe says; also works on the meta device."""
    # Trained weights are held in float32, frozen ones under adapters as the products or in 4 bits.
    if recipe.method == "lora":
        model = _with_adapters(model, recipe, precision)
    else:
        model.float().requires_grad_(recipe.train_language)
        vision = model.model.vision_embed_tokens
        vision.requires_grad_(recipe.train_projector)
        vision.img_processor.requires_grad_(recipe.train_vision)
    for name in _frozen_modules(model, recipe.vision_layers):
        model.get_submodule(name).requires_grad_(False)
    return model


def list_trained(model: nn.Module) -> Counter[str]:
    """Count the trained weights of each kind of module; layer numbers are `*`.

    Input:  a decoder of six layers with adapters of rank 16 on `o_proj`
    Output: {"model.layers.*.self_attn.o_proj (lora)": 98304}
    """
    counts = Counter[str]()
    for name, weight in model.named_parameters():
        counts[describe_weight(name)] += weight.numel() if weight.requires_grad else 0
    return +counts  # without those of frozen weights


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


def fingerprint_base(source: str) -> str:
    """Hash the files of a model, and of an adapter's base; raise ValueError if broken."""
    place = resolve(source)
    base = adapter_base(place)
    # Of a hub id: its folder in the cache, where loading has put it.
    folders = [Path(cached_file(base or place, CONFIG_NAME)).parent, *([Path(place)] * bool(base))]
    digests = list[str]()
    for folder in folders:
        digests += [f"{file.name} {sha256(file)}" for file in sorted(folder.glob("*.json"))]
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as weights:
                for name in sorted(weights.keys()):
                    values = weights.get_tensor(name).flatten()
                    if values.is_floating_point() and not values.isfinite().all():
                        raise failure("not_finite", name=name, file=file)
                    digests.append(f"{name} {sha256(values.view(torch.uint8).numpy().data)}")
    return sha256_of_all(digests)


def find_broken_weight(model: nn.Module) -> str | None:
    """Find the first weight, by name, with values that are not finite."""
    for name, weight in model.named_parameters():
        values = weight.to_local() if isinstance(weight, DTensor) else weight
        if values.is_floating_point() and not values.isfinite().all():
            return name
    return None


def describe_quantization(precision: torch.dtype) -> BitsAndBytesConfig:
    """Configure 4-bit weights for the decoder alone; head and tower stay unquantized."""
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
    """Save adapter or weights with the processor, atomically; every process must call this."""
    model, weights = trainable.model, whole_weights(trainable.model)
    if not is_main():
        return
    with atomic_folder(folder, replace=True) as unfinished:
        if isinstance(model, PeftModel):
            config = model.peft_config["default"]
            loaded_from = config.base_model_name_or_path
            config.base_model_name_or_path = trainable.base  # as the user wrote it, not its path
            # PEFT would look for the base on the hub, to see whether the vocabulary grew.
            model.save_pretrained(unfinished, save_embedding_layers=False, state_dict=weights)
            config.base_model_name_or_path = loaded_from
            (unfinished / "README.md").unlink(missing_ok=True)  # an empty model card
        else:
            # In the official layout and stored dtype; training holds the weights in float32.
            dtype = trainable.saved_dtype
            for name, value in weights.items():
                weights[name] = value.to(dtype) if value.is_floating_point() else value
            model.save_pretrained(unfinished, state_dict=weights)
            config = copy.deepcopy(model.config)
            config.dtype, config.use_cache = dtype, True  # the Trainer switches the cache off
            config.save_pretrained(unfinished)
        trainable.processor.save_pretrained(unfinished)


def _with_adapters(model: Any, recipe: Recipe, precision: torch.dtype) -> PeftModel:
    """Attach new adapters to a model, or continue with those that it has."""
    if "quantization_config" not in model.config.to_dict():
        # Not the buffers: rotary frequencies stay in float32, as where the model is used.
        for weight in filter(torch.is_floating_point, model.parameters()):
            weight.data = weight.data.to(precision)
    for module in model.modules():
        if module.__class__.__name__ == "Linear4bit":
            # bitsandbytes 0.50 repacks the weights for inference at the first evaluation, and
            # then trains without gradients through them.
            module.support_avx512bf16_for_cpu = False
    config = _lora_config(model, recipe)
    if isinstance(model, PeftModel):
        found = model.peft_config["default"]
        check_same_adapters(found, config, recipe.model)
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
    check_adapters_are_attached(adapted, recipe)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return adapted


def _lora_config(model: Model, recipe: Recipe) -> LoraConfig:
    targets = [*(recipe.target_modules or ())] if recipe.train_language else []
    if not isinstance(model, PeftModel):
        check_adapter_targets(model, targets)
    targets += TOWER_TARGETS if recipe.train_vision else []
    frozen = [n for n in _frozen_modules(model, recipe.vision_layers) if _last(n) in targets]
    return LoraConfig(
        **{name: getattr(recipe, name) for name in LORA_FIELDS},
        task_type="CAUSAL_LM",
        target_modules=targets,
        exclude_modules=frozen or None,
        modules_to_save=list(PROJECTION) if recipe.train_projector else None,
        **further_of(recipe, "LoraConfig"),
    )


def _frozen_modules(model: Model, layers: int | None) -> list[str]:
    """List the modules of CLIP that are not trained even where the tower is.

    That is what lies before the last `layers`, and the last layer and norm, whose output nothing
    reads. In a tower whose stream is scaled down, too: what writes to the stream, as one step would
    replace it, and the last layer that is read, which is a norm.
    """
    config: Any = model.config
    count = config.vision_config.num_hidden_layers
    end = count - 1 - config.is_scaled_down
    start = 0 if layers is None else max(0, end - layers)
    numbers = "|".join(str(number) for number in range(count) if not start <= number < end)
    frozen = rf"encoder\.layers\.({numbers})\b|post_layernorm$"
    if start or config.is_scaled_down:
        frozen += "|embeddings|pre_layrnorm"
    if config.is_scaled_down:
        frozen += r"|encoder\..*\.(out_proj|fc2)$"
    names = [name for name, _ in model.named_modules()]
    return [name for name in names if re.search(rf"\bvision_model\.({frozen})", name)]


def check_adapter_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Check that the language model has linear layers of these names, or raise ValueError."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    of_decoder = sorted({_last(name) for name in linear if _is_decoder_layer(name)} - {"default"})
    missed = [target for target in targets if target not in of_decoder]
    of_tower = [target for target in missed if target in map(_last, linear)]
    if of_tower:
        raise failure("tower_targets", names=", ".join(of_tower), linear=", ".join(of_decoder))
    if missed:
        raise failure("no_such_layer", names=", ".join(missed), linear=", ".join(of_decoder))


def check_adapters_are_attached(model: nn.Module, recipe: Recipe) -> None:
    """Check that decoder and tower have LoRA weights where they are to be trained."""
    modules = [name for name, _ in model.named_modules()]
    adapted = {name.removesuffix(".lora_A") for name in modules if _last(name) == "lora_A"}
    if recipe.train_language and not any(map(_is_decoder_layer, adapted)):
        raise failure("no_decoder_adapter")
    if recipe.train_vision:
        frozen = {*adapted, *_frozen_modules(model, recipe.vision_layers)}
        tower = [name for name in modules if "vision_model" in name and name not in frozen]
        if missing := [name for name in tower if _last(name) in TOWER_TARGETS]:
            raise failure("no_tower_adapter", count=len(missing), example=missing[0])


def check_same_adapters(found: LoraConfig, wanted: LoraConfig, source: str) -> None:
    """Check that adapters to train further are those of the recipe, or raise ValueError."""
    for name in (*LORA_FIELDS, *_SHAPE_FIELDS):
        theirs, ours = (
            sorted(value or []) if isinstance(value, list | set | tuple | None) else value
            for value in (getattr(found, name), getattr(wanted, name))
        )
        if theirs != ours:
            name = "train_projector" if name == "modules_to_save" else name
            raise failure("other_adapter", source=source, name=name, theirs=theirs, ours=ours)


def _is_decoder_layer(name: str) -> bool:
    """Whether `model.layers.0.mlp.down_proj` and the like, not a layer of the tower."""
    return ".layers." in f".{name}" and "vision_embed_tokens" not in name


def _last(name: str) -> str:
    return name.rpartition(".")[2]
