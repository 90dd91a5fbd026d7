"""Weights -> safetensors files, each tensor written as it comes.

The safetensors library writes a file from a dictionary that holds all its tensors at once: 5 GB of
changed weights beside the 5 GB they were made from. Its format is simple enough to be filled in
place: the length of the header, the header in JSON, and the numbers of each tensor where the header
says. It is read back by the library.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory

FILES = "model{suffix}.safetensors"
INDEX = "model.safetensors.index.json"

CODES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""How the format calls the numbers that weights are held in."""


def plan_shards(weights: Mapping[str, torch.Tensor], max_shard_size: str) -> StateDictSplit:
    """Deal weights out to files, in their order.

    Raises:
        ValueError: The size is none such as 5GB.
    """
    try:
        return split_state_dict_into_shards_factory(
            dict(weights),
            get_storage_size=lambda weight: weight.nbytes,
            filename_pattern=FILES,
            max_shard_size=max_shard_size,
        )
    except ValueError as problem:
        raise ValueError(
            f"max_shard_size is {max_shard_size!r}; write a size like 5GB or 500MB"
        ) from problem


def write_shards(
    written: Iterable[tuple[str, torch.Tensor]],
    shapes: Mapping[str, torch.Tensor],
    plan: StateDictSplit,
    folder: Path,
) -> None:
    """Write weights into the files of a plan, in whatever order they come.

    Args:
        written: Name and numbers of each weight.
        shapes: Name -> a tensor of the shape and kind that it will have; the plan was made of them.
        plan: Which weight belongs to which file.
        folder: Where the files go.
    """
    places: dict[str, tuple[Path, int]] = {}
    for file_name, names in plan.filename_to_tensors.items():
        header, offsets = _header({name: shapes[name] for name in names})
        (folder / file_name).write_bytes(header)
        places |= {name: (folder / file_name, offset) for name, offset in offsets.items()}
    for name, weight in written:
        expected = shapes[name]
        assert (weight.shape, weight.dtype) == (expected.shape, expected.dtype), name
        place, offset = places.pop(name)
        with place.open("r+b") as file:
            file.seek(offset)
            file.write(weight.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    assert not places, f"never written: {', '.join(places)}"
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        words = json.dumps(index, indent=2) + "\n"
        (folder / INDEX).write_text(words, encoding="utf-8")


def _header(weights: Mapping[str, torch.Tensor]) -> tuple[bytes, dict[str, int]]:
    """Describe what a file holds, and say where in it the numbers of each tensor begin."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, end = dict[str, int](), 0
    for name, weight in weights.items():
        start, end = end, end + weight.nbytes
        starts[name] = start
        described[name] = {
            "dtype": CODES[weight.dtype],
            "shape": list(weight.shape),
            "data_offsets": [start, end],
        }
    words = json.dumps(described, separators=(",", ":")).encode()
    # Numbers begin at a multiple of 8 bytes, so that they can be mapped where they lie.
    words += b" " * (-len(words) % 8)
    before = struct.pack("<Q", len(words)) + words
    return before, {name: len(before) + start for name, start in starts.items()}
