"""`phi-vision plan`: resources of a training run, estimated in advance."""

import argparse

from phi_vision.cli.options import Parser, add_listed
from phi_vision.cli.reporting import CommandReport
from phi_vision.cli.train import add_recipe_options, chosen_recipe, plan_values
from phi_vision.io.process import importing


def add_options(parser: Parser) -> None:
    """Declare the options: a recipe as for `train`, and a GPU."""
    add_listed(parser, "plan")
    add_recipe_options(parser)


def run(options: argparse.Namespace) -> CommandReport:
    """Estimate tokens, steps, memory and time of a training run, and the GPUs it fits."""
    with importing():
        from phi_vision.training.estimate import make_plan

    plan = make_plan(chosen_recipe(options), gpu=options.gpu)
    return CommandReport(plan_values(plan), plan.as_text().splitlines())
