"""`phi-vision base`: a checkpoint to fine-tune, assembled from pre-trained parts."""

import argparse

from phi_vision.cli.reporting import CommandReport
from phi_vision.io.process import importing


def run(options: argparse.Namespace) -> CommandReport:
    """Assemble a base that has seen photographs and read English, for `--model`."""
    with importing():
        from phi_vision.model.photo_base import build_base

    build_base(
        options.out,
        tower=options.tower,
        decoder=options.decoder,
        crop_size=options.crop_size,
        num_crops=options.num_crops,
    )
    command = f"phi-vision train photo --model {options.out} --data DATA"
    return CommandReport({"folder": options.out}, [f"{options.out}: fine-tune it with `{command}`"])
