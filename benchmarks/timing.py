"""How both sides of a benchmark are timed: in turn, in CPU-seconds and by the clock."""

import statistics
import time
from collections.abc import Callable
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
    ours: Callable[[], object], plain: Callable[[], object], *, rounds: int, budget: float
) -> Figures:
    """Time both sides in turn, after one run each that counts for nothing.

    Ends after `rounds`, or when the next round would exceed `budget` seconds; two at least.
    """
    started = time.perf_counter()
    ours(), plain()
    times: list[tuple[Seconds, Seconds]] = []
    for count in range(rounds):
        each = (time.perf_counter() - started) / (count + 1)
        if count >= 2 and time.perf_counter() - started + each > budget:
            break
        times.append((measure(ours), measure(plain)))
    one, other = zip(*times, strict=True)
    return {
        "ours_cpu_s": statistics.median(seconds.cpu for seconds in one),
        "plain_cpu_s": statistics.median(seconds.cpu for seconds in other),
        "ours_wall_s": statistics.median(seconds.wall for seconds in one),
        "plain_wall_s": statistics.median(seconds.wall for seconds in other),
        "ratio": statistics.median(b.cpu / a.cpu for a, b in times),
        "rounds": len(times),
    }


def gemm_rate(dtype: torch.dtype, size: int = 1536) -> float:
    """Return the FLOPs per CPU-second of a large matrix product, the best of eight."""
    one, other = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    torch.mm(one, other)
    return 2 * size**3 / min(measure(lambda: torch.mm(one, other)).cpu for _ in range(8))
