"""Measures of confidence: calibration error, Brier score, the risk of the most confident answers.

All take probabilities that are known, whether the answers are right, and draws of the samples.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from phi_vision.metrics.bootstrap import BootstrapDistribution, Counts, Estimate
from phi_vision.metrics.platt_scaling import Flags, Numbers

BINS = 10
"""As most publications have it, so that errors can be compared."""

UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def in_bins(probability: Numbers) -> NDArray[np.int64]:
    """Number the bin of each probability: ten of equal size, in rising order.

    Equal probabilities share a bin, that in which the middle one of them falls, so that it does not
    matter which sample comes first.

    Input:  0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 0.9 0.9 and nine times 1.0
    Output: 0 0 1 1 2 2 3 3 4 4 4 and nine times 7
    """
    ranks = rankdata(probability, method="average") - 0.5
    return np.asarray(ranks * BINS // max(len(ranks), 1), dtype=np.int64)


def calibration_error(probability: Numbers, right: Flags, counts: Counts) -> Estimate:
    """Measure how far probabilities and shares of right answers lie apart, on average over bins.

    Draws of samples add noise to noise: where there is little error, theirs are above the measured
    one by about as much as that is above the true one; where there is much, they are not. So the
    interval takes the outer ends of two: of the draws, and of the draws mirrored at the measured
    value (the percentile and the basic bootstrap; Davison and Hinkley, 1997, 5.2, 5.3). It begins
    at 0 where chance alone may well make such an error.

    Input:  probability 0.9 ten times, seven times right
    Output: 0.2
    """
    if not len(right):
        return UNKNOWN
    value = float(np.abs(_gaps_of_bins(probability, right, np.ones((1, len(right))))).sum())
    drawn = np.abs(_gaps_of_bins(probability, right, counts)).sum(axis=1)
    _, low, high = BootstrapDistribution(value, drawn).estimate()
    if math.isnan(low):
        return Estimate(value, low, high)
    by_chance = (
        BootstrapDistribution(0.0, _chance_errors(probability, right, counts)).estimate().high
    )
    least = 0.0 if value <= by_chance else max(0.0, min(low, 2 * value - high))
    return Estimate(value, least, max(high, 2 * value - low))


def chance_error(probability: Numbers, right: Flags, counts: Counts) -> float:
    """Estimate the calibration error that mere chance makes where there is none."""
    errors = _chance_errors(probability, right, counts)
    errors = errors[~np.isnan(errors)]
    return float(errors.mean()) if errors.size else math.nan


def brier(probability: Numbers, right: Flags, counts: Counts) -> Estimate:
    """Measure the mean squared distance from 1 where right and from 0 where wrong (Brier, 1950).

    Input:  0.9 right, 0.8 wrong
    Output: 0.325 = (0.1² + 0.8²) / 2
    """
    return mean_estimate((probability - right) ** 2, counts)


def mean_estimate(marks: Numbers, counts: Counts) -> Estimate:
    """Give the mean of the marks with its interval."""
    if not len(marks):
        return UNKNOWN
    return BootstrapDistribution(float(marks.mean()), counts @ marks / _drawn(counts)).estimate()


def risks(confidence: Numbers, right: Flags) -> tuple[Numbers, Numbers, float]:
    """Measure the share of wrong answers among the most confident one, two, three, ...

    Equally confident answers come in any order: the expected risk is meant. Those whose confidence
    is not known (NaN) come last.

    Input:  0.9 right, 0.7 wrong, 0.7 right
    Output: coverages [1/3, 3/3], risks [0, 1/3], area 0.194 = mean of 0, 0.5 / 2 and 1 / 3

    Returns:
        Coverages at which the confidence changes, the risks there, and the mean risk over all
        coverages, which is the area under the curve.
    """
    if not len(right):
        return np.empty(0), np.empty(0), math.nan
    confidence = np.where(np.isnan(confidence), -math.inf, confidence)
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    used = np.arange(1, len(ranked) + 1)
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    wrong = np.cumsum(~right[order])[ends]
    expected = np.interp(used, np.append(0, ends + 1), np.append(0, wrong))
    return used[ends] / len(used), wrong / used[ends], float((expected / used).mean())


def _chance_errors(probability: Numbers, right: Flags, counts: Counts) -> Numbers:
    """Draw errors of no fault: the draws' gaps lie from the measured as these would lie from 0."""
    gaps = _gaps_of_bins(probability, right, np.ones((1, len(right))))
    moved = np.abs(_gaps_of_bins(probability, right, counts) - gaps).sum(axis=1)
    return np.asarray(moved, dtype=np.float64)


def _gaps_of_bins(probability: Numbers, right: Flags, counts: Counts) -> Numbers:
    """Sum up probability minus right in each bin, by draw and bin, as shares of all samples drawn.

    Bins are those of the measured samples.
    """
    bins = in_bins(probability)
    gaps = np.zeros((len(right), BINS))
    gaps[np.arange(len(right)), bins] = probability - right
    return np.asarray(counts @ gaps / _drawn(counts)[:, None], dtype=np.float64)


def _drawn(counts: Counts) -> Numbers:
    """Count the samples of each draw; NaN where it has none of them."""
    total = counts.sum(axis=1)
    return np.where(total > 0, total, math.nan)
