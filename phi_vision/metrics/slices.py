"""Metrics on subsets of the samples: slices, and the samples without leakage."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.kinds.field_kind import SampleValues
from phi_vision.data.kinds.number_kind import as_number
from phi_vision.data.kinds.path_kind import levels_of
from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Sample, Value
from phi_vision.data.template import Template
from phi_vision.io.image_decoding import image_size
from phi_vision.metrics.bootstrap import BootstrapDistribution, Counts, Estimate
from phi_vision.metrics.field_metrics import Metric

MIN_SAMPLES = 5  # samples that a category needs for a slice of its own

MAX_CATEGORIES = 12  # categories with a slice of their own; more make a table that nobody reads

Values = Mapping[str, SampleValues]  # metric -> the value of each sample


class Subset(NamedTuple):
    """Some of the samples, and their common property."""

    by: str  # what divides the samples: a field, "image size", "group in training", ...
    name: str  # its value here: "COATS", "100 to 250", "seen"
    mask: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The model's headline metrics on a subset."""

    by: str
    name: str
    samples: int
    groups: int
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class Leakage:
    """Test samples that are near-duplicates of training data, and their effect on the metrics."""

    leaked: Mapping[str, str]  # sample -> what it shares with the training data
    without: Mapping[str, Estimate]  # metric -> estimate on the others; {} without any
    effect: Mapping[str, Estimate]  # metric -> the estimate on all samples minus that on the others


class UnseenCounts(NamedTuple):
    """Categories, or paths, that no training sample has."""

    predicted: int  # predictions of such a value
    right: int  # of these
    true: int  # samples with such a value


def count_unseen(
    predictions: Sequence[ScoredPrediction], training: Iterable[Sample], template: Template
) -> dict[str, UnseenCounts]:
    """Count values that no training sample has, by field of categories or paths.

    Input:  predicted COATS, CAOTS, HATS; true COATS, COATS, HATS; in training COATS
    Output: {"category3_code": UnseenCounts(predicted=2, right=1, true=1)}
    """
    records = [sample.record for sample in training] if template.class_fields else []
    counts = {}
    for field in template.class_fields:
        known = {None, *(record.get(field) for record in records)}
        pairs = [((e.prediction.record or {}).get(field), e.truth[field]) for e in predictions]
        unseen = [value == true for value, true in pairs if value not in known]
        lacking = sum(true not in known for _, true in pairs)
        counts[field] = UnseenCounts(len(unseen), sum(unseen), lacking)
    return counts


def score_slices(
    metrics: Mapping[str, Metric],
    values: Values,
    counts: Counts,
    samples: Sequence[Sample],
    training: Sequence[Sample],
    template: Template,
) -> tuple[Slice, ...]:
    """Compute metrics on each slice, on the shared resamples."""
    groups = np.array([sample.group for sample in samples], dtype=object)
    return tuple(
        Slice(
            by=by,
            name=name,
            samples=int(mask.sum()),
            groups=len(set(groups[mask])),
            estimates=with_intervals(on_subset(metrics, values, counts, mask)),
        )
        for by, name, mask in find_slices(samples, training, template)
    )


def measure_leakage(
    metrics: Mapping[str, Metric],
    values: Values,
    counts: Counts,
    samples: Sequence[Sample],
    leaked: Mapping[str, str] | None,
) -> Leakage | None:
    """Compute all metrics without the leaked samples, and the difference that those make."""
    if leaked is None:
        return None
    clean = np.array([sample.id not in leaked for sample in samples])
    if clean.all() or not clean.any():
        return Leakage(leaked, without={}, effect={})
    masks = (clean, np.ones_like(clean))
    without, on_all = (on_subset(metrics, values, counts, mask) for mask in masks)
    effect = {name: on_all[name].minus(each) for name, each in without.items()}
    return Leakage(leaked, with_intervals(without), with_intervals(effect))


def with_intervals(row: Mapping[str, BootstrapDistribution]) -> dict[str, Estimate]:
    """Compute the confidence interval of each metric."""
    return {name: distribution.estimate() for name, distribution in row.items()}


def find_slices(
    samples: Sequence[Sample], training: Sequence[Sample], template: Template
) -> list[Subset]:
    """Divide samples by category, number, image size, and by whether training contains them.

    Input:  categories COATS (7 samples), BELTS (5), HATS (2), full prices 90 to 800, ...
    Output: category3_code: COATS, BELTS, 1 other; full_price: below 150, 150 to 290, ...;
            image size: 300 to 640 px, ...; group in training: unseen; title in training: seen
    """
    records = [template.select(sample.record) for sample in samples]
    known = [template.select(sample.record) for sample in training]
    # Property -> its value for each sample, and the order of these values.
    named: dict[str, tuple[Sequence[str], Iterable[str]]] = {}
    for field in (*template.fields_of("category"), *template.fields_of("boolean")):
        named[field] = _by_category([record[field] for record in records])
    for field in template.fields_of("path"):
        tops = [next(iter(levels_of(record[field])), None) for record in records]
        named[f"{field}, level 1"] = _by_category(tops)
    for field in template.fields_of("number"):
        named[field] = _by_number(*([each[field] for each in side] for side in (records, known)))
    named["image size"] = _by_image_size(samples)
    groups = [[sample.group for sample in each] for each in (samples, training)]
    named["group in training"] = _by_seen(*groups)
    for field in (*template.fields_of("text"), *template.fields_of("path")):
        texts = ([each[field] for each in side] for side in (records, known))
        named[f"{field} in training"] = _by_seen(*texts)
    return [
        Subset(by, name, np.array(names, dtype=object) == name)
        for by, (names, order) in named.items()
        for name in order
        if name in names
    ]


def on_subset(
    metrics: Mapping[str, Metric], values: Values, counts: Counts, mask: NDArray[np.bool_]
) -> dict[str, BootstrapDistribution]:
    """Compute metrics on some of the samples."""
    return {
        name: metric.distribution(values[name][mask], counts[:, mask])
        for name, metric in metrics.items()
    }


def _by_seen(values: Sequence[Value], known: Iterable[Value]) -> tuple[list[str], list[str]]:
    seen = set(known)
    return ["seen" if value in seen else "unseen" for value in values], ["seen", "unseen"]


def _by_category(values: Sequence[Value]) -> tuple[list[str], list[str]]:
    """Separate frequent values, and pool rare ones as "2 others"."""
    names = ["none" if value is None else str(value) for value in values]
    counted = Counter(names)
    ranked = sorted(counted, key=lambda name: (-counted[name], name))
    frequent = [name for name in ranked if counted[name] >= MIN_SAMPLES][:MAX_CATEGORIES]
    rest = len(counted) - len(frequent)
    others = f"{rest} other{'s' * (rest > 1)}"
    return [name if name in frequent else others for name in names], [*frequent, others]


def _by_number(values: Sequence[Value], known: Sequence[Value]) -> tuple[list[str], list[str]]:
    """Divide numbers by the fifths of the known ones; a band includes its lower edge."""
    numbers = [number for number in map(as_number, known) if number is not None]
    # Four significant digits are readable; edges are rounded before the numbers are divided.
    exact = np.quantile(numbers, [0.2, 0.4, 0.6, 0.8]).tolist() if numbers else []
    edges = sorted({float(f"{edge:.4g}") for edge in exact})
    between = [f"{low:.10g} to {high:.10g}" for low, high in pairwise(edges)]
    ends = [f"below {edges[0]:.10g}", f"from {edges[-1]:.10g}"] if edges else ["all", "all"]
    bands = [ends[0], *between, ends[1]]
    names = [
        "none" if number is None else bands[bisect_right(edges, number)]
        for number in map(as_number, values)
    ]
    return names, [*dict.fromkeys(bands), "none"]


def _by_image_size(samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """Divide samples by the thirds of their longest sides, named by its ends: "300 to 400 px"."""
    sides = list(map(_longest_side, samples))
    known = sorted(side for side in sides if side is not None)
    # Edges are existing sides, so equal sides form one band.
    edges = np.quantile(known, [1 / 3, 2 / 3], method="lower").tolist() if known else []
    bands: dict[int, str] = {}
    for _, band in groupby(known, key=lambda side: bisect_left(edges, side)):
        third = list(band)
        name = f"{third[0]} px" if third[0] == third[-1] else f"{third[0]} to {third[-1]} px"
        bands |= dict.fromkeys(third, name)
    names = ["none" if side is None else bands[side] for side in sides]
    return names, [*dict.fromkeys(bands.values()), "none"]


def _longest_side(sample: Sample) -> int | None:
    """Read the longest side of the first image, in pixels, without decoding it."""
    try:
        return max(image_size(sample.images[0])) if sample.images else None
    except ValueError:
        # The predictor that decodes the image reports what is wrong with it.
        return None
