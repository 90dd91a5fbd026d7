"""How a process uses the machine: cores, threads that wait, and garbage collection at start-up."""

import gc
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # as "MAX PERIOD" in microseconds, MAX a number or "max"


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """Count the cores that this process may use: by its affinity and its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        limit, period = quota.read_text("utf-8").split()
        allowed = math.ceil(int(limit) / int(period))
    except (OSError, ValueError):  # no control group, or no limit
        return cores or 1
    return max(1, min(cores or 1, allowed))


@contextmanager
def importing() -> Iterator[None]:
    """Import PyTorch and what builds on it in two thirds of the time: without collecting garbage.

    Imports make two million objects that stay, and each collection looks at all of them. They are
    exempted from later ones too. Where PyTorch is imported already, nothing changes.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
