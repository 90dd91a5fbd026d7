"""Fidelity of drawn data: distances from the real data, column by column, and the privacy check.

Beside each distance stands the one between two halves of the real data: no drawn dataset can be
expected to come closer than real data does to itself.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phi_vision.data.samples import Value
from phi_vision.synthetic import compound_values, marked_columns, observation
from phi_vision.synthetic.column_models import RARE, Column
from phi_vision.synthetic.observation import Observation, ObservedRow, RealValues, failure
from phi_vision.synthetic.profile import ROWS, Profile


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


def measure(
    data: Observation | None,
    folder: Path,
    profile: Profile,
    real: RealValues,
    *,
    rows: int,
    redrawn: int,
) -> Fidelity:
    """Read the written data back, check that nothing in it is real, and compare it."""
    empty = tuple(column.name for column in profile.columns if column.role == "empty")
    if data is None:
        return Fidelity(rows=rows, distances=(), privacy=None, empty=empty)
    drawn = observation.observe(folder, lambda row: check_row(row, profile, real))
    categories = {column.name: column.overall for column in profile.categories()}
    privacy = PrivacyReport(
        real_values={name: len(real.hashes[name]) for name in profile.private_columns()},
        real_images=len(real.hashes["(images)"]),
        redrawn=redrawn,
        kept_categories={name: len(each.named) for name, each in categories.items()},
        invented_categories={name: each.rest_values for name, each in categories.items()},
    )
    halves = [[row for row in data.rows if row.group % 2 == side] for side in (0, 1)]
    found, usual = compare(profile, data.rows, drawn.rows), compare(profile, *halves)
    distances = tuple(
        # Halves without gaps have no distance of gaps.
        Distance(column=key[0], measure=key[1], distance=each, reference=usual.get(key, 0.0))
        for key, each in found.items()
    )
    return Fidelity(rows=rows, distances=distances, privacy=privacy, empty=empty)


def check_row(row: ObservedRow, profile: Profile, real: RealValues) -> None:
    """Check that no title, text, code, link, file name, rare category or image of a row is real."""
    private = profile.private_columns()
    texts = [(name, row.record.get(name), private) for name in private]
    texts += [(observation.PATH, image.path, private) for image in row.images]
    for column in profile.categories():
        value = row.record.get(column.name)
        if column.separator and value and value not in column.overall.values:
            among = [observation.parts_of(column.name)]
            unnamed = compound_values.unnamed_parts(column, str(value))
            texts += [(column.name, part, among) for part in unnamed]
        elif value not in column.overall.values:
            texts.append((column.name, value, [column.name]))
    found = [name for name, text, among in texts if text and real.contains_text(text, among)]
    if any(map(real.contains_image, row.images)):
        found.append("image")
    if found:
        raise failure("not_private", columns=", ".join(found))


def total_variation(one: Iterable[Hashable], other: Iterable[Hashable]) -> float:
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


def _word_variation(one: Sequence[str], other: Sequence[str]) -> float:
    """Compare words; those of one side only count as one: they may be invented."""
    common = {*one} & {*other}
    return total_variation(*([word if word in common else "" for word in w] for w in (one, other)))


MEASURES: dict[str, list[tuple[str, Callable[..., float], Callable[[Any], Any]]]] = {
    "number": [("numbers", kolmogorov_smirnov, float)],
    "marked": [
        ("frequencies of marks", total_variation, lambda value: marked_columns.split(value)[1]),
        ("numbers", kolmogorov_smirnov, lambda value: marked_columns.split(value)[0]),
    ],
    "flag": [("frequencies", total_variation, bool)],
    "code": [("number of characters", kolmogorov_smirnov, lambda value: len(str(value)))],
    "text": [
        ("number of characters", kolmogorov_smirnov, len),
        ("number of words", kolmogorov_smirnov, lambda text: len(text.split())),
        ("last words", _word_variation, lambda text: (text.split() or [""])[-1]),
    ],
    "image": [
        ("width", kolmogorov_smirnov, lambda image: image.width),
        ("height", kolmogorov_smirnov, lambda image: image.height),
        ("aspect", kolmogorov_smirnov, lambda image: image.width / image.height),
        ("bytes", kolmogorov_smirnov, lambda image: image.size),
    ],
}
"""Role of a column, or image -> what is compared: property, distance, and fact of a value."""


def compare(profile: Profile, *sides: Sequence[ObservedRow]) -> dict[tuple[str, str], float]:
    """Measure the distances of two sets of rows: (column, property) -> distance."""
    sizes = (list(Counter(row.group for row in rows).values()) for rows in sides)
    found = {
        ("split", "frequencies"): total_variation(*([row.split for row in r] for r in sides)),
        (ROWS, "numbers"): kolmogorov_smirnov(*sizes),
    }
    categories = {column.name: column for column in profile.categories()}
    for name, column in categories.items():
        found[name, "frequencies"] = total_variation(*(_names(rows, column) for rows in sides))
        if column.separator:
            found |= _compare_parts(column, *sides)
        if parent := categories.get(column.parent or ""):
            pairs = (zip(_names(rows, parent), _names(rows, column), strict=True) for rows in sides)
            found[f"{parent.name} and {name}", "frequencies of pairs"] = total_variation(*pairs)
    for column in profile.columns:
        name = column.name
        if name in (ROWS, *observation.IMAGE_FIELDS):
            continue
        cells = [[row.record.get(name) for row in rows] for rows in sides]
        for measure, distance, fact in MEASURES.get(column.role, []):
            facts = ([fact(cell) for cell in side if cell not in (None, "")] for side in cells)
            found[name, measure] = distance(*facts)
        if column.role == "number" and column.parent:
            found[name, f"numbers within {column.parent}"] = _within(column, *sides)
        gaps = [[cell in (None, "") for cell in side] for side in cells]
        if column.role in MEASURES and any(map(any, gaps)):
            found[name, "fraction of missing"] = total_variation(*gaps)
    images = [[image for row in rows for image in row.images] for rows in sides]
    if images[0]:
        for measure, distance, fact in MEASURES["image"]:
            found["image", measure] = distance(*(list(map(fact, side)) for side in images))
        repeated = [1 - len({i.digest for i in side}) / max(1, len(side)) for side in images]
        found["image", "fraction of repeated"] = abs(repeated[0] - repeated[1])
    return {key: round(distance, 4) for key, distance in found.items()}


def _compare_parts(column: Column, *sides: Sequence[ObservedRow]) -> dict[tuple[str, str], float]:
    """Compare lists by their items, paths by their levels, each with those above it."""
    cells = [[str(v) for row in rows if (v := row.record.get(column.name))] for rows in sides]
    lengths = ([cell.count(column.separator) + 1 for cell in side] for side in cells)
    parts = [[compound_values.nodes_of(column, cell) for cell in side] for side in cells]
    words = "levels" if compound_values.is_path(column) else "items"
    return {
        (column.name, f"number of {words}"): kolmogorov_smirnov(*lengths),
        (column.name, words): _word_variation(*([n for p in side for n in p] for side in parts)),
    }


def _names(rows: Sequence[ObservedRow], column: Column) -> list[Value]:
    """List categories; all rare ones count as one, as their names differ."""
    known = set(column.overall.values)
    return [v if (v := row.record.get(column.name)) in known else RARE for row in rows]


def _within(column: Column, *sides: Sequence[ObservedRow]) -> float:
    """Average the distance of numbers within a category, each weighted by its rows."""
    numbers: defaultdict[Value, tuple[list[Any], list[Any]]] = defaultdict(lambda: ([], []))
    for place, rows in enumerate(sides):
        for row in rows:
            if (number := row.record.get(column.name)) is not None:
                numbers[row.record.get(column.parent or "")][place].append(number)
    both = [pair for pair in numbers.values() if all(pair)]
    if not both:
        return 1.0
    weights = [len(left) + len(right) for left, right in both]
    return float(np.average([kolmogorov_smirnov(*pair) for pair in both], weights=weights))
