"""Fidelity of drawn data: distances from the real data, column by column.

Beside each distance stands the one between two halves of the real data: no drawn dataset can be
expected to come closer than real data does to itself.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from phi_vision.data.samples import Value
from phi_vision.synthetic.observation import ImageFacts, Observation, ObservedRow
from phi_vision.synthetic.profile import Column, Profile, group_rows

T = TypeVar("T")
Rows = Sequence[ObservedRow]
Compare = Callable[[Rows, Rows], float]


@dataclass(frozen=True, kw_only=True)
class Distance:
    """One distance between drawn and real data, 0 (equal) to 1 (nothing in common).

    Attributes:
        column: its name.
        measure: the property that is compared.
        distance: between drawn and real data.
        reference: between two halves of the real data.
    """

    column: str
    measure: str
    distance: float
    reference: float


@dataclass(frozen=True, kw_only=True)
class PrivacyReport:
    """The real values that were searched for in the drawn data, and not found.

    Attributes:
        real_values: column -> number of different real values.
        real_images: number of different real images.
        redrawn: images that were drawn again because of their similarity to a real one.
        kept_categories: column -> number of names kept because enough groups share them.
        invented_categories: column -> number of rarer names, which were invented anew.
    """

    real_values: Mapping[str, int]
    real_images: int
    redrawn: int
    kept_categories: Mapping[str, int]
    invented_categories: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How closely a drawn dataset resembles a real one, and that it reveals nothing of it.

    Attributes:
        rows: drawn.
        distances: none where only a profile was available.
        privacy: None where only a profile was available.
        empty: columns that cannot be modelled and were left empty.
    """

    rows: int
    distances: tuple[Distance, ...]
    privacy: PrivacyReport | None
    empty: tuple[str, ...]

    def to_markdown(self) -> str:
        """Return the report."""
        lines = [
            f"| {d.column} | {d.measure} | {d.distance:.3f} | {d.reference:.3f} |"
            for d in self.distances
        ]
        parts = [_HEAD.format(rows=self.rows), "\n".join([_TABLE, *lines]) if lines else _NO_DATA]
        if self.empty:
            parts.append(f"Left empty, as these types cannot be modelled: {', '.join(self.empty)}.")
        if self.privacy:
            parts.append(
                _PRIVACY.format(
                    privacy=self.privacy,
                    values=_join(self.privacy.real_values),
                    kept=_join(self.privacy.kept_categories),
                    invented=_join(self.privacy.invented_categories),
                )
            )
        return "\n\n".join(parts) + "\n"


def measure_distances(
    real: Observation, drawn: Observation, profile: Profile
) -> Iterator[Distance]:
    """Compare drawn with real data, column by column."""
    halves = [[row for row in real.rows if row.group % 2 == side] for side in (0, 1)]
    for column, measure, compare in _comparisons(profile):
        yield Distance(
            column=column,
            measure=measure,
            distance=round(compare(real.rows, drawn.rows), 4),
            reference=round(compare(*halves), 4),
        )


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
        return float(bool(len(left)) != bool(len(right)))
    places = np.concatenate([left, right])
    ranks = [np.searchsorted(side, places, side="right") / len(side) for side in (left, right)]
    return float(np.abs(ranks[0] - ranks[1]).max())


def _comparisons(profile: Profile) -> Iterator[tuple[str, str, Compare]]:
    yield "split", "frequencies", _by(total_variation, lambda rows: [r.split for r in rows])
    sizes = _by(kolmogorov_smirnov, lambda rows: [float(len(g)) for g in group_rows(rows)])
    yield "rows in a group", "numbers", sizes
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
            yield "image", measure, _by(kolmogorov_smirnov, _image_facts(fact))
        yield "image", "fraction of repeated", lambda a, b: abs(_repeated(a) - _repeated(b))


def _column_comparisons(column: Column, leaf: str | None) -> Iterator[tuple[str, str, Compare]]:
    name = column.name
    if column.role in ("number", "ratio"):
        yield name, "numbers", _by(kolmogorov_smirnov, lambda rows: _numbers(rows, name))
        if leaf:
            yield name, f"numbers within {leaf}", lambda a, b: _within(a, b, name, leaf)
    if column.role in ("text", "code"):
        sizes = _by(kolmogorov_smirnov, lambda rows: [float(len(t)) for t in _texts(rows, name)])
        yield name, "number of characters", sizes
    if column.role == "text":
        yield (
            name,
            "number of words",
            _by(
                kolmogorov_smirnov, lambda rows: [float(len(t.split())) for t in _texts(rows, name)]
            ),
        )
        yield name, "last words", lambda a, b: _last_words(a, b, name)
    if column.role == "flag":
        values = _by(total_variation, lambda rows: [row.record.get(name) for row in rows])
        yield name, "frequencies", values
    if column.missing or column.blank:
        gaps = _by(
            total_variation, lambda rows: [row.record.get(name) in (None, "") for row in rows]
        )
        yield name, "fraction of missing", gaps


def _by(
    distance: Callable[[Sequence[T], Sequence[T]], float], facts: Callable[[Rows], Sequence[T]]
) -> Compare:
    return lambda one, other: distance(facts(one), facts(other))


def _image_facts(fact: Callable[[ImageFacts], float]) -> Callable[[Rows], list[float]]:
    return lambda rows: [fact(image) for row in rows for image in row.images]


def _categories(columns: Sequence[str], named: Mapping[str, set[Value]]) -> Compare:
    """Compare frequencies of named values; all rare ones count as one, as their names differ."""

    def labels(rows: Rows) -> list[str]:
        cells = [[(row.record.get(column), column) for column in columns] for row in rows]
        return [str([v if v in named[c] else ("rare",) for v, c in pairs]) for pairs in cells]

    return _by(total_variation, labels)


def _numbers(rows: Rows, column: str) -> list[float]:
    values = [row.record.get(column) for row in rows]
    return [float(value) for value in values if isinstance(value, int | float)]


def _within(one: Rows, other: Rows, column: str, leaf: str) -> float:
    """Average the distance of numbers within a category, each weighted by its rows."""
    sides: list[dict[Value, list[ObservedRow]]] = [{}, {}]
    for side, rows in zip(sides, (one, other), strict=True):
        for row in rows:
            side.setdefault(row.record.get(leaf), []).append(row)
    total = weight = 0.0
    for category in sides[0]:
        left, right = (_numbers(side.get(category, []), column) for side in sides)
        if left and right:
            weight += len(left) + len(right)
            total += (len(left) + len(right)) * kolmogorov_smirnov(left, right)
    return total / weight if weight else 1.0


def _texts(rows: Rows, column: str) -> list[str]:
    values = [row.record.get(column) for row in rows]
    return [str(value) for value in values if value not in (None, "")]


def _last_words(one: Rows, other: Rows, column: str) -> float:
    """Compare the ends of titles; words of one side only count as one: they may be invented."""
    sides = [[t.split()[-1] for t in _texts(rows, column) if t.split()] for rows in (one, other)]
    common = set(sides[0]) & set(sides[1])
    left, right = ([word if word in common else "" for word in side] for side in sides)
    return total_variation(left, right)


def _repeated(rows: Rows) -> float:
    digests = [image.digest for row in rows for image in row.images]
    return 1 - len(set(digests)) / max(1, len(digests))


def _join(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} of {column}" for column, n in counts.items() if n) or "none"


_HEAD = """# Fidelity of the drawn data

{rows} rows were drawn after the profile of a real dataset. A distance is 0 where two sets are
equal and 1 where they have nothing in common: total variation for frequencies, Kolmogorov-Smirnov
for numbers. The reference is the distance between two halves of the real data, groups kept
whole."""

_TABLE = """| column | compared | distance | reference |
|---|---|---|---|"""

_NO_DATA = (
    "No distances and no privacy check: only a profile was available. It contains no real title, "
    "code, link or image, but an invented one may exist by chance."
)

_PRIVACY = """## Privacy

Found in the drawn data: **0** real values of {values}; **0** of {privacy.real_images} real
images, by their bytes and by their perceptual hash ({privacy.redrawn} were drawn again because of
their similarity to a real one).

Category names are structure, not records. Those that at least five groups share are kept ({kept});
rarer ones were invented anew ({invented}). Words of titles and parts of codes are kept by the same
rule; links point to example.com."""
