"""A recipe as YAML: saved beside the weights it made, and that file trains again."""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from phi_vision.training.recipes import RECIPES, Recipe


def to_yaml(recipe: Recipe) -> str:
    """Write a recipe so that `load_recipe` gives it back.

    Output: method: lora
            model: phi-vision-small
            data: catalog
            …
    """
    plain = {
        name: list(value)
        if isinstance(value, tuple)
        else str(value)
        if isinstance(value, Path)
        else value
        for name, value in dataclasses.asdict(recipe).items()
    }
    return yaml.safe_dump(
        plain, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000
    )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML. Fields that are not given keep the values of its method's recipe.

    Raises:
        ValueError: There is no such file, it is no YAML mapping, it names an unknown field or
            method, or a value has the wrong type.
    """
    if not path.is_file():
        raise ValueError(f"no recipe at {path}; give a recipe.yaml, or one of {', '.join(RECIPES)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is no YAML: {reason}; a recipe is `field: value` lines"
        ) from error
    if not isinstance(values, dict):
        found = type(values).__name__
        raise ValueError(f"{path} holds a {found}, not fields; a recipe is `field: value` lines")
    try:
        return _from_values(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _from_values(values: Mapping[str, object]) -> Recipe:
    kinds = get_type_hints(Recipe)
    for name in values:
        if name not in kinds:
            near = difflib.get_close_matches(str(name), kinds, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kinds)}"
            raise ValueError(f"a recipe has no field {name!r}; {hint}")
    typed = {name: _convert(name, value, kinds[name]) for name, value in values.items()}
    method = typed.get("method")
    if method not in RECIPES:
        raise ValueError(f"field 'method' is missing; choose one of {', '.join(RECIPES)}")
    return replace(RECIPES[method](), **typed)


def _convert(name: str, value: object, kind: Any) -> Any:
    """Give a value of YAML the type of its field, where that loses nothing.

    Input:  "learning_rate", "1e-4" (YAML 1.1 reads 1e-4 as text), float
    Output: 0.0001
    """
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for choice in choices:
        if choice is type(None) and value is None:
            return None
        if get_origin(choice) is Literal and value in get_args(choice):
            return value
        if get_origin(choice) is tuple and isinstance(value, list) and _all_text(value):
            return tuple(value)
        if choice is Path and isinstance(value, str):
            return Path(value)
        if choice is float and not isinstance(value, bool) and isinstance(value, int | float | str):
            number = _number(value)
            if number is not None:
                return number
        # bool is an int to Python, but `batch_size: true` is a mistake.
        if choice in (int, bool, str) and type(value) is choice:
            return value
    wanted = " or ".join(_describe(choice) for choice in choices)
    raise ValueError(f"field {name!r} is {value!r}; it takes {wanted}")


def _all_text(values: list[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _number(value: int | float | str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of names"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return {**names, Path: "a path", type(None): "null"}[kind]
