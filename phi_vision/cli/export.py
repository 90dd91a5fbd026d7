"""`phi-vision export`: a run becomes a folder for another engine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.cli.options import Parser, at_least, one_of

if TYPE_CHECKING:
    from phi_vision.export.verify import Verification

# `export.onnx.PRECISIONS`, which takes seconds to import; a test compares.
PRECISIONS = ("fp32", "int8", "int4")


def add_options(parser: Parser) -> None:
    """Declare the options."""
    parser.usage = "%(prog)s RUN --out DIR [--format hf|onnx] [an option ...]"
    run = "run, checkpoint or adapter folder, hub id, or phi-vision-small"
    parser.add_argument("run", metavar="RUN", help=run)
    out = "folder to write; must not exist, or be empty"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=out)
    kind = (
        "hf: merged weights in the official layout, for transformers, vLLM and others; "
        "onnx: graphs for ONNX Runtime (default: %(default)s)"
    )
    parser.add_argument("--format", type=one_of(FORMATS), default="hf", metavar="NAME", help=kind)
    precision = "onnx: precision of the decoder weights, fp32, int8 or int4 (default: fp32)"
    parser.add_argument("--precision", type=one_of(PRECISIONS), metavar="NAME", help=precision)
    data = "samples for the verification (default: the training data of the run)"
    parser.add_argument("--data", type=Path, metavar="DATA", help=data)
    samples = "held-out samples to verify on; 0 skips verification (default: %(default)s)"
    parser.add_argument("--samples", type=at_least(0), default=4, metavar="N", help=samples)
    size = "hf: maximum size of a weight shard (default: 5GB)"
    parser.add_argument("--max-shard-size", metavar="SIZE", help=size)


def run(options: argparse.Namespace) -> None:
    """Export a run for another engine, and publish the folder only if its outputs match the run."""
    verification = FORMATS[options.format](options)
    print(f"{options.out}: {verification.summary()}")


def _export_hf(options: argparse.Namespace) -> "Verification":
    from phi_vision.export.hf import export_hf

    _check_unused(options, "precision", "onnx")
    size = options.max_shard_size or "5GB"
    verified = {"data": options.data, "samples": options.samples}
    return export_hf(options.run, options.out, **verified, max_shard_size=size)


def _export_onnx(options: argparse.Namespace) -> "Verification":
    from phi_vision.export.onnx import export_onnx

    _check_unused(options, "max_shard_size", "hf")
    precision = options.precision or "fp32"
    verified = {"data": options.data, "samples": options.samples}
    return export_onnx(options.run, options.out, **verified, precision=precision)


def _check_unused(options: argparse.Namespace, name: str, kind: str) -> None:
    if getattr(options, name) is not None:
        raise ValueError(
            f"--{name.replace('_', '-')} has no effect with --format {options.format}; leave it "
            f"out, or write --format {kind}"
        )


FORMATS = {"hf": _export_hf, "onnx": _export_onnx}
"""Name -> exporter."""
