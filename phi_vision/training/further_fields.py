"""Further fields of a recipe: those of TrainingArguments, LoraConfig and DPOConfig.

Names, types and values are checked here before a training starts; refused_fields.yaml lists those
that would break a promise.
"""

import dataclasses
import enum
import json
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from phi_vision.io.formatting import error_texts, nearest, read_yaml

failure = error_texts(__file__)

_REASONS = read_yaml(__file__, "refused_fields.yaml")
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
        near = nearest(str(name), [*recipe_fields, *fields])
        raise failure("similar" if near else "unknown", name=name, near=near)
    if name in REFUSED:
        raise failure("refused", name=name, reason=REFUSED[name])
    allowed = ALLOWED_VALUES.get(name, (value,))
    if value not in allowed:
        raise failure("not_allowed", name=name, value=value, allowed=", ".join(map(str, allowed)))
    return convert(name, value, fields[name][1])


def convert(name: str, value: object, kind: Any) -> Any:
    """Convert a YAML value to the type of its field; raise ValueError if that would lose something.

    Input:  "learning_rate", "1e-4" (YAML 1.1 reads 1e-4 as text), float
    Output: 0.0001
    """
    from pydantic import TypeAdapter, ValidationError

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
    # Here, as these imports take seconds.
    from peft import LoraConfig
    from transformers import TrainingArguments

    owners: list[Any] = [TrainingArguments, LoraConfig]
    if find_spec("trl") is not None:
        from trl import DPOConfig

        owners.append(DPOConfig)
    found: dict[str, tuple[str, Any]] = {}
    for owner in owners:
        kinds, names = get_type_hints(owner), [field.name for field in dataclasses.fields(owner)]
        found = {name: (owner.__name__, kinds[name]) for name in names} | found
    return found
