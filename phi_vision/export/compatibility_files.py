"""What stands beside the weights: config, tokenizer, stop tokens, image settings, code."""

import ast
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from phi_vision.data.template import END
from phi_vision.export.compatibility_folder import Finding, Folder, some
from phi_vision.export.compatibility_weights import EXPORT
from phi_vision.model.checkpoint import ADAPTER_CONFIG
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.processing_phi3_v import Phi3VProcessor

TOKENIZER_CLASSES = (
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
)
"""Names by which transformers 5 and onnxruntime-genai open tokenizer.json."""

MAY_IMPORT = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"}
"""Libraries on every machine that has transformers for images."""

IMAGES = "preprocessor_config.json"


def json_findings(folder: Folder) -> list[Finding]:
    """Name the JSON files that cannot be read; nothing where all can."""
    return [
        Finding(need=f"{name} that can be read", found=why, ok=False, advice="copy it again")
        for name, why in folder.broken.items()
    ]


def read_config(folder: Folder) -> tuple[Phi3VConfig | None, list[Finding]]:
    """Read config.json as the model would, and say what it describes."""
    fields = folder.fields("config.json")
    kind, architectures = fields.get("model_type"), fields.get("architectures")
    if not fields:
        what = "an adapter" if folder.has(ADAPTER_CONFIG) else some(folder.names())
        found = f"no readable config.json, but {what}"
        return None, [_needed("config.json", found, ok=False)]
    named = kind == Phi3VConfig.model_type and architectures == ["Phi3VForCausalLM"]
    findings = [_needed("a phi3_v model, Phi3VForCausalLM", f"{kind}, {architectures}", named)]
    try:
        config = Phi3VConfig.from_dict(fields)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as problem:
        return None, [*findings, _needed("numbers that fit each other", str(problem), ok=False)]
    tower = config.tower
    found = (
        f"{config.num_hidden_layers} layers of {config.hidden_size}; tower of "
        f"{tower.num_hidden_layers} layers, crops of {tower.image_size} pixels"
    )
    return config, [*findings, _needed("numbers that fit each other", found)]


def tokenizer_findings(folder: Folder, config: Phi3VConfig) -> list[Finding]:
    """Find out whether the words are there and are those that the weights were trained with."""
    ids = token_ids(folder)
    kind = folder.fields("tokenizer_config.json").get("tokenizer_class")
    image = ids.get(Phi3VProcessor.image_token)
    largest = max(ids.values(), default=-1)
    return [
        _needed("tokenizer.json", f"{len(ids)} tokens" if ids else "no tokens", bool(ids)),
        _needed(
            "tokenizer_config.json with a known tokenizer_class",
            f"{kind}",
            kind in TOKENIZER_CLASSES,
            f"copy the base's tokenizer files; known are {', '.join(TOKENIZER_CLASSES)}",
        ),
        _needed(
            "token ids within the vocabulary of config.json",
            f"largest {largest}, vocabulary {config.vocab_size}",
            0 <= largest < config.vocab_size,
            "copy the tokenizer files of this model's base",
        ),
        _needed(
            f"{Phi3VProcessor.image_token} with config.json's image_token_id",
            f"{image} and {config.image_token_id}",
            image is not None and image == config.image_token_id,
            "copy the tokenizer files of this model's base",
        ),
    ]


def stop_findings(folder: Folder, config: Phi3VConfig) -> list[Finding]:
    """Find out whether an answer ends where the model ends it."""
    name = "generation_config.json"
    written = folder.fields(name).get("eos_token_id") if folder.has(name) else config.eos_token_id
    end = token_ids(folder).get(END)
    advice = f"write eos_token_id with {end} into {name}, or answers run on"
    return [stop_finding(end, written, advice)]


def stop_finding(end: int | None, written: Any, advice: str) -> Finding:
    """Hold what ends an answer, a token or several as a file has it, against the model's own."""
    stops = written if isinstance(written, list) else [written]
    return _needed(
        f"{END} among the tokens that end an answer",
        f"{END} is {end}; answers end at {', '.join(map(str, stops))}",
        end is not None and end in stops,
        advice,
    )


def image_findings(folder: Folder, config: Phi3VConfig) -> list[Finding]:
    """Find out whether images will be cut as in training."""
    fields, tower = folder.fields(IMAGES), config.tower
    found = f"{fields.get('image_processor_type')}, num_crops {fields.get('num_crops')}"
    made = image_settings(folder)
    findings = [
        _needed(
            f"{IMAGES}: Phi3VImageProcessor, num_crops",
            found if fields else "not there, or unreadable",
            made is not None,
        )
    ]
    if made is None:
        return findings
    wanted = (tower.image_size, (tower.image_size // tower.patch_size // 2) ** 2)
    numbers = (made.crop_size, made.num_img_tokens)
    found = f"crops of {numbers[0]} pixels, {numbers[1]} tokens each"
    return [*findings, _needed("crops that fit the tower", found, numbers == wanted)]


def image_settings(folder: Folder) -> Phi3VImageProcessor | None:
    """Make the image processor that a folder describes; None where it describes none."""
    fields = folder.fields(IMAGES)
    crops = fields.get("num_crops")
    named = fields.get("image_processor_type") == Phi3VImageProcessor.__name__
    if not named or not isinstance(crops, int) or crops < 1:
        return None
    try:
        return Phi3VImageProcessor(**fields)
    except (TypeError, ValueError):
        return None


def template_findings(folder: Folder) -> list[Finding]:
    """Find out whether a chat can be put into the model's words."""
    name = "chat_template.jinja"
    inside = bool(folder.fields("tokenizer_config.json").get("chat_template"))
    there = folder.has(name) or inside
    found = name if folder.has(name) else "in tokenizer_config.json" if inside else "none"
    return [_needed("a chat template", found, there)]


def code_findings(folder: Folder, auto_classes: Iterable[tuple[str, str]]) -> list[Finding]:
    """Find out whether the folder brings the code that a machine without phi-vision has not.

    Args:
        folder: Where it lies.
        auto_classes: JSON file and the Auto class that must be named in its `auto_map`.
    """
    findings, modules = [], set()
    for name, auto in auto_classes:
        reference = reference_of(folder.fields(name), auto)
        problem = _why_not_there(folder, reference)
        findings.append(_needed(f"{name}: code for {auto}", problem or reference, not problem))
        modules |= {f"{reference.split('.')[0]}.py"} if not problem else set()
    foreign = sorted({found for module in modules for found in foreign_imports(folder, module)})
    findings.append(
        _needed(
            "code that imports what transformers' users have",
            some(foreign) if foreign else f"{len(modules)} files" if modules else "no code",
            bool(modules) and not foreign,
        )
    )
    return findings


def foreign_imports(
    folder: Folder, module: str, seen: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Name what a module of the folder and those it imports need and may not be there."""
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
                yield from foreign_imports(folder, beside, seen | {module})
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (f"{module} imports {name}" for name in _libraries(node) if _foreign(name))


def class_members(folder: Folder, reference: str) -> set[str]:
    """Name what a class defines: `processing_phi3_v.Phi3VProcessor` -> names; none without it."""
    module, _, name = reference.partition(".")
    try:
        tree = ast.parse(folder.text(f"{module}.py"))
    except SyntaxError:
        return set()
    classes = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    body = [part for found in classes for part in found.body]
    functions = {part.name for part in body if isinstance(part, ast.FunctionDef)}
    assigned = [target for part in body if isinstance(part, ast.Assign) for target in part.targets]
    return functions | {target.id for target in assigned if isinstance(target, ast.Name)}


def token_ids(folder: Folder) -> dict[str, int]:
    """Give every token of tokenizer.json with its id; none where it cannot be read."""
    fields = folder.fields("tokenizer.json")
    model = fields.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    added = {token["content"]: token["id"] for token in fields.get("added_tokens", [])}
    return {**vocabulary, **added} if isinstance(vocabulary, dict) else added


def reference_of(fields: dict[str, Any], auto: str) -> str:
    """Give what `auto_map` names: `configuration_phi3_v.Phi3VConfig`; nothing where it does not."""
    named = fields.get("auto_map")
    reference = named.get(auto) if isinstance(named, dict) else None
    # A tokenizer's or image processor's can be a pair: slow and fast, of which one may be null.
    return str((reference or [""])[-1] if isinstance(reference, list) else reference or "")


def _needed(need: str, found: str, ok: bool = True, advice: str = EXPORT) -> Finding:
    return Finding(need=need, found=found, ok=ok, advice=advice)


def _why_not_there(folder: Folder, reference: str) -> str:
    """Say why a reference leads nowhere; nothing where it leads to a class in this folder."""
    if not reference:
        return "not named in auto_map"
    if "--" in reference:
        return f"on the hub, not here: {reference}"
    module, _, name = reference.partition(".")
    if not folder.has(f"{module}.py"):
        return f"{module}.py is missing"
    if f"class {name}(" not in folder.text(f"{module}.py"):
        return f"{module}.py has no class {name}"
    return ""


def _libraries(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").split(".")[0]]
    return [alias.name.split(".")[0] for alias in node.names]


def _foreign(library: str) -> bool:
    return library not in MAY_IMPORT and library not in sys.stdlib_module_names
