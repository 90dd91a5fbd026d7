"""ENGINES: engine -> its requirements on a folder, and whether they are met.

The requirements come from the engines' own code and from runs (docs/deploy-vllm.md).
"""

import ast
import importlib.util
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
    json_requirements,
    some,
    weight_requirements,
)
from phi_vision.inference.onnx_predictor import GENAI_FILE
from phi_vision.io.formatting import format_bytes
from phi_vision.model.checkpoint import ADAPTER_CONFIG
from phi_vision.model.configuration_phi3_v import CLIP_VIT_L_14_336, Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.processing_phi3_v import Phi3VProcessor

TOKENIZER_CLASSES = (
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
)
"""Names by which transformers 5 and onnxruntime-genai open tokenizer.json."""

MAY_IMPORT = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"} | sys.stdlib_module_names
"""Libraries on every machine that has transformers for images."""

VLLM_IMAGE_TOKEN = 32044
"""Image token id that is fixed in vLLM, whatever config.json says."""

VLLM_ATTRIBUTES = ("img_tokens", "calc_num_image_tokens_from_image_size")
"""Attributes of the processor's class that vLLM reads."""

SHORT_CONTEXT = 4096
"""Tokens; with a longer --max-model-len vLLM rotates every position by the long factors."""

GRAPHS = ("decoder", "embedding", "vision")
"""Sections of `model` in genai_config.json."""

EXPORT_ONNX = "export it again: phi-vision export RUN --format onnx --out DIR"
BASE_TOKENIZER = "copy the tokenizer files of this model's base"
PREPROCESSOR = "preprocessor_config.json"

AUTO_CONFIG = ("config.json", "AutoConfig")
AUTO_PROCESSORS = (("processor_config.json", "AutoProcessor"), (PREPROCESSOR, "AutoImageProcessor"))
AUTO_MODELS = (
    ("config.json", "AutoModelForCausalLM"),
    ("config.json", "AutoModelForImageTextToText"),
)


def check(path: Path) -> dict[str, list[Requirement]]:
    """Check which engines can load a folder.

    Args:
        path: An exported folder, another checkpoint, or a run's `model` folder.

    Returns:
        Engine -> its requirements, met and unmet.

    Raises:
        ValueError: There is no such folder.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; pass one with config.json and weights, or graphs")
    folder = CheckpointFolder(path)
    return {name: requirements(folder) for name, requirements in ENGINES.items()}


def for_phi_vision(folder: CheckpointFolder) -> list[Requirement]:
    """transformers on a machine with phi-vision: the folder needs no code."""
    config, requirements = _read_config(folder)
    requirements = json_requirements(folder) + requirements + weight_requirements(folder, config)
    if config is None:
        return requirements
    return requirements + _tokenizer(folder, config) + _images(folder, config)


def for_transformers(folder: CheckpointFolder) -> list[Requirement]:
    """transformers with trust_remote_code=True, also in a pipeline: the folder brings the code."""
    return _with_code(folder, [AUTO_CONFIG, *AUTO_MODELS, *AUTO_PROCESSORS])


def for_vllm(folder: CheckpointFolder) -> list[Requirement]:
    """vLLM with --trust-remote-code: its own model, the folder's config and processor."""
    requirements = _with_code(folder, [AUTO_CONFIG, *AUTO_PROCESSORS])
    config, _ = _read_config(folder)
    if config is None:
        return requirements
    return requirements + _vllm_model(folder, config) + _vllm_processor(folder)


def for_genai(folder: CheckpointFolder) -> list[Requirement]:
    """onnxruntime-genai: graphs, tokenizer, and the image settings for the application."""
    requirements = json_requirements(folder)
    fields = folder.fields(GENAI_FILE)
    model = fields.get("model")
    if not isinstance(model, dict) or not model:
        found = f"no readable {GENAI_FILE}: not a folder of graphs"
        return [*requirements, Requirement(GENAI_FILE, found, False, EXPORT_ONNX)]
    kind = model.get("type")
    need = f"type phi3v in {GENAI_FILE}"
    requirements.append(Requirement(need, f"{kind}", kind == "phi3v", EXPORT_ONNX))
    requirements += [_graph(folder, name, model.get(name)) for name in GRAPHS]
    requirements.append(_max_length(fields.get("search"), model.get("context_length")))
    requirements.append(_stop_token(folder, model.get("eos_token_id"), EXPORT_ONNX))
    config, read = _read_config(folder)
    if config is None:
        return requirements + read
    return requirements + _tokenizer(folder, config) + _images(folder, config)


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


# Files beside the weights.


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
    requirements = [Requirement(need, f"{kind}, {architectures}", is_ours)]
    need = "consistent sizes in config.json"
    try:
        config = Phi3VConfig.from_dict(fields)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as problem:
        return None, [*requirements, Requirement(need, str(problem), False)]
    tower = config.tower
    found = (
        f"{config.num_hidden_layers} layers of {config.hidden_size}; vision tower of "
        f"{tower.num_hidden_layers} layers, crops of {tower.image_size} pixels"
    )
    return config, [*requirements, Requirement(need, found)]


def _tokenizer(folder: CheckpointFolder, config: Phi3VConfig) -> list[Requirement]:
    ids = _token_ids(folder)
    kind = folder.fields("tokenizer_config.json").get("tokenizer_class")
    image = ids.get(Phi3VProcessor.image_token)
    largest = max(ids.values(), default=-1)
    return [
        Requirement("tokenizer.json", f"{len(ids)} tokens" if ids else "no tokens", bool(ids)),
        Requirement(
            "tokenizer_config.json with a known tokenizer_class",
            f"{kind}",
            kind in TOKENIZER_CLASSES,
            f"{BASE_TOKENIZER}; known are {', '.join(TOKENIZER_CLASSES)}",
        ),
        Requirement(
            "token ids within the vocabulary of config.json",
            f"largest {largest}, vocabulary {config.vocab_size}",
            0 <= largest < config.vocab_size,
            BASE_TOKENIZER,
        ),
        Requirement(
            f"{Phi3VProcessor.image_token} with config.json's image_token_id",
            f"{image} and {config.image_token_id}",
            image is not None and image == config.image_token_id,
            BASE_TOKENIZER,
        ),
    ]


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


def _images(folder: CheckpointFolder, config: Phi3VConfig) -> list[Requirement]:
    """Check that images are cut into crops as in training."""
    fields, tower = folder.fields(PREPROCESSOR), config.tower
    settings = image_settings(folder)
    found = f"{fields.get('image_processor_type')}, num_crops {fields.get('num_crops')}"
    need = f"{PREPROCESSOR}: Phi3VImageProcessor, num_crops"
    found = found if fields else "missing or unreadable"
    requirements = [Requirement(need, found, settings is not None)]
    if settings is None:
        return requirements
    expected = (tower.image_size, (tower.image_size // tower.patch_size // 2) ** 2)
    sizes = (settings.crop_size, settings.num_img_tokens)
    found = f"crops of {sizes[0]} pixels, {sizes[1]} tokens each"
    return [*requirements, Requirement("crops that fit the vision tower", found, sizes == expected)]


# Code in the folder.


def _with_code(
    folder: CheckpointFolder, auto_classes: Iterable[tuple[str, str]]
) -> list[Requirement]:
    """Add stop tokens, chat template and code to the requirements of `for_phi_vision`.

    Args:
        folder: The folder.
        auto_classes: JSON file and the Auto class that its `auto_map` must name.
    """
    config, _ = _read_config(folder)
    requirements = for_phi_vision(folder)
    if config is None:
        return requirements
    name = "generation_config.json"
    stops = folder.fields(name).get("eos_token_id") if folder.has(name) else config.eos_token_id
    advice = f"write the id of {END} into eos_token_id of {name}, or generations never stop"
    requirements.append(_stop_token(folder, stops, advice))
    name = "chat_template.jinja"
    inside = bool(folder.fields("tokenizer_config.json").get("chat_template"))
    found = name if folder.has(name) else "in tokenizer_config.json" if inside else "none"
    requirements.append(Requirement("a chat template", found, found != "none"))
    modules = set()
    for name, auto in auto_classes:
        reference = _auto_reference(folder.fields(name), auto)
        problem = _find_class_problem(folder, reference)
        requirements.append(
            Requirement(f"{name}: code for {auto}", problem or reference, not problem)
        )
        modules |= set() if problem else {f"{reference.split('.')[0]}.py"}
    foreign = sorted({found for module in modules for found in _foreign_imports(folder, module)})
    found = some(foreign) if foreign else f"{len(modules)} files" if modules else "no code"
    need = "code that imports only libraries that come with transformers"
    return [*requirements, Requirement(need, found, bool(modules) and not foreign)]


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


# vLLM.


def _vllm_model(folder: CheckpointFolder, config: Phi3VConfig) -> list[Requirement]:
    """Compare the config with values that are fixed in vLLM's model."""
    tower = config.tower.to_dict()
    other = [name for name, value in CLIP_VIT_L_14_336.items() if tower[name] != value]
    rope = config.rope_parameters
    kind = "yarn" if "attention_factor" in rope else rope["rope_type"]
    small = "vLLM serves only the official tokenizer and sizes; use phi-vision serve"
    settings = image_settings(folder)
    # A column of crops has the most rows, and each row of patches ends in a separator.
    most = (
        settings.count_tokens(settings.num_crops * settings.crop_size, settings.crop_size)
        if settings
        else 0
    )
    return [
        Requirement(
            f"image_token_id {VLLM_IMAGE_TOKEN}, fixed in vLLM",
            f"{config.image_token_id}",
            config.image_token_id == VLLM_IMAGE_TOKEN,
            small,
        ),
        Requirement(
            "the tower ViT-L/14 at 336 pixels, fixed in vLLM",
            f"other {', '.join(other)}" if other else "the same",
            not other,
            small,
        ),
        Requirement(
            "a rotation that vLLM has (default, longrope)",
            kind,
            kind in ("default", "longrope"),
            "vLLM would rotate it as longrope, and predict differently; use phi-vision serve",
        ),
        Requirement(
            f"images within --max-model-len {SHORT_CONTEXT}",
            f"at most {most} tokens each: {SHORT_CONTEXT // most} at once" if most else "unknown",
            0 < most < SHORT_CONTEXT,
            "train with fewer num_crops; a longer context changes vLLM's rotation",
        ),
    ]


def _vllm_processor(folder: CheckpointFolder) -> list[Requirement]:
    reference = _auto_reference(folder.fields("processor_config.json"), "AutoProcessor")
    missing = [name for name in VLLM_ATTRIBUTES if name not in _class_members(folder, reference)]
    padded = folder.fields(PREPROCESSOR).get("pad_crops")
    setting = """--mm-processor-kwargs '{"pad_crops": true}'"""
    return [
        Requirement(
            "a processor with image tags and token counts for vLLM",
            f"without {', '.join(missing)}" if missing else ", ".join(VLLM_ATTRIBUTES),
            not missing,
        ),
        Requirement(
            "pad_crops: vLLM takes a row of pixel_values for an image",
            f"{padded}",
            padded is True,
            f"{EXPORT}; or serve with {setting}",
        ),
    ]


def _class_members(folder: CheckpointFolder, reference: str) -> set[str]:
    """List the functions and attributes in the body of a class, without importing it."""
    module, _, name = reference.partition(".")
    try:
        tree = ast.parse(folder.text(f"{module}.py"))
    except SyntaxError:
        return set()
    members = set()
    for found in ast.walk(tree):
        for part in found.body if isinstance(found, ast.ClassDef) and found.name == name else []:
            if isinstance(part, ast.FunctionDef):
                members.add(part.name)
            elif isinstance(part, ast.Assign):
                members |= {target.id for target in part.targets if isinstance(target, ast.Name)}
    return members


# onnxruntime-genai.


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
    problems = [
        f"{name} has {sizes[name]} bytes of {end}"
        for name, end in ends.items()
        if sizes[name] < end
    ]
    known = {value.name for value in [*graph.input, *graph.output]}
    # A name with %d stands for one per layer.
    names = [*described.get("inputs", {}).values(), *described.get("outputs", {}).values()]
    missing = {name.replace("%d", "0") for name in names} - known
    problems += [f"{file.name} has no {some(missing)}"] if missing else []
    return problems, file.stat().st_size + sum(sizes.values())


def _max_length(search: Any, context: Any) -> Requirement:
    length = search.get("max_length") if isinstance(search, dict) else None
    fits = isinstance(length, int) and isinstance(context, int) and 0 < length <= context
    advice = f"write search.max_length into {GENAI_FILE}: memory is reserved for all of it"
    return Requirement("a max_length within the context", f"{length} of {context}", fits, advice)


ENGINES: dict[str, Callable[[CheckpointFolder], list[Requirement]]] = {
    "transformers": for_phi_vision,
    "transformers-alone": for_transformers,
    "vllm": for_vllm,
    "onnxruntime-genai": for_genai,
}
"""Engine -> its requirements on a folder."""
