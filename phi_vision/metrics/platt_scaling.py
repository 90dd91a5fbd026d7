"""Platt scaling of confidences, and the auto-accept threshold for a target precision."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.acceptance import PlattScaler, log_odds

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]
Names = NDArray[np.object_] | Sequence[str]

FOLDS = 5  # of cross-fitting: a scaler then rests on four fifths of the samples of the final one
# Of the bound at one threshold. As the lowest of many is chosen, the target precision is kept less
# often: in at least nine evaluations of ten, of 90 % bounds in seven where many thresholds are near
# the target (docs/log.md). The threshold that accepts all predictions is not chosen.
CERTAINTY, CERTAINTY_OF_ALL = 0.99, 0.95


def fit_platt_scaler(confidence: Numbers, correct: Flags) -> PlattScaler:
    """Fit a logistic regression on the log-odds of the confidence. Targets are a little below 1 and
    above 0, as in Platt (1999, "Probabilistic outputs for support vector machines", 2.2): few
    predictions give no certainty, 18 correct ones and no wrong one 0.95."""
    from sklearn.linear_model import LogisticRegression  # here, as most processes fit none

    if not len(correct):
        return PlattScaler(math.nan, math.nan)
    positives = int(correct.sum())
    target = np.where(
        correct, (positives + 1) / (positives + 2), 1 / (len(correct) - positives + 2)
    )
    # scikit-learn takes no soft targets: each sample occurs as both classes, with weights.
    doubled = np.tile(log_odds(confidence), 2)[:, None]
    model = LogisticRegression(C=math.inf, max_iter=1000).fit(
        doubled, np.repeat([1, 0], len(correct)), sample_weight=np.append(target, 1 - target)
    )
    return PlattScaler(float(model.coef_[0, 0]), float(model.intercept_[0]))


def cross_fit(
    confidence: Numbers, correct: Flags, groups: Names, *, target: float | None, seed: int
) -> tuple[Numbers, Flags]:
    """Fit scalers and choose thresholds on all folds of groups but one, and apply them to that one.

    Returns the recalibrated confidences, NaN where the confidence is, and everywhere with fewer
    than two groups; and whether each reaches the threshold, all False without a target."""
    known = ~np.isnan(confidence)
    groups = np.asarray(groups, dtype=object)
    names, group_of = np.unique(groups[known], return_inverse=True)
    folds = np.full(len(groups), -1)
    folds[known] = (np.random.default_rng(seed).permutation(len(names)) % FOLDS)[group_of]
    probability, accepted = np.full(len(correct), math.nan), np.zeros(len(correct), dtype=bool)
    for fold in range(FOLDS):
        rest, held_out = known & (folds != fold), folds == fold
        if not rest.any() or not held_out.any():
            continue
        scaler = fit_platt_scaler(confidence[rest], correct[rest])
        probability[held_out] = scaler.apply(confidence[held_out])
        if target is not None:
            fitted = scaler.apply(confidence[rest])
            threshold = choose_threshold(fitted, correct[rest], groups[rest], target)
            accepted[held_out] = threshold is not None and probability[held_out] >= threshold
    return probability, accepted


def choose_threshold(
    probability: Numbers, correct: Flags, groups: Names, target: float
) -> float | None:
    """Find the lowest probability from which a lower bound of the precision is the target, or None.

    A threshold whose measured precision equals the target would miss it in every other evaluation.
    The bound (`binomial_bound`) holds with CERTAINTY, that of all predictions with
    CERTAINTY_OF_ALL."""
    order = np.argsort(-probability, kind="stable")
    precision = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    groups = np.asarray(groups, dtype=object)
    sizes = effective_sizes(groups[order], intraclass_correlation(correct - probability, groups))
    # Predictions of equal probability are accepted together or not at all.
    ends = last_of_equal(probability[order])
    reached = ends[binomial_bound(precision, sizes, 1 - CERTAINTY)[ends] >= target].tolist()
    if len(ends) and binomial_bound(precision[-1], sizes[-1], 1 - CERTAINTY_OF_ALL) >= target:
        reached.append(ends[-1])
    return float(probability[order][reached[-1]]) if reached else None


def last_of_equal(ranked: Numbers) -> NDArray[np.int64]:
    """Find the last place of each value: 0.9 0.9 0.5 -> 1 2."""
    return np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])


def intraclass_correlation(residual: Numbers, groups: Names) -> float:
    """Measure how far predictions of one group are correct or wrong together, from 0 to 1.

    The mean product of two residuals of one group, as a fraction of the mean square of all; 1, the
    most cautious value, where no group has two samples."""
    _, group_of, sizes = np.unique(
        np.asarray(groups, dtype=object), return_inverse=True, return_counts=True
    )
    square, pairs = float((residual**2).sum()), int((sizes * (sizes - 1)).sum())
    if not pairs or not square:
        return 1.0
    products = float((np.bincount(group_of, residual) ** 2).sum()) - square
    return min(max(products / pairs / (square / len(group_of)), 0.0), 1.0)


def effective_sizes(groups: Names, correlation: float) -> Numbers:
    """Compute the effective sample size of the first sample, the first two, ... (Kish, 1965)."""
    sizes, earlier = Counter[str](), np.empty(len(groups))
    for place, group in enumerate(groups):
        earlier[place] = sizes[group]
        sizes[group] += 1
    count = np.arange(1, len(groups) + 1)
    return np.asarray(count**2 / (count + correlation * 2 * earlier.cumsum()))


def binomial_bound(shares: Numbers | float, sizes: Numbers | float, tail: float) -> Numbers:
    """Bound shares from below, or from above for a tail over a half (Clopper and Pearson, 1934):
    1.0 of 45 samples and a tail of 0.1 give 0.950, where a bootstrap interval would end at 1."""
    from scipy.stats import beta

    hits, misses = shares * sizes, (1 - shares) * sizes
    is_lower = tail < 0.5
    first, second = (hits, misses + 1) if is_lower else (hits + 1, misses)
    is_certain = (hits if is_lower else misses) <= 0
    bounds = beta.ppf(tail, np.where(is_certain, 1, first), np.where(is_certain, 1, second))
    return np.asarray(np.where(is_certain, 0.0 if is_lower else 1.0, bounds))
