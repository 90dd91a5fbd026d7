"""METRICS: the metrics of generated records, by the kind of a field.

A prediction that does not parse (None) or lacks a field is wrong: 0 for texts and categories. As a
number it counts as 0 (relative error 1, symmetric error 2): so none is left out of a mean, and an
empty one is worth no more than predicting 0. Samples whose true number is missing, zero or negative
count in no number metric.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq, Levenshtein
from sacrebleu.metrics.chrf import CHRF

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Record, Value
from phi_vision.data.template import Kind, Template
from phi_vision.io.formatting import error_texts
from phi_vision.metrics import bootstrap
from phi_vision.metrics.bootstrap import BootstrapDistribution, Counts, Limits, SampleValues
from phi_vision.metrics.category_hierarchy import CategoryHierarchy

failure = error_texts(str(Path(__file__).with_name("errors.py")))  # of this package, in errors.yaml

Numbers = NDArray[np.float64]  # per sample; a true one is NaN where it does not count

MAX_NUMBER = 1e300  # numbers and errors are clipped to this: sums over absurd ones stay finite

TOLERANCE = 1e-9  # so 10 % off is within 10 %, also where floats compute 0.10000000000000009

_CHRF = CHRF()

Predicted = Sequence[Record | None]  # of each sample; None where it does not parse

Better = Literal["higher", "lower", "zero"]


class FieldValues(NamedTuple):
    """One field of all samples: predicted and true values."""

    field: str
    predicted: Predicted
    true: Sequence[Record]
    hierarchy: CategoryHierarchy | None

    def pairs(self) -> Iterator[tuple[bool, Value, Value]]:
        """Yield for each sample whether a value was predicted, that value, and the true one."""
        for record, truth in zip(self.predicted, self.true, strict=True):
            present = record is not None and self.field in record
            yield present, (record or {}).get(self.field), truth[self.field]


@dataclass(frozen=True)
class Metric:
    """A metric in two steps, so that the bootstrap repeats only the second."""

    per_sample: Callable[[FieldValues], SampleValues]  # value of each, by the first axis
    aggregate: bootstrap.Aggregate = bootstrap.mean  # of these, one value per resample
    better: Better = "higher"  # the good direction; `zero`: neither too much nor too little
    decimals: int = 3
    limits: Limits = (0.0, 1.0)
    is_approximate: bool = False  # whether its exact interval (see `estimate`) is approximate
    needs_hierarchy: bool = False  # applies only to fields with levels above them
    name: str = ""  # in reports and recipes, as "full_price_mae"; from here on by `metrics_for`
    description: str = ""  # what it measures, in one sentence, with the formula
    field: str | None = None  # the field it reads; None for a metric of the whole prediction
    kind: Kind | None = None
    hierarchy: CategoryHierarchy | None = None

    def __call__(self, predicted: Predicted, true: Sequence[Record]) -> float:
        """Compute the metric."""
        return self.distribution(self.values(predicted, true), np.empty((0, len(true)))).value

    def values(self, predicted: Predicted, true: Sequence[Record]) -> SampleValues:
        """Compute the value of each sample."""
        return self.per_sample(FieldValues(self.field or "", predicted, true, self.hierarchy))

    def distribution(self, values: SampleValues, counts: Counts) -> BootstrapDistribution:
        """Aggregate the values of samples, once as they are and once per resample."""
        return bootstrap.distribution(self.aggregate, values, counts, self.limits)


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
        metrics += [
            replace(
                metric,
                name=f"{field}_{suffix}",
                description=DESCRIPTIONS[kind][suffix],
                field=field,
                kind=kind,
                hierarchy=hierarchy,
            )
            for suffix, metric in METRICS[kind].items()
            if hierarchy is not None or not metric.needs_hierarchy
        ]
    return {metric.name: metric for metric in metrics}


def headline_metrics(template: Template) -> tuple[str, ...]:
    """List the most important metric of each field."""
    return tuple(f"{field}_{HEADLINE[kind]}" for field, kind in template.kinds.items())


def as_number(value: Value) -> float | None:
    """Return a value as a finite number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of more than 308 digits
        return None


def relative_error(predicted: Value, true: Value) -> float:
    """Compute |predicted − true| / true; NaN where the true number is not positive."""
    column = FieldValues("number", [{"number": predicted}], [{"number": true}], None)
    return float(relative(*_numbers(column).T)[0])


def is_correct(kind: Kind, predicted: Value, true: Value) -> bool:
    """Whether a predicted value is correct: equal, or for numbers at most 10 % off."""
    number, truth = as_number(predicted), as_number(true)
    if kind != "number" or number is None or truth is None:
        return predicted == true
    return abs(number - truth) <= (0.1 + TOLERANCE) * abs(truth)


def is_field_correct(template: Template, field: str, each: ScoredPrediction) -> bool:
    """Whether one field of a prediction is correct; False where it does not parse."""
    record = each.prediction.record or {}
    return field in record and is_correct(template.kinds[field], record[field], each.truth[field])


def edit_similarity(predicted: str, true: str) -> float:
    """Compute 1 − Levenshtein distance / length of the longer text."""
    return float(Levenshtein.normalized_similarity(predicted, true))


def rouge_l(predicted: str, true: str) -> float:
    """Compute ROUGE-L (Lin, 2004): F1 of the longest common subsequence of words of any script."""
    words, others = (re.findall(r"\w+", text.lower()) for text in (predicted, true))
    both = len(words) + len(others)
    return 2 * LCSseq.similarity(words, others) / both if both else 0.0


def chrf(predicted: str, true: str) -> float:
    """Compute chrF (Popović, 2015) as sacrebleu does: F2 of character n-grams up to 6."""
    return float(_CHRF.sentence_score(predicted, [true]).score) / 100


def absolute(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute |predicted − true|."""
    return np.abs(predicted - true)


def signed(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute (predicted − true) / true."""
    with np.errstate(over="ignore"):
        return np.asarray(((predicted - true) / true).clip(-MAX_NUMBER, MAX_NUMBER))


def relative(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute |predicted − true| / true."""
    return np.abs(signed(predicted, true))


def symmetric(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute 2 · |predicted − true| / (|predicted| + true), as the Amazon ML Challenge's SMAPE."""
    return 2 * np.abs(predicted - true) / (np.abs(predicted) + true)


def squared_log(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute (ln(1 + predicted) − ln(1 + true))²; a negative prediction counts as 0."""
    return np.asarray(np.square(np.log1p(np.maximum(predicted, 0)) - np.log1p(true)))


def within(predicted: Numbers, true: Numbers, *, tolerance: float) -> Numbers:
    """Return 1 where the relative error is at most the tolerance, else 0."""
    is_within = relative(predicted, true) <= tolerance + TOLERANCE
    return np.where(np.isnan(true), np.nan, is_within)


def _parsed(column: FieldValues) -> SampleValues:
    pairs = zip(column.predicted, column.true, strict=True)
    return np.array([record is not None for record, _ in pairs], float)


def _equal(column: FieldValues) -> SampleValues:
    pairs = column.pairs()
    return np.array([present and predicted == true for present, predicted, true in pairs], float)


def _text_similarity(similarity: Callable[[str, str], float], column: FieldValues) -> SampleValues:
    """Compute similarities of texts: 1 for equal ones, 0 where none was predicted."""
    values = []
    for present, *pair in column.pairs():
        predicted, true = ("" if value is None else str(value) for value in pair)
        # Similarities of parts have nothing to compare in empty texts; equal texts are right.
        values.append((float(predicted == true) or similarity(predicted, true)) * present)
    return np.array(values, float)


def _category_numbers(column: FieldValues) -> SampleValues:
    """Number the categories; rows of (true, predicted), −1 for one that is never true."""
    pairs = list(column.pairs())
    places = {value: place for place, value in enumerate(dict.fromkeys(true for *_, true in pairs))}
    rows = [
        (places[true], places.get(predicted, -1) if present else -1)
        for present, predicted, true in pairs
    ]
    return np.array(rows, float).reshape(-1, 2)


def _category_paths(column: FieldValues) -> SampleValues:
    """Compare paths in the hierarchy; rows of (number of shared, predicted, true nodes): (2, 3, 3)
    for BOOTS instead of SANDALS, both below SHOES below WOMEN."""
    hierarchy = column.hierarchy
    assert hierarchy is not None, "a hierarchical metric without a hierarchy"
    rows = []
    for present, value, truth in column.pairs():
        predicted = hierarchy.path(value) if present else frozenset()
        true = hierarchy.path(truth)
        rows.append((len(predicted & true), len(predicted), len(true)))
    return np.array(rows, float).reshape(-1, 3)


def _numbers(column: FieldValues) -> SampleValues:
    """Rows of (predicted, true): 0 where no number was predicted, NaN where the true one is ≤ 0."""
    rows = []
    for _, predicted, true in column.pairs():
        number = as_number(true) or 0.0
        rows.append((as_number(predicted) or 0.0, number if number > 0 else math.nan))
    return np.array(rows, float).reshape(-1, 2).clip(-MAX_NUMBER, MAX_NUMBER)


def _error(
    error: Callable[[Numbers, Numbers], Numbers],
    aggregate: bootstrap.Aggregate = bootstrap.mean,
    better: Better = "lower",
    decimals: int = 3,
    limits: Limits = (-math.inf, math.inf),
) -> Metric:
    return Metric(lambda each: error(*_numbers(each).T), aggregate, better, decimals, limits)


def _within(tolerance: float) -> Metric:
    return _error(partial(within, tolerance=tolerance), better="higher", limits=(0.0, 1.0))


DESCRIPTIONS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))

METRICS: dict[Kind, dict[str, Metric]] = {
    "text": {
        "exact": Metric(_equal),
        "similarity": Metric(partial(_text_similarity, edit_similarity)),
        "rouge_l": Metric(partial(_text_similarity, rouge_l)),
        "chrf": Metric(partial(_text_similarity, chrf)),
    },
    "category": {
        "accuracy": Metric(_equal),
        "macro_f1": Metric(_category_numbers, bootstrap.macro_f1, is_approximate=True),
        "hierarchical_f1": Metric(
            _category_paths, bootstrap.overlap_f1, is_approximate=True, needs_hierarchy=True
        ),
    },
    "number": {
        "mae": _error(absolute, decimals=2),
        "median_ape": _error(relative, bootstrap.median),
        "mape": _error(relative),
        "smape": _error(symmetric, limits=(0.0, 2.0)),
        "rmsle": _error(squared_log, bootstrap.root_mean),
        "within_5": _within(0.05),
        "within_10": _within(0.1),
        "within_25": _within(0.25),
        "spearman": Metric(
            _numbers, bootstrap.rank_correlation, limits=(-1.0, 1.0), is_approximate=True
        ),
        "bias": _error(signed, better="zero"),
    },
}
"""Kind of field -> suffix of the metric's name -> metric. A new metric is one entry here, and one
sentence in the YAML."""

PARSE_RATE = Metric(_parsed, name="parse_rate", description=DESCRIPTIONS["any"]["parse_rate"])

HEADLINE: dict[Kind, str] = {"text": "similarity", "category": "accuracy", "number": "median_ape"}
"""Kind of field -> suffix of its most important metric."""
