"""`phi-vision train`: a recipe and data become a run."""

import argparse

from phi_vision.cli.options import Parser
from phi_vision.cli.recipe_options import add_recipe_options, chosen_recipe


def add_options(parser: Parser) -> None:
    """Declare the options: every field of a recipe."""
    dry_run = "run all checks, print the recipe and the estimate, write nothing"
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    resume = "resume from the last checkpoint of the run in --output-dir"
    parser.add_argument("--resume", action="store_true", help=resume)
    parser.usage = "%(prog)s RECIPE --data DATA [--dry-run] [--resume] [--FIELD VALUE ...]"
    add_recipe_options(parser)


def run(options: argparse.Namespace) -> None:
    """Fine-tune a model on images with records."""
    recipe = chosen_recipe(options)
    if options.dry_run:
        from phi_vision.training.estimate import make_plan
        from phi_vision.training.recipe_file import to_yaml
        from phi_vision.training.setup import prepare

        prepare(recipe)
        estimate = make_plan(recipe).as_text().splitlines()
        print(to_yaml(recipe) + "".join(f"# {line}\n" for line in estimate), end="")
        return
    from phi_vision.training.distributed import is_main
    from phi_vision.training.trainer import train as run_recipe

    run = run_recipe(recipe, resume=options.resume)
    if is_main():
        print(f"The run is in {run.folder}, the model in {run.model}")
