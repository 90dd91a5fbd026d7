"""Confusion: which categories are taken for which, as a table small enough to be looked at."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Value

OTHERS = "all others"
"""Categories too rare for a row of their own, and said ones that are never true."""

UNREAD = "not readable"
"""Answers that could not be read, or lack the field."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often each category was taken for each.

    Input:  COATS for COATS, COATS for COATS, HATS for COATS, HATS for HATS, an unread one for HATS
    Output: labels ("COATS", "HATS"), said ("COATS", "HATS", "not readable"),
            counts [[2, 1, 0], [0, 1, 1]]
    """

    labels: tuple[str, ...]
    """What is true, a row each: the most frequent first, `OTHERS` last where some are pooled."""

    predicted: tuple[str, ...]
    """What was said, a column each: first the same labels in the same order, then `OTHERS` where
    no row has it, then `UNREAD`; the last two only where they occur. Among pooled categories right
    and wrong are one: the cell of `OTHERS` said for `OTHERS` is not accuracy."""

    counts: NDArray[np.int64]
    """Samples, of shape (labels, said)."""


def confusion(predictions: Sequence[ScoredPrediction], field: str, most: int = 20) -> Confusion:
    """Count what was said for what.

    Args:
        answers: What was said about each sample, and what is true.
        field: A category field.
        most: How many categories have rows of their own; equally frequent ones in the order of
            their names.
    """
    values = _most_frequent([answer.truth[field] for answer in predictions], most)
    places = {value: place for place, value in enumerate(values)}
    others, unread = len(values), len(values) + 1
    counts = np.zeros((others + 1, others + 2), dtype=np.int64)
    for answer in predictions:
        said = unread
        if answer.prediction.record is not None and field in answer.prediction.record:
            said = places.get(answer.prediction.record[field], others)
        counts[places.get(answer.truth[field], others), said] += 1
    labels = np.array([*map(str, values), OTHERS, UNREAD])
    rows, columns = np.arange(others + 1), np.arange(others + 2)
    rows = rows[(rows < others) | counts.any(axis=1)]
    columns = columns[(columns < others) | counts.any(axis=0) | np.isin(columns, rows)]
    return Confusion(
        labels=tuple(labels[rows].tolist()),
        predicted=tuple(labels[columns].tolist()),
        counts=counts[np.ix_(rows, columns)],
    )


def _most_frequent(values: Sequence[Value], most: int) -> list[Value]:
    counts = Counter(values)
    return sorted(counts, key=lambda value: (-counts[value], str(value)))[:most]
