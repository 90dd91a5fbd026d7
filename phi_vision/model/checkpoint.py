"""Load checkpoints, adapters and runs, with one clear error for anything else.

Weights need no renaming: every module has its official name.
"""

import json
import re
from pathlib import Path

import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoTokenizer, BitsAndBytesConfig

from .configuration_phi3_v import Phi3VConfig
from .image_processing_phi3_v import Phi3VImageProcessor
from .modeling_phi3_v import Phi3VForCausalLM
from .processing_phi3_v import Phi3VProcessor

SMALL = "phi-vision-small"
ADAPTER_CONFIG = "adapter_config.json"  # peft's file; only an adapter's folder has it

# Where a run folder holds its best weights, as in `phi_vision.runs`, which is not imported here;
# tests/test_runs.py compares them.
RUN_MODEL = "model"


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    quantization: BitsAndBytesConfig | None = None,
) -> tuple[Phi3VForCausalLM, Phi3VProcessor]:
    """Load a model with its processor.

    Args:
        source: `phi-vision-small`, a checkpoint folder, an adapter folder, a run folder (its
            `model/` is taken), or a hub id such as `microsoft/Phi-3.5-vision-instruct`.
        dtype: Of the weights; by default as stored.
        device: By default the CPU.
        quantization: Quantized loading (needs bitsandbytes); `dtype` then applies to the other
            weights.

    Returns:
        The model in evaluation mode and its processor. An adapter comes attached to its base.
    """
    place = resolve(source)
    base = adapter_base(place)
    model = _load_weights(base or place, dtype, quantization)
    if base is not None:
        try:
            model = PeftModel.from_pretrained(model, place)
        except (OSError, RuntimeError, ValueError, SafetensorError) as problem:
            raise ValueError(
                f"The adapter in {place} does not load: {first_line(problem)} "
                "Is it whole, and made for this base?"
            ) from problem
    return model.to(device or "cpu").eval(), load_processor(place)


def load_processor(source: str | Path) -> Phi3VProcessor:
    """Load the processor of a checkpoint, an adapter (its own, else its base's) or a hub id."""
    place = resolve(source)
    if not (Path(place) / "preprocessor_config.json").is_file():
        place = adapter_base(place) or place
    try:
        # A folder written for other engines asks for padding crops; ours join crops of rows.
        image_processor = Phi3VImageProcessor.from_pretrained(place, pad_crops=False)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError) as problem:
        raise ValueError(
            f"No processor in {place}: {first_line(problem)} Copy preprocessor_config.json and "
            "the tokenizer files of the base checkpoint there."
        ) from problem
    return Phi3VProcessor(image_processor, tokenizer)


def load_config(source: str | Path) -> Phi3VConfig:
    """Load the config of a checkpoint folder or hub id; other models are an error."""
    place = resolve(source)
    is_folder = Path(place).is_dir()
    if is_folder and not (Path(place) / "config.json").is_file():
        held = ", ".join(sorted(entry.name for entry in Path(place).iterdir())[:5]) or "nothing"
        raise ValueError(
            f"{place} is no checkpoint: it has no config.json, only {held}. "
            "Give the folder that holds config.json and the weights."
        )
    try:
        fields = Phi3VConfig.get_config_dict(place)[0]
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, HFValidationError) as problem:
        text = f"{place} is no checkpoint: {first_line(problem)} Copy config.json there again."
        if not is_folder:
            text = (
                f"{place!r} is no folder here, and fetching it from the hub failed: "
                f"{first_line(problem)} Check the name and the network, or download the checkpoint "
                "and give its folder."
            )
        raise ValueError(text) from problem
    kind = fields.get("model_type")
    if kind != Phi3VConfig.model_type:
        raise ValueError(
            f"{place} holds a model of type {kind!r}, not 'phi3_v'. Give a Phi-3-Vision or "
            "Phi-3.5-Vision checkpoint."
        )
    config: Phi3VConfig = Phi3VConfig.from_dict(fields)
    return config


def resolve(source: str | Path) -> str:
    """Return the path or hub id of a model: the packaged folder, a run's `model/`, or `source`."""
    text = str(source)
    if text == SMALL:
        return str(Path(__file__).parent / SMALL)
    folder = Path(text)
    if (folder / RUN_MODEL).is_dir() and not (folder / "config.json").is_file():
        return str(folder / RUN_MODEL)
    if folder.is_dir() or _looks_like_hub_id(text):
        return text
    raise ValueError(
        f"No model at {text!r}: no such folder. Give a checkpoint folder, a run folder, {SMALL!r} "
        "or a hub id like 'microsoft/Phi-3.5-vision-instruct'."
    )


def adapter_base(place: str) -> str | None:
    """Return the base checkpoint of an adapter folder; None for other folders."""
    described = Path(place) / ADAPTER_CONFIG
    if not described.is_file():
        return None
    base = json.loads(described.read_text())["base_model_name_or_path"]
    try:
        return resolve(base)
    except ValueError as problem:
        raise ValueError(
            f"{place} is an adapter of {base!r}, which is not there. Put it there, or write "
            "where it is as base_model_name_or_path in adapter_config.json."
        ) from problem


def first_line(problem: Exception) -> str:
    """Return the first line of an error, ended by a full stop."""
    line = (str(problem) or type(problem).__name__).strip().splitlines()[0].rstrip(". ")
    return line + "."


def fast_dtype(device: torch.device) -> torch.dtype:
    """Choose bfloat16 where the machine multiplies in it, else float32.

    Elsewhere it is emulated: slower than float32, and no more exact.
    """
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities()
        able = any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if able else torch.float32


def _load_weights(
    place: str, dtype: torch.dtype | None, quantization: BitsAndBytesConfig | None
) -> Phi3VForCausalLM:
    config = load_config(place)
    model: Phi3VForCausalLM
    try:
        model, report = Phi3VForCausalLM.from_pretrained(
            place,
            config=config,
            dtype=dtype or "auto",
            quantization_config=quantization,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, SafetensorError) as problem:
        raise ValueError(
            f"The weights in {place} do not load: {first_line(problem)} "
            "Is every shard there, whole?"
        ) from problem
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"The weights in {place} lack {len(missing)} of the model's tensors, the first "
            f"{missing[0]!r}. Complete the checkpoint; a model with untrained parts would only "
            "look loaded."
        )
    return model


def _looks_like_hub_id(text: str) -> bool:
    """Whether a text is `owner/name`: one slash, and not below an existing folder."""
    match = re.fullmatch(r"(?!\.{1,2}/|~/)([^/]+)/[^/]+", text)
    return match is not None and not Path(match[1]).is_dir()
