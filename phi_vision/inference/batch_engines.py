"""ENGINES: where a batch prediction runs. Parts go in; parts with outcomes come out, in any order.

Parts are taken as they are needed: few are in memory. Every row gets an outcome.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from phi_vision.data.acceptance import Acceptance
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.inference.batch_catalog import BatchConfig, CatalogPart, Failure, Reason, failure
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.openai_server import ServerError
from phi_vision.inference.predictor import Predictor
from phi_vision.prepare.executors import open_ray

# HTTP statuses of a server that serves nobody now; others (400, 413, 500) may be due to one image.
UNAVAILABLE = frozenset({0, 401, 403, 404, 408, 425, 429, 502, 503, 504})
MIN_FAILURES = 8  # So many without a single prediction have a common cause, not the images.
PARTS_PER_WORKER = 2  # One in progress and one, with its images, waiting.
# Of a dead Ray worker, with its parts: a machine may leave the cluster, but an input that kills
# every worker must not do so for ever.
MAX_RESTARTS = 2

Outcome = Prediction | Failure
Predicted = Iterator[tuple[CatalogPart, list[Outcome]]]


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What decides the predictions, beside the catalog."""

    load: Callable[[], Predictor]  # here or on another machine
    model: str  # Its name, with what distinguishes it from others of that name.
    template: Template
    grammar: str | None = None
    acceptance: Acceptance | None = None  # adds columns to the table, and decides no prediction


def predict_part(
    predictor: Predictor, part: CatalogPart, grammar: str | None = None
) -> list[Outcome]:
    """Predict every row that has a sample; a failing row is isolated by bisection.

    Where every row fails, or the server is unavailable, a ValueError; a lost GPU's error is raised.
    """
    outcomes: dict[int, Outcome] = {}
    samples: dict[int, Sample] = {}
    for index, row in enumerate(part):
        if isinstance(row.sample, Failure):
            outcomes[index] = row.sample
        else:
            samples[index] = row.sample
    groups = [list(samples)]
    while groups:
        group, problem = groups.pop(), "the predictor returned nothing"
        chosen = [samples[index] for index in group]
        try:
            for place, prediction in predictor.predict_samples(chosen, grammar=grammar):
                outcomes[group[place]] = prediction
        except Exception as error:
            if _concerns_all_rows(error):
                raise
            problem = str(error) or type(error).__name__
        # After `except`, which would keep the failed batch in memory.
        failed = [index for index in group if index not in outcomes]
        unusable = {index: _check_images(predictor, samples[index]) for index in failed}
        outcomes |= {index: found for index, found in unusable.items() if found}
        left = [index for index in failed if index not in outcomes]
        if left and len(left) < len(failed):
            groups.append(left)  # Without the unusable images it may succeed.
        elif len(left) == 1:
            outcomes[left[0]] = Failure("no prediction", problem)
        elif left:
            groups += [left[len(left) // 2 :], left[: len(left) // 2]]
    _check_any_success(list(outcomes.values()), part)
    return [outcomes[index] for index in range(len(part))]


def _concerns_all_rows(error: BaseException | None) -> bool:
    if isinstance(error, ServerError):
        return error.status in UNAVAILABLE
    # An AcceleratorError is not raised where a GPU is only out of memory.
    is_lost = isinstance(error, torch.AcceleratorError)
    return is_lost or (error is not None and _concerns_all_rows(error.__cause__))


def _check_images(predictor: Predictor, sample: Sample) -> Failure | None:
    reason: Reason = "unreadable image"
    try:
        images = sample.open_images()
        reason = "impossible shape"
        if isinstance(predictor, LocalPredictor):
            predictor.check_shapes(images, f"sample {sample.id!r}")
    except ValueError as error:
        return Failure(reason, str(error))
    return None


def _check_any_success(outcomes: Sequence[Outcome], part: CatalogPart) -> None:
    """Stop where nothing was predicted, instead of storing failures for the whole catalog."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    details = [each.detail for each in failures if each.reason == "no prediction"]
    if len(details) >= MIN_FAILURES and len(failures) == len(outcomes):
        first, last = part[0].position, part[-1].position
        raise failure("all_failed", count=len(details), first=first, last=last, detail=details[0])


def predict_locally(spec: JobSpec, parts: Iterable[CatalogPart], config: BatchConfig) -> Predicted:
    """Predict in this process; raise a ValueError if workers or an address are given."""
    if config.workers is not None:
        raise failure("only_on_ray", found=f"--workers {config.workers}")
    if config.ray_address is not None:
        raise failure("only_on_ray", found=f"--ray-address {config.ray_address}")
    predictor: Predictor | None = None
    for part in parts:
        predictor = predictor or spec.load()
        yield part, predict_part(predictor, part, spec.grammar)


def predict_on_ray(spec: JobSpec, parts: Iterable[CatalogPart], config: BatchConfig) -> Predicted:
    """Predict on Ray workers, each with a GPU if there is one, and the model from the same path."""
    remaining = iter(parts)
    first = next(remaining, None)
    if first is None:  # Everything is predicted: Ray need not be started.
        return
    with open_ray(config.ray_address) as ray:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers, cores, gpus = allocate(machines, config.workers)
        restarts = {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RESTARTS}
        worker = ray.remote(num_cpus=cores, num_gpus=gpus, **restarts)(_Worker)
        actors = [worker.remote(spec) for _ in range(workers)]
        try:
            yield from _distribute(ray, actors, itertools.chain([first], remaining))
        finally:
            for actor in actors:
                ray.kill(actor)


class _Worker:
    """A Ray actor with a predictor of its own."""

    def __init__(self, spec: JobSpec) -> None:
        self._predictor, self._grammar = spec.load(), spec.grammar

    def predict(self, part: CatalogPart) -> list[Outcome]:
        return predict_part(self._predictor, part, self._grammar)


def allocate(machines: Sequence[Mapping[str, float]], workers: int | None) -> tuple[int, int, int]:
    """Return the number of workers, and the cores and GPUs of each.

    Input:  [{"CPU": 16.0, "GPU": 4.0, ...}] * 2    [{"CPU": 8.0, ...}], workers=3
    Output: (8, 4, 1)                               (3, 2, 0)
    """
    machines = [resources for resources in machines if resources.get("CPU")]
    if not machines:
        raise failure("no_machine")
    gpus = int(sum(resources.get("GPU", 0) for resources in machines))
    count = workers or gpus or len(machines)
    if gpus and count > gpus:
        raise failure("few_gpus", count=count, gpus=gpus)
    smallest = int(min(resources["CPU"] for resources in machines))
    # Ray lets a worker compute on as many threads as it has cores.
    return count, max(1, smallest // -(-count // len(machines))), 1 if gpus else 0


def _distribute(ray: Any, actors: list[Any], parts: Iterator[CatalogPart]) -> Predicted:
    """Keep every actor that is ready busy; actors that never start are not waited for."""
    # Without a part, an actor is starting.
    running: dict[Any, tuple[CatalogPart | None, Any]] = {
        actor.__ray_ready__.remote(): (None, actor) for actor in actors
    }
    is_busy = True
    while is_busy:
        for reference in ray.wait([*running])[0]:
            try:
                outcomes = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error  # without Ray's traceback
            except ray.exceptions.RayActorError as error:
                reason = str(error).strip().splitlines()[-1]  # above it is the traceback
                raise failure("worker_died", times=MAX_RESTARTS + 1, reason=reason) from error
            part, actor = running.pop(reference)
            for another in itertools.islice(parts, 1 if part else PARTS_PER_WORKER):
                running[actor.predict.remote(another)] = another, actor
            if part:
                yield part, outcomes
        is_busy = any(part for part, _ in running.values())


ENGINES = {"local": predict_locally, "ray": predict_on_ray}
