"""Confidence into probability, and from which probability on answers can be used unseen.

Holds what is fitted and chosen; how good that is, is measured in `calibration.py`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]
Names = NDArray[np.object_]

FOLDS = 5
"""Parts for cross-fitting: each line then rests on four fifths of what the last one rests on."""

CERTAINTY = 0.9
"""How certain a promised precision is: it is kept in about nine evaluations of ten."""

SUREST = 1 - 1e-6
"""Confidence beyond is taken as this: single precision tells none of it from 1."""


class PlattScaler(NamedTuple):
    """A straight line from the log-odds of a confidence to those of being right."""

    slope: float
    intercept: float

    def apply(self, confidence: Numbers) -> Numbers:
        """Turn confidences into probabilities.

        Input:  slope 0.5, intercept 0, confidences 0.5 and 0.9 (odds 9, of which the root is 3)
        Output: [0.5, 0.75]
        """
        probability = expit(self.slope * _log_odds(confidence) + self.intercept)
        return np.asarray(probability, dtype=np.float64)


class CrossFit(NamedTuple):
    """What the samples of each fold get from a line and a threshold that did not see them."""

    probability: Numbers
    """NaN where the confidence is not known, and everywhere with fewer than two groups."""

    filled: Flags
    """Whether the probability reaches the threshold; nowhere without a target."""


def fit_line(confidence: Numbers, right: Flags) -> PlattScaler:
    """Fit Platt scaling: logistic regression on the log-odds of the confidence.

    Each answer counts as right to a little less than 1, or a little more than 0, as Platt (1999,
    "Probabilistic outputs for support vector machines", 2.2) does: so that few answers, or answers
    that are all right, do not make anything certain. 18 right answers and no wrong one give 0.95.
    """
    if not len(right):
        return PlattScaler(math.nan, math.nan)
    rights = int(right.sum())
    wrongs = len(right) - rights
    share = np.where(right, (rights + 1) / (rights + 2), 1 / (wrongs + 2))
    # Scikit-learn takes no shares: each answer is there twice, right and wrong, with its weights.
    odds = np.tile(_log_odds(confidence), 2)[:, None]
    outcomes = np.repeat([1, 0], len(right))
    model = LogisticRegression(C=math.inf, max_iter=1000)
    model.fit(odds, outcomes, sample_weight=np.concatenate([share, 1 - share]))
    return PlattScaler(float(model.coef_[0, 0]), float(model.intercept_[0]))


def cross_fit(
    confidence: Numbers, right: Flags, groups: Sequence[str], *, target: float | None, seed: int
) -> CrossFit:
    """Fit lines and choose thresholds on all folds but one, and use them on that one.

    Args:
        confidence: NaN where it is not known.
        right: Whether the answer is.
        groups: Of the samples; none is in two folds.
        target: Wanted precision.
        seed: Of the folds.
    """
    named = np.asarray(groups, dtype=object)
    known = ~np.isnan(confidence)
    probability = np.full(len(right), math.nan)
    filled = np.zeros(len(right), dtype=bool)
    folds = _deal_groups(named, known, seed)
    for fold in range(FOLDS):
        rest, these = known & (folds != fold), known & (folds == fold)
        if not rest.any() or not these.any():
            continue
        line = fit_line(confidence[rest], right[rest])
        probability[these] = line.apply(confidence[these])
        if target is not None:
            seen = line.apply(confidence[rest])
            threshold = choose_threshold(seen, right[rest], named[rest], target)
            filled[these] = probability[these] >= (math.inf if threshold is None else threshold)
    return CrossFit(probability, filled)


def choose_threshold(
    probability: Numbers, right: Flags, groups: Sequence[str] | Names, target: float
) -> float | None:
    """Find the lowest probability from which on precision is the target with CERTAINTY, or None.

    That is where the lower end of the interval of the precision (`share_bound`) is the target. A
    threshold whose measured precision is just the target would miss it in every other evaluation.

    Input:  probabilities 0.99 (44 times, right), 0.9 (right), 0.6 (wrong), target 0.95
    Output: 0.9: 45 right answers and no wrong one are 95 % with certainty 0.9, as 0.95^45 < 0.1
    """
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    used = np.arange(1, len(ranked) + 1)
    shares = np.cumsum(right[order]) / used
    alike = correlation(right - probability, groups)
    independent = _independent(np.asarray(groups, dtype=object)[order], alike)
    # Answers of the same probability are used together or not at all.
    whole = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
    reached = np.flatnonzero(whole & (share_bound(shares, independent, 1 - CERTAINTY) >= target))
    return float(ranked[reached[-1]]) if len(reached) else None


def correlation(surprise: Numbers, groups: Sequence[str] | Names) -> float:
    """Measure how far answers of one group are right or wrong together (intraclass correlation).

    The mean product of two surprises of one group, as a part of the mean square of all.

    Input:  surprises 0.5 0.5 -0.5 -0.5 of groups a a b b, or of groups a b a b
    Output: 1.0, or 0.0

    Args:
        surprise: Right (1 or 0) minus its probability.
        groups: Of the answers.

    Returns:
        Between 0 and 1; 1, which trusts them least, where there is nothing to measure it by.
    """
    _, of, sizes = np.unique(
        np.asarray(groups, dtype=object), return_inverse=True, return_counts=True
    )
    square = float((surprise**2).sum())
    pairs = int((sizes * (sizes - 1)).sum())
    if not pairs or not square:
        return 1.0
    together = float((np.bincount(of, surprise) ** 2).sum()) - square
    return min(max(together / pairs / (square / len(of)), 0.0), 1.0)


def independent_samples(groups: Sequence[str] | Names, alike: float) -> float:
    """Count how many independent samples are worth as much as these (Kish, 1965, design effect).

    Input:  groups a a b; answers of one group are right together always (1.0), or never (0.0)
    Output: 1.8 = 3² / (2² + 1²), or 3.0

    Args:
        groups: Of the samples, at least one.
        alike: Their `correlation`.
    """
    return float(_independent(np.asarray(groups, dtype=object), alike)[-1])


def share_bound(shares: Numbers, independent: Numbers, tail: float) -> Numbers:
    """Bound shares from below, or from above where the tail is over a half.

    The exact binomial interval (Clopper and Pearson, 1934). Unlike one from draws, it does not end
    at 1 where nothing was wrong yet.

    Input:  a share of 1.0 of 45 samples, tail 0.1
    Output: 0.950

    Args:
        shares: The measured ones.
        independent: Of how many samples, each more than 0.
        tail: How often the true share may lie beyond the bound.
    """
    hits, misses = shares * independent, (1 - shares) * independent
    lower = tail < 0.5
    first, second = (hits, misses + 1) if lower else (hits + 1, misses)
    certain = (hits <= 0) if lower else (misses <= 0)
    bounds = beta.ppf(tail, np.where(certain, 1, first), np.where(certain, 1, second))
    return np.asarray(np.where(certain, 0.0 if lower else 1.0, bounds), dtype=np.float64)


def _independent(groups: Names, alike: float) -> Numbers:
    """Count independent samples (`independent_samples`) among the first, the first two, ..."""
    sizes: dict[str, int] = {}
    pairs = np.empty(len(groups))
    total = 0
    for place, group in enumerate(groups):
        total += 2 * sizes.setdefault(group, 0)
        sizes[group] += 1
        pairs[place] = total
    count = np.arange(1, len(groups) + 1)
    return np.asarray(count**2 / (count + alike * pairs), dtype=np.float64)


def _deal_groups(groups: Names, known: Flags, seed: int) -> NDArray[np.int64]:
    """Give each sample of known confidence a fold, the same to all of its group; -1 to others."""
    names, of = np.unique(groups[known], return_inverse=True)
    fold_of = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    folds = np.full(len(groups), -1)
    folds[known] = fold_of[of]
    return folds


def _log_odds(confidence: Numbers) -> Numbers:
    bounded = np.clip(confidence, 1 - SUREST, SUREST)
    return np.asarray(np.log(bounded / (1 - bounded)), dtype=np.float64)
