"""How both sides of a benchmark are timed: in turn, in CPU-seconds and by the clock."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

Figures = dict[str, Any]


class Seconds(NamedTuple):
    """Time of one piece of work."""

    cpu: float
    wall: float


def measure(work: Callable[[], object]) -> Seconds:
    """Run a piece of work once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def take_turns(
    ours: Callable[[], object],
    plain: Callable[[], object],
    *,
    rounds: int,
    budget: float,
    others: Mapping[str, Callable[[], object]] | None = None,
) -> Figures:
    """Time both sides, and `others`, in turn, after one run each that counts for nothing.

    Ends after `rounds`, or when the next round would exceed `budget` seconds; two at least. Of each
    there are CPU-seconds and seconds by the clock, and the ratio of its CPU-seconds to ours.
    """
    started = time.perf_counter()
    sides = {"ours": ours, "plain": plain, **(others or {})}
    for work in sides.values():
        work()
    times: list[dict[str, Seconds]] = []
    for count in range(rounds):
        each = (time.perf_counter() - started) / (count + 1)
        if count >= 2 and time.perf_counter() - started + each > budget:
            break
        times.append({name: measure(work) for name, work in sides.items()})
    figures: Figures = {}
    for name in sides:
        figures[f"{name}_cpu_s"] = statistics.median(each[name].cpu for each in times)
        figures[f"{name}_wall_s"] = statistics.median(each[name].wall for each in times)
    for name in [*sides][1:]:
        ratio = "ratio" if name == "plain" else f"ratio_{name}"
        figures[ratio] = statistics.median(each[name].cpu / each["ours"].cpu for each in times)
    return {**figures, "rounds": len(times)}


def gemm_rate(dtype: torch.dtype, size: int = 1536) -> float:
    """Return the FLOPs per CPU-second of a large matrix product, the best of eight."""
    one, other = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    torch.mm(one, other)
    return 2 * size**3 / min(measure(lambda: torch.mm(one, other)).cpu for _ in range(8))
