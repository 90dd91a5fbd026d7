"""How close drawn data comes to real data, column by column.

The yardstick beside each distance is the distance between two halves of the real data: a drawn
dataset cannot be expected to come nearer than real data does to itself.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from phi_vision.data.samples import Value
from phi_vision.synthetic.column_models import Column, members
from phi_vision.synthetic.profile import Profile
from phi_vision.synthetic.reading import Observed, Seen, Shot

Rows = Sequence[Seen]


@dataclass(frozen=True, kw_only=True)
class Distance:
    """One distance between drawn and real data, 0 (the same) to 1 (nothing in common).

    Attributes:
        column: what was compared.
        measure: how, in words.
        distance: between drawn and real data.
        yardstick: between two halves of the real data.
    """

    column: str
    measure: str
    distance: float
    yardstick: float


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What was looked for in the drawn data, and not found.

    Attributes:
        real_values: column -> how many different real values were looked for.
        real_images: how many different real images were looked for, by bytes and by look.
        redrawn: images that were drawn again because one of them resembled a real one.
        kept_categories: column -> names kept because enough groups share them.
        invented_categories: column -> how many names were rarer, and made up anew.
    """

    real_values: Mapping[str, int]
    real_images: int
    redrawn: int
    kept_categories: Mapping[str, int]
    invented_categories: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """How close a drawn dataset is to a real one, and that it gives nothing of it away.

    Attributes:
        rows: drawn.
        distances: none where only a profile was at hand.
        privacy: None where only a profile was at hand; it names nothing that could appear.
        empty: columns that cannot be resembled and were left empty.
    """

    rows: int
    distances: tuple[Distance, ...]
    privacy: Privacy | None
    empty: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Write the report."""
        parts = [_HEAD.format(rows=self.rows)]
        if self.distances:
            lines = [
                f"| {d.column} | {d.measure} | {d.distance:.3f} | {d.yardstick:.3f} |"
                for d in self.distances
            ]
            parts.append("\n".join([_TABLE, *lines]))
        else:
            parts.append(_FROM_PROFILE)
        if self.empty:
            parts.append(f"Left empty, as nothing can be drawn for them: {', '.join(self.empty)}.")
        if self.privacy:
            parts.append(_privacy(self.privacy))
        return "\n\n".join(parts) + "\n"


def measure_closeness(real: Observed, drawn: Observed, profile: Profile) -> list[Distance]:
    """Compare drawn with real data, column by column."""
    halves = [[row for row in real.rows if row.group % 2 == side] for side in (0, 1)]
    found = []
    for column, measure, compare in _comparisons(profile):
        distance = compare(real.rows, drawn.rows)
        yardstick = compare(halves[0], halves[1])
        found.append(
            Distance(
                column=column,
                measure=measure,
                distance=round(distance, 4),
                yardstick=round(yardstick, 4),
            )
        )
    return found


def total_variation(one: Iterable[Value], other: Iterable[Value]) -> float:
    """Half the sum of differences of shares.

    Input:  a a b b, a b b b
    Output: 0.25
    """
    left, right = Counter(one), Counter(other)
    if not left or not right:
        return float(bool(left) != bool(right))
    values = set(left) | set(right)
    sums = left.total(), right.total()
    return sum(abs(left[value] / sums[0] - right[value] / sums[1]) for value in values) / 2


def kolmogorov_smirnov(one: Iterable[float], other: Iterable[float]) -> float:
    """The largest difference between the shares of numbers up to any limit.

    Input:  1 2 3 4, 3 4 5 6
    Output: 0.5
    """
    left, right = sorted(one), sorted(other)
    if not left or not right:
        return float(bool(left) != bool(right))
    return max(
        abs(bisect_right(left, limit) / len(left) - bisect_right(right, limit) / len(right))
        for limit in set(left) | set(right)
    )


T = TypeVar("T")
Compare = Callable[[Rows, Rows], float]


def _comparisons(profile: Profile) -> Iterator[tuple[str, str, Compare]]:
    yield "split", "shares of rows", _by(total_variation, lambda rows: [r.split for r in rows])
    yield "rows in a group", "numbers", _by(kolmogorov_smirnov, _group_sizes)
    for node in profile.network:
        named = set(node.shares.values)
        yield node.column, "shares of values", _categories([node.column], [named])
    for node in profile.network:
        if node.parent:
            above = next(each for each in profile.network if each.column == node.parent)
            pair = [node.parent, node.column]
            both = [set(above.shares.values), set(node.shares.values)]
            yield " and ".join(pair), "shares of pairs", _categories(pair, both)
    for column in profile.columns:
        yield from _of_column(column, profile.leaf)
    if profile.shots:
        yield from _of_images()


def _of_column(column: Column, leaf: str | None) -> Iterator[tuple[str, str, Compare]]:
    name = column.name
    if column.role in ("number", "ratio"):
        yield name, "numbers", _by(kolmogorov_smirnov, lambda rows: _numbers(rows, name))
        if leaf:
            yield name, f"numbers within {leaf}", lambda a, b: _within(a, b, name, leaf)
    if column.role in ("text", "code"):
        lengths = _by(kolmogorov_smirnov, lambda rows: [float(len(t)) for t in _texts(rows, name)])
        yield name, "number of characters", lengths
    if column.role == "text":
        counts = _by(
            kolmogorov_smirnov, lambda rows: [float(len(t.split())) for t in _texts(rows, name)]
        )
        yield name, "number of words", counts
        yield name, "last words", lambda a, b: _last_words(a, b, name)
    if column.role == "flag":
        yield name, "shares of values", _by(total_variation, lambda rows: _values(rows, name))
    if column.missing or column.blank:
        yield name, "share of missing", _by(total_variation, lambda rows: _gaps(rows, name))


def _of_images() -> Iterator[tuple[str, str, Compare]]:
    facts: dict[str, Callable[[Shot], float]] = {
        "width": lambda shot: shot.width,
        "height": lambda shot: shot.height,
        "aspect": lambda shot: shot.width / shot.height,
        "bytes": lambda shot: shot.size,
    }
    for measure, fact in facts.items():
        yield "image", measure, _by(kolmogorov_smirnov, _shot_facts(fact))
    yield "image", "share of repeated", lambda a, b: abs(_repeated(a) - _repeated(b))


def _by(
    distance: Callable[[Iterable[T], Iterable[T]], float], facts: Callable[[Rows], Sequence[T]]
) -> Compare:
    return lambda one, other: distance(facts(one), facts(other))


def _shot_facts(fact: Callable[[Shot], float]) -> Callable[[Rows], list[float]]:
    return lambda rows: [fact(shot) for row in rows for shot in row.shots]


def _group_sizes(rows: Rows) -> list[float]:
    return [float(len(group)) for group in members(rows)]


def _categories(columns: Sequence[str], named: Sequence[set[Value]]) -> Compare:
    """Compare shares of named values; all rare ones count as one, as their names differ."""

    def say(row: Seen) -> str:
        values = [row.record.get(column) for column in columns]
        pairs = zip(values, named, strict=True)
        return " | ".join(repr(value) if value in known else "(rare)" for value, known in pairs)

    return lambda one, other: total_variation(map(say, one), map(say, other))


def _numbers(rows: Rows, column: str) -> list[float]:
    values = [row.record.get(column) for row in rows]
    return [float(value) for value in values if isinstance(value, int | float)]


def _within(one: Rows, other: Rows, column: str, leaf: str) -> float:
    """The mean over categories, each weighted by its rows, of the distance of numbers in it."""
    parts: dict[Value, tuple[list[float], list[float]]] = {}
    for side, rows in enumerate((one, other)):
        for row in rows:
            value = row.record.get(column)
            if isinstance(value, int | float):
                parts.setdefault(row.record.get(leaf), ([], []))[side].append(float(value))
    both = [sides for sides in parts.values() if all(sides)]
    weights = [len(left) + len(right) for left, right in both]
    if not both:
        return 1.0
    distances = [kolmogorov_smirnov(left, right) for left, right in both]
    return sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)


def _texts(rows: Rows, column: str) -> list[str]:
    values = [row.record.get(column) for row in rows]
    return [str(value) for value in values if value not in (None, "")]


def _last_words(one: Rows, other: Rows, column: str) -> float:
    """Compare how titles end; words of one side only count as one, as rare words are made up."""
    sides = [
        [text.split()[-1] for text in _texts(rows, column) if text.split()] for rows in (one, other)
    ]
    common = set(sides[0]) & set(sides[1])
    left, right = ([word if word in common else "" for word in side] for side in sides)
    return total_variation(left, right)


def _values(rows: Rows, column: str) -> list[Value]:
    return [row.record.get(column) for row in rows]


def _gaps(rows: Rows, column: str) -> list[Value]:
    return [value in (None, "") for value in _values(rows, column)]


def _repeated(rows: Rows) -> float:
    digests = [shot.digest for row in rows for shot in row.shots]
    return 1 - len(set(digests)) / max(1, len(digests))


def _privacy(privacy: Privacy) -> str:
    values = ", ".join(f"{count} of {column}" for column, count in privacy.real_values.items())
    kept = ", ".join(f"{count} of {column}" for column, count in privacy.kept_categories.items())
    rare = privacy.invented_categories.items()
    made = ", ".join(f"{count} of {column}" for column, count in rare if count) or "none"
    return _PRIVACY.format(privacy=privacy, values=values or "none", kept=kept or "none", made=made)


_HEAD = """# How close the drawn data is

{rows} rows were drawn after the profile of a real dataset. A distance is 0 where two sets are
alike and 1 where they have nothing in common: total variation for shares, Kolmogorov-Smirnov for
numbers. The yardstick is the distance between two halves of the real data, groups kept whole."""

_TABLE = """| column | compared | distance | yardstick |
|---|---|---|---|"""

_FROM_PROFILE = (
    "No distances and no privacy check: only a profile was at hand, which holds no real title, "
    "code, link or image, but cannot tell either whether a made-up one happens to exist."
)

_PRIVACY = """## Privacy

Found in the drawn data: **0** real values of {values}; **0** of {privacy.real_images} real
images, by their bytes and by their look ({privacy.redrawn} were drawn again because their look
came within two bits of a real one).

Category names are structure, not records. Those that at least five groups share are kept ({kept});
rarer ones were made up anew ({made}). Words of titles and parts of codes are kept by the same rule;
links point to example.com."""
