"""export_hf: a run as a folder in the official layout, for transformers, vLLM and others.

    model-0000k-of-0000n.safetensors  full weights under their official names, adapter merged
    config.json                       the official fields, readable by transformers 4 and 5
    generation_config.json            the stop tokens; the official file leaves `<|end|>` out
    tokenizer.json, ...               the base's own, byte for byte
    chat_template.jinja               the official chat format, for images too
    preprocessor_config.json          the image settings of the training
    *_phi3_v.py                       the code, for machines without phi-vision
    template.yaml, README.md          prompt template and model card

The folder is loaded again, verified on real samples, and published only if its outputs match. Only
one merged tensor is in memory at a time; the others are mapped from the base's files. Files are
written here, since the safetensors library writes one from all its tensors at once, 5 GB beside the
5 GB they are computed from: the length of the header, the header as JSON, and the bytes of each.
"""

import copy
import gc
import itertools
import json
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from huggingface_hub import StateDictSplit, snapshot_download, split_state_dict_into_shards_factory
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers import AutoTokenizer, GenerationConfig

from phi_vision.export import verify
from phi_vision.export.model_card import find_base, write_card
from phi_vision.export.verify import Model
from phi_vision.inference.onnx_predictor import GENAI_FILE
from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.io.formatting import error_texts
from phi_vision.model import checkpoint
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import STOP_TOKENS, Phi3VProcessor
from phi_vision.runs import RunDir

failure = error_texts(__file__)

SINGLE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Files of a tokenizer; not every base has all of them.
TOKENIZER_FILES = [
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.model"),
]
CODE = Path(checkpoint.__file__).parent  # folder of the code that ships with the weights
# Auto class -> code in the folder; the config of a base from the hub would point to the hub.
AUTO_MAP = {
    "AutoConfig": "configuration_phi3_v.Phi3VConfig",
    "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
    "AutoModelForImageTextToText": "modeling_phi3_v.Phi3VForCausalLM",
}
# Dtype -> its name in safetensors files.
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

Weights = dict[str, torch.Tensor]


def export_hf(
    source: str,
    out: Path,
    *,
    data: Path | None = None,
    samples: int = 4,
    max_shard_size: str = "5GB",
) -> verify.Verification:
    """Export a run, an adapter or a checkpoint as a folder of merged weights, and verify it.

    Peak memory is about the size of the weights: they are memory-mapped, one model at a time.

    `out` must not exist, or be empty. `data` and `samples` choose what to verify with, by default
    the first of the run's own; 0 skips it. `max_shard_size` is that of a weight file, such as 5GB.
    Where there are no full weights or no samples, an adapter does not fit its base, or outputs of
    the exported model do not match, a ValueError; where the disk is full, an OSError.
    """
    check_folder_is_free(out)
    find_weights(source)
    chosen, template = verify.verification_samples(source, data, samples)
    expected = verify.collect_outputs(*open_source(source), chosen, template)
    # One model at a time, each opened anew: the file pages that inference touched stay in memory
    # as long as the model does, and merging needs some, too.
    gc.collect()
    model, processor = open_source(source)
    shapes = base_weights(model)
    dtype = next(iter(shapes.values())).dtype
    plan = plan_shards(shapes, max_shard_size)
    needed = sum(weight.nbytes for weight in shapes.values())
    with atomic_folder(out, needed_bytes=needed) as folder:
        write_shards(merged_weights(model), shapes, plan, folder)
        precision = str(dtype).removeprefix("torch.")
        _write_config(model, processor, folder, precision)
        _write_tokenizer_and_code(source, processor, folder)
        del model, shapes
        gc.collect()
        found = verify.collect_outputs(*checkpoint.load_model(folder), chosen, template)
        verification = verify.compare_outputs(expected, found, dtype=dtype)
        prompt = template.prompt(processor)
        write_card(source, folder, template, prompt, verification, "transformers", precision)
    return verification


def _write_config(model: Model, processor: Phi3VProcessor, folder: Path, precision: str) -> None:
    """Write config, stop tokens and image settings."""
    model.config.save_pretrained(folder)
    file = folder / "config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    # transformers 5 reads `dtype`; transformers 4 and engines like MLX read `torch_dtype`.
    fields |= {"auto_map": AUTO_MAP, "dtype": precision, "torch_dtype": precision}
    fields["architectures"] = ["Phi3VForCausalLM"]
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=processor.tokenizer.convert_tokens_to_ids(list(STOP_TOKENS)),
        pad_token_id=model.config.pad_token_id,
    ).save_pretrained(folder)
    # Engines that lay out images themselves expect the official form; our model takes both.
    processor.image_processor.pad_crops = True
    processor.save_pretrained(folder)


def _write_tokenizer_and_code(source: str, processor: Phi3VProcessor, folder: Path) -> None:
    # A tokenizer saved by transformers 5 names a class that only transformers 5 knows.
    place = _find_tokenizer(source, processor.tokenizer.get_vocab())
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
        if (place / name).is_file():
            shutil.copyfile(place / name, folder / name)
    for file in CODE.glob("*_phi3_v.py"):
        shutil.copyfile(file, folder / file.name)


def _find_tokenizer(source: str, vocabulary: dict[str, int]) -> Path:
    """Return the folder of the first tokenizer with this vocabulary: of a base, else the source."""
    origin, seen = source, {source}
    # `seen` ends the search for a run that was moved to the place of its base.
    while (base := find_base(origin)) is not None and base not in seen:
        seen.add(base)
        try:
            if AutoTokenizer.from_pretrained(_fetch_tokenizer(base)).get_vocab() != vocabulary:
                break
        except (ValueError, OSError):
            break
        origin = base
    return _fetch_tokenizer(origin)


def _fetch_tokenizer(source: str) -> Path:
    """Return the folder with a checkpoint's tokenizer, downloaded for a hub id."""
    place = checkpoint.resolve(source)
    if Path(place).is_dir():
        return Path(place)
    try:
        return Path(snapshot_download(place, allow_patterns=TOKENIZER_FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError) as problem:
        raise ValueError(f"the tokenizer of {place} cannot be downloaded: {problem}") from problem


def open_source(
    source: str | Path, *, dtype: torch.dtype | None = None
) -> tuple[Model, Phi3VProcessor]:
    """Load the model to export, its adapter not merged, its weights mapped, or raise ValueError."""
    place = find_weights(source)
    base = checkpoint.adapter_base(place)
    if checkpoint.load_config(base or place).to_dict().get("quantization_config"):
        raise failure("quantized_checkpoint", place=base or place)
    model, processor = checkpoint.load_model(place, dtype=dtype)
    check_not_quantized(model)
    return model, processor


def find_weights(source: str | Path) -> str:
    """Return the folder or hub id of the weights or the adapter, or raise ValueError."""
    folder = Path(source)
    if (folder / GENAI_FILE).is_file():
        raise failure("only_graphs", folder=folder)
    weights = RunDir(folder).model_dir
    if RunDir.is_run(folder) and not weights.is_dir():
        recipe = RunDir(folder).recipe_file
        raise failure("no_weights_yet", folder=folder, weights=weights, recipe=recipe)
    place = checkpoint.resolve(source)
    checkpoint.load_config(checkpoint.adapter_base(place) or place)  # is there, and one of ours
    return place


def check_not_quantized(model: nn.Module) -> None:
    """Check that every weight is stored in at least 16 bits, or raise ValueError."""
    for name, weight in model.named_parameters():
        if not weight.is_floating_point() or weight.itemsize < 2:
            raise failure("quantized_model", name=name, dtype=weight.dtype)


def base_weights(model: Model) -> Weights:
    """Return the weights without the adapter, under their official names."""
    return dict(_walk(model, _unmerged))


def merged_weights(model: Model) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights with the adapter merged, in the order of `base_weights`.

    Each is computed in float32 and rounded once; one that is not finite is a ValueError.
    """
    return _walk(model, _merged)


def _walk(
    model: Model, weights_of: Callable[[nn.Module], Weights]
) -> Iterator[tuple[str, torch.Tensor]]:
    network = model.get_base_model() if isinstance(model, PeftModel) else model
    kinds = (LoraLayer, ModulesToSaveWrapper)
    adapted = {name: part for name, part in network.named_modules() if isinstance(part, kinds)}
    weights = network.state_dict()

    def owner_of(name: str) -> str | None:
        prefixes = itertools.accumulate(name.split("."), "{}.{}".format)
        return next((prefix for prefix in prefixes if prefix in adapted), None)

    for owner, names in itertools.groupby(weights, key=owner_of):
        if owner is None:
            yield from ((name, weights[name]) for name in names)
        else:
            merged = weights_of(adapted[owner])
            yield from ((f"{owner}.{name}", weight) for name, weight in merged.items())


def _unmerged(module: nn.Module) -> Weights:
    if isinstance(module, LoraLayer):
        return dict(module.get_base_layer().state_dict())
    assert isinstance(module, ModulesToSaveWrapper)
    return dict(module.original_module.state_dict())


@torch.no_grad()
def _merged(module: nn.Module) -> Weights:
    if isinstance(module, LoraLayer):
        # A copy of this one layer: the model stays unmerged, and memory stays bounded.
        layer = copy.deepcopy(module).float()
        layer.merge()
        after = layer.get_base_layer().state_dict()
    else:
        assert isinstance(module, ModulesToSaveWrapper)
        after = module.modules_to_save[module.active_adapters[0]].state_dict()
    rounded = {name: after[name].to(weight.dtype) for name, weight in _unmerged(module).items()}
    for name, weight in rounded.items():
        if not torch.isfinite(weight).all():
            raise failure("not_finite", name=name, kind=type(module).__name__, dtype=weight.dtype)
    return rounded


def plan_shards(weights: Mapping[str, torch.Tensor], max_shard_size: str) -> StateDictSplit:
    """Assign weights to files of a size like 5GB, in their order."""
    try:
        return split_state_dict_into_shards_factory(
            dict(weights),
            get_storage_size=lambda weight: weight.nbytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as problem:
        raise failure("shard_size", max_shard_size=max_shard_size) from problem


def write_shards(
    weights: Iterable[tuple[str, torch.Tensor]],
    shapes: Mapping[str, torch.Tensor],
    plan: StateDictSplit,
    folder: Path,
) -> None:
    """Write weights into the files of a plan, made from tensors of their order, shape and dtype."""
    files = plan.filename_to_tensors
    for file_name, names in files.items():
        (folder / file_name).write_bytes(_header({name: shapes[name] for name in names}))
    waiting = {file_name: iter(names) for file_name, names in files.items()}
    for name, weight in weights:
        assert (weight.shape, weight.dtype) == (shapes[name].shape, shapes[name].dtype), name
        file_name = plan.tensor_to_filename[name]
        assert next(waiting[file_name]) == name, name
        with (folder / file_name).open("ab") as file:
            file.write(weight.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    assert not any(map(list, waiting.values())), "some were never written"
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _header(weights: Mapping[str, torch.Tensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, weight in weights.items():
        start, end = end, end + weight.nbytes
        place = {"shape": list(weight.shape), "data_offsets": [start, end]}
        entries[name] = {"dtype": DTYPES[weight.dtype], **place}
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Data begins at a multiple of 8 bytes, so that it can be memory-mapped.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def expected_shapes(config: Phi3VConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the architecture, tied ones once; allocates none."""
    with torch.device("meta"):
        model = Phi3VForCausalLM(config)
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}
