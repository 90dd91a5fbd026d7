"""The full-size model on one GPU: training, generation and their bounds, within a time budget.

    python -m benchmarks.gpu --out DIR                       every part, about 7 minutes on an H100
    python -m benchmarks.gpu --out DIR --only train qlora    some parts, and what they need
    python -m benchmarks.gpu --out DIR --tiny                all parts with a tiny model on the CPU

The 4.15 billion weights are drawn on the GPU: nothing is downloaded or read. Every figure is a line
of DIR/results.jsonl as soon as it is known; a table comes last. A part that fails or overruns
leaves its error, and the next one starts; the most important come first. With random weights the
texts are noise; time and memory are real. docs/speed.md explains what the figures are compared
with, and how to run this on a machine without a network.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Before torch and transformers are imported, which read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch

from benchmarks.gpu import STARTED, decoding, hardware, steps, training, waits
from benchmarks.gpu.model import SharedModel
from benchmarks.gpu.session import Session

PARTS: dict[str, tuple[Callable[[Session, SharedModel], None], float]] = {
    "model": (hardware.measure_products, 30),
    "train": (steps.measure_train, 80),
    "full": (steps.measure_full, 45),
    "adapters": (steps.measure_adapters, 30),
    "checkpointing": (steps.measure_checkpointing, 30),
    "profile": (steps.measure_profile, 25),
    "waits": (waits.measure_waits, 15),
    "answer": (decoding.measure_answer, 50),
    "graph": (decoding.measure_graph, 25),
    "trainer": (training.measure_trainer, 75),
    "attention": (hardware.measure_attention, 35),
    "pipeline": (training.measure_pipeline, 30),
    "compile": (steps.measure_compile, 110),
    "qlora": (training.measure_qlora, 40),
}
"""Name -> part and the most seconds it may take; the most important come first."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--budget", type=float, default=400, help="seconds from the start")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    options = parser.parse_args(words)
    run(Session(options.out, options.budget, STARTED, is_tiny=options.tiny), options.only)


def measure_full_size(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of training and generation, for `python -m benchmarks.speed`."""
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here; `python -m benchmarks.gpu --out DIR --tiny` tries the parts")
    session = Session(folder, 240.0, time.perf_counter(), is_tiny=False)
    run(session, ["train", "answer"])
    yield from session.lines


def run(session: Session, parts: Sequence[str]) -> None:
    """Describe the machine, measure its ceilings, make the model, then run the parts."""
    made: list[SharedModel] = []
    session.run("machine", hardware.describe_machine, 20)
    session.run("ceilings", hardware.measure_ceilings, 30)
    session.run("draw", lambda s: made.append(SharedModel(s.device, is_tiny=s.is_tiny)), 60)
    for name in parts if made else ():
        part, seconds = PARTS[name]
        session.run(name, lambda s, part=part: part(s, made[0]), seconds)  # type: ignore[misc]
    session.print_table()


if __name__ == "__main__":
    main()
