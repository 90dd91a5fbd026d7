"""Options that select a recipe and override its fields."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.cli.options import Parser, add_fields, given_fields, suggestion

if TYPE_CHECKING:
    from phi_vision.training.recipes import Recipe

FURTHER = "further."  # prefix of the destination of options that are no recipe field of our own


def add_recipe_options(parser: Parser) -> None:
    """Declare the recipe argument and an option per field."""
    from phi_vision.training.recipes import RECIPES, Recipe

    names = ", ".join(RECIPES)
    parser.add_argument("recipe", metavar="RECIPE", help=f"{names}, or the recipe.yaml of a run")
    presets = {name: make() for name, make in RECIPES.items()}
    add_fields(parser, Recipe, presets, skip=["further"])

    def declare(option: str) -> bool:
        import yaml

        from phi_vision.training.recipe_file import has_field

        name = option.removeprefix("--").replace("-", "_")
        if has_field(name):
            dest, read = FURTHER + name, yaml.safe_load
            parser.add_argument(option, dest=dest, type=read, nargs="?", const=True)
        return has_field(name)

    parser.declare = declare
    parser.epilog = (
        "Any further field of transformers.TrainingArguments, peft.LoraConfig or trl.DPOConfig is "
        "an option too, such as --adam-beta2 0.95."
    )


def chosen_recipe(options: argparse.Namespace) -> "Recipe":
    """Return the chosen recipe with the given fields replaced."""
    from phi_vision.training.recipes import Recipe

    start = starting_recipe(options.recipe)
    fields = given_fields(options, Recipe)
    given = {
        name.removeprefix(FURTHER): value
        for name, value in vars(options).items()
        if name.startswith(FURTHER) and value is not None
    }
    if given:
        from phi_vision.training.recipe_file import convert_further

        given = {name: convert_further(name, value) for name, value in given.items()}
        fields["further"] = {**start.further, **given}
    return replace(start, **fields)


def starting_recipe(name: str) -> "Recipe":
    """Return a recipe by name or from a YAML file."""
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
