"""ENGINES: where a model answers. Portions go in, portions with outcomes come out, in any order.

Each worker opens the answerer once and asks about portion after portion. An engine takes portions
as it needs them, so that a few are in memory, however large the catalog is.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi_vision.inference.batch_requests import ask_portion
from phi_vision.inference.batches import Outcome, Portion
from phi_vision.inference.predictor import Predictor
from phi_vision.prepare.executors import open_ray

WAITING = 2
"""Portions that a worker of a cluster has: one at work, and one that waits, with its images."""

LIVES = 2
"""So often a worker that died is started again, and its portions given to it again: a machine may
leave the cluster, but what kills every worker would kill them for ever."""

Open = Callable[[], Predictor]
"""Opens whoever is asked; travels to the workers."""


def ask_here(
    opening: Open,
    portions: Iterable[Portion],
    *,
    grammar: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> Iterator[tuple[Portion, list[Outcome]]]:
    """Ask in this process.

    Args:
        opening: Called once, and not where there are no portions.
        portions: What is asked about.
        grammar: All that may be written; anything unless given.
        workers: Must be None: a model takes the whole machine.
        address: Must be None; there is no cluster here.

    Raises:
        ValueError: Workers or an address are given; as `ask_portion`.
    """
    if workers is not None or address is not None:
        found = f"--workers {workers}" if workers is not None else f"--ray-address {address}"
        raise ValueError(
            f"{found} cannot take effect: the engine local asks in this process, one portion after "
            "the other; use --engine ray"
        )
    answerer: Predictor | None = None
    for portion in portions:
        answerer = answerer or opening()
        yield portion, ask_portion(answerer, portion, grammar)


def ask_on_ray(
    opening: Open,
    portions: Iterable[Portion],
    *,
    grammar: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> Iterator[tuple[Portion, list[Outcome]]]:
    """Ask with Ray, on this machine or on the cluster at an address.

    Images travel with the portions; the model does not: every machine opens it at the same place.
    A worker has a GPU of its own where the cluster has any.

    Args:
        opening: Called once by each worker.
        portions: As for `ask_here`.
        grammar: As for `ask_here`.
        workers: How many; unless given one for each GPU, or for each machine where there is none.
        address: Of a running cluster, such as `auto` or `ray://head:10001`; None starts Ray here.

    Raises:
        ValueError: Ray is not installed, there are fewer GPUs than workers, or a worker died again
            and again; as `ask_portion`.
    """
    remaining = iter(portions)
    first = next(remaining, None)
    if first is None:  # Everything is answered already: Ray need not be started for that.
        return
    with open_ray(address) as ray:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share = share_of(machines, workers)
        worker = ray.remote(
            num_cpus=share.cores,
            num_gpus=share.gpus,
            max_restarts=LIVES,
            max_task_retries=LIVES,
        )(Worker)
        crew = [worker.remote(opening, grammar) for _ in range(share.workers)]
        yield from _hand_out(ray, crew, itertools.chain([first], remaining))


class Worker:
    """Lives in a process of the cluster, with an answerer of its own.

    Args:
        opening: Opens the answerer.
        grammar: All that may be written.
    """

    def __init__(self, opening: Open, grammar: str | None) -> None:
        self._answerer = opening()
        self._grammar = grammar

    def is_ready(self) -> bool:
        """Say so, once the answerer is open."""
        return True

    def ask(self, portion: Portion) -> list[Outcome]:
        """Ask about a portion."""
        return ask_portion(self._answerer, portion, self._grammar)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What each of so many workers has."""

    workers: int
    cores: int
    gpus: int


def share_of(machines: Sequence[Mapping[str, float]], workers: int | None) -> Share:
    """Part the machines of a cluster among workers.

    Input:  3 machines of 8 cores     2 machines of 16 cores, 4 GPUs each    1 machine of 8, for 3
    Output: 3 workers of 8 cores      8 workers of 4 cores and 1 GPU         3 workers of 2 cores

    Args:
        machines: What each has, in Ray's words: {"CPU": 16.0, "GPU": 4.0, ...}.
        workers: How many; unless given one for each GPU, or for each machine where there is none.

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
            f"{count} workers need a GPU each, and the Ray cluster has {gpus}; ask for at most "
            f"--workers {gpus}"
        )
    smallest = int(min(resources["CPU"] for resources in machines))
    # Ray lets a worker compute on as many threads as it has cores.
    cores = max(1, smallest // -(-count // len(machines)))
    return Share(workers=count, cores=cores, gpus=1 if gpus else 0)


def _hand_out(
    ray: Any, crew: list[Any], portions: Iterator[Portion]
) -> Iterator[tuple[Portion, list[Outcome]]]:
    """Keep every worker busy that is ready; those that never get ready are not waited for."""
    starting = {worker.is_ready.remote(): worker for worker in crew}
    asked: dict[Any, tuple[Portion, Any]] = {}

    def give(worker: Any, most: int) -> None:
        for _ in range(most):
            portion = next(portions, None)
            if portion is not None:
                asked[worker.ask.remote(portion)] = portion, worker

    try:
        while asked or starting:
            ready, _ = ray.wait([*asked, *starting])
            for done in ready:
                outcomes = _get(ray, done)
                if done in starting:
                    give(starting.pop(done), WAITING)
                else:
                    portion, worker = asked.pop(done)
                    give(worker, 1)
                    yield portion, outcomes
            if not asked and len(starting) < len(crew):
                return  # Nothing is left: whoever is ready has nothing to do.
    finally:
        for worker in crew:
            ray.kill(worker)


def _get(ray: Any, done: Any) -> Any:
    """Take a result; what was raised in a worker is raised here, without the trace of its way."""
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayActorError as error:
        words = str(error).strip().splitlines()[-1]  # above it is where it was raised
        raise ValueError(
            f"a worker of the Ray cluster died {LIVES + 1} times, or could not be started: "
            f"{words}; the model has to be at the same place on every machine, and to fit "
            "into its memory; what is answered stays, the same command goes on"
        ) from error


ENGINES = {"local": ask_here, "ray": ask_on_ray}
"""Name -> engine."""
