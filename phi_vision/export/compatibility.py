"""ENGINES: engine -> its requirements on a folder, and whether they are met.

They come from the engines' own code and from runs (docs/deploy-vllm.md); their texts are in
requirements.yaml. Of weights only the headers are read.
"""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from phi_vision.data.template import END
from phi_vision.export.hf import INDEX, SINGLE_FILE, expected_shapes
from phi_vision.export.onnx import read_graph
from phi_vision.inference.onnx_predictor import GENAI_FILE
from phi_vision.io.formatting import format_bytes, join_few, read_yaml
from phi_vision.model.checkpoint import ADAPTER_CONFIG, StoredTensors, read_header
from phi_vision.model.configuration_phi3_v import CLIP_VIT_L_14_336, Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.processing_phi3_v import Phi3VProcessor

# Key of a requirement -> its text, and advice.
TEXTS = read_yaml(__file__, "requirements.yaml")
EXPORT = "write a complete folder: phi-vision export RUN --out DIR"

# Names by which transformers 5 and onnxruntime-genai open tokenizer.json.
TOKENIZER_CLASSES = "LlamaTokenizer LlamaTokenizerFast PreTrainedTokenizerFast TokenizersBackend"
# Libraries on every machine that has transformers for images.
MAY_IMPORT = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"} | sys.stdlib_module_names
VLLM_IMAGE_TOKEN = 32044  # fixed in vLLM, whatever config.json says
# Attributes of the processor's class that vLLM reads.
VLLM_ATTRIBUTES = ("img_tokens", "calc_num_image_tokens_from_image_size")
# Tokens; with a longer --max-model-len vLLM rotates every position by the long factors.
SHORT_CONTEXT = 4096
FLOATS = {"BF16", "F16", "F32"}  # dtypes, in safetensors' terms, that every engine here reads
# Ends of names that official files may hold, too; every engine skips them.
ALIASES = ("vision_embed_tokens.wte.weight", "embeddings.position_ids")
PREPROCESSOR = "preprocessor_config.json"
AUTO_MODELS = ("AutoModelForCausalLM", "AutoModelForImageTextToText")
# Auto class -> the JSON file whose `auto_map` must name its code.
AUTO_CLASSES = {
    "AutoConfig": "config.json",
    "AutoProcessor": "processor_config.json",
    "AutoImageProcessor": PREPROCESSOR,
}


class Requirement(NamedTuple):
    """One thing that an engine needs of a folder, and what to do where it is not met."""

    need: str
    found: str
    ok: bool = True
    advice: str = EXPORT


Requirements = Iterator[Requirement]


class CheckpointFolder:
    """A folder whose JSON files are parsed once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken: list[Requirement] = []
        self._parsed: dict[str, dict[str, Any]] = {}
        for name in self.names(".json"):
            try:
                fields = json.loads((path / name).read_text(encoding="utf-8"))
                if not isinstance(fields, dict):
                    raise ValueError(f"a {type(fields).__name__}, not fields")
                self._parsed[name] = fields
            except (OSError, ValueError) as problem:
                self.broken.append(_needs("readable", problem, False, file=name))
        self.config, self.config_requirements = _read_config(self)

    def has(self, name: str) -> bool:
        """Whether a file exists."""
        return (self.path / name).is_file()

    def fields(self, name: str) -> dict[str, Any]:
        """Return the fields of a JSON file; {} where it is missing or broken."""
        return self._parsed.get(name, {})

    def names(self, ending: str = "") -> list[str]:
        """List the files with an ending."""
        return sorted(file.name for file in self.path.glob(f"*{ending}") if file.is_file())

    def image_processor(self) -> Phi3VImageProcessor | None:
        """Create the image processor that the folder describes; None where it describes none."""
        fields = self.fields(PREPROCESSOR)
        crops = fields.get("num_crops")
        is_ours = fields.get("image_processor_type") == Phi3VImageProcessor.__name__
        if is_ours and isinstance(crops, int) and crops > 0:
            with suppress(TypeError, ValueError):
                return Phi3VImageProcessor(**fields)
        return None


def check(path: Path) -> dict[str, list[Requirement]]:
    """Check which engines can load a folder: engine -> its requirements, met and unmet."""
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; `hf download {path} --local-dir FOLDER` fetches it")
    folder = CheckpointFolder(path)
    return {name: list(find(folder)) for name, find in ENGINES.items()}


def unmet(requirements: Iterable[Requirement]) -> list[Requirement]:
    """Return the requirements that are not met."""
    return [each for each in requirements if not each.ok]


def some(names: Iterable[str], shown: int = 3) -> str:
    """List a few of many: ["a", "b", "c", "d"] -> "a, b, c and 1 more"; [] -> "nothing"."""
    return join_few(sorted(names), shown) or "nothing"


def _needs(key: str, found: object, ok: bool = True, **names: object) -> Requirement:
    texts = [text.format(**names) for text in TEXTS[key]]
    return Requirement(texts[0], str(found), ok, *texts[1:])


def _read_config(folder: CheckpointFolder) -> tuple[Phi3VConfig | None, list[Requirement]]:
    """Parse config.json as the model does; None where that fails."""
    fields = folder.fields("config.json")
    if not fields:
        held = "an adapter" if folder.has(ADAPTER_CONFIG) else some(folder.names())
        lacks = "fields in config.json" if folder.has("config.json") else f"config.json, but {held}"
        return None, [_needs("config", f"no {lacks}", False)]
    kind, architectures = fields.get("model_type"), fields.get("architectures")
    is_ours = kind == Phi3VConfig.model_type and architectures == ["Phi3VForCausalLM"]
    ours = _needs("kind", f"{kind}, {architectures}", is_ours)
    try:
        config = Phi3VConfig.from_dict(fields)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as problem:
        return None, [ours, _needs("sizes", problem, False)]
    tower = config.tower
    found = f"{config.num_hidden_layers} layers of {config.hidden_size}; vision tower of "
    found += f"{tower.num_hidden_layers} layers, crops of {tower.image_size} pixels"
    return config, [ours, _needs("sizes", found)]


def _checkpoint(folder: CheckpointFolder, *more: Callable[..., Requirements]) -> Requirements:
    yield from (*folder.broken, *folder.config_requirements)
    yield from _weights(folder)
    if folder.config is not None:
        for find in (_tokenizer, _images, *more):
            yield from find(folder, folder.config)


def _weights(folder: CheckpointFolder) -> Requirements:
    """Check that the weights are complete and, where the config is readable, that they fit it."""
    index: Any = folder.fields(INDEX).get("weight_map")
    shards = [SINGLE_FILE]
    if not folder.has(SINGLE_FILE):
        shards = sorted(set(map(str, index.values()))) if isinstance(index, dict) else []
    # Alone an adapter is no model, and beside weights some engines ignore it.
    place = "beside the weights" if shards else "without its base's weights"
    no_adapter = not folder.has(ADAPTER_CONFIG)
    found = "none" if no_adapter else f"an adapter {place} ({ADAPTER_CONFIG})"
    yield _needs("adapter", found, no_adapter)
    if not shards:
        others = some(folder.names(".bin") + folder.names(".pt"))
        yield _needs("weights", f"no {SINGLE_FILE} and no {INDEX}; {others} beside", False)
        return
    stored, problems = dict[str, StoredTensors](), list[str]()
    for shard in shards:
        try:
            stored[shard] = read_header(folder.path / shard)
        except (ValueError, OSError) as problem:
            problems.append(str(problem))
    size = sum((folder.path / shard).stat().st_size for shard in stored)
    found = "; ".join(problems) or f"{len(shards)} of {len(shards)}, {format_bytes(size)}"
    yield _needs("shards", found, not problems)
    tensors = {name: tensor for shard in stored.values() for name, tensor in shard.items()}
    found, wrong = "one file, no index needed", ""
    if shards != [SINGLE_FILE]:
        missing = {name for name, file in index.items() if name not in stored.get(file, {})}
        wrong = _list_problems(missing=missing, unlisted=tensors.keys() - index.keys())
        found = wrong or f"{len(index)} of {len(index)}"
    yield _needs("index", found, not wrong)
    if folder.config is None:
        return
    expected = expected_shapes(folder.config)
    # A tied head may be stored all the same.
    aliases = (*ALIASES, "lm_head.weight") if folder.config.tie_word_embeddings else ALIASES
    shared = expected.keys() & tensors.keys()
    wrong = _list_problems(
        missing=expected.keys() - tensors.keys(),
        unexpected={n for n in tensors.keys() - expected.keys() if not n.endswith(aliases)},
        of_other_shape={name for name in shared if expected[name] != tensors[name][1]},
    )
    yield _needs("names", wrong or f"all {len(expected)} tensors", not wrong)
    dtypes = {dtype for dtype, _ in tensors.values()}
    yield _needs("floats", some(dtypes), bool(dtypes) and dtypes <= FLOATS)


def _list_problems(**problems: Iterable[str]) -> str:
    texts = {what.replace("_", " "): sorted(names) for what, names in problems.items()}
    return "; ".join(f"{len(n)} {what}: {some(n, 2)}" for what, n in texts.items() if n)


def _tokenizer(folder: CheckpointFolder, config: Phi3VConfig) -> Requirements:
    ids = _token_ids(folder)
    yield _needs("tokens", f"{len(ids) or 'no'} tokens", bool(ids))
    kind = folder.fields("tokenizer_config.json").get("tokenizer_class")
    yield _needs("tokenizer", kind, kind in TOKENIZER_CLASSES.split(), known=TOKENIZER_CLASSES)
    largest = max(ids.values(), default=-1)
    found = f"largest {largest}, vocabulary {config.vocab_size}"
    yield _needs("vocabulary", found, 0 <= largest < config.vocab_size)
    token, expected = Phi3VProcessor.image_token, config.image_token_id
    held = ids.get(token)
    yield _needs("image_token", f"{held} and {expected}", held == expected, token=token)


def _token_ids(folder: CheckpointFolder) -> dict[str, int]:
    """Return every token of tokenizer.json with its id; {} where it cannot be read."""
    fields = folder.fields("tokenizer.json")
    model = fields.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    added = {token["content"]: token["id"] for token in fields.get("added_tokens", [])}
    return {**vocabulary, **added} if isinstance(vocabulary, dict) else added


def _stop_token(folder: CheckpointFolder, written: Any, key: str) -> Requirement:
    end = _token_ids(folder).get(END)
    stops = written if isinstance(written, list) else [written]
    found = f"{END} is {end}; stop tokens are {', '.join(map(str, stops))}"
    return _needs(key, found, end is not None and end in stops, token=END)


def _images(folder: CheckpointFolder, config: Phi3VConfig) -> Requirements:
    """Check that images are cut into crops as in training."""
    fields, tower, processor = folder.fields(PREPROCESSOR), config.tower, folder.image_processor()
    described = f"{fields.get('image_processor_type')}, num_crops {fields.get('num_crops')}"
    yield _needs("images", described if fields else "missing or unreadable", processor is not None)
    if processor is not None:
        expected = (tower.image_size, (tower.image_size // tower.patch_size // 2) ** 2)
        sizes = (processor.crop_size, processor.num_img_tokens)
        found = f"crops of {sizes[0]} pixels, {sizes[1]} tokens each"
        yield _needs("crops", found, sizes == expected)


def _standalone(
    folder: CheckpointFolder, config: Phi3VConfig, models: Sequence[str] = ()
) -> Requirements:
    """Check stop tokens, chat template and code, for machines without phi-vision."""
    name = "generation_config.json"
    written = folder.fields(name).get("eos_token_id")
    yield _stop_token(folder, written if folder.has(name) else config.eos_token_id, "stop")
    name = "chat_template.jinja"
    inside = bool(folder.fields("tokenizer_config.json").get("chat_template"))
    found = name if folder.has(name) else "in tokenizer_config.json" if inside else "none"
    yield _needs("chat_template", found, found != "none")
    modules = set()
    for auto, name in (AUTO_CLASSES | dict.fromkeys(models, "config.json")).items():
        module, found = _find_code(folder, name, auto)
        yield _needs("code", found, bool(module), file=name, auto=auto)
        modules |= {module} - {""}
    foreign = {found for module in modules for found in _foreign_imports(folder, module, set())}
    found = some(foreign) if foreign else f"{len(modules)} files" if modules else "no code"
    yield _needs("imports", found, bool(modules) and not foreign)


def _find_code(folder: CheckpointFolder, file: str, auto: str) -> tuple[str, str]:
    """Return the module of an auto class ("" without), and the reference to it or the problem."""
    named = folder.fields(file).get("auto_map")
    reference = named.get(auto) if isinstance(named, dict) else None
    if isinstance(reference, list):
        # A tokenizer's or image processor's can be a pair: slow and fast, of which one may be null.
        reference = (reference or [""])[-1]
    module, _, name = str(reference or "").partition(".")
    code = folder.path / f"{module}.py"
    if not reference:
        return "", "not named in auto_map"
    if "--" in reference:
        return "", f"on the hub, not here: {reference}"
    if not code.is_file():
        return "", f"{code.name} is missing"
    if f"class {name}(" not in code.read_text("utf-8", "replace"):
        return "", f"{code.name} has no class {name}"
    return code.name, str(reference)


def _foreign_imports(folder: CheckpointFolder, module: str, seen: set[str]) -> Iterator[str]:
    """List the imports of a module, and of those it imports, that may be missing elsewhere."""
    seen.add(module)
    try:
        libraries = set(get_imports(folder.path / module))
    except (SyntaxError, UnicodeDecodeError) as problem:
        yield f"{module} is not Python ({problem})"
        return
    yield from (f"{module} imports {library}" for library in libraries - MAY_IMPORT)
    for name in get_relative_imports(folder.path / module):
        if not folder.has(f"{name}.py"):
            yield f"{module} needs .{name}, which is missing"
        elif f"{name}.py" not in seen:
            yield from _foreign_imports(folder, f"{name}.py", seen)


def _vllm(folder: CheckpointFolder, config: Phi3VConfig) -> Requirements:
    """Compare the folder with the values that are fixed in vLLM, and with what it reads."""
    token = config.image_token_id
    yield _needs("vllm_image_token", token, token == VLLM_IMAGE_TOKEN, token=VLLM_IMAGE_TOKEN)
    tower = config.tower.to_dict()
    other = [name for name, value in CLIP_VIT_L_14_336.items() if tower[name] != value]
    yield _needs("vllm_tower", f"other {', '.join(other)}" if other else "the same", not other)
    rope = config.rope_parameters
    kind = "yarn" if "attention_factor" in rope else rope["rope_type"]
    yield _needs("vllm_rotation", kind, kind in ("default", "longrope"))
    processor, most = folder.image_processor(), 0
    if processor is not None:
        # A column of crops has the most rows, and each row of patches ends in a separator.
        height = processor.num_crops * processor.crop_size
        most = processor.count_tokens(height, processor.crop_size)
    found = f"at most {most} tokens each: {SHORT_CONTEXT // most} at once" if most else "unknown"
    yield _needs("vllm_length", found, 0 < most < SHORT_CONTEXT, tokens=SHORT_CONTEXT)
    module, _ = _find_code(folder, "processor_config.json", "AutoProcessor")
    code = (folder.path / module).read_text("utf-8", "replace") if module else ""
    missing = [n for n in VLLM_ATTRIBUTES if not re.search(rf"^    (def )?{n}\b", code, re.M)]
    found = f"without {', '.join(missing)}" if missing else ", ".join(VLLM_ATTRIBUTES)
    yield _needs("vllm_processor", found, not missing)
    padded = folder.fields(PREPROCESSOR).get("pad_crops")
    yield _needs("vllm_crops", padded, padded is True)


def _genai(folder: CheckpointFolder) -> Requirements:
    """Check graphs, tokenizer, and the image settings for the application."""
    yield from folder.broken
    fields = folder.fields(GENAI_FILE)
    model, search = fields.get("model"), fields.get("search")
    if not isinstance(model, dict) or not model:
        yield _needs("genai", f"no readable {GENAI_FILE}: not a folder of graphs", False)
        return
    kind, context = model.get("type"), model.get("context_length")
    yield _needs("genai_type", kind, kind == "phi3v")
    for name in ("decoder", "embedding", "vision"):
        if importlib.util.find_spec("onnx") is None:
            found = "graphs cannot be checked without the library onnx"
            yield _needs("graph_unread", found, False, name=name)
        else:
            yield _needs("graph", *read_graph(folder.path, model.get(name)), name=name)
    length = search.get("max_length") if isinstance(search, dict) else None
    fits = isinstance(length, int) and isinstance(context, int) and 0 < length <= context
    yield _needs("genai_length", f"{length} of {context}", fits)
    yield _stop_token(folder, model.get("eos_token_id"), "genai_stop")
    if folder.config is None:
        yield from folder.config_requirements
    else:
        yield from (*_tokenizer(folder, folder.config), *_images(folder, folder.config))


ENGINES: Mapping[str, Callable[[CheckpointFolder], Requirements]] = {
    # On a machine with phi-vision: the folder needs no code.
    "transformers": _checkpoint,
    # With trust_remote_code=True, also in a pipeline: the folder brings the code.
    "transformers-alone": lambda folder: _checkpoint(
        folder, partial(_standalone, models=AUTO_MODELS)
    ),
    # With --trust-remote-code: vLLM's own model, the folder's config and processor.
    "vllm": lambda folder: _checkpoint(folder, _standalone, _vllm),
    "onnxruntime-genai": _genai,
}
"""Engine -> what it needs of a folder."""
