"""Peak memory of the ONNX export, on the full-size model with few layers.

    python -m benchmarks.onnx_memory write CUT --layers 2       official sizes, random weights
    python -m benchmarks.onnx_memory export CUT --data DATA     in this process: loads and traces
    python -m benchmarks.onnx_memory plain CUT --out PLAIN      the builder's input
    python -m benchmarks.onnx_memory build PLAIN --precision int4     the builder's process

Two depths give the cost of a layer. The builder is measured in a separate process, since a child's
peak starts with its parent's memory. Each prints a JSON object of figures.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer

from benchmarks.full_size import NUM_CROPS, full_size_config
from phi_vision.export.onnx import (
    PRECISIONS,
    build_decoder,
    export_onnx,
    write_plain_checkpoint,
)
from phi_vision.model.checkpoint import SMALL, load_model, resolve
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor


def write(options: argparse.Namespace) -> dict[str, object]:
    """Write a checkpoint of the official sizes with few decoder layers."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(SMALL))
    config = full_size_config(tokenizer)
    config.num_hidden_layers = options.layers
    torch.set_default_dtype(torch.bfloat16)
    Phi3VForCausalLM(config).save_pretrained(options.folder)
    cutter = Phi3VImageProcessor(num_crops=NUM_CROPS)
    Phi3VProcessor(cutter, tokenizer).save_pretrained(options.folder)
    return {"checkpoint_bytes": _weight_bytes(options.folder)}


def export(options: argparse.Namespace) -> dict[str, object]:
    """Export a checkpoint; the peak excludes the builder."""
    with tempfile.TemporaryDirectory(dir=options.folder.parent) as scratch:
        proof = export_onnx(
            str(options.folder),
            Path(scratch) / "out",
            precision=options.precision,
            data=options.data,
            samples=options.samples,
        )
    return {"peak_bytes": _peak(resource.RUSAGE_SELF), "proof": proof.summary()}


def plain(options: argparse.Namespace) -> dict[str, object]:
    """Write the decoder alone, in float32."""
    model, processor = load_model(options.folder)
    options.out.mkdir(parents=True)
    write_plain_checkpoint(model, processor.tokenizer, options.out)
    return {"decoder_bytes": _weight_bytes(options.out)}


def build(options: argparse.Namespace) -> dict[str, object]:
    """Build the decoder's graph."""
    with tempfile.TemporaryDirectory(dir=options.folder.parent) as scratch:
        build_decoder(options.folder, Path(scratch), options.precision)
        written = sum(file.stat().st_size for file in Path(scratch).glob("*.onnx*"))
    return {
        "decoder_bytes": _weight_bytes(options.folder),
        "graph_bytes": written,
        "peak_bytes": _peak(resource.RUSAGE_CHILDREN),
    }


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _peak(process: int) -> int:
    """Return the peak resident memory, mapped files included."""
    return resource.getrusage(process).ru_maxrss * 1024


TASKS: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "write": write,
    "export": export,
    "plain": plain,
    "build": build,
}


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=2, help="decoder layers of the cut")
    parser.add_argument("--out", type=Path, help="folder for the plain checkpoint")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--data", type=Path, help="samples to ask about")
    parser.add_argument("--samples", type=int, default=0, help="how many")
    options = parser.parse_args()
    started = time.perf_counter()
    figures = TASKS[options.task](options)
    print(json.dumps(figures | {"seconds": round(time.perf_counter() - started, 1)}))


if __name__ == "__main__":
    main()
