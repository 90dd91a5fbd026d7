"""Marks of single samples -> one figure for every draw of the bootstrap, all draws at once.

A draw says how often each sample counts, so every figure here is a weighted one: equal to the
ordinary figure of the samples repeated that often. Marks that are NaN never count, and a draw in
which nothing counts has no figure (NaN).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from phi_vision.metrics.bootstrap import Counts

Marks = NDArray[np.float64]
"""What is known of each sample, of shape (samples,) or (samples, ...)."""

Drawn = NDArray[np.float64]
"""The figure on each draw, of shape (draws,)."""

Combine = Callable[[Marks, Counts], Drawn]


def mean(marks: Marks, counts: Counts) -> Drawn:
    """Average the marks.

    Input:  marks 1, 4, NaN; counts [[1, 1, 1], [3, 1, 0], [0, 0, 2]]
    Output: [2.5, 1.75, NaN]
    """
    marks, counts = _known(marks, counts)
    return _ratio(counts @ marks, counts.sum(axis=1))


def root_mean(marks: Marks, counts: Counts) -> Drawn:
    """Take the square root of the mean of marks that are squares."""
    return np.asarray(np.sqrt(mean(marks, counts)))


def median(marks: Marks, counts: Counts) -> Drawn:
    """Take the middle mark, or the mean of the two in the middle, as `numpy.median` does.

    Input:  marks 5, 1, 2; counts [[1, 1, 1], [2, 1, 1], [2, 0, 0]]
    Output: [2, 3.5, 5]
    """
    marks, counts = _known(marks, counts)
    if not marks.size:
        return np.full(len(counts), np.nan)
    order = np.argsort(marks)
    up_to = counts[:, order].cumsum(axis=1)
    total = up_to[:, -1]

    def at(rank: Drawn) -> Drawn:
        """The mark that has `rank` smaller ones before it."""
        place = (up_to <= rank[:, None]).sum(axis=1)
        return np.asarray(marks[order[np.minimum(place, len(marks) - 1)]])

    middle = (at((total - 1) // 2) + at(total // 2)) / 2
    return np.where(total > 0, middle, np.nan)


def macro_f1(marks: Marks, counts: Counts) -> Drawn:
    """Average, over the categories that are true in a draw, F1 = 2 · right / (true + said).

    As `f1_score(..., average="macro", labels=the true ones)` of scikit-learn: a category that is
    said and never true takes no part in the mean, it costs the true one its recall.

    Args:
        marks: Rows of (true category, said category), numbered from 0; −1 for one never true.
        counts: How often each sample counts.
    """
    true, said = (marks[:, [side]] == np.arange(marks.max(initial=-1) + 1) for side in (0, 1))
    times_true, times_said = counts @ true, counts @ said
    f1 = _ratio(2 * (counts @ (true & said)), times_true + times_said)
    occurs = times_true > 0
    return _ratio(np.where(occurs, f1, 0).sum(axis=1), occurs.sum(axis=1))


def overlap_f1(marks: Marks, counts: Counts) -> Drawn:
    """Compare sets over all samples: F1 = 2 · Σ shared / (Σ said + Σ true).

    Input:  marks (1 shared, 2 said, 2 true) and (0, 0, 2); counts [[1, 1], [1, 0]]
    Output: [2/6, 2/4]
    """
    shared, said, true = (counts @ marks).T
    return _ratio(2 * shared, said + true)


def rank_correlation(marks: Marks, counts: Counts) -> Drawn:
    """Correlate the ranks of what was said and what is true (Spearman), ties sharing their rank.

    Where all that was said is the same, nothing was put in order: 0. Where all that is true is the
    same there is no order to find: NaN.

    Args:
        marks: Rows of (said, true).
        counts: How often each sample counts.
    """
    marks, counts = _known(marks, counts)
    if not marks.size:
        return np.full(len(counts), np.nan)
    middle = (counts.sum(axis=1, keepdims=True) + 1) / 2
    said, true = (_ranks(column, counts) - middle for column in marks.T)
    products = ((said, true), (said, said), (true, true))
    both, of_said, of_true = (np.einsum("dn,dn,dn->d", counts, *pair) for pair in products)
    correlation = np.where(of_said > 0, _ratio(both, np.sqrt(of_said) * np.sqrt(of_true)), 0)
    return np.where(of_true > 0, correlation, np.nan)


def _ranks(values: Marks, counts: Counts) -> NDArray[np.float64]:
    """Rank the samples in every draw, from 1; repeated and equal ones share their mean rank.

    Input:  values 7, 5, 7; counts [[1, 1, 1], [1, 2, 0]]
    Output: [[2.5, 1, 2.5], [3, 1.5, 3]]
    """
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    tied = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks = tied.cumsum(axis=1) - (tied - 1) / 2
    return np.asarray(ranks[:, place])


def _known(marks: Marks, counts: Counts) -> tuple[Marks, Counts]:
    """Leave out samples with a NaN among their marks."""
    known = ~np.isnan(marks).any(axis=tuple(range(1, marks.ndim)))
    return (marks, counts) if known.all() else (marks[known], counts[:, known])


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; NaN where there is nothing to divide by."""
    none = np.full(np.shape(top), np.nan)
    return np.asarray(np.divide(top, bottom, out=none, where=bottom > 0))
