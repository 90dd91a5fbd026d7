"""Load checkpoints, adapters and runs, with one clear error for anything else.

Weights need no renaming: every module has its official name.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, BitsAndBytesConfig, GenerationConfig

from phi_vision.io.formatting import error_texts, suggestion

from .configuration_phi3_v import CLIP_VIT_L_14_336, Phi3VConfig
from .image_processing_phi3_v import Phi3VImageProcessor
from .modeling_phi3_v import Phi3VForCausalLM
from .processing_phi3_v import Phi3VProcessor

failure = error_texts(__file__)
SMALL, PHOTO = "phi-vision-small", "phi-vision-photo"
UNTRAINED = "projector_is_untrained"  # in the config.json of a base, until training has started it
ADAPTER_CONFIG = "adapter_config.json"  # peft's file; only an adapter's folder has it

# A run's best weights and recipe, as in `phi_vision.runs`; tests/test_runs.py compares them.
RUN_MODEL, RUN_RECIPE = "model", "recipe.yaml"

MAX_CROPS = 256  # of an image; the released models have 4 and 16
# Either of each: what a folder needs, and its other form.
PROCESSOR_FILES = (
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "tokenizer.model"),
)
StoredTensors = dict[str, tuple[str, tuple[int, ...]]]  # name -> safetensors dtype, and shape
DECODER, TOWER = "model.", "model.vision_embed_tokens.img_processor.vision_model."
# Part, field of its config, and the weight with the dimension that has this size.
SIZES = (
    (DECODER, "vocab_size", "embed_tokens.weight", 0),
    (DECODER, "hidden_size", "embed_tokens.weight", 1),
    (DECODER, "intermediate_size", "layers.0.mlp.down_proj.weight", 1),
    (TOWER, "hidden_size", "embeddings.patch_embedding.weight", 0),
    (TOWER, "num_channels", "embeddings.patch_embedding.weight", 1),
    (TOWER, "patch_size", "embeddings.patch_embedding.weight", 2),
    (TOWER, "intermediate_size", "encoder.layers.0.mlp.fc1.weight", 0),
)


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    quantization: BitsAndBytesConfig | None = None,
) -> tuple[Phi3VForCausalLM, Phi3VProcessor]:
    """Load a model in evaluation mode, with its processor; an adapter comes attached to its base.

    Args:
        source: `phi-vision-small`, a checkpoint folder, an adapter folder, a run folder (its
            `model/` is taken), or a hub id such as `microsoft/Phi-3.5-vision-instruct`.
        dtype: Of the weights, or with `quantization` of those not quantized; by default as stored.
    """
    place = resolve(source)
    base = adapter_base(place)
    config = load_config(base or place)
    if base is not None:
        _check_adapter(Path(place), config)
    processor = load_processor(place, config)
    weights = base or place
    if dtype == torch.float16 and config.is_scaled_down:
        raise failure("no_fp16", place=weights)
    if (Path(weights) / "generation_config.json").is_file():
        load_generation_config(weights, config)
    model: Phi3VForCausalLM
    with explained(f"The weights in {weights} do", "Is every shard there, whole?"):
        model, report = Phi3VForCausalLM.from_pretrained(
            weights,
            config=config,
            dtype=dtype or "auto",
            quantization_config=quantization,
            output_loading_info=True,
            use_safetensors=True,  # pickled weights can hold code
        )
    if missing := sorted(report["missing_keys"]):
        raise failure("missing_tensors", place=weights, count=len(missing), first=missing[0])
    if base is not None:
        from peft import PeftModel  # late, for it imports bitsandbytes, and that torch's compiler

        with explained(f"The adapter in {place} does", "Is it whole, and made for this base?"):
            model = PeftModel.from_pretrained(model, place)
        if model.peft_config["default"].modules_to_save:  # the projection, trained
            model.config.__dict__.pop(UNTRAINED, None)
    return model.to(device or "cpu").eval(), processor


def load_processor(source: str | Path, config: Phi3VConfig | None = None) -> Phi3VProcessor:
    """Load the processor of a checkpoint, an adapter (or its base) or hub id.

    With a config, check that both fit.
    """
    place = resolve(source)
    if not (Path(place) / "preprocessor_config.json").is_file():
        place = adapter_base(place) or place
    # Libraries fail in their own ways at damaged files, and all mean the same to the user.
    try:
        for names in PROCESSOR_FILES if Path(place).is_dir() else ():
            if not any((Path(place) / name).is_file() for name in names):
                raise ValueError(f"there is no {names[0]}")
        # A folder written for other engines asks for padding crops; ours join crops of rows.
        image_processor = Phi3VImageProcessor.from_pretrained(place, pad_crops=False)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        processor = Phi3VProcessor(image_processor, tokenizer)
        _check_processor(processor, config)
    except Exception as problem:
        raise failure("no_processor", place=place, problem=first_line(problem)) from problem
    return processor


def _check_processor(processor: Phi3VProcessor, config: Phi3VConfig | None) -> None:
    crops, ids = processor.image_processor, processor.tokenizer.get_vocab()
    if not 1 <= crops.num_crops <= MAX_CROPS:
        raise ValueError(f"num_crops is {crops.num_crops!r:.40}")
    means, deviations = crops.image_mean, crops.image_std
    if not len(means) == len(deviations) == 3 or not all(0 < each < 10 for each in deviations):
        raise ValueError(f"image_mean is {means!r:.40}, image_std {deviations!r:.40}")
    if config is None:
        return
    if (largest := max(ids.values())) >= config.vocab_size:
        raise failure("large_ids", largest=largest, size=config.vocab_size)
    side = config.tower.image_size // config.tower.patch_size // 2
    for name, found, expected in (
        ("the id of <|image|>", ids.get(processor.image_token), config.image_token_id),
        ("crop_size", crops.crop_size, config.tower.image_size),
        ("num_img_tokens", crops.num_img_tokens, side**2),
    ):
        if found != expected:
            raise failure("other_number", name=name, found=found, expected=expected)


def load_generation_config(folder: str | Path, config: Phi3VConfig) -> GenerationConfig:
    """Load the generation_config.json of a folder, whose tokens must be in the vocabulary."""
    with explained(f"The generation_config.json in {folder} does", "Copy it there again."):
        generation = GenerationConfig.from_pretrained(folder)
        stops = generation.eos_token_id or []
        for token in stops if isinstance(stops, list) else [stops]:
            if not isinstance(token, int) or not 0 <= token < config.vocab_size:
                raise ValueError(f"its eos_token_id is {stops!r:.60}")
    return generation


def load_config(source: str | Path) -> Phi3VConfig:
    """Load the config of a checkpoint folder or hub id; other models are an error."""
    place = resolve(source)
    is_folder = Path(place).is_dir()
    if is_folder and not (Path(place) / "config.json").is_file():
        held = ", ".join(sorted(entry.name for entry in Path(place).iterdir())[:5]) or "nothing"
        raise failure("no_config", place=place, held=held)
    try:
        fields = dict(Phi3VConfig.get_config_dict(place)[0])
    except Exception as problem:
        key = "cut_config" if is_folder else "not_on_hub"
        raise failure(key, place=place, problem=first_line(problem)) from problem
    kind = fields.get("model_type")
    if kind != Phi3VConfig.model_type:
        raise failure("other_model", place=place, kind=kind)
    if is_folder:
        check_sizes(fields, Path(place))
    with explained(f"The config.json in {place} does", "Copy it there again."):
        json.dumps(fields, allow_nan=False)
        config: Phi3VConfig = Phi3VConfig.from_dict(fields)
    return config


def check_sizes(fields: Mapping[str, Any], folder: Path) -> None:
    """Check the sizes in a config.json by the weights beside it, of which only heads are read."""
    with explained(f"The weights in {folder} do", "Is every shard there, whole?"):
        sizes = _weight_sizes(folder, is_quantized=bool(fields.get("quantization_config")))
    with explained(f"The config.json in {folder} does", "Copy it there again."):
        tower = (fields.get("img_processor") or {}).get("vision_config") or CLIP_VIT_L_14_336
        given = {TOWER: dict(tower), DECODER: fields}
    for (prefix, name), found in sizes.items():
        number = given[prefix].get(name)
        if number is not None and number != found:
            part = "decoder" if prefix == DECODER else "tower"
            values = {"name": name, "number": number, "part": part, "found": found}
            raise failure("other_size", folder=folder, **values)


def _weight_sizes(folder: Path, *, is_quantized: bool) -> dict[tuple[str, str], int]:
    """Read the sizes of a model off its weights, as a config.json has them; {} without weights."""
    stored: StoredTensors = {}
    files = {*folder.glob("*.safetensors")}
    if (index := folder / "model.safetensors.index.json").is_file():
        files |= {folder / name for name in json.loads(index.read_text())["weight_map"].values()}
    for file in files:
        stored |= read_header(file)
    for name, (dtype, _) in stored.items():
        if "F" not in dtype and name.endswith(".weight") and not is_quantized:
            raise ValueError(f"{name} holds whole numbers ({dtype})")
    shapes = {name: shape for name, (_, shape) in stored.items()}
    if not shapes:
        return {}
    sizes = {(part, name): shapes[part + weight][place] for part, name, weight, place in SIZES}
    for part in (DECODER, TOWER):
        numbers = (re.match(rf"{re.escape(part)}(?:encoder\.)?layers\.(\d+)\.", n) for n in shapes)
        sizes[part, "num_hidden_layers"] = 1 + max(int(found[1]) for found in numbers if found)
    patches = shapes[f"{TOWER}embeddings.position_embedding.weight"][0] - 1
    sizes[TOWER, "image_size"] = math.isqrt(patches) * sizes[TOWER, "patch_size"]
    return sizes


def read_header(file: Path) -> StoredTensors:
    """Read the names, dtypes and shapes in a safetensors file; one that is cut is a ValueError."""
    if not file.is_file():
        raise ValueError(f"{file.name} is missing")
    with file.open("rb") as opened:
        if opened.read(20).startswith(b"version https://git"):
            raise ValueError(f"{file.name} is a Git LFS pointer, to fetch with `git lfs pull`")
    try:
        with safe_open(file, "pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
            return {n: (str(t.get_dtype()), tuple(t.get_shape())) for n, t in slices.items()}
    except SafetensorError as problem:
        values = {"file": file.name, "size": file.stat().st_size, "problem": first_line(problem)}
        raise failure("cut_file", **values) from problem


def _check_adapter(folder: Path, config: Phi3VConfig) -> None:
    # peft warns of missing tensors, and drops others: the adapter would only look loaded.
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    with explained(f"The adapter in {folder} does", "Is it whole, and made for this base?"):
        fields = json.loads((folder / ADAPTER_CONFIG).read_text())
        json.dumps(fields, allow_nan=False)
        kind = fields.get("peft_type")
        if kind != "LORA" or fields.get("layer_replication"):
            raise ValueError(f"its type is {kind}; only LoRA of the model's own layers can be read")
        stored = read_header(folder / "adapter_model.safetensors")
        found = {name: list(shape) for name, (_, shape) in stored.items()}
        lora = PeftConfig.from_pretrained(folder, init_lora_weights=False)
        with torch.device("meta"):
            model = PeftModel(Phi3VForCausalLM(config), lora)
        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
        needed = {name: list(weight.shape) for name, weight in weights.items()}
        for name in sorted(found.keys() | needed.keys()):
            shapes = (found.get(name, ["nothing"]), needed.get(name, ["nothing"]))
            has, needs = (" x ".join(map(str, shape)) for shape in shapes)
            if has != needs:
                raise ValueError(f"of {name} it has {has}, and the base needs {needs}")


@contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Turn whatever libraries raise for a damaged file into one line."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as problem:
        text = first_line(problem)
        raise failure("not_load", what=what, problem=text, advice=advice) from problem


def resolve(source: str | Path) -> str:
    """Return the path or hub id of a model: a base of ours, a run's `model/`, or `source`."""
    text = str(source)
    if text == SMALL:
        return str(Path(__file__).parent / SMALL)
    if text == PHOTO:
        from .photo_base import photo_folder

        return str(photo_folder())
    folder = Path(text)
    if not (folder / "config.json").is_file():
        if (folder / RUN_MODEL).is_dir():
            return str(folder / RUN_MODEL)
        if (recipe := folder / RUN_RECIPE).is_file():
            raise failure("no_model_yet", folder=folder, recipe=recipe)
    if folder.is_dir() or _looks_like_hub_id(text):
        return text
    found = "no such folder" + suggestion(text, [SMALL, PHOTO, *map(str, folder.parent.glob("*"))])
    found = "it is a file" if folder.is_file() else found
    raise failure("no_model", text=text, found=found, small=SMALL, photo=PHOTO)


def adapter_base(place: str) -> str | None:
    """Return the base checkpoint of an adapter folder; None for other folders."""
    described = Path(place) / ADAPTER_CONFIG
    if not described.is_file():
        return None
    with explained(f"The adapter in {place} does", "Copy it there again."):
        base = json.loads(described.read_text()).get("base_model_name_or_path")
        if not base or not isinstance(base, str):
            raise failure("base_unnamed", base=base)
    try:
        return resolve(base)
    except ValueError as problem:
        raise failure("no_base", place=place, base=base) from problem


def first_line(problem: Exception) -> str:
    """Return the first line of an error that says something, ended by a full stop."""
    text = f"there is no {problem}" if isinstance(problem, KeyError) else str(problem)
    first, *more = (text or type(problem).__name__).strip().splitlines()
    # Validators name themselves first.
    line = more[0].strip() if more and first.endswith(":") else first
    return line.rstrip(". ") + "."


def fast_dtype(device: torch.device) -> torch.dtype:
    """Choose bfloat16 where the machine multiplies in it, else float32: emulation is slower."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities()
        able = any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if able else torch.float32


def _looks_like_hub_id(text: str) -> bool:
    """Whether a text is `owner/name`: one slash, and not below an existing folder."""
    match = re.fullmatch(r"(?!\.{1,2}/|~/)([^/]+)/[^/]+", text)
    return match is not None and not Path(match[1]).is_dir()
