"""Options that choose a recipe, for the commands that need one."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.cli.options import Parser, add_fields, given_fields, suggestion

if TYPE_CHECKING:
    from phi_vision.training.recipes import Recipe


def add_recipe_options(parser: Parser) -> None:
    """Declare a recipe and, as options, each of its fields."""
    from phi_vision.training.recipes import RECIPES, Recipe

    names = ", ".join(RECIPES)
    parser.add_argument("recipe", metavar="RECIPE", help=f"{names}, or the recipe.yaml of a run")
    add_fields(parser, Recipe, {name: make() for name, make in RECIPES.items()})


def chosen_recipe(options: argparse.Namespace) -> "Recipe":
    """Take the recipe that was named, with the fields that were given."""
    from phi_vision.training.recipes import Recipe

    return replace(starting_recipe(options.recipe), **given_fields(options, Recipe))


def starting_recipe(name: str) -> "Recipe":
    """Take a recipe by its name, or from a YAML file.

    Raises:
        ValueError: It is neither a known name nor a readable file.
    """
    from phi_vision.training.recipe_file import load_recipe
    from phi_vision.training.recipes import RECIPES

    if name in RECIPES:
        return RECIPES[name]()
    if Path(name).exists() or Path(name).suffix in (".yaml", ".yml"):
        return load_recipe(Path(name))
    raise ValueError(
        f"no recipe {name!r}{suggestion(name, RECIPES)}; "
        f"choose from {', '.join(RECIPES)}, or give the recipe.yaml of a run"
    )
