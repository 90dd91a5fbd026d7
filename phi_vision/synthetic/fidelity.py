"""Fidelity of drawn data: distances from the real data, column by column.

Beside each distance stands the one between two halves of the real data: no drawn dataset can be
expected to come closer than real data does to itself.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from phi_vision.data.samples import Value
from phi_vision.synthetic.observation import ImageFacts, Observation, ObservedRow
from phi_vision.synthetic.profile import ColumnProfile, Profile, group_rows

Rows = Sequence[ObservedRow]
Compare = Callable[[Rows, Rows], float]


@dataclass(frozen=True, kw_only=True)
class Distance:
    """One distance between drawn and real data, 0 (equal) to 1 (nothing in common)."""

    column: str
    measure: str  # the property that is compared
    distance: float
    reference: float  # between two halves of the real data


@dataclass(frozen=True, kw_only=True)
class PrivacyReport:
    """The real values that were searched for in the drawn data, and not found."""

    real_values: Mapping[str, int]  # column -> number of different real values
    real_images: int
    redrawn: int  # images that were drawn again because of their similarity to a real one
    kept_categories: Mapping[str, int]  # column -> number of names that enough groups share
    invented_categories: Mapping[str, int]  # column -> number of rarer names, invented anew


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How closely a drawn dataset resembles a real one, and that it reveals nothing of it."""

    rows: int
    distances: tuple[Distance, ...]  # none where only a profile was available
    privacy: PrivacyReport | None  # None where only a profile was available
    empty: tuple[str, ...]  # columns that cannot be modelled and were left empty


def measure_distances(real: Observation, drawn: Observation, profile: Profile) -> list[Distance]:
    """Compare drawn with real data, column by column."""
    halves = [[row for row in real.rows if row.group % 2 == side] for side in (0, 1)]
    return [
        Distance(
            column=column,
            measure=measure,
            distance=round(compare(real.rows, drawn.rows), 4),
            reference=round(compare(*halves), 4),
        )
        for column, measure, compare in _comparisons(profile)
    ]


def total_variation(one: Iterable[Value], other: Iterable[Value]) -> float:
    """Return half the sum of differences of frequencies.

    Input:  a a b b, a b b b
    Output: 0.25
    """
    left, right = Counter(one), Counter(other)
    if not left or not right:
        return float(bool(left) != bool(right))
    sums = left.total(), right.total()
    return sum(abs(left[v] / sums[0] - right[v] / sums[1]) for v in left | right) / 2


def kolmogorov_smirnov(one: Iterable[float], other: Iterable[float]) -> float:
    """Return the largest difference of the cumulative distributions.

    Input:  1 2 3 4, 3 4 5 6
    Output: 0.5
    """
    left, right = np.sort(list(one)), np.sort(list(other))
    if not len(left) or not len(right):
        return float(len(left) != len(right))
    places = np.concatenate([left, right])
    ranks = [np.searchsorted(side, places, side="right") / len(side) for side in (left, right)]
    return float(np.abs(ranks[0] - ranks[1]).max())


def _comparisons(profile: Profile) -> Iterator[tuple[str, str, Compare]]:
    yield "split", "frequencies", _by(total_variation, lambda row: [row.split])
    yield "rows in a group", "numbers", lambda a, b: kolmogorov_smirnov(_sizes(a), _sizes(b))
    named = {node.column: set(node.frequencies.values) for node in profile.network}
    for column in named:
        yield column, "frequencies", _categories([column], named)
    for node in profile.network:
        if node.parent:
            pair = [node.parent, node.column]
            yield " and ".join(pair), "frequencies of pairs", _categories(pair, named)
    for described in profile.columns:
        yield from _column_comparisons(described, profile.leaf)
    if profile.images:
        facts: dict[str, Callable[[ImageFacts], float]] = {
            "width": lambda image: image.width,
            "height": lambda image: image.height,
            "aspect": lambda image: image.width / image.height,
            "bytes": lambda image: image.size,
        }
        for measure, fact in facts.items():
            yield "image", measure, _by(kolmogorov_smirnov, partial(_image_facts, fact))
        yield "image", "fraction of repeated", lambda a, b: abs(_repeated(a) - _repeated(b))


def _column_comparisons(
    column: ColumnProfile, leaf: str | None
) -> Iterator[tuple[str, str, Compare]]:
    name = column.name
    if column.role in ("number", "ratio"):
        yield name, "numbers", _by(kolmogorov_smirnov, lambda row: _numbers(row, name))
        if leaf:
            yield name, f"numbers within {leaf}", lambda a, b: _within(a, b, name, leaf)
    if column.role in ("text", "code"):
        lengths = _by(kolmogorov_smirnov, lambda row: [len(text) for text in _texts(row, name)])
        yield name, "number of characters", lengths
    if column.role == "text":
        words = _by(kolmogorov_smirnov, lambda row: [len(t.split()) for t in _texts(row, name)])
        yield name, "number of words", words
        yield name, "last words", lambda a, b: _last_words(a, b, name)
    if column.role == "flag":
        yield name, "frequencies", _by(total_variation, lambda row: [row.record.get(name)])
    if column.missing or column.blank:
        gaps = _by(total_variation, lambda row: [row.record.get(name) in (None, "")])
        yield name, "fraction of missing", gaps


def _by(
    distance: Callable[[Iterable[Any], Iterable[Any]], float],
    facts: Callable[[ObservedRow], Iterable[Value]],
) -> Compare:
    """Compare all facts of the rows on either side."""
    return lambda a, b: distance(
        *([fact for row in side for fact in facts(row)] for side in (a, b))
    )


def _categories(columns: Sequence[str], named: Mapping[str, set[Value]]) -> Compare:
    """Compare frequencies of named values; all rare ones count as one, as their names differ."""

    def label(row: ObservedRow) -> list[Value]:
        cells = [(row.record.get(column), named[column]) for column in columns]
        return [repr([value if value in known else ("rare",) for value, known in cells])]

    return _by(total_variation, label)


def _sizes(rows: Rows) -> list[int]:
    return [len(group) for group in group_rows(rows)]


def _image_facts(fact: Callable[[ImageFacts], float], row: ObservedRow) -> list[float]:
    return [fact(image) for image in row.images]


def _numbers(row: ObservedRow, column: str) -> list[Value]:
    value = row.record.get(column)
    return [value] if isinstance(value, int | float) else []


def _texts(row: ObservedRow, column: str) -> list[str]:
    value = row.record.get(column)
    return [] if value in (None, "") else [str(value)]


def _within(one: Rows, other: Rows, column: str, leaf: str) -> float:
    """Average the distance of numbers within a category, each weighted by its rows."""
    categories: dict[Value, tuple[list[Any], list[Any]]] = {}
    for side, rows in enumerate((one, other)):
        for row in rows:
            sides = categories.setdefault(row.record.get(leaf), ([], []))
            sides[side].extend(_numbers(row, column))
    both = [(left, right) for left, right in categories.values() if left and right]
    if not both:
        return 1.0
    distances = [kolmogorov_smirnov(left, right) for left, right in both]
    return float(np.average(distances, weights=[len(left) + len(right) for left, right in both]))


def _last_words(one: Rows, other: Rows, column: str) -> float:
    """Compare the ends of titles; words of one side only count as one: they may be invented."""
    left, right = (
        [text.split()[-1] for row in rows for text in _texts(row, column) if text.split()]
        for rows in (one, other)
    )
    common = set(left) & set(right)
    plain = ([word if word in common else "" for word in side] for side in (left, right))
    return total_variation(*plain)


def _repeated(rows: Rows) -> float:
    digests = [image.digest for row in rows for image in row.images]
    return 1 - len(set(digests)) / max(1, len(digests))
