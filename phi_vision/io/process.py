"""How a process uses the machine: libraries, garbage collection, threads, its cache folder."""

import gc
import importlib.util
import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from phi_vision.io.formatting import error_texts

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # as "MAX PERIOD" in microseconds, MAX a number or "max"
CPU_TIMES = Path("/proc/stat")  # as "cpu0 USER NICE SYSTEM IDLE …", in ticks since the start
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100  # per second

CACHE_VARIABLE, CACHE_FOLDER = "PHI_VISION_CACHE", "~/.cache/phi-vision"
THREADS, WAITING = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"  # of the user, who decides
SPINS = {"GOMP_SPINCOUNT": "1000"}
"""How often a thread of GNU's OpenMP, which PyTorch brings, looks for work before it sleeps: some
50 microseconds, the library's own number where threads are more than cores, instead of 300,000.
Beside other programs, two spinning threads took 2.4 to 4 times the CPU-seconds (docs/log.md)."""
KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
"""How many compiled kernels oneDNN keeps, one for each shape of a product: enough for a training
step, in which all layers have the same. The 1,024 by default took 0.5 GB (docs/log.md)."""


def cache_folder(kind: str) -> Path | None:
    """Return the folder of one kind of what is kept between runs; None if the variable is `off`."""
    place = os.environ.get(CACHE_VARIABLE) or CACHE_FOLDER
    try:
        return None if place == "off" else Path(place).expanduser() / kind
    except RuntimeError as error:  # of a user who is not known
        raise failure("no_home", place=place, variable=CACHE_VARIABLE) from error


def check_installed(library: str, package: str, purpose: str, otherwise: str = "") -> None:
    """Check that an optional library is installed, or raise ValueError with what to install.

    Input:  "trl", "phi-vision[dpo]", "objective dpo", ", or use lora"
    Error:  objective dpo needs trl, which is not installed; pip install 'phi-vision[dpo]', or …
    """
    if importlib.util.find_spec(library) is None:
        values = {"library": library, "package": package, "otherwise": otherwise}
        raise failure("not_installed", purpose=purpose, **values)


class CpuTime(NamedTuple):
    """Seconds: by the clock, of this process, and of all programs on the cores it may use."""

    clock: float
    own: float
    all: float


@contextmanager
def importing() -> Iterator[None]:
    """Import PyTorch and what builds on it: without collecting garbage, and with fit threads.

    Imports make two million objects that stay, and each collection looks at all of them: a third
    of the time. They are exempted from later ones too. Threads of other programs' cores would wait
    for one another most of the time. Where PyTorch is imported already, nothing changes.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    for name, value in (KERNELS if WAITING in os.environ else SPINS | KERNELS).items():
        os.environ.setdefault(name, value)
    before = read_times(usable_cpus())
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
    if "torch" in sys.modules and THREADS not in os.environ:
        _limit_threads(busy_elsewhere(before, read_times(usable_cpus())))


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = 64
) -> Iterator[Result]:
    """Apply a function that mostly works outside of Python, as decoding an image does, in order.

    A thread for each core works up to `ahead` items ahead of the caller; the items are read in the
    caller's thread.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from map_ahead(pool, function, items, ahead=ahead)


def map_ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """Apply a function in a pool, up to so many items ahead of the caller, in order."""
    waiting = deque[Future[Result]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def usable_cpus() -> Collection[int]:
    """List the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """Count the cores that this process may use: of its affinity, and of its control group."""
    cores = len(usable_cpus())
    try:
        limit, period = quota.read_text("utf-8").split()
        return max(1, min(cores, math.ceil(int(limit) / int(period))))
    except (OSError, ValueError):  # no control group, or no limit
        return cores


def fit_threads(cores: int, busy: float) -> int:
    """Choose the number of threads beside other programs.

    Input:  2 cores, 0.1 of which others keep busy; 2 cores and 1.3; 16 cores and 4.2
    Output: 2; 1; 12
    """
    return max(1, min(cores, math.floor(cores - busy + 0.5)))


def read_times(cpus: Collection[int], file: Path = CPU_TIMES) -> CpuTime:
    """Read how long programs have run on some cores; 0 where the system does not tell."""
    try:
        lines = [line.split() for line in file.read_text("utf-8").splitlines()]
    except OSError:
        lines = []
    names = {f"cpu{number}" for number in cpus}
    # Not the times that a core was idle, waited for a disk, or was withdrawn by the host.
    worked = sum(
        int(ticks) for name, *times in lines if name in names for ticks in (*times[:3], *times[5:7])
    )
    return CpuTime(time.monotonic(), time.process_time(), worked / TICKS)


def busy_elsewhere(before: CpuTime, now: CpuTime) -> float:
    """Count the cores that other programs have kept busy between two moments."""
    seconds = now.clock - before.clock
    others = (now.all - before.all) - (now.own - before.own)
    return max(0.0, others / seconds) if seconds else 0.0


def _limit_threads(busy: float) -> None:
    torch, cores = sys.modules["torch"], usable_cores()
    most = min(cores, torch.get_num_threads())
    if (fit := min(most, fit_threads(cores, busy))) < torch.get_num_threads():
        torch.set_num_threads(fit)
    if fit < most:
        logger.info(
            "other programs keep %.1f of %d cores busy, so PyTorch uses %d (%s=%d: %d)",
            *(busy, cores, fit, THREADS, most, most),
        )
