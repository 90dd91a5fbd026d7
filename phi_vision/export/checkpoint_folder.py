"""A folder for `check`: its JSON files, the headers of its weights, and the requirements on them.

Weights are never read, so that gigabytes take no longer than one.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from phi_vision.export.merge import INDEX, SINGLE_FILE
from phi_vision.io.formatting import format_bytes
from phi_vision.model.checkpoint import ADAPTER_CONFIG, first_line
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM

FLOATS = {"BF16", "F16", "F32"}
"""Dtypes, in safetensors' terms, that every engine here reads."""

ALIASES = ("vision_embed_tokens.wte.weight", "embeddings.position_ids")
"""Ends of names that official files may hold, too; every engine skips them."""

EXPORT = "write a complete folder: phi-vision export RUN --out DIR"


class Requirement(NamedTuple):
    """One thing that an engine needs of a folder, and what to do where it is not met."""

    need: str
    found: str
    ok: bool = True
    advice: str = EXPORT


class StoredTensor(NamedTuple):
    """A tensor as the header of its file describes it."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder whose JSON files are parsed once."""

    path: Path

    def has(self, name: str) -> bool:
        """Whether a file exists."""
        return (self.path / name).is_file()

    def fields(self, name: str) -> dict[str, Any]:
        """Return the fields of a JSON file; {} where it is missing or `broken`."""
        fields = self._parsed.get(name)
        return fields if isinstance(fields, dict) else {}

    def names(self, ending: str = "") -> list[str]:
        """List the files with an ending."""
        return sorted(file.name for file in self.path.glob(f"*{ending}") if file.is_file())

    def text(self, name: str) -> str:
        """Return the content of a text file; "" where it is missing."""
        file = self.path / name
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    @property
    def broken(self) -> dict[str, str]:
        """JSON file that cannot be read -> why."""
        return {name: found for name, found in self._parsed.items() if isinstance(found, str)}

    @functools.cached_property
    def _parsed(self) -> Mapping[str, dict[str, Any] | str]:
        return {name: _parse(self.path / name) for name in self.names(".json")}


def weight_requirements(folder: CheckpointFolder, config: Phi3VConfig | None) -> list[Requirement]:
    """Check that the weights are complete and, where the config is readable, that they fit it."""
    named = folder.fields(INDEX).get("weight_map")
    index = named if isinstance(named, dict) else {}
    shards = sorted({str(file) for file in index.values()})
    if folder.has(SINGLE_FILE):
        shards, index = [SINGLE_FILE], {}
    # Alone an adapter is no model, and beside weights some engines ignore it.
    place = "beside the weights" if shards else "without its base's weights"
    no_adapter = not folder.has(ADAPTER_CONFIG)
    found = "none" if no_adapter else f"an adapter {place} ({ADAPTER_CONFIG})"
    requirements = [Requirement("no adapter left to merge", found, no_adapter)]
    if not shards:
        others = some(folder.names(".bin") + folder.names(".pt"))
        found = f"no {SINGLE_FILE} and no {INDEX}; {others} beside"
        return [*requirements, Requirement("weights", found, False)]
    stored: dict[str, dict[str, StoredTensor]] = {}
    problems = []
    for shard in shards:
        try:
            stored[shard] = read_header(folder.path / shard)
        except (ValueError, OSError) as problem:
            problems.append(str(problem))
    size = sum((folder.path / shard).stat().st_size for shard in stored)
    found = "; ".join(problems) or f"{len(shards)} of {len(shards)}, {format_bytes(size)}"
    advice = "copy the folder again: a shard is missing or was cut"
    requirements.append(Requirement("every weight file, complete", found, not problems, advice))
    requirements.append(_matches_index(index, stored))
    if config is None:
        return requirements
    tensors = {name: tensor for shard in stored.values() for name, tensor in shard.items()}
    dtypes = {tensor.dtype for tensor in tensors.values()}
    is_float = bool(dtypes) and dtypes <= FLOATS
    advice = "export from weights that are not quantized; engines quantize them themselves"
    need = "weights in BF16, F16 or F32"
    floats = Requirement(need, some(dtypes), is_float, advice)
    return [*requirements, _matches_config(tensors, config), floats]


def expected_shapes(config: Phi3VConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the architecture, without allocating any."""
    with torch.device("meta"):
        model = Phi3VForCausalLM(config)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    return shapes


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Read the names, dtypes and shapes in a safetensors file.

    Raises:
        ValueError: The file is missing, cut, or of another format.
    """
    if not file.is_file():
        raise ValueError(f"{file.name} is missing")
    try:
        with safe_open(file, framework="pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
            return {
                name: StoredTensor(str(tensor.get_dtype()), tuple(tensor.get_shape()))
                for name, tensor in slices.items()
            }
    except SafetensorError as problem:
        size = file.stat().st_size
        raise ValueError(
            f"{file.name} is not a complete safetensors file ({size} bytes): {first_line(problem)}"
        ) from problem


def some(names: Iterable[str], shown: int = 3) -> str:
    """List a few of many: ["a", "b", "c", "d"] -> "a, b, c and 1 more"; [] -> "nothing"."""
    names = sorted(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more or "nothing"


def unmet(requirements: Iterable[Requirement]) -> list[Requirement]:
    """Return the requirements that are not met."""
    return [requirement for requirement in requirements if not requirement.ok]


def _parse(file: Path) -> dict[str, Any] | str:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        return str(problem)
    return fields if isinstance(fields, dict) else f"a {type(fields).__name__}, not fields"


def _matches_index(
    index: Mapping[str, str], stored: Mapping[str, Mapping[str, StoredTensor]]
) -> Requirement:
    need = "tensors in the files that the index names"
    if not index:
        return Requirement(need, "one file, no index needed")
    problems = {
        "missing": {name for name, file in index.items() if name not in stored.get(file, {})},
        "unlisted": {name for tensors in stored.values() for name in tensors} - index.keys(),
    }
    found = _list_problems(problems)
    advice = "index and files are of different exports; copy all of them again"
    return Requirement(need, found or f"{len(index)} of {len(index)}", not found, advice)


def _matches_config(tensors: Mapping[str, StoredTensor], config: Phi3VConfig) -> Requirement:
    expected = expected_shapes(config)
    held = {name: tensor.shape for name, tensor in tensors.items()}
    # A tied head may be stored all the same.
    aliases = (*ALIASES, "lm_head.weight") if config.tie_word_embeddings else ALIASES
    problems = {
        "missing": expected.keys() - held.keys(),
        "unexpected": {n for n in held.keys() - expected.keys() if not n.endswith(aliases)},
        "of other shape": {n for n in expected.keys() & held.keys() if expected[n] != held[n]},
    }
    found = _list_problems(problems)
    need = "official names and the shapes of config.json"
    return Requirement(need, found or f"all {len(expected)} tensors", not found)


def _list_problems(problems: Mapping[str, Iterable[str]]) -> str:
    texts = {what: sorted(names) for what, names in problems.items()}
    return "; ".join(f"{len(n)} {what}: {some(n, 2)}" for what, n in texts.items() if n)
