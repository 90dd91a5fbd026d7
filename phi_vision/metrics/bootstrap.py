"""Group bootstrap: confidence intervals from resampling whole groups, all resamples at once.

Samples of one group (a style, a product) are not independent. All estimates of an evaluation share
the resamples: the difference of two is paired. An aggregate equals the metric on the samples
repeated as often as they count; one with a NaN never does, and a resample of none is NaN.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.kinds.field_kind import Aggregate, Limits, SampleValues
from phi_vision.metrics.platt_scaling import binomial_bound

RESAMPLES = 1000  # the ends of a 95 % interval then move by about a tenth of its width

TAILS = (0.025, 0.975)  # of a 95 % interval

MIN_GROUPS = 6
"""Groups that a bootstrap interval needs, and groups that must differ for that of a difference:
5 of 5 in which one system is better are no significant result of a sign test (p = 0.0625)."""

Counts = NDArray[np.float64]  # how often a resample has each sample: (resamples, samples)

Aggregator = Callable[[SampleValues, Counts], NDArray[np.float64]]  # one value per resample


class Estimate(NamedTuple):
    """A value and its 95 % confidence interval: NaN with fewer than two groups, infinite where the
    resamples show too little of a value without limits."""

    value: float
    low: float
    high: float


class BootstrapDistribution(NamedTuple):
    """A value, its values on the resamples, and the samples that count in it."""

    value: float
    resampled: NDArray[np.float64]
    limits: Limits = (-math.inf, math.inf)
    groups: NDArray[np.float64] = np.zeros(1)  # a number per sample, the same within a group
    values: SampleValues = np.zeros(1)
    differs: NDArray[np.bool_] | None = None  # of a difference: whether the values of a sample do

    def estimate(self) -> Estimate:
        """Return the value with its percentile interval; resamples without a value are left out.

        Groups count as one observation each. Where all resamples agree, at most
        1 − 0.025^(1 / groups) of the population differ, by as much as the limits allow. An interval
        that ends at a limit, or rests on fewer than MIN_GROUPS, is joined with that of Clopper and
        Pearson, a difference in fewer than MIN_GROUPS with theirs of the share of groups that
        differ, and of the better ones among those. Exact for means, approximate for F1 and ranks.
        """
        known = self.resampled[~np.isnan(self.resampled)]
        if not known.size:
            return Estimate(self.value, math.nan, math.nan)
        low, high = np.quantile(known, TAILS).tolist()
        (least, most), size = self.limits, effective_groups(self.groups)
        if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
            unseen = 1 - TAILS[0] ** (1 / size)
            return Estimate(self.value, low - unseen * (low - least), high + unseen * (most - high))
        if self.differs is not None and effective_groups(self.groups[self.differs]) < MIN_GROUPS:
            share = float(self.differs.mean())
            better = min(max(0.5 + self.value / most / share / 2, 0.0), 1.0)
            widest = most * float(binomial_bound(share, size, TAILS[1]))
            ends = [widest * (2 * binomial_bound(better, share * size, t) - 1) for t in TAILS]
        elif size < MIN_GROUPS and math.isinf(most):
            return Estimate(self.value, -math.inf, math.inf)
        elif low <= least or high >= most or size < MIN_GROUPS:
            share = (self.value - least) / (most - least)
            ends = [least + (most - least) * binomial_bound(share, size, tail) for tail in TAILS]
        else:
            return Estimate(self.value, low, high)
        return Estimate(self.value, min(low, float(ends[0])), max(high, float(ends[1])))

    def minus(self, other: "BootstrapDistribution") -> "BootstrapDistribution":
        """Subtract, resample by resample; of other samples, nothing is known of their values."""
        differs = None
        # Of an optional field, two systems may be measured on different samples.
        if np.array_equal(self.groups, other.groups) and self.values.shape == other.values.shape:
            unequal = self.values != other.values
            differs = unequal.any(axis=tuple(range(1, unequal.ndim)))
        return BootstrapDistribution(
            self.value - other.value,
            self.resampled - other.resampled,
            (self.limits[0] - other.limits[1], self.limits[1] - other.limits[0]),
            min(self.groups, other.groups, key=len),
            differs=differs,
        )


def distribution(
    aggregate: Aggregator, values: SampleValues, counts: Counts, limits: Limits
) -> BootstrapDistribution:
    """Aggregate the values of samples, once as they are and once per resample."""
    value = float(aggregate(values, np.ones((1, len(values))))[0])
    counted, their_counts = _known(values, counts)
    groups = _number_groups(their_counts)
    return BootstrapDistribution(value, aggregate(values, counts), limits, groups, counted)


def effective_groups(groups: NDArray[np.float64]) -> float:
    """Compute the effective number of groups (Kish, 1965): 1.8 = 3² / (2² + 1²) of 7 7 9."""
    sizes = np.unique(groups, return_counts=True)[1]
    return float(sizes.sum() ** 2 / max(1, (sizes**2).sum()))


def _number_groups(counts: Counts) -> NDArray[np.float64]:
    """Number the samples by group: those of one are always drawn together."""
    # A few resamples tell groups apart; sums of whole numbers are exact in any order.
    few = counts[:32]
    return np.random.default_rng(0).integers(2**40, size=len(few)).astype(np.float64) @ few


def draw_groups(groups: Sequence[str], *, seed: int, draws: int = RESAMPLES) -> Counts:
    """Draw as many groups as there are, with replacement; no resamples with fewer than two groups.

    Input:  groups a a b, two draws that take a a and b a
    Output: [[2, 2, 0], [1, 1, 1]]
    """
    names, group_of = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    if len(names) < 2:
        return np.empty((0, len(groups)))
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=draws
    )
    return drawn[:, group_of].astype(np.float64)


def mean(values: SampleValues, counts: Counts) -> NDArray[np.float64]:
    """Compute weighted means: 1, 4, NaN, counted [[1, 1, 1], [3, 1, 0]] -> [2.5, 1.75]."""
    values, counts = _known(values, counts)
    return _divide(counts @ values, counts.sum(axis=1))


def root_mean(values: SampleValues, counts: Counts) -> NDArray[np.float64]:
    """Compute the square root of the mean of squares."""
    return np.asarray(np.sqrt(mean(values, counts)))


def median(values: SampleValues, counts: Counts) -> NDArray[np.float64]:
    """Compute weighted medians; of an even count the mean of the middle two, as `numpy.median`."""
    values, counts = _known(values, counts)
    if not values.size:
        return np.full(len(counts), np.nan)
    order = np.argsort(values)
    cumulative = counts[:, order].cumsum(axis=1)
    total = cumulative[:, -1:]
    ranks = ((total - 1) // 2, total // 2)
    places = [np.minimum((cumulative <= rank).sum(axis=1), len(values) - 1) for rank in ranks]
    middle = np.mean([values[order[place]] for place in places], axis=0)
    return np.where(total[:, 0] > 0, middle, np.nan)


def macro_f1(values: SampleValues, counts: Counts) -> NDArray[np.float64]:
    """Average F1 over the true categories, as scikit-learn's `f1_score(average="macro",
    labels=true)`. Values are rows of (true, predicted) numbers from 0; −1 for one never true."""
    values, counts = _known(values, counts)
    classes = np.arange(values.max(initial=-1) + 1)
    true, predicted = (values[:, [side]] == classes for side in (0, 1))
    times_true, times_predicted = counts @ true, counts @ predicted
    f1 = _divide(2 * (counts @ (true & predicted)), times_true + times_predicted)
    occurs = times_true > 0
    return _divide(np.where(occurs, f1, 0).sum(axis=1), occurs.sum(axis=1))


def overlap_f1(values: SampleValues, counts: Counts) -> NDArray[np.float64]:
    """Compute the F1 of sets over all samples: 2 · Σ shared / (Σ predicted + Σ true)."""
    shared, predicted, true = _overlaps(values, counts)
    return _divide(2 * shared, predicted + true)


def overlap_precision(values: SampleValues, counts: Counts) -> NDArray[np.float64]:
    """Compute the precision of sets over all samples: Σ shared / Σ predicted."""
    shared, predicted, _ = _overlaps(values, counts)
    return _divide(shared, predicted)


def overlap_recall(values: SampleValues, counts: Counts) -> NDArray[np.float64]:
    """Compute the recall of sets over all samples: Σ shared / Σ true."""
    shared, _, true = _overlaps(values, counts)
    return _divide(shared, true)


def _overlaps(values: SampleValues, counts: Counts) -> NDArray[np.float64]:
    """Sum rows of (shared, predicted, true) by resample."""
    values, counts = _known(values, counts)
    return (counts @ values).T


def rank_correlation(values: SampleValues, counts: Counts) -> NDArray[np.float64]:
    """Compute Spearman's rank correlation of rows of (predicted, true); ties share their mean rank.
    Constant predictions give 0 (nothing was ranked), constant true values NaN (no ranking exists).
    """
    values, counts = _known(values, counts)
    if not values.size:
        return np.full(len(counts), np.nan)
    middle = (counts.sum(axis=1, keepdims=True) + 1) / 2
    predicted, true = (_ranks(column, counts) - middle for column in values.T)
    covariance, of_predicted, of_true = (
        np.einsum("dn,dn,dn->d", counts, *pair)
        for pair in ((predicted, true), (predicted, predicted), (true, true))
    )
    ratio = _divide(covariance, np.sqrt(of_predicted) * np.sqrt(of_true))
    return np.where(of_true > 0, np.where(of_predicted > 0, ratio, 0), np.nan)


def _ranks(values: SampleValues, counts: Counts) -> NDArray[np.float64]:
    """Rank the samples in every resample, from 1; repeated and equal ones share their mean rank."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    tied = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks = tied.cumsum(axis=1) - (tied - 1) / 2
    return np.asarray(ranks[:, place])


def _known(values: SampleValues, counts: Counts) -> tuple[SampleValues, Counts]:
    known = ~np.isnan(values).any(axis=tuple(range(1, values.ndim)))
    return (values, counts) if known.all() else (values[known], counts[:, known])


def _divide(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; NaN where the divisor is 0."""
    none = np.full(np.shape(top), np.nan)
    return np.asarray(np.divide(top, bottom, out=none, where=bottom > 0))


AGGREGATORS: dict[Aggregate, Aggregator] = {
    "mean": mean,
    "median": median,
    "root_mean": root_mean,
    "macro_f1": macro_f1,
    "rank_correlation": rank_correlation,
    "overlap_precision": overlap_precision,
    "overlap_recall": overlap_recall,
    "overlap_f1": overlap_f1,
}
