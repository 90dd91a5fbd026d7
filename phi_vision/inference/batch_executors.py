"""ENGINES: where a batch prediction runs. Parts go in; parts with outcomes come out, in any order.

Each worker loads the predictor once. Parts are taken as they are needed, so that only a few are in
memory.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from phi_vision.inference.batch_parts import Outcome, predict_part
from phi_vision.inference.batch_sources import CatalogPart
from phi_vision.inference.predictor import Predictor
from phi_vision.prepare.executors import open_ray

PARTS_PER_WORKER = 2
"""Parts at a Ray worker: one in progress and one, with its images, waiting."""

MAX_RESTARTS = 2
"""Restarts of a dead Ray worker, with its parts: a machine may leave the cluster, but an input that
kills every worker must not do so for ever."""

Load = Callable[[], Predictor]
"""Loads the predictor; is sent to the workers."""


def predict_locally(
    load: Load,
    parts: Iterable[CatalogPart],
    *,
    grammar: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> Iterator[tuple[CatalogPart, list[Outcome]]]:
    """Predict in this process.

    Args:
        load: Called once, and not where there are no parts.
        parts: The rows to predict.
        grammar: Constrains the texts.
        workers: Must be None: one model uses the whole machine.
        address: Must be None; there is no cluster here.

    Raises:
        ValueError: Workers or an address are given; as `predict_part`.
    """
    if workers is not None or address is not None:
        found = f"--workers {workers}" if workers is not None else f"--ray-address {address}"
        raise ValueError(
            f"{found} has no effect: the engine local predicts in this process, one part after the "
            "other; use --engine ray"
        )
    predictor: Predictor | None = None
    for part in parts:
        predictor = predictor or load()
        yield part, predict_part(predictor, part, grammar)


def predict_on_ray(
    load: Load,
    parts: Iterable[CatalogPart],
    *,
    grammar: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> Iterator[tuple[CatalogPart, list[Outcome]]]:
    """Predict on Ray workers, each with a GPU of its own where the cluster has any.

    Images are sent with the parts; the model is not: every machine loads it from the same path.

    Args:
        load: Called once by each worker.
        parts: The rows to predict.
        grammar: Constrains the texts.
        workers: By default one for each GPU, or for each machine where there is none.
        address: Of a running cluster, such as `auto` or `ray://head:10001`; None starts Ray here.

    Raises:
        ValueError: Ray is not installed, there are fewer GPUs than workers, or a worker died again
            and again; as `predict_part`.
    """
    remaining = iter(parts)
    first = next(remaining, None)
    if first is None:  # Everything is predicted: Ray need not be started.
        return
    with open_ray(address) as ray:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        allocation = allocate(machines, workers)
        worker = ray.remote(
            num_cpus=allocation.cores,
            num_gpus=allocation.gpus,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
        )(_Worker)
        actors = [worker.remote(load, grammar) for _ in range(allocation.workers)]
        try:
            yield from _distribute(ray, actors, itertools.chain([first], remaining))
        finally:
            for actor in actors:
                ray.kill(actor)


class _Worker:
    """A Ray actor with a predictor of its own."""

    def __init__(self, load: Load, grammar: str | None) -> None:
        self._predictor = load()
        self._grammar = grammar

    def is_ready(self) -> bool:
        return True

    def predict(self, part: CatalogPart) -> list[Outcome]:
        return predict_part(self._predictor, part, self._grammar)


class Allocation(NamedTuple):
    """Number of workers, and the cores and GPUs of each."""

    workers: int
    cores: int
    gpus: int


def allocate(machines: Sequence[Mapping[str, float]], workers: int | None) -> Allocation:
    """Divide the machines of a cluster among workers.

    Input:  3 machines of 8 cores     2 machines of 16 cores, 4 GPUs each    1 machine of 8, for 3
    Output: 3 workers of 8 cores      8 workers of 4 cores and 1 GPU         3 workers of 2 cores

    Args:
        machines: Ray's resources of each: {"CPU": 16.0, "GPU": 4.0, ...}.
        workers: By default one for each GPU, or for each machine where there is none.

    Raises:
        ValueError: No machine has a core, or there are fewer GPUs than workers.
    """
    machines = [resources for resources in machines if resources.get("CPU")]
    if not machines:
        raise ValueError("the Ray cluster has no machine with free cores; add one")
    gpus = int(sum(resources.get("GPU", 0) for resources in machines))
    count = workers or gpus or len(machines)
    if gpus and count > gpus:
        raise ValueError(
            f"{count} workers need a GPU each, and the Ray cluster has {gpus}; use at most "
            f"--workers {gpus}"
        )
    smallest = int(min(resources["CPU"] for resources in machines))
    # Ray lets a worker compute on as many threads as it has cores.
    cores = max(1, smallest // -(-count // len(machines)))
    return Allocation(count, cores, 1 if gpus else 0)


def _distribute(
    ray: Any, actors: list[Any], parts: Iterator[CatalogPart]
) -> Iterator[tuple[CatalogPart, list[Outcome]]]:
    """Keep every actor that is ready busy; actors that never start are not waited for."""
    starting = {actor.is_ready.remote(): actor for actor in actors}
    running: dict[Any, tuple[CatalogPart, Any]] = {}

    def submit(actor: Any, count: int) -> None:
        for part in itertools.islice(parts, count):
            running[actor.predict.remote(part)] = part, actor

    while running or starting:
        finished, _ = ray.wait([*running, *starting])
        for reference in finished:
            outcomes = _get(ray, reference)
            if reference in starting:
                submit(starting.pop(reference), PARTS_PER_WORKER)
            else:
                part, actor = running.pop(reference)
                submit(actor, 1)
                yield part, outcomes
        if not running and len(starting) < len(actors):
            return


def _get(ray: Any, reference: Any) -> Any:
    """Return a result; raise the error of a worker without Ray's traceback."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayActorError as error:
        reason = str(error).strip().splitlines()[-1]  # above it is the traceback
        raise ValueError(
            f"a worker of the Ray cluster died {MAX_RESTARTS + 1} times, or could not be started: "
            f"{reason}; the model must be at the same path on every machine, and fit into its "
            "memory; finished parts are kept, and the same command resumes"
        ) from error


ENGINES = {"local": predict_locally, "ray": predict_on_ray}
"""Name -> engine."""
