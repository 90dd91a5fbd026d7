"""`phi-vision export`: a run becomes a folder for another engine."""

import argparse
from typing import Any

from phi_vision.cli.options import failure
from phi_vision.cli.reporting import CommandReport
from phi_vision.io.process import importing


def run(options: argparse.Namespace) -> CommandReport:
    """Export a run for another engine, and publish the folder only if its outputs match the run."""
    settings: dict[str, Any] = {"data": options.data, "samples": options.samples}
    if options.format == "hf":
        with importing():
            from phi_vision.export.hf import export_hf

        _check_unused(options, "precision", "onnx")
        size = options.max_shard_size or "5GB"
        verification = export_hf(options.run, options.out, max_shard_size=size, **settings)
    else:
        with importing():
            from phi_vision.export.onnx import export_onnx

        _check_unused(options, "max_shard_size", "hf")
        precision = options.precision or "fp32"
        verification = export_onnx(options.run, options.out, precision=precision, **settings)
    values = {
        "folder": options.out,
        "format": options.format,
        "verification": verification,
        "summary": verification.summary(),
    }
    return CommandReport(values, [f"{options.out}: {verification.summary()}"])


def _check_unused(options: argparse.Namespace, name: str, kind: str) -> None:
    if getattr(options, name) is not None:
        option = name.replace("_", "-")
        raise failure("unused_format", option=option, found=options.format, kind=kind)
