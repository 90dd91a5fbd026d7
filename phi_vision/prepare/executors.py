"""ENGINES: where cleaning is computed. The same function over the same chunks, in the same order.

An engine gives results back in the order of the chunks and never holds more than a bounded number
of them, whatever the size of the catalog.
"""

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

WORTH_PROCESSES = 8
"""Chunks; fewer are done before processes have started."""

WINDOW_PER_WORKER = 3
"""Chunks under way for each process: one at work, one ready, one done and not yet taken."""

RAY_WINDOW = 64
"""Chunks in one Ray Data pipeline: starting one takes about a second, holding one takes memory."""


def run_locally(
    work: Callable[[Given], Made],
    chunks: Iterable[Given],
    *,
    workers: int | None = None,
    address: str | None = None,
) -> Iterator[Made]:
    """Compute in processes of this machine.

    Args:
        work: A function of a module, or a partial of one: it travels to the processes.
        chunks: What it is called with, one after the other.
        workers: Processes; as many as there are cores by default. 0 computes in this one.
        address: Must be None; there is no cluster here.

    Raises:
        ValueError: An address is given.
    """
    if address is not None:
        raise ValueError(f"there is no cluster at {address} for this engine; use --engine ray")
    count = os.cpu_count() or 1 if workers is None else workers
    remaining = iter(chunks)
    first = list(itertools.islice(remaining, WORTH_PROCESSES))
    if count == 0 or len(first) < WORTH_PROCESSES:
        yield from map(work, itertools.chain(first, remaining))
        return
    under_way: deque[Future[Made]] = deque()
    # Spawned, not forked: this process may hold threads (downloads, progress bars).
    spawned = get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawned, initializer=_end_with_parent) as pool:
        try:
            for chunk in itertools.chain(first, remaining):
                under_way.append(pool.submit(work, chunk))
                if len(under_way) > WINDOW_PER_WORKER * count:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let a process of the pool die when this one is killed; it would wait for work for ever."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None, "only processes that were spawned are watched"
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_on_ray(
    work: Callable[[Given], Made],
    chunks: Iterable[Given],
    *,
    workers: int | None = None,
    address: str | None = None,
) -> Iterator[Made]:
    """Compute with Ray Data, on this machine or on the cluster at an address.

    Chunks travel with their images, so the cluster's machines need to see neither the source nor
    the folder written to.

    Args:
        work: As for `run_locally`.
        chunks: As for `run_locally`.
        workers: Chunks worked on at once; as many as Ray has cores for by default.
        address: Of a running cluster, such as `auto` or `ray://head:10001`; None starts Ray here.

    Raises:
        ValueError: Ray is not installed.
    """
    remaining = iter(chunks)
    with open_ray(address) as ray:
        while window := list(itertools.islice(remaining, RAY_WINDOW)):
            # One block for each chunk, as a block is what one task works on.
            given = ray.data.from_items(
                [{"place": place, "chunk": chunk} for place, chunk in enumerate(window)],
                override_num_blocks=len(window),
            )
            made = given.map(_WorkOnRow(work), concurrency=workers)
            rows = sorted(made.iter_rows(), key=lambda row: row["place"])
            yield from (row["made"] for row in rows)


@contextmanager
def open_ray(address: str | None) -> Iterator[Any]:  # The module is not typed.
    """Give Ray, started or connected to; what was not running before is left again.

    Args:
        address: Of a running cluster, such as `auto` or `ray://head:10001`; None starts Ray here.

    Raises:
        ValueError: Ray is not installed.
        ConnectionError: There is no cluster at the address.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(
            "the ray engine needs Ray, which is not installed; pip install 'phi-vision[ray]'"
        ) from error
    was_running = ray.is_initialized()
    if not was_running:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        if not was_running:
            ray.shutdown()


class _WorkOnRow:
    """Calls `work` on the chunk of a Ray Data row; keeps its place."""

    def __init__(self, work: Callable[[Given], Made]) -> None:
        self.work = work

    def __call__(self, row: dict[str, object]) -> dict[str, object]:
        return {"place": row["place"], "made": self.work(row["chunk"])}  # type: ignore[arg-type]


ENGINES = {"local": run_locally, "ray": run_on_ray}
"""Name -> engine."""
