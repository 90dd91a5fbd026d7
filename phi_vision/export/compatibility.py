"""ENGINES: engine -> its requirements on a folder, and whether they are met.

The requirements come from the engines' own code and from runs (docs/deploy-vllm.md).
"""

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from phi_vision.data.template import END
from phi_vision.export.checkpoint_folder import (
    EXPORT,
    CheckpointFolder,
    Requirement,
    some,
    weight_requirements,
)
from phi_vision.inference.onnx_predictor import GENAI_FILE
from phi_vision.io.formatting import format_bytes
from phi_vision.model.checkpoint import ADAPTER_CONFIG
from phi_vision.model.configuration_phi3_v import CLIP_VIT_L_14_336, Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.processing_phi3_v import Phi3VProcessor

TOKENIZER_CLASSES = "LlamaTokenizer LlamaTokenizerFast PreTrainedTokenizerFast TokenizersBackend"
"""Names by which transformers 5 and onnxruntime-genai open tokenizer.json."""

MAY_IMPORT = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"} | sys.stdlib_module_names
"""Libraries on every machine that has transformers for images."""

VLLM_IMAGE_TOKEN = 32044
"""Image token id that is fixed in vLLM, whatever config.json says."""

VLLM_ATTRIBUTES = ("img_tokens", "calc_num_image_tokens_from_image_size")
"""Attributes of the processor's class that vLLM reads."""

SHORT_CONTEXT = 4096
"""Tokens; with a longer --max-model-len vLLM rotates every position by the long factors."""

EXPORT_ONNX = "export it again: phi-vision export RUN --format onnx --out DIR"
BASE_TOKENIZER = "copy the tokenizer files of this model's base"
PREPROCESSOR = "preprocessor_config.json"

AUTO_MODELS = dict.fromkeys(["AutoModelForCausalLM", "AutoModelForImageTextToText"], "config.json")
AUTO_CLASSES = {
    "AutoConfig": "config.json",
    "AutoProcessor": "processor_config.json",
    "AutoImageProcessor": PREPROCESSOR,
}
"""Auto class -> the JSON file whose `auto_map` must name its code."""

Requirements = Iterator[Requirement]


def check(path: Path) -> dict[str, list[Requirement]]:
    """Check which engines can load a folder: engine -> its requirements, met and unmet.

    Raises:
        ValueError: There is no such folder.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; pass one with config.json and weights, or graphs")
    folder = CheckpointFolder(path)
    return {name: list(requirements(folder)) for name, requirements in ENGINES.items()}


def for_phi_vision(folder: CheckpointFolder) -> Requirements:
    """transformers on a machine with phi-vision: the folder needs no code."""
    config, requirements = _read_config(folder)
    yield from _broken_files(folder)
    yield from requirements
    yield from weight_requirements(folder, config)
    if config is not None:
        yield from _tokenizer(folder, config)
        yield from _images(folder, config)


def for_transformers(folder: CheckpointFolder) -> Requirements:
    """transformers with trust_remote_code=True, also in a pipeline: the folder brings the code."""
    yield from for_phi_vision(folder)
    config, _ = _read_config(folder)
    if config is not None:
        yield from _with_code(folder, config, AUTO_CLASSES | AUTO_MODELS)


def for_vllm(folder: CheckpointFolder) -> Requirements:
    """vLLM with --trust-remote-code: its own model, the folder's config and processor."""
    yield from for_phi_vision(folder)
    config, _ = _read_config(folder)
    if config is not None:
        yield from _with_code(folder, config, AUTO_CLASSES)
        yield from _vllm(folder, config)


def for_genai(folder: CheckpointFolder) -> Requirements:
    """onnxruntime-genai: graphs, tokenizer, and the image settings for the application."""
    yield from _broken_files(folder)
    fields = folder.fields(GENAI_FILE)
    model, search = fields.get("model"), fields.get("search")
    if not isinstance(model, dict) or not model:
        found = f"no readable {GENAI_FILE}: not a folder of graphs"
        yield Requirement(GENAI_FILE, found, False, EXPORT_ONNX)
        return
    kind, context = model.get("type"), model.get("context_length")
    yield Requirement(f"type phi3v in {GENAI_FILE}", f"{kind}", kind == "phi3v", EXPORT_ONNX)
    for name in ("decoder", "embedding", "vision"):
        yield _graph(folder, name, model.get(name))
    length = search.get("max_length") if isinstance(search, dict) else None
    fits = isinstance(length, int) and isinstance(context, int) and 0 < length <= context
    advice = f"write search.max_length into {GENAI_FILE}: memory is reserved for all of it"
    yield Requirement("a max_length within the context", f"{length} of {context}", fits, advice)
    yield _stop_token(folder, model.get("eos_token_id"), EXPORT_ONNX)
    config, requirements = _read_config(folder)
    if config is None:
        yield from requirements
    else:
        yield from _tokenizer(folder, config)
        yield from _images(folder, config)


def image_settings(folder: CheckpointFolder) -> Phi3VImageProcessor | None:
    """Create the image processor that a folder describes; None where it describes none."""
    fields = folder.fields(PREPROCESSOR)
    crops = fields.get("num_crops")
    is_ours = fields.get("image_processor_type") == Phi3VImageProcessor.__name__
    if not is_ours or not isinstance(crops, int) or crops < 1:
        return None
    try:
        return Phi3VImageProcessor(**fields)
    except (TypeError, ValueError):
        return None


def _broken_files(folder: CheckpointFolder) -> Requirements:
    for name, why in folder.broken.items():
        yield Requirement(f"a readable {name}", why, False, "copy it again")


def _read_config(folder: CheckpointFolder) -> tuple[Phi3VConfig | None, list[Requirement]]:
    """Parse config.json as the model does; None where that fails."""
    fields = folder.fields("config.json")
    kind, architectures = fields.get("model_type"), fields.get("architectures")
    if not fields:
        held = "an adapter" if folder.has(ADAPTER_CONFIG) else some(folder.names())
        found = f"no readable config.json, but {held}"
        return None, [Requirement("config.json", found, False)]
    is_ours = kind == Phi3VConfig.model_type and architectures == ["Phi3VForCausalLM"]
    need = "a phi3_v model, Phi3VForCausalLM"
    ours = Requirement(need, f"{kind}, {architectures}", is_ours)
    need = "consistent sizes in config.json"
    try:
        config = Phi3VConfig.from_dict(fields)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as problem:
        return None, [ours, Requirement(need, str(problem), False)]
    tower = config.tower
    found = (
        f"{config.num_hidden_layers} layers of {config.hidden_size}; vision tower of "
        f"{tower.num_hidden_layers} layers, crops of {tower.image_size} pixels"
    )
    return config, [ours, Requirement(need, found)]


def _tokenizer(folder: CheckpointFolder, config: Phi3VConfig) -> Requirements:
    ids = _token_ids(folder)
    yield Requirement("tokenizer.json", f"{len(ids)} tokens" if ids else "no tokens", bool(ids))
    kind = folder.fields("tokenizer_config.json").get("tokenizer_class")
    need = "tokenizer_config.json with a known tokenizer_class"
    advice = f"{BASE_TOKENIZER}; known are {TOKENIZER_CLASSES}"
    yield Requirement(need, f"{kind}", kind in TOKENIZER_CLASSES.split(), advice)
    largest = max(ids.values(), default=-1)
    fits = 0 <= largest < config.vocab_size
    need = "token ids within the vocabulary of config.json"
    found = f"largest {largest}, vocabulary {config.vocab_size}"
    yield Requirement(need, found, fits, BASE_TOKENIZER)
    image = ids.get(Phi3VProcessor.image_token)
    need = f"{Phi3VProcessor.image_token} with config.json's image_token_id"
    found = f"{image} and {config.image_token_id}"
    is_same = image is not None and image == config.image_token_id
    yield Requirement(need, found, is_same, BASE_TOKENIZER)


def _token_ids(folder: CheckpointFolder) -> dict[str, int]:
    """Return every token of tokenizer.json with its id; {} where it cannot be read."""
    fields = folder.fields("tokenizer.json")
    model = fields.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    added = {token["content"]: token["id"] for token in fields.get("added_tokens", [])}
    return {**vocabulary, **added} if isinstance(vocabulary, dict) else added


def _stop_token(folder: CheckpointFolder, written: Any, advice: str) -> Requirement:
    end = _token_ids(folder).get(END)
    stops = written if isinstance(written, list) else [written]
    found = f"{END} is {end}; stop tokens are {', '.join(map(str, stops))}"
    is_among = end is not None and end in stops
    return Requirement(f"{END} among the stop tokens", found, is_among, advice)


def _images(folder: CheckpointFolder, config: Phi3VConfig) -> Requirements:
    """Check that images are cut into crops as in training."""
    fields, tower, settings = folder.fields(PREPROCESSOR), config.tower, image_settings(folder)
    described = f"{fields.get('image_processor_type')}, num_crops {fields.get('num_crops')}"
    found = described if fields else "missing or unreadable"
    need = f"{PREPROCESSOR}: Phi3VImageProcessor, num_crops"
    yield Requirement(need, found, settings is not None)
    if settings is not None:
        expected = (tower.image_size, (tower.image_size // tower.patch_size // 2) ** 2)
        sizes = (settings.crop_size, settings.num_img_tokens)
        found = f"crops of {sizes[0]} pixels, {sizes[1]} tokens each"
        yield Requirement("crops that fit the vision tower", found, sizes == expected)


def _with_code(
    folder: CheckpointFolder, config: Phi3VConfig, auto_classes: dict[str, str]
) -> Requirements:
    """Check stop tokens, chat template and code, for machines without phi-vision."""
    name = "generation_config.json"
    stops = folder.fields(name).get("eos_token_id") if folder.has(name) else config.eos_token_id
    advice = f"write the id of {END} into eos_token_id of {name}, or generations never stop"
    yield _stop_token(folder, stops, advice)
    name = "chat_template.jinja"
    inside = bool(folder.fields("tokenizer_config.json").get("chat_template"))
    found = name if folder.has(name) else "in tokenizer_config.json" if inside else "none"
    yield Requirement("a chat template", found, found != "none")
    modules = set()
    for auto, name in auto_classes.items():
        reference = _auto_reference(folder.fields(name), auto)
        problem = _find_class_problem(folder, reference)
        yield Requirement(f"{name}: code for {auto}", problem or reference, not problem)
        if not problem:
            modules.add(f"{reference.split('.')[0]}.py")
    foreign = {found for module in modules for found in _foreign_imports(folder, module)}
    found = some(foreign) if foreign else f"{len(modules)} files" if modules else "no code"
    need = "code that imports only libraries that come with transformers"
    yield Requirement(need, found, bool(modules) and not foreign)


def _auto_reference(fields: dict[str, Any], auto: str) -> str:
    """Return the entry of `auto_map`, such as `configuration_phi3_v.Phi3VConfig`, or ""."""
    named = fields.get("auto_map")
    reference = named.get(auto) if isinstance(named, dict) else None
    # A tokenizer's or image processor's can be a pair: slow and fast, of which one may be null.
    return str((reference or [""])[-1] if isinstance(reference, list) else reference or "")


def _find_class_problem(folder: CheckpointFolder, reference: str) -> str:
    """Explain why a reference leads to no class in this folder; "" where it does."""
    if not reference:
        return "not named in auto_map"
    if "--" in reference:
        return f"on the hub, not here: {reference}"
    module, _, name = reference.partition(".")
    if not folder.has(f"{module}.py"):
        return f"{module}.py is missing"
    has_class = f"class {name}(" in folder.text(f"{module}.py")
    return "" if has_class else f"{module}.py has no class {name}"


def _foreign_imports(
    folder: CheckpointFolder, module: str, seen: frozenset[str] = frozenset()
) -> Iterator[str]:
    """List the imports of a module, and of those it imports, that may be missing elsewhere."""
    try:
        tree = ast.parse(folder.text(module))
    except SyntaxError as problem:
        yield f"{module} is not Python (line {problem.lineno})"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            beside = f"{node.module}.py"
            if node.level > 1 or not folder.has(beside):
                yield f"{module} needs {'.' * node.level}{node.module}, which is missing"
            elif beside not in seen:
                yield from _foreign_imports(folder, beside, seen | {module})
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            libraries = {name.split(".")[0] for name in names}
            yield from (f"{module} imports {library}" for library in libraries - MAY_IMPORT)


def _vllm(folder: CheckpointFolder, config: Phi3VConfig) -> Requirements:
    """Compare the folder with the values that are fixed in vLLM, and with what it reads."""
    small = "vLLM serves only the official tokenizer and sizes; use phi-vision serve"
    found, is_fixed = f"{config.image_token_id}", config.image_token_id == VLLM_IMAGE_TOKEN
    yield Requirement(f"image_token_id {VLLM_IMAGE_TOKEN}, fixed in vLLM", found, is_fixed, small)
    tower = config.tower.to_dict()
    other = [name for name, value in CLIP_VIT_L_14_336.items() if tower[name] != value]
    found = f"other {', '.join(other)}" if other else "the same"
    yield Requirement("the tower ViT-L/14 at 336 pixels, fixed in vLLM", found, not other, small)
    rope = config.rope_parameters
    kind = "yarn" if "attention_factor" in rope else rope["rope_type"]
    need = "a rotation that vLLM has (default, longrope)"
    advice = "vLLM would rotate it as longrope, and predict differently; use phi-vision serve"
    yield Requirement(need, kind, kind in ("default", "longrope"), advice)
    settings = image_settings(folder)
    most = 0
    if settings is not None:
        # A column of crops has the most rows, and each row of patches ends in a separator.
        height = settings.num_crops * settings.crop_size
        most = settings.count_tokens(height, settings.crop_size)
    found = f"at most {most} tokens each: {SHORT_CONTEXT // most} at once" if most else "unknown"
    need = f"images within --max-model-len {SHORT_CONTEXT}"
    advice = "train with fewer num_crops; a longer context changes vLLM's rotation"
    yield Requirement(need, found, 0 < most < SHORT_CONTEXT, advice)
    reference = _auto_reference(folder.fields("processor_config.json"), "AutoProcessor")
    code = folder.text(f"{reference.split('.')[0]}.py")
    missing = [n for n in VLLM_ATTRIBUTES if not re.search(rf"^    (def )?{n}\b", code, re.M)]
    found = f"without {', '.join(missing)}" if missing else ", ".join(VLLM_ATTRIBUTES)
    need = "a processor with image tags and token counts for vLLM"
    yield Requirement(need, found, not missing)
    padded = folder.fields(PREPROCESSOR).get("pad_crops")
    need = "pad_crops: vLLM takes a row of pixel_values for an image"
    advice = f"{EXPORT}; or serve with --mm-processor-kwargs '{{\"pad_crops\": true}}'"
    yield Requirement(need, f"{padded}", padded is True, advice)


def _graph(folder: CheckpointFolder, name: str, described: Any) -> Requirement:
    need = f"{name}: its graph and weights, with the inputs named"
    if not isinstance(described, dict) or not described.get("filename"):
        return Requirement(need, f"not in {GENAI_FILE}", False, EXPORT_ONNX)
    file = str(described["filename"])
    if not folder.has(file):
        return Requirement(need, f"{file} is missing", False, EXPORT_ONNX)
    if importlib.util.find_spec("onnx") is None:
        found = f"{file} exists; its content cannot be checked without the library onnx"
        return Requirement(need, found, False, "pip install 'phi-vision[onnx]' and check again")
    problems, size = _read_graph(folder.path / file, described)
    found = "; ".join(problems) or f"{file}, {format_bytes(size)}"
    return Requirement(need, found, not problems, EXPORT_ONNX)


def _read_graph(file: Path, described: dict[str, Any]) -> tuple[list[str], int]:
    """Return the problems of a graph and its bytes on disk, without reading its weights."""
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
    paths = {name: file.parent / name for name in ends}
    sizes = {name: path.stat().st_size if path.is_file() else 0 for name, path in paths.items()}
    cut = {name: end for name, end in ends.items() if sizes[name] < end}
    problems = [f"{name} has {sizes[name]} bytes of {end}" for name, end in cut.items()]
    known = {value.name for value in [*graph.input, *graph.output]}
    # A name with %d stands for one per layer.
    names = [*described.get("inputs", {}).values(), *described.get("outputs", {}).values()]
    missing = {name.replace("%d", "0") for name in names} - known
    problems += [f"{file.name} has no {some(missing)}"] if missing else []
    return problems, file.stat().st_size + sum(sizes.values())


ENGINES: dict[str, Callable[[CheckpointFolder], Iterable[Requirement]]] = {
    "transformers": for_phi_vision,
    "transformers-alone": for_transformers,
    "vllm": for_vllm,
    "onnxruntime-genai": for_genai,
}
"""Engine -> its requirements on a folder."""
