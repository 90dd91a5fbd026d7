"""The metrics of a template: of the whole prediction, and of each field by its kind.

A prediction that does not parse (None) or lacks a field is wrong; none is left out of a mean. An
optional field has three tiers: `overall` over all samples, where nothing is right if the sample has
nothing; whether it has a value at all; and the metrics of its kind where both have one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from phi_vision.data.kinds.field_kind import (
    Aggregate,
    Better,
    FieldValues,
    Limits,
    Measure,
    Predicted,
    SampleValues,
    has_value,
    overlap_measures,
    overlaps,
)
from phi_vision.data.kinds.path_kind import levels_of
from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Record, Value
from phi_vision.data.template import KINDS, Kind, Template
from phi_vision.io.formatting import error_texts, read_yaml
from phi_vision.metrics.bootstrap import AGGREGATORS, BootstrapDistribution, Counts, distribution
from phi_vision.metrics.category_hierarchy import CategoryHierarchy

failure = error_texts(__file__, "errors.yaml")  # of this package


@dataclass(frozen=True)
class Metric:
    """A measure with its name and field; its own settings are those of `Measure`."""

    per_sample: Callable[[FieldValues], SampleValues]
    aggregate: Aggregate = "mean"
    better: Better = "higher"
    decimals: int = 3
    limits: Limits = (0.0, 1.0)
    is_approximate: bool = False
    needs_hierarchy: bool = False
    name: str = ""  # in reports and recipes, as "full_price_mae"
    description: str = ""  # what it measures, in one sentence, with the formula
    field: str | None = None  # the field it reads; None for a metric of the whole prediction
    kind: Kind | None = None
    hierarchy: CategoryHierarchy | None = None

    def __call__(self, predicted: Predicted, true: Sequence[Record]) -> float:
        """Compute the metric."""
        return self.distribution(self.values(predicted, true), np.empty((0, len(true)))).value

    def values(self, predicted: Predicted, true: Sequence[Record]) -> SampleValues:
        """Compute the value of each sample."""
        path = self.hierarchy.path if self.hierarchy else None
        return self.per_sample(FieldValues(self.field or "", predicted, true, path))

    def distribution(self, values: SampleValues, counts: Counts) -> BootstrapDistribution:
        """Aggregate the values of samples, once as they are and once per resample."""
        return distribution(AGGREGATORS[self.aggregate], values, counts, self.limits)


def metrics_for(
    template: Template, hierarchies: Mapping[str, CategoryHierarchy | None] | None = None
) -> dict[str, Metric]:
    """List the metrics of a template by name: `parse_rate`, then field by field.

    Input:  "{title}, {category3_code:category}", no hierarchies (by field)
    Output: parse_rate, title_exact, ..., category3_code_accuracy, category3_code_macro_f1
    """
    metrics = [PARSE_RATE]
    for field, kind in template.kinds.items():
        hierarchy = (hierarchies or {}).get(field)
        measures, texts = dict(METRICS[kind]), DESCRIPTIONS[kind]
        if field in template.optional:
            both = {n: m._replace(per_sample=partial(_where_both, m)) for n, m in measures.items()}
            overall = OPTIONAL[OVERALL]._replace(per_sample=partial(_overall, kind))
            measures = OPTIONAL | {OVERALL: overall} | both
            texts = DESCRIPTIONS["optional"] | {n: f"{texts[n]} {WHERE_BOTH}" for n in both}
        metrics += [
            Metric(
                **measure._asdict(),
                name=f"{field}_{suffix}",
                description=texts[suffix],
                field=field,
                kind=kind,
                hierarchy=hierarchy,
            )
            for suffix, measure in measures.items()
            if hierarchy is not None or not measure.needs_hierarchy
        ]
    return {metric.name: metric for metric in metrics}


def headline_metrics(template: Template) -> tuple[str, ...]:
    """List the most important metric of each field."""
    return tuple(
        f"{field}_{OVERALL if field in template.optional else KINDS[kind].headline}"
        for field, kind in template.kinds.items()
    )


def is_correct(kind: Kind, predicted: Value, true: Value) -> bool:
    """Whether a predicted value is correct: equal, or for numbers at most 10 % off."""
    if predicted is None or true is None:
        return predicted is true
    return KINDS[kind].is_correct(predicted, true)


def is_field_correct(template: Template, field: str, each: ScoredPrediction) -> bool:
    """Whether one field of a prediction is correct; False where it does not parse."""
    record = each.prediction.record or {}
    return field in record and is_correct(template.kinds[field], record[field], each.truth[field])


def is_right_to_level(field: str, depth: int, each: ScoredPrediction) -> bool:
    """Whether a predicted path and the true one are equal down to a level that both have."""
    paths = ((each.prediction.record or {}).get(field), each.truth[field])
    one, two = (levels_of(value)[:depth] for value in paths)
    return len(one) == depth and one == two


def value_error(kind: Kind, predicted: Value, true: Value) -> float:
    """Compute the error of a value from 0 to 1; 1 where one is missing, or the error is unknown."""
    if predicted is None or true is None:
        return float(predicted is not true)
    error = KINDS[kind].error(predicted, true) if predicted != true else 0.0
    return min(error, 1.0) if error >= 0 else 1.0  # NaN without a positive true number


def _parsed(column: FieldValues) -> SampleValues:
    pairs = zip(column.predicted, column.true, strict=True)
    return np.array([record is not None for record, _ in pairs], float)


def _overall(kind: Kind, column: FieldValues) -> SampleValues:
    """Compute 1 − the error of each value; 0 where none was predicted."""
    pairs = column.pairs()
    return np.array([present and 1 - value_error(kind, *pair) for present, *pair in pairs], float)


def _presence(wanted: bool, value: Value) -> frozenset[bool]:
    return frozenset({wanted} if has_value(value) == wanted else ())


def _where_both(measure: Measure, column: FieldValues) -> SampleValues:
    """Compute a measure on the samples of which truth and prediction have a value, else NaN."""
    pairs = [(has_value(predicted) and has_value(true)) for _, predicted, true in column.pairs()]
    both, places = np.array(pairs, bool), np.flatnonzero(pairs).tolist()
    chosen = column._replace(
        predicted=[column.predicted[at] for at in places], true=[column.true[at] for at in places]
    )
    values = measure.per_sample(chosen)
    found = np.full((len(both), *values.shape[1:]), np.nan)
    found[both] = values
    return found


OVERALL = "overall"  # the headline metric of an optional field
WHERE_BOTH = "Over the samples of which truth and prediction have a value."

DESCRIPTIONS = read_yaml(__file__)

METRICS: dict[Kind, Mapping[str, Measure]] = {name: kind.measures for name, kind in KINDS.items()}
"""Kind of field -> suffix of the metric's name -> metric; each has one sentence in the YAML."""

_MISSING = partial(overlaps, partial(_presence, False))

OPTIONAL: dict[str, Measure] = {
    OVERALL: Measure(partial(_overall, "text")),  # of the kind of the field
    **overlap_measures("has_value_", partial(overlaps, partial(_presence, True))),
    "missing_f1": Measure(_MISSING, "overlap_f1", is_approximate=True),
}
"""The metrics of an optional field of any kind, besides those of its kind."""

PARSE_RATE = Metric(_parsed, name="parse_rate", description=DESCRIPTIONS["any"]["parse_rate"])
