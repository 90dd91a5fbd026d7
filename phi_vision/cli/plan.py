"""`phi-vision plan`: resources of a training run, estimated in advance."""

import argparse

from phi_vision.cli.options import Parser
from phi_vision.cli.recipe_options import add_recipe_options, chosen_recipe


def add_options(parser: Parser) -> None:
    """Declare the options: a recipe as for `train`, and a GPU."""
    gpu = "GPU to train on, such as H100 or L4 (default: this machine)"
    parser.add_argument("--gpu", metavar="NAME", help=gpu)
    parser.usage = "%(prog)s RECIPE --data DATA [--gpu NAME] [--FIELD VALUE ...]"
    add_recipe_options(parser)


def run(options: argparse.Namespace) -> None:
    """Estimate tokens, steps, memory and time of a training run, and the GPUs it fits."""
    from phi_vision.training.estimate import make_plan

    print(make_plan(chosen_recipe(options), gpu=options.gpu).as_text(), end="")
