"""compare: which of several systems is better, on the same samples and the same resamples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Record, Value
from phi_vision.data.template import Template
from phi_vision.metrics.bootstrap import Estimate, draw_groups
from phi_vision.metrics.field_metrics import Metric, failure, is_field_correct, metrics_for
from phi_vision.metrics.scores import paired_differences
from phi_vision.metrics.slices import with_intervals


class EvaluatedSystem(NamedTuple):
    """A system and its predictions."""

    name: str  # for tables and messages, such as "runs/lora"
    template: Template
    predictions: Sequence[ScoredPrediction]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Systems side by side, on the samples that all of them predicted."""

    template: Template
    predictions: Mapping[str, tuple[ScoredPrediction, ...]]
    """System -> its predictions, in the same order of samples; first the reference that the others
    are compared with."""
    left_out: Mapping[str, int]  # system -> the number of its samples that another system lacks
    groups: int
    seed: int
    metrics: Mapping[str, Metric]  # of the fields that all templates have
    estimates: Mapping[str, Mapping[str, Estimate]]  # system -> metric -> its value
    differences: Mapping[str, Mapping[str, Estimate]]
    """System but the reference -> metric -> paired difference: above 0 where it is better than the
    reference; of a metric that is best at zero, where it is nearer."""

    @property
    def names(self) -> tuple[str, ...]:
        """The systems, the reference first."""
        return tuple(self.predictions)

    @property
    def reference(self) -> str:
        """The system that the others are compared with."""
        return self.names[0]

    @property
    def samples(self) -> int:
        """The number of shared samples."""
        return len(self.predictions[self.reference])

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that all templates have."""
        return tuple(dict.fromkeys(each.field for each in self.metrics.values() if each.field))


class Disagreement(NamedTuple):
    """A sample of which some systems predict these fields correctly and others do not."""

    fields: tuple[str, ...]
    truth: Record
    predictions: Mapping[str, ScoredPrediction]


class CorrectCounts(NamedTuple):
    """Samples of which one field is predicted correctly by the reference and another system."""

    both: int
    only_reference: int
    only_other: int
    neither: int


def compare(systems: Sequence[EvaluatedSystem], *, seed: int = 0) -> Comparison:
    """Compare every system with the first, on the samples that all have.

    Input:  a run with 80 of 100 categories correct, one with 85 of these 100 and of 20 others
    Output: category3_code_accuracy 0.80 and 0.85, difference 0.05 with its interval; 20 left out
    """
    names = [system.name for system in systems]
    if len(names) < 2:
        raise failure("too_few_systems", found=names[0] if names else "nothing")
    if duplicates := [name for name in names if names.count(name) > 1]:
        raise failure("same_system", name=duplicates[0])
    shared, metrics = _shared_samples(systems), _shared_metrics(systems)
    _check_truth(shared, [each.field for each in metrics.values() if each.field])
    reference, *others = shared
    groups = [each.group for each in shared[reference]]
    counts = draw_groups(groups, seed=seed)
    table = {}
    for name, predictions in shared.items():
        pair = ([each.prediction.record for each in predictions], [e.truth for e in predictions])
        table[name] = {
            key: metric.distribution(metric.values(*pair), counts)
            for key, metric in metrics.items()
        }
    return Comparison(
        template=systems[0].template,
        predictions=shared,
        left_out={system.name: len(system.predictions) - len(groups) for system in systems},
        groups=len(set(groups)),
        seed=seed,
        metrics=metrics,
        estimates={name: with_intervals(row) for name, row in table.items()},
        differences={
            other: paired_differences(metrics, table[other], table[reference]) for other in others
        },
    )


def find_disagreements(comparison: Comparison) -> list[Disagreement]:
    """List the samples that only some systems predict correctly, most such fields first."""
    template, found = comparison.template, []
    for predictions in zip(*comparison.predictions.values(), strict=True):
        fields = tuple(
            field
            for field in comparison.fields
            if len({is_field_correct(template, field, each) for each in predictions}) > 1
        )
        if fields:
            by_system = dict(zip(comparison.names, predictions, strict=True))
            found.append(Disagreement(fields, predictions[0].truth, by_system))
    return sorted(found, key=lambda each: -len(each.fields))


def count_correct(comparison: Comparison, other: str) -> dict[str, CorrectCounts]:
    """Count for each field the samples that the reference and another system predict correctly."""
    systems = [comparison.predictions[name] for name in (comparison.reference, other)]
    counts = {}
    for field in comparison.fields:
        pairs = Counter(
            tuple(is_field_correct(comparison.template, field, each) for each in pair)
            for pair in zip(*systems, strict=True)
        )
        counts[field] = CorrectCounts(*(pairs[key] for key in product((True, False), repeat=2)))
    return counts


def _shared_samples(systems: Sequence[EvaluatedSystem]) -> dict[str, tuple[ScoredPrediction, ...]]:
    """Select each system's predictions for the shared samples, in the order of the first."""
    by_id = {name: {each.id: each for each in theirs} for name, _, theirs in systems}
    for name, _, predictions in systems:
        if len(by_id[name]) < len(predictions):
            counts = {"predictions": len(predictions), "samples": len(by_id[name])}
            raise failure("repeated_sample", name=name, **counts)
    ids = [id for id in by_id[systems[0].name] if all(id in theirs for theirs in by_id.values())]
    if not ids:
        found = "; ".join(
            f"{name} has {len(theirs)}, such as {next(iter(theirs), 'none')!r}"
            for name, theirs in by_id.items()
        )
        raise failure("no_shared_sample", found=found)
    return {name: tuple(theirs[id] for id in ids) for name, theirs in by_id.items()}


def _shared_metrics(systems: Sequence[EvaluatedSystem]) -> dict[str, Metric]:
    """List the metrics of the fields that every template has, of the same kind."""
    shared = set.intersection(*(set(system.template.kinds.items()) for system in systems))
    if not shared:
        found = "; ".join(f"{each.name} has {each.template.answer!r}" for each in systems)
        raise failure("no_shared_field", found=found)
    return {
        name: metric
        for name, metric in metrics_for(systems[0].template).items()
        if metric.field is None or (metric.field, metric.kind) in shared
    }


def _check_truth(shared: Mapping[str, Sequence[ScoredPrediction]], fields: Sequence[str]) -> None:
    """Reject samples that changed between the evaluations."""
    reference, *others = shared
    for other in others:
        for one, two in zip(shared[reference], shared[other], strict=True):
            pairs: dict[str, tuple[Value, Value]] = {"group": (one.group, two.group)}
            pairs |= {field: (one.truth[field], two.truth[field]) for field in fields}
            for key, (here, there) in pairs.items():
                # NaN differs from itself.
                if here != there and (here == here or there == there):
                    differs = {"id": one.id, "key": key, "here": here, "there": there}
                    raise failure("changed_sample", **differs, reference=reference, other=other)
