"""Options that select a model and its prompt template."""

import argparse
from typing import TYPE_CHECKING

from phi_vision.cli.options import Parser, accepted_by, at_least

if TYPE_CHECKING:
    from phi_vision.inference.local import LocalPredictor


def add_model_options(parser: Parser) -> None:
    """Declare model, template and batch size."""
    from phi_vision.data.template import TEMPLATES, find_template

    model = "run, checkpoint or adapter folder, hub id, or phi-vision-small"
    parser.add_argument("model", metavar="MODEL", help=model)
    template = (
        f"prompt template: {', '.join(TEMPLATES)} or a YAML file "
        "(default: that of the run, else product)"
    )
    known = accepted_by(find_template)
    parser.add_argument("--template", type=known, metavar="NAME", help=template)
    batch = "batch size (default: %(default)s)"
    parser.add_argument("--batch-size", type=at_least(1), default=16, metavar="N", help=batch)


def load_predictor(options: argparse.Namespace) -> "LocalPredictor":
    """Load the selected model with its prompt template."""
    from phi_vision.inference.local import LocalPredictor
    from phi_vision.inference.predictor import resolve_template

    template = resolve_template(options.model, options.template)
    return LocalPredictor(options.model, template=template, batch_size=options.batch_size)
