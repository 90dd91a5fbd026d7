"""`phi-vision train`: a recipe and data become a run."""

import argparse

from phi_vision.cli.options import Parser
from phi_vision.cli.recipe_options import add_recipe_options, chosen_recipe


def add_options(parser: Parser) -> None:
    """Declare what `phi-vision train` takes: every field of a recipe is an option."""
    dry_run = "check everything, print the recipe and the plan, write nothing"
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    resume = "go on from the last checkpoint of the run in --out"
    parser.add_argument("--resume", action="store_true", help=resume)
    parser.usage = "%(prog)s RECIPE --data DATA [--dry-run] [--resume] [a field of the recipe ...]"
    add_recipe_options(parser)


def run(options: argparse.Namespace) -> None:
    """Fine-tune a model on images with records."""
    recipe = chosen_recipe(options)
    if options.dry_run:
        from phi_vision.training.estimate import make_plan
        from phi_vision.training.recipe_file import to_yaml
        from phi_vision.training.setup import prepare

        prepare(recipe)
        foretold = make_plan(recipe).as_text().splitlines()
        print(to_yaml(recipe) + "".join(f"# {line}\n" for line in foretold), end="")
        return
    from phi_vision.training.distributed import is_main
    from phi_vision.training.trainer import train as run_recipe

    run = run_recipe(recipe, resume=options.resume)
    if is_main():
        print(f"The run is in {run.folder}, the model in {run.model}")
