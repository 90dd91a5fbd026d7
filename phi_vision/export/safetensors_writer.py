"""Writes safetensors files one tensor at a time.

The library's own writer needs all tensors of a file at once: 5 GB of merged weights beside the
5 GB they are computed from. The format is simple: the length of the header, the header as JSON, and
the bytes of each tensor at the offset that the header gives.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory

SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

CODES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Dtype -> its name in the format."""


def plan_shards(weights: Mapping[str, torch.Tensor], max_shard_size: str) -> StateDictSplit:
    """Assign weights to files, in their order.

    Raises:
        ValueError: The size is not like 5GB.
    """
    try:
        return split_state_dict_into_shards_factory(
            dict(weights),
            get_storage_size=lambda weight: weight.nbytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as problem:
        raise ValueError(
            f"max_shard_size is {max_shard_size!r}; write a size like 5GB or 500MB"
        ) from problem


def write_shards(
    weights: Iterable[tuple[str, torch.Tensor]],
    shapes: Mapping[str, torch.Tensor],
    plan: StateDictSplit,
    folder: Path,
) -> None:
    """Write weights into the files of a plan, in any order.

    Args:
        weights: Name and values of each tensor.
        shapes: Name -> a tensor of the same shape and dtype, as the plan was made from.
        plan: From `plan_shards`.
        folder: Where the files go.
    """
    offsets: dict[str, tuple[Path, int]] = {}
    for file_name, names in plan.filename_to_tensors.items():
        header, starts = _header({name: shapes[name] for name in names})
        (folder / file_name).write_bytes(header)
        offsets |= {name: (folder / file_name, start) for name, start in starts.items()}
    for name, weight in weights:
        assert (weight.shape, weight.dtype) == (shapes[name].shape, shapes[name].dtype), name
        path, offset = offsets.pop(name)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(weight.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    assert not offsets, f"never written: {', '.join(offsets)}"
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _header(weights: Mapping[str, torch.Tensor]) -> tuple[bytes, dict[str, int]]:
    """Return the header of a file, and the offset of each tensor in the file."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, end = dict[str, int](), 0
    for name, weight in weights.items():
        start, end = end, end + weight.nbytes
        starts[name] = start
        entries[name] = {
            "dtype": CODES[weight.dtype],
            "shape": list(weight.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Data begins at a multiple of 8 bytes, so that it can be memory-mapped.
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    return header, {name: len(header) + start for name, start in starts.items()}
