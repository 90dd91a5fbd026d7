"""compare: which of several answerers is better, on the same samples and by the same draws.

Judges kept answers and asks nobody: so runs of last week can be compared.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Record
from phi_vision.data.template import Template
from phi_vision.metrics.bootstrap import BootstrapDistribution, Counts, Estimate, draw_groups
from phi_vision.metrics.field_metrics import Metric, is_correct, metrics_for
from phi_vision.metrics.scores import paired_difference


@dataclass(frozen=True, kw_only=True)
class EvaluatedSystem:
    """Who answered, and what."""

    name: str
    """Names the entry in tables and messages, such as "runs/lora"."""

    template: Template
    predictions: Sequence[ScoredPrediction]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Entries side by side, on the samples that all of them answered."""

    template: Template
    """Of the first entry."""

    predictions: Mapping[str, tuple[ScoredPrediction, ...]]
    """Entry -> its answers, in the same order of samples everywhere. The first entry is the one
    that the others are measured against."""

    left_out: Mapping[str, int]
    """Entry -> how many of its samples another entry lacks."""

    groups: int
    seed: int
    metrics: Mapping[str, Metric]
    """Those of the fields that all templates write."""

    estimates: Mapping[str, Mapping[str, Estimate]]
    """Entry -> metric -> its value on the shared samples."""

    differences: Mapping[str, Mapping[str, Estimate]]
    """Entry but the first -> metric -> by how much it is better than the first, paired; below zero
    where it is worse. Of a metric that is best at zero: by how much it is nearer."""

    @property
    def names(self) -> tuple[str, ...]:
        """The entries, the first one first."""
        return tuple(self.predictions)

    @property
    def reference(self) -> str:
        """The entry that the others are measured against."""
        return self.names[0]

    @property
    def samples(self) -> int:
        """How many samples all entries answered."""
        return len(self.predictions[self.reference])

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that all templates write."""
        found = {metric.field for metric in self.metrics.values()}
        return tuple(field for field in self.template.fields if field in found)


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A sample that some entries read right and others wrong."""

    fields: tuple[str, ...]
    """In which fields."""

    truth: Record
    predictions: Mapping[str, ScoredPrediction]
    """Entry -> what it said."""


@dataclass(frozen=True, kw_only=True)
class CorrectCounts:
    """How one field's answers differ between the first entry and another."""

    both: int
    only_reference: int
    only_other: int
    neither: int
    """How many samples were read right by whom."""


def compare(systems: Sequence[EvaluatedSystem], *, seed: int = 0) -> Comparison:
    """Judge entries on the samples that all have, and every other one against the first.

    Input:  a run that reads 80 of 100 categories, one that reads 85 of these 100 and of 20 others
    Output: category3_code_accuracy 0.80 and 0.85, margin 0.05 with its interval; 20 left out

    Args:
        entries: At least two, with names of their own.
        seed: Of the resampling.

    Raises:
        ValueError: There are fewer than two entries, two of one name, no shared samples or fields,
            or a sample whose truth or group is not the same everywhere.
    """
    _check_names(systems)
    shared = _shared(systems)
    metrics = _metrics(systems)
    fields = {metric.field: None for metric in metrics.values() if metric.field}
    _check_alike(shared, tuple(fields))
    first, *others = shared
    groups = [answer.group for answer in shared[first]]
    counts = draw_groups(groups, seed=seed)
    table = {name: _measure(predictions, metrics, counts) for name, predictions in shared.items()}
    return Comparison(
        template=systems[0].template,
        predictions=shared,
        left_out={system.name: len(system.predictions) - len(groups) for system in systems},
        groups=len(set(groups)),
        seed=seed,
        metrics=metrics,
        estimates={
            name: {metric: estimate.estimate() for metric, estimate in row.items()}
            for name, row in table.items()
        },
        differences={
            other: {
                name: paired_difference(metric, table[other][name], table[first][name]).estimate()
                for name, metric in metrics.items()
            }
            for other in others
        },
    )


def find_disagreements(comparison: Comparison) -> list[Disagreement]:
    """List the samples that some entries read right and others wrong, most such fields first."""
    found = []
    for predictions in zip(*comparison.predictions.values(), strict=True):
        fields = tuple(
            field
            for field in comparison.fields
            if len({is_field_correct(comparison.template, field, answer) for answer in predictions})
            > 1
        )
        if fields:
            said = dict(zip(comparison.names, predictions, strict=True))
            found.append(Disagreement(fields=fields, truth=predictions[0].truth, predictions=said))
    return sorted(found, key=lambda each: -len(each.fields))


def count_correct(comparison: Comparison, other: str) -> dict[str, CorrectCounts]:
    """Count for each field what another entry reads right that the first does not, and the reverse.

    Output: {"category3_code": Change(both=70, only_first=4, only_other=11, neither=15), ...}
    """
    changes = {}
    for field in comparison.fields:
        first, second = (
            np.array(
                [is_field_correct(comparison.template, field, answer) for answer in predictions]
            )
            for predictions in (
                comparison.predictions[comparison.reference],
                comparison.predictions[other],
            )
        )
        changes[field] = CorrectCounts(
            both=int((first & second).sum()),
            only_reference=int((first & ~second).sum()),
            only_other=int((~first & second).sum()),
            neither=int((~first & ~second).sum()),
        )
    return changes


def is_field_correct(template: Template, field: str, answer: ScoredPrediction) -> bool:
    """Whether an answer reads one field right: texts and categories equal, numbers within 10 %."""
    if answer.prediction.record is None or field not in answer.prediction.record:
        return False
    return is_correct(template.kinds[field], answer.prediction.record[field], answer.truth[field])


def _check_names(systems: Sequence[EvaluatedSystem]) -> None:
    names = [system.name for system in systems]
    if len(names) < 2:
        found = names[0] if names else "nothing"
        raise ValueError(f"nothing to compare: found only {found}; give at least two")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is given twice; give each entry once")


def _shared(systems: Sequence[EvaluatedSystem]) -> dict[str, tuple[ScoredPrediction, ...]]:
    """Give each entry's answers about the samples that all have, in the order of the first."""
    by_id = {}
    for system in systems:
        by_id[system.name] = {answer.id: answer for answer in system.predictions}
        if len(by_id[system.name]) < len(system.predictions):
            raise ValueError(
                f"{system.name!r} has {len(system.predictions)} answers about "
                f"{len(by_id[system.name])} samples; keep one answer for each sample"
            )
    ids = [id for id in by_id[systems[0].name] if all(id in theirs for theirs in by_id.values())]
    if not ids:
        found = "; ".join(
            f"{name} has {len(theirs)}, such as {next(iter(theirs), 'none')!r}"
            for name, theirs in by_id.items()
        )
        raise ValueError(
            f"no sample was answered by all: {found}; evaluate them on the same data and split"
        )
    return {name: tuple(theirs[id] for id in ids) for name, theirs in by_id.items()}


def _metrics(systems: Sequence[EvaluatedSystem]) -> dict[str, Metric]:
    """Choose the metrics of the fields that every template writes, as the same kind."""
    first = systems[0].template
    shared = {
        field: kind
        for field, kind in first.kinds.items()
        if all(system.template.kinds.get(field) == kind for system in systems)
    }
    if not shared:
        found = "; ".join(f"{system.name} writes {system.template.answer!r}" for system in systems)
        raise ValueError(
            f"the templates share no field of the same kind: {found}; compare runs that were asked "
            "for the same"
        )
    return {
        name: metric
        for name, metric in metrics_for(first).items()
        if metric.field is None or metric.field in shared
    }


def _check_alike(shared: Mapping[str, Sequence[ScoredPrediction]], fields: Sequence[str]) -> None:
    """Refuse samples that changed between the evaluations: the same id must mean the same."""
    first, *others = shared
    for other in others:
        for one, two in zip(shared[first], shared[other], strict=True):
            for what, here, there in _facts(one, two, fields):
                if here != there and not _are_nan(here, there):
                    raise ValueError(
                        f"sample {one.id!r} is not the same everywhere: its {what} is {here!r} in "
                        f"{first} and {there!r} in {other}; evaluate both on the same data"
                    )


def _facts(
    one: ScoredPrediction, two: ScoredPrediction, fields: Sequence[str]
) -> Iterator[tuple[str, object, object]]:
    yield "group", one.group, two.group
    for field in fields:
        yield field, one.truth[field], two.truth[field]


def _are_nan(*values: object) -> bool:
    return all(isinstance(value, float) and math.isnan(value) for value in values)


def _measure(
    predictions: Sequence[ScoredPrediction], metrics: Mapping[str, Metric], counts: Counts
) -> dict[str, BootstrapDistribution]:
    said = [answer.prediction.record for answer in predictions]
    true = [answer.truth for answer in predictions]
    return {name: metric.estimate(said, true, counts) for name, metric in metrics.items()}
