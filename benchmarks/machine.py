"""What a training gets of a machine: beside other programs, of two processes, and of its data.

    python -m benchmarks.machine                    all parts, 5 minutes on two quiet cores
    python -m benchmarks.machine busy --seconds 5   one of them

busy            two loops that compute nothing keep two cores busy. A training in a process of its
                own, as the command line starts it, beside one whose two threads spin while they
                wait (the default of GNU's OpenMP) and one with a single thread; the same without
                the loops. A fair share is half of what one thread trains alone.
two_processes   `torchrun --nproc-per-node 2` beside one process, a thread each
stall           preparing a batch, as a share of a step with it: in the first epoch, and in later
                ones, which find the features of its images

All sides take turns. The figures are rates by the clock, with CPU-seconds beside them: a machine on
which others work makes them too low.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

from phi_vision.io.process import CACHE_VARIABLE, importing

with importing():  # as the command line does: a child of `busy` is this file
    import torch

    from benchmarks.timing import Figures, measure
    from benchmarks.workload import draw_samples, train_step, write_checkpoint
    from phi_vision.data.collator import CompletionCollator, select_labelled
    from phi_vision.data.feature_cache import cache_features
    from phi_vision.data.template import TEMPLATES
    from phi_vision.model.checkpoint import SMALL
    from phi_vision.runs import RunDir, read_history
    from phi_vision.synthetic.catalog import write_catalog
    from phi_vision.training.adapters import load_trainable
    from phi_vision.training.recipes import lora

BUSY_LOOPS = 2
SIDES = {
    "ours": {},
    "spinning": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "300000"},
    "one_thread": {"OMP_NUM_THREADS": "1"},
}
"""Name -> variables of its process."""

FREE = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
CROPS = {"phi-vision-small": 0, "hidden 256": 4, "hidden 256, 16 crops": 16}


def train_alone(model: str, rows: int, seconds: float) -> Figures:
    """Train for some seconds in this process."""
    step, _ = prepare(model, rows, is_known=False)
    step()
    steps, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        step()
        steps += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    samples = rows * steps
    return {"rate": samples / wall, "cpu": cpu / samples, "threads": torch.get_num_threads()}


def prepare(
    model: str, rows: int, *, is_known: bool
) -> tuple[Callable[[], None], Callable[[], object]]:
    """Return a LoRA step, and the preparation of its batch, whose images may be known."""
    trainable = load_trainable(replace(lora(), model=model))
    processor, samples = trainable.processor, draw_samples(rows)
    collator = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    network, is_bf16 = trainable.model.train(), trainable.precision == torch.bfloat16
    if is_known:
        known_images = cache_features(network, processor.image_processor)
        collator = replace(collator, known_images=known_images)
        train_step(network, select_labelled(collator(samples)), fused=True, bf16=is_bf16)()
    batch = select_labelled(collator(samples))
    step = train_step(network, batch, fused=True, bf16=is_bf16)
    return step, lambda: select_labelled(collator(samples))


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep cores busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure_busy(options: argparse.Namespace) -> Figures:
    """Train with and without busy loops beside it."""
    rates: dict[tuple[str, int], list[Figures]] = {}
    for _ in range(options.rounds):
        for loops in (0, BUSY_LOOPS):
            for side, variables in SIDES.items():
                command = [sys.executable, "-m", "benchmarks.machine", "child", "--seconds"]
                with busy_loops(loops):
                    done = subprocess.run(
                        [*command, str(options.seconds)],
                        env=FREE | variables,
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                figures = json.loads(done.stdout.splitlines()[-1])
                rates.setdefault((side, loops), []).append(figures)

    def middle(side: str, loops: int, name: str) -> float:
        return float(statistics.median(each[name] for each in rates[side, loops]))

    fair = middle("one_thread", 0, "rate") / 2
    return {
        "of_fair_share": middle("ours", BUSY_LOOPS, "rate") / fair,
        "quiet_of_spinning": middle("ours", 0, "rate") / middle("spinning", 0, "rate"),
        "busy_over_spinning": middle("ours", BUSY_LOOPS, "rate")
        / middle("spinning", BUSY_LOOPS, "rate"),
        **{
            f"{'busy' if loops else 'quiet'}_{side}_{name}": middle(side, loops, name)
            for side, loops in rates
            for name in ("rate", "cpu", "threads")
        },
    }


def measure_two_processes(options: argparse.Namespace) -> Figures:
    """Train in two processes and in one, by the samples per second of their logs."""
    found: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        model = write_checkpoint(Path(scratch) / "model", 256, 4)
        write_catalog(Path(scratch) / "data", rows=96, seed=0)
        words = ["train", "lora", "--model", str(model), "--data", str(Path(scratch) / "data")]
        words += ["--validation-fraction", "0", "--report-to", "none", "--max-steps", "6"]
        words += ["--per-device-train-batch-size", "2", "--output-dir"]
        for number in range(options.rounds):
            for count, rates in found.items():
                run = Path(scratch) / f"run-{number}-{count}"
                launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
                start = [*launch, str(count), "-m"] if count > 1 else ["-m"]
                subprocess.run(
                    [sys.executable, *start, "phi_vision", *words, str(run)],
                    env=FREE | {"OMP_NUM_THREADS": "1", "PHI_VISION_CACHE": "off"},
                    capture_output=True,
                    check=True,
                )
                steps = read_history(RunDir(run).log_file).steps[2:]
                rates.append(statistics.median(step["samples_per_second"] for step in steps))
    one, two = (statistics.median(rates) for rates in found.values())
    return {"of_twice_one": two / one / 2, "one_rate": one, "two_rate": two}


def measure_stall(options: argparse.Namespace) -> Figures:
    """Time preparing a batch beside a step with it, with the threads of the environment."""
    shares: Figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ[CACHE_VARIABLE] = scratch
        for (name, crops), is_known in product(CROPS.items(), (False, True)):
            model = SMALL
            if crops:
                model = str(write_checkpoint(Path(scratch) / f"{crops}-{is_known}", 256, crops))
            step, collate = prepare(model, options.rows, is_known=is_known)
            step(), collate()
            turns = [(measure(step), measure(collate)) for _ in range(options.rounds)]
            share = statistics.median(two.cpu / (one.cpu + two.cpu) for one, two in turns)
            label = f"{name}, {'later epochs' if is_known else 'first epoch'}"
            shares[f"{label}: share"] = share
            shares[f"{label}: prepare_ms"] = 1000 * statistics.median(two.cpu for _, two in turns)
            shares[f"{label}: step_ms"] = 1000 * statistics.median(one.cpu for one, _ in turns)
    return shares


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "busy": measure_busy,
    "two_processes": measure_two_processes,
    "stall": measure_stall,
}


def main() -> None:
    """Measure the parts and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=8, help="of each training of `busy`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1, help="of a batch of `stall`")
    options = parser.parse_args()
    if options.parts == ["child"]:
        print(json.dumps(train_alone(SMALL, 8, options.seconds)))
        return
    for part in options.parts or PARTS:
        print(json.dumps({"part": part, **PARTS[part](options)}), flush=True)


if __name__ == "__main__":
    main()
