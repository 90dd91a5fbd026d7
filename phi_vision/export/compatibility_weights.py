"""Are the weights whole? Files against the index, tensors against the architecture, no adapter."""

from pathlib import Path

import torch

from phi_vision.export.compatibility_folder import Finding, Folder, StoredTensor, read_header, some
from phi_vision.export.weight_shards import INDEX
from phi_vision.model.checkpoint import ADAPTER_CONFIG
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM

ONE_FILE = "model.safetensors"
FLOATS = {"BF16", "F16", "F32"}
"""Kinds of number, in safetensors' words, that every engine here reads."""

ALIASES = ("vision_embed_tokens.wte.weight", "embeddings.position_ids")
"""Ends of names that official files may hold besides; every engine skips them."""

EXPORT = "write a whole folder: phi-vision export RUN --out DIR"


def weight_findings(folder: Folder, config: Phi3VConfig | None) -> list[Finding]:
    """Find out whether the weights are there, whole and those of the config.

    Args:
        folder: Where they lie; only headers are read.
        config: What they must fit; None where it could not be read, and then they are not held
            against anything.
    """
    findings = [_no_adapter(folder)]
    shards = _shards(folder)
    if not shards:
        others = some(folder.names(".bin") + folder.names(".pt"))
        found = f"no {ONE_FILE} and no {INDEX}; {others} beside"
        return [*findings, Finding(need="weights", found=found, ok=False, advice=EXPORT)]
    stored, problems = _read(folder.path, shards)
    size = sum((folder.path / s).stat().st_size for s in shards if (folder.path / s).is_file())
    findings.append(
        Finding(
            need="every file of the weights, whole",
            found="; ".join(problems) or f"{len(shards)} of {len(shards)}, {size / 1e9:.2f} GB",
            ok=not problems,
            advice="copy the folder again: a shard is missing or was cut",
        )
    )
    findings.append(_as_indexed(folder, stored))
    if config is not None:
        findings += [_as_config_says(stored, config), _floats(stored)]
    return findings


def expected_shapes(config: Phi3VConfig) -> dict[str, tuple[int, ...]]:
    """Give every tensor of the architecture with its shape; nothing is allocated."""
    with torch.device("meta"):
        model = Phi3VForCausalLM(config)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    return shapes


def _no_adapter(folder: Folder) -> Finding:
    """Refuse an adapter: alone it is no model, and beside weights some engines overlook it."""
    there = folder.has(ADAPTER_CONFIG)
    whole = bool(_shards(folder))
    found = "an adapter beside the weights" if whole else "an adapter without its base's weights"
    return Finding(
        need="no adapter left to merge",
        found=f"{found} ({ADAPTER_CONFIG})" if there else "none",
        ok=not there,
        advice="merge it: phi-vision export RUN --out DIR",
    )


def _shards(folder: Folder) -> list[str]:
    if folder.has(ONE_FILE):
        return [ONE_FILE]
    return sorted({str(file) for file in _index(folder).values()})


def _index(folder: Folder) -> dict[str, str]:
    """Give tensor -> file as the index has it; nothing without one."""
    named = folder.fields(INDEX).get("weight_map")
    return named if isinstance(named, dict) else {}


def _read(path: Path, shards: list[str]) -> tuple[dict[str, dict[str, StoredTensor]], list[str]]:
    """Read the header of each file: file -> name -> tensor, and what is wrong with the others."""
    stored, problems = {}, []
    for shard in shards:
        try:
            stored[shard] = read_header(path / shard)
        except (ValueError, OSError) as problem:
            problems.append(str(problem))
    return stored, problems


def _as_indexed(folder: Folder, stored: dict[str, dict[str, StoredTensor]]) -> Finding:
    """Hold the files against the index, where there is one: loaders look a tensor up there."""
    need = "tensors in the files that the index names"
    indexed = _index(folder)
    if ONE_FILE in stored or not indexed:
        return Finding(need=need, found="one file, no index needed", ok=True)
    lost = [name for name, file in indexed.items() if name not in stored.get(file, {})]
    held = {name for tensors in stored.values() for name in tensors}
    unnamed = held - indexed.keys()
    words = [f"{len(lost)} not there: {some(lost)}"] if lost else []
    words += [f"{len(unnamed)} in no entry: {some(unnamed)}"] if unnamed else []
    return Finding(
        need=need,
        found="; ".join(words) or f"{len(indexed)} of {len(indexed)}",
        ok=not words,
        advice="index and files are of different exports; copy all of them again",
    )


def _as_config_says(stored: dict[str, dict[str, StoredTensor]], config: Phi3VConfig) -> Finding:
    expected = expected_shapes(config)
    held = {name: tensor.shape for tensors in stored.values() for name, tensor in tensors.items()}
    missing = expected.keys() - held.keys()
    foreign = {n for n in held.keys() - expected.keys() if not n.endswith(ALIASES)}
    # A tied head may be written out all the same.
    foreign -= {"lm_head.weight"} if config.tie_word_embeddings else set()
    other = {name for name in expected.keys() & held.keys() if expected[name] != held[name]}
    words = [
        f"{len(names)} {what}: {some(names, 2)}"
        for what, names in (("missing", missing), ("foreign", foreign), ("of other shape", other))
        if names
    ]
    return Finding(
        need="official names and the shapes of config.json",
        found="; ".join(words) or f"all {len(expected)} tensors",
        ok=not words,
        advice=EXPORT,
    )


def _floats(stored: dict[str, dict[str, StoredTensor]]) -> Finding:
    kinds = {tensor.dtype for tensors in stored.values() for tensor in tensors.values()}
    return Finding(
        need="weights in BF16, F16 or F32",
        found=some(kinds),
        ok=bool(kinds) and kinds <= FLOATS,
        advice="export from weights that are not quantised; engines quantise by themselves",
    )
