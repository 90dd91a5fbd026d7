"""A run, adapter or checkpoint -> merged weights, in files, one tensor at a time.

Only one merged tensor is in memory at a time; the others are mapped from the base's files. The
safetensors library writes a file from all its tensors at once, 5 GB of merged weights beside the
5 GB they are computed from; so files are written here: the length of the header, the header as
JSON, and the bytes of each tensor.
"""

import copy
import itertools
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from phi_vision.inference.onnx_predictor import GENAI_FILE
from phi_vision.io.formatting import error_texts
from phi_vision.model import checkpoint
from phi_vision.model.checkpoint import adapter_base
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.runs import RunDir

failure = error_texts(__file__)

SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Dtype -> its name in safetensors files.
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

Model: TypeAlias = Phi3VForCausalLM | PeftModel
Weights = dict[str, torch.Tensor]


def open_source(
    source: str | Path, *, dtype: torch.dtype | None = None
) -> tuple[Model, Phi3VProcessor]:
    """Load the model to export, with its adapter attached but not merged, or raise ValueError.

    In their stored dtype, weights are memory-mapped: a tensor costs memory once it is used.
    """
    place = find_weights(source)
    base = adapter_base(place)
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
        raise failure("no_weights_yet", folder=folder, weights=weights)
    return checkpoint.resolve(source)


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

    Each changed tensor is computed in float32 and rounded once to the dtype of its base; one that
    is not finite is a ValueError. The model stays as it is.
    """
    return _walk(model, _merged)


def _walk(
    model: Model, weights_of: Callable[[nn.Module], Weights]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all weights, those of a module with an adapter through `weights_of`."""
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
