"""A recipe as YAML: saved in its run folder, and that file trains the same run again.

Fields of TrainingArguments, LoraConfig and DPOConfig that a recipe does not declare are checked
against the class and passed on to it; refused_fields.yaml lists those that would break a promise.
"""

import dataclasses
import difflib
import enum
import json
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from peft import LoraConfig
from pydantic import TypeAdapter, ValidationError
from transformers import TrainingArguments

from phi_vision.io.formatting import error_texts, yaml_fault
from phi_vision.training.recipes import RECIPES, Recipe

failure = error_texts(__file__)

_REASONS = yaml.safe_load(Path(__file__).with_name("refused_fields.yaml").read_text("utf-8"))
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}
# Fields of which only some values keep the promises.
ALLOWED_VALUES = {"init_lora_weights": (True, "gaussian", "orthogonal")}

TYPE_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    types.NoneType: "null",
    tuple: "a list of names",
    list: "a list",
    dict: "a mapping",
}


def recipe_fields(recipe: Recipe) -> dict[str, Any]:
    """Return the fields as plain values, further ones beside the others."""
    fields = dataclasses.asdict(recipe)
    further: dict[str, Any] = fields.pop("further")
    return fields | further


def to_yaml(recipe: Recipe) -> str:
    """Format a recipe so that `load_recipe` reads it back: "method: lora", "data: catalog", …"""
    fields = recipe_fields(recipe)
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}
    plain["output_dir"] = str(recipe.output_dir)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=1000)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML, or raise ValueError; the method's preset has the other fields."""
    recipes = ", ".join(RECIPES)
    if not path.is_file():
        raise failure("no_file", path=path, recipes=recipes)
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        events = [*yaml.parse(text)]
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise failure("no_yaml", path=path, fault=yaml_fault(error)) from error
    # References to references would be written out: a short file as gigabytes.
    if any(isinstance(event, yaml.AliasEvent) for event in events):
        raise failure("references", path=path)
    if not isinstance(values, dict):
        raise failure("no_mapping", path=path, kind=type(values).__name__)
    # Before anything else, so that no field of a file that is no recipe is quoted.
    if "method" not in values:
        raise failure("no_method", path=path, recipes=recipes)
    kinds = {name: kind for name, kind in get_type_hints(Recipe).items() if name != "further"}
    try:
        convert("method", values["method"], kinds["method"])
        own = {n: convert(n, value, kinds[n]) for n, value in values.items() if n in kinds}
        further = {n: convert_further(n, v, kinds) for n, v in values.items() if n not in kinds}
        return dataclasses.replace(RECIPES[own["method"]](), **own, further=further)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_further(further: Mapping[str, Any], *, method: str, objective: str) -> None:
    """Check names, types and effect of further fields, or raise ValueError."""
    for name, value in further.items():
        convert_further(name, value)
        owner, _ = further_fields()[name]
        if owner == "LoraConfig" and method != "lora":
            raise failure("no_adapters", name=name, value=value)
        if owner == "DPOConfig" and objective != "dpo":
            raise failure("no_preferences", name=name, value=value)


def convert_further(name: str, value: object, recipe_fields: Iterable[str] = ()) -> Any:
    """Convert a further field from YAML, or raise ValueError; suggests `recipe_fields` too."""
    fields = further_fields()
    if name not in fields:
        known = [*recipe_fields, *fields]
        near = difflib.get_close_matches(str(name), known, n=1)
        near += [each for each in known if str(name) in each]
        raise failure("similar" if near else "unknown", name=name, near=near and near[0])
    if name in REFUSED:
        raise failure("refused", name=name, reason=REFUSED[name])
    allowed = ALLOWED_VALUES.get(name, (value,))
    if value not in allowed:
        raise failure("not_allowed", name=name, value=value, allowed=", ".join(map(str, allowed)))
    return convert(name, value, fields[name][1])


def further_of(recipe: Recipe, owner: str) -> dict[str, Any]:
    """Select the further fields of one class: TrainingArguments, LoraConfig or DPOConfig."""
    fields = further_fields()
    return {name: value for name, value in recipe.further.items() if fields[name][0] == owner}


def convert(name: str, value: object, kind: Any) -> Any:
    """Convert a YAML value to the type of its field; raise ValueError if that would lose something.

    Input:  "learning_rate", "1e-4" (YAML 1.1 reads 1e-4 as text), float
    Output: 0.0001
    """
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    number = value
    if float in choices and isinstance(value, str):
        with suppress(ValueError):
            number = float(value)
    try:
        # Of JSON: Python's own types would take no list for a tuple, and no text for a path.
        converted = TypeAdapter(kind).validate_json(json.dumps(number), strict=True)
    except (ValidationError, TypeError) as error:
        wanted = " or ".join(dict.fromkeys(map(_describe, choices)))
        raise failure("other_type", name=name, value=value, wanted=wanted) from error
    return converted.value if isinstance(converted, enum.Enum) else converted


def _describe(kind: Any) -> str:
    origin = get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return " or ".join(str(each.value) for each in origin)
    if origin is Literal:
        return " or ".join(map(str, get_args(kind)))
    return TYPE_WORDS.get(origin, str(kind))


@cache
def further_fields() -> dict[str, tuple[str, Any]]:
    """List the fields of the three classes with their class and type; the first class counts."""
    owners: list[Any] = [TrainingArguments, LoraConfig]
    if find_spec("trl") is not None:
        from trl import DPOConfig

        owners.append(DPOConfig)
    found: dict[str, tuple[str, Any]] = {}
    for owner in owners:
        kinds, names = get_type_hints(owner), [field.name for field in dataclasses.fields(owner)]
        found = {name: (owner.__name__, kinds[name]) for name in names} | found
    return found
