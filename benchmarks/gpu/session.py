"""A run of the benchmark: its lines, its time, and parts that fail or overrun without ending it."""

import gc
import json
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from phi_vision.io.formatting import GIB
from phi_vision.training.gpus import GPUS

TINY_SLOWER = 10
"""How many times as long a part may take with `--tiny`, on a CPU that others use."""
RESERVE = 3.0
"""Seconds kept for the table; a part needs as many to begin."""


class TimeUpError(BaseException):
    """A part used up its time; no Exception, so that nothing below handles it as its own."""


class Session:
    """Writes a JSON line for every figure, and runs parts within their time.

    Args:
        folder: Of `results.jsonl` and of profiles.
        budget: Seconds for all parts.
        started: From when they count, by `time.perf_counter`.
        is_tiny: A tiny model on the CPU, to try the parts out.
    """

    def __init__(self, folder: Path, budget: float, started: float, *, is_tiny: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.budget, self.is_tiny = folder, budget, is_tiny
        self.started = started
        self.on_gpu = torch.cuda.is_available() and not is_tiny
        self.device = torch.device("cuda" if self.on_gpu else "cpu")
        self.lines: list[dict[str, Any]] = []
        self.part = "start"
        self.gemm_rate = self.copy_rate = float("nan")  # measured by the part `ceilings`
        self._file = folder / "results.jsonl"

    @property
    def peak_rate(self) -> float:
        """FLOPs per second of the GPU's data sheet in bf16; of an unknown one as measured."""
        return known_rate(torch.cuda.get_device_name() if self.on_gpu else "") or self.gemm_rate

    def add(self, **figures: Any) -> None:
        """Write a line."""
        at = round(time.perf_counter() - self.started, 1)
        line = {"part": self.part, "at": at, **{k: _rounded(v) for k, v in figures.items()}}
        self.lines.append(line)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def run(self, name: str, part: Callable[["Session"], None], seconds: float) -> None:
        """Run a part; an error or too long a time is a line, and nothing more."""
        self.part = name
        left = self.budget - (time.perf_counter() - self.started) - RESERVE
        seconds = min(seconds * (TINY_SLOWER if self.is_tiny else 1), left)
        if seconds < RESERVE:
            self.add(skipped="no time left")
            return
        begun = time.perf_counter()
        try:
            with self.attempt(), _alarm(seconds):
                part(self)
        except TimeUpError:
            self.add(error=f"stopped after {seconds:.0f} s")
        self.add(seconds=time.perf_counter() - begun)
        self.tidy()

    @contextmanager
    def attempt(self, **what: Any) -> Iterator[None]:
        """Measure one thing of a part: an error is a line, and costs only itself."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.add(**what, error="out of memory")
        except Exception as problem:
            where = traceback.format_exc().splitlines()[-6:]
            self.add(**what, error=f"{type(problem).__name__}: {str(problem)[:400]}", where=where)
        self.tidy()

    def tidy(self) -> None:
        """Free what is left over, and measure peaks anew."""
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        """Wait for the GPU."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def peak_gib(self) -> float:
        """Return the most memory held by tensors since `tidy`."""
        return torch.cuda.max_memory_allocated() / GIB if self.on_gpu else 0.0

    def seconds(self, work: Callable[[], Any], *, warm: int = 2, repeat: int = 3) -> float:
        """Return the median time of a piece of work by the clock, with the GPU awaited."""
        for _ in range(warm):
            work()
        self.wait()
        taken = []
        for _ in range(repeat):
            begun = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken)

    def device_seconds(self, work: Callable[[], Any], *, repeat: int = 10) -> float:
        """Return the mean time on the device of repetitions without waiting in between."""
        if not self.on_gpu:
            return self.seconds(work, warm=1, repeat=2)
        for _ in range(3):
            work()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(repeat):
            work()
        last.record()
        self.wait()
        return float(first.elapsed_time(last)) / 1e3 / repeat

    def print_table(self) -> None:
        """Print every line with a figure, its time aside."""
        print("\npart           figures")
        for line in self.lines:
            figures = {k: v for k, v in line.items() if k not in ("part", "at", "where")}
            print(f"{line['part']:14} " + "  ".join(f"{k} {v}" for k, v in figures.items()))


def known_rate(name: str) -> float:
    """Return the bf16 FLOPs per second of a GPU by its driver's name; 0 if it is unknown.

    Input:  "NVIDIA H100 80GB HBM3"
    Output: 9.89e14
    """
    known = [short for short in GPUS if all(part in name for part in short.split("-"))]
    return GPUS[max(known, key=len)].bf16 if known else 0.0


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise TimeUpError after so many seconds, between two instructions of Python."""

    def ring(*_: Any) -> None:
        raise TimeUpError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _rounded(value: Any) -> Any:
    """Round to four digits: 0.0123456 -> 0.01235."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
