"""EXECUTORS: map a function over chunks, in processes of this machine or with Ray Data.

Results come in the order of the chunks, and only a bounded number of chunks is held at a time.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from phi_vision.io.process import check_installed, map_ahead, usable_cores

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

MIN_CHUNKS = 8  # fewer are done before processes have started
WINDOW_PER_WORKER = 3  # chunks: one in progress, one waiting, one done and not yet yielded
RAY_WINDOW = 64  # chunks of a pipeline: starting one takes a second, holding one takes memory


def run_locally(
    function: Callable[[Chunk], Result],
    chunks: Iterable[Chunk],
    *,
    workers: int | None = None,
    address: str | None = None,
) -> Iterator[Result]:
    """Compute a picklable function in processes, by default one a core; 0 is this process.

    `address` must be None: there is no cluster here.
    """
    if address is not None:
        raise ValueError(f"this engine has no cluster at {address}; use --engine ray")
    count = usable_cores() if workers is None else workers
    remaining = iter(chunks)
    first = list(itertools.islice(remaining, MIN_CHUNKS))
    if count == 0 or len(first) < MIN_CHUNKS:
        yield from map(function, itertools.chain(first, remaining))
        return
    # Spawned, not forked: this process may hold threads (downloads, progress bars).
    spawn = get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=_exit_with_parent) as pool:
        ahead = WINDOW_PER_WORKER * count
        yield from map_ahead(pool, function, itertools.chain(first, remaining), ahead=ahead)


def _exit_with_parent() -> None:
    """End a process of the pool when this one is killed; it would wait for work forever."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None, "only spawned processes are watched"
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_on_ray(
    function: Callable[[Chunk], Result],
    chunks: Iterable[Chunk],
    *,
    workers: int | None = None,
    address: str | None = None,
) -> Iterator[Result]:
    """Compute with Ray Data, with so many chunks in progress, by default one for each core.

    Chunks travel with their images, so the machines of a cluster at `address` need access to
    neither the source nor the output folder.
    """

    def compute(row: dict[str, Any]) -> dict[str, object]:
        return {"index": row["index"], "result": function(row["chunk"])}

    remaining = iter(chunks)
    with open_ray(address) as ray:
        while window := list(itertools.islice(remaining, RAY_WINDOW)):
            rows = [{"index": index, "chunk": chunk} for index, chunk in enumerate(window)]
            # One block for each chunk, as a block is what one task works on.
            items = ray.data.from_items(rows, override_num_blocks=len(rows))
            results = items.map(compute, concurrency=workers).iter_rows()
            yield from (row["result"] for row in sorted(results, key=lambda row: row["index"]))


@contextmanager
def open_ray(address: str | None) -> Iterator[Any]:  # the module is not typed
    """Yield Ray, and shut it down unless it was running before.

    It is started here, or connected to at the address of a cluster, `auto` or `ray://head:10001`.
    Raises ValueError if Ray is not installed, ConnectionError if there is no such cluster.
    """
    check_installed("ray", "phi-vision[ray]", "the ray engine")
    import ray
    import ray.data

    was_running = ray.is_initialized()
    if not was_running:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        if not was_running:
            ray.shutdown()


EXECUTORS = {"local": run_locally, "ray": run_on_ray}  # by the value of `--engine`
