"""`phi-vision plan`: what a training will take."""

import argparse

from phi_vision.cli.options import Parser
from phi_vision.cli.recipe_options import add_recipe_options, chosen_recipe


def add_options(parser: Parser) -> None:
    """Declare what `phi-vision plan` takes: a recipe as for `train`, and a card."""
    card = "the card to train on, such as H100 or L4 (default: this machine)"
    parser.add_argument("--card", metavar="NAME", help=card)
    parser.usage = "%(prog)s RECIPE --data DATA [--card NAME] [a field of the recipe ...]"
    add_recipe_options(parser)


def run(options: argparse.Namespace) -> None:
    """Say what a training will take before it is spent: tokens, steps, memory, time, cards."""
    from phi_vision.training.estimate import make_plan

    print(make_plan(chosen_recipe(options), card=options.card).as_text(), end="")
