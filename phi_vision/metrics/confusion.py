"""Confusion matrix of a category field, small enough to read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.prediction import ScoredPrediction

OTHERS = "all others"
"""Categories too rare for a row of their own, and predicted ones that are never true."""

UNPARSED = "unparsed"  # predictions that do not parse, or lack the field


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A confusion matrix.

    Input:  COATS for COATS, COATS for COATS, HATS for COATS, HATS for HATS, unparsed for HATS
    Output: labels ("COATS", "HATS"), predicted ("COATS", "HATS", "unparsed"),
            counts [[2, 1, 0], [0, 1, 1]]
    """

    labels: tuple[str, ...]
    """True categories, a row each: the most frequent first, `OTHERS` last where some are pooled."""
    predicted: tuple[str, ...]
    """Predicted categories, a column each: the labels, then `OTHERS` and `UNPARSED` where they
    occur. The cell of `OTHERS` predicted for `OTHERS` holds correct and wrong predictions."""
    counts: NDArray[np.int64]  # samples, of shape (labels, predicted)


def confusion(
    predictions: Sequence[ScoredPrediction], field: str, max_labels: int = 20
) -> Confusion:
    """Compute the confusion matrix of a category field, with rows for the most frequent ones."""
    frequency = Counter(each.truth[field] for each in predictions)
    ranked = sorted(frequency, key=lambda value: (-frequency[value], str(value)))[:max_labels]
    places = {value: place for place, value in enumerate(ranked)}
    others, unparsed = len(ranked), len(ranked) + 1
    counts = np.zeros((others + 1, others + 2), dtype=np.int64)
    for each in predictions:
        record = each.prediction.record or {}
        column = places.get(record[field], others) if field in record else unparsed
        counts[places.get(each.truth[field], others), column] += 1
    labels = np.array([*map(str, ranked), OTHERS, UNPARSED])
    rows, columns = np.arange(others + 1), np.arange(others + 2)
    rows = rows[(rows < others) | counts.any(axis=1)]
    columns = columns[(columns < others) | counts.any(axis=0) | np.isin(columns, rows)]
    return Confusion(
        labels=tuple(labels[rows].tolist()),
        predicted=tuple(labels[columns].tolist()),
        counts=counts[np.ix_(rows, columns)],
    )
