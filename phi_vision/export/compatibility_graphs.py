"""Graphs for onnxruntime-genai: what genai_config.json names is there, whole, and fits it."""

import importlib.util
from pathlib import Path
from typing import Any

from phi_vision.export.compatibility_folder import Finding, Folder, some
from phi_vision.inference.onnx_predictor import GENAI_FILE

PARTS = ("decoder", "embedding", "vision")
"""Sections of `model` in genai_config.json that a model with images has."""

WRITE = "write it anew: phi-vision export RUN --format onnx --out DIR"


def graph_findings(folder: Folder) -> list[Finding]:
    """Find out whether onnxruntime-genai has what it loads; only graphs are read, no weights."""
    described = describe_graphs(folder)
    if not described:
        found = f"no readable {GENAI_FILE}: not a folder of graphs"
        return [Finding(need=GENAI_FILE, found=found, ok=False, advice=WRITE)]
    kind = described.get("type")
    typed = Finding(need=f"type phi3v in {GENAI_FILE}", found=f"{kind}", ok=kind == "phi3v")
    return [
        typed,
        *(_part(folder, name, described.get(name)) for name in PARTS),
        _room(folder, described),
    ]


def describe_graphs(folder: Folder) -> dict[str, Any]:
    """Give what genai_config.json says of the model; nothing where it says none."""
    described = folder.fields(GENAI_FILE).get("model")
    return described if isinstance(described, dict) else {}


def _part(folder: Folder, name: str, described: Any) -> Finding:
    need = f"{name}: its graph and its weights, with the inputs named"
    if not isinstance(described, dict) or not described.get("filename"):
        return Finding(need=need, found=f"not in {GENAI_FILE}", ok=False, advice=WRITE)
    file = str(described["filename"])
    if not folder.has(file):
        return Finding(need=need, found=f"{file} is missing", ok=False, advice=WRITE)
    if importlib.util.find_spec("onnx") is None:
        found = f"{file} is there; what is in it cannot be told without the library onnx"
        advice = "pip install 'phi-vision[onnx]' and check again"
        return Finding(need=need, found=found, ok=False, advice=advice)
    problems, size = _look_into(folder.path / file, described)
    found = "; ".join(problems) or f"{file}, {size / 1e6:.1f} MB"
    return Finding(need=need, found=found, ok=not problems, advice=WRITE)


def _look_into(file: Path, described: dict[str, Any]) -> tuple[list[str], int]:
    """Open a graph without its weights: what is wrong with it, and bytes on disk."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx.external_data_helper import ExternalDataInfo

    try:
        graph = onnx.load(file, load_external_data=False).graph
    except DecodeError:
        return [f"{file.name} is no ONNX graph, or was cut"], 0
    ends: dict[str, int] = {}
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = ExternalDataInfo(tensor)
            end = int(place.offset or 0) + int(place.length or 0)
            ends[place.location] = max(end, ends.get(place.location, 0))
    sizes = {name: _bytes_of(file.parent / name) for name in ends}
    problems = [
        f"{name} has {sizes[name]} bytes of {end}"
        for name, end in ends.items()
        if sizes[name] < end
    ]
    known = {value.name for value in [*graph.input, *graph.output]}
    # A name with %d stands for one of each layer.
    wanted = [*described.get("inputs", {}).values(), *described.get("outputs", {}).values()]
    lost = {name for name in map(_of_first_layer, wanted) if name not in known}
    problems += [f"{file.name} has no {some(lost)}"] if lost else []
    return problems, _bytes_of(file) + sum(sizes.values())


def _room(folder: Folder, described: dict[str, Any]) -> Finding:
    """Look at how much room for keys and values is reserved as soon as it generates."""
    search = folder.fields(GENAI_FILE).get("search")
    length = search.get("max_length") if isinstance(search, dict) else None
    context = described.get("context_length")
    fits = isinstance(length, int) and isinstance(context, int) and 0 < length <= context
    return Finding(
        need="a max_length within the context",
        found=f"{length} of {context}",
        ok=fits,
        advice=f"write search.max_length into {GENAI_FILE}: memory is reserved for all of it",
    )


def _of_first_layer(name: str) -> str:
    return name.replace("%d", "0")


def _bytes_of(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
