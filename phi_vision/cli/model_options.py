"""Options that say which model answers and how it is asked."""

import argparse
from typing import TYPE_CHECKING

from phi_vision.cli.options import Parser, accepted_by, at_least

if TYPE_CHECKING:
    from phi_vision.inference.local import LocalPredictor


def add_model_options(parser: Parser) -> None:
    """Declare which model answers, and how it is asked."""
    from phi_vision.data.template import TEMPLATES, find_template

    model = "run, checkpoint or adapter folder, hub id, or phi-vision-small"
    parser.add_argument("model", metavar="MODEL", help=model)
    template = (
        f"wording: {', '.join(TEMPLATES)} or a YAML file "
        "(default: the one of the run, else product)"
    )
    parser.add_argument(
        "--template", type=accepted_by(find_template), metavar="NAME", help=template
    )
    batch = "images read together (default: %(default)s)"
    parser.add_argument("--batch-size", type=at_least(1), default=16, metavar="N", help=batch)


def load_predictor(options: argparse.Namespace) -> "LocalPredictor":
    """Load the model that was asked for; a run is asked in the wording it was trained with."""
    from phi_vision.inference.local import LocalPredictor
    from phi_vision.inference.predictor import resolve_template

    template = resolve_template(options.model, options.template)
    return LocalPredictor(options.model, template=template, batch_size=options.batch_size)
