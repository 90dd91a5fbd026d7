"""A recipe as YAML: saved in its run folder, and that file trains the same run again."""

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from phi_vision.training.hf_fields import convert, convert_further
from phi_vision.training.recipes import RECIPES, Recipe


def recipe_fields(recipe: Recipe) -> dict[str, Any]:
    """Return the fields as plain values, further ones beside the others."""
    fields = dataclasses.asdict(recipe)
    further = fields.pop("further")
    return {**fields, **further}


def to_yaml(recipe: Recipe) -> str:
    """Format a recipe so that `load_recipe` reads it back.

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
        for name, value in recipe_fields(recipe).items()
    }
    return yaml.safe_dump(
        plain, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000
    )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML. Fields left out keep the values of the method's preset.

    Raises:
        ValueError: There is no such file, it is no YAML mapping, it has an unknown or refused field
            or an unknown method, or a value has the wrong type.
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
    kinds = {name: kind for name, kind in get_type_hints(Recipe).items() if name != "further"}
    own = {name: convert(name, values[name], kinds[name]) for name in values if name in kinds}
    further = {
        name: convert_further(name, value, recipe_fields=kinds)
        for name, value in values.items()
        if name not in kinds
    }
    method = own.get("method")
    if method not in RECIPES:
        raise ValueError(f"field 'method' is missing; choose one of {', '.join(RECIPES)}")
    return replace(RECIPES[method](), **own, further=further)
