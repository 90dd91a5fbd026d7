"""Tables of the values of a column, by which a profile is k-anonymous (Sweeney 2002).

A value that fewer than `MIN_GROUPS` groups share is counted without its name, a number only in a
mean over several groups (microaggregation, Domingo-Ferrer & Mateo-Sanz 2002).
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, mode
from typing import Literal

import numpy as np

from phi_vision.data.samples import Value

Role = Literal["category", "number", "flag", "text", "code", "empty"]
Facts = Sequence[tuple[Mapping[str, Value], int]]
"""(record, group), one for each group or one for each row."""

MIN_GROUPS = 5
"""Groups that must share a value before a profile may name it: a usual minimum for published
tables, with which a dataset of a few hundred groups still keeps its categories."""

_MAX_MEANS = 40  # more would not show in a drawn dataset, and each reveals something
_MAX_SHIFT = 0.05  # fraction by which an ending may move a price: it keeps its place


RARE = "(rare)"
"""Stands for a value that may not be named."""


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """How often which value occurs."""

    named: tuple[tuple[Value, int], ...] = ()  # that enough groups share
    rest: int = 0  # count of all others together
    rest_values: int = 0  # number of different others

    @property
    def values(self) -> tuple[Value, ...]:
        """The named values."""
        return tuple(value for value, _ in self.named)

    def draw(self, rng: random.Random, without: Iterable[Value] = ()) -> Value:
        """Draw a value by its frequency, RARE for the others; none of `without`."""
        counts = [0 if value in without else n for value, n in self.named]
        total = sum(counts) + self.rest
        return rng.choices([*self.values, RARE], [*counts, self.rest])[0] if total else RARE


def count(pairs: Iterable[tuple[Value, int]]) -> Frequencies:
    """Count (value, group) pairs.

    Input:  Tees in 9 groups (30 times), Vests in 5 (7 times), Belts in 2 (4 times)
    Output: Frequencies(named=(("Tees", 30), ("Vests", 7)), rest=4, rest_values=1)
    """
    times: Counter[Value] = Counter()
    groups: defaultdict[Value, set[int]] = defaultdict(set)
    for value, group in pairs:
        times[value] += 1
        groups[value].add(group)
    named = [(value, n) for value, n in times.items() if len(groups[value]) >= MIN_GROUPS]
    named.sort(key=lambda pair: (-pair[1], str(pair[0])))
    rest = times.total() - sum(n for _, n in named)
    return Frequencies(named=tuple(named), rest=rest, rest_values=len(times) - len(named))


def count_by(triples: Iterable[tuple[str, Value, int]]) -> dict[str, Frequencies]:
    """Count (key, value, group) triples by key; keys without a named value are left out."""
    pairs: defaultdict[str, list[tuple[Value, int]]] = defaultdict(list)
    for key, value, group in triples:
        pairs[key].append((value, group))
    found = {key: count(pairs[key]) for key in sorted(pairs)}
    return {key: frequencies for key, frequencies in found.items() if frequencies.named}


def number(record: Mapping[str, Value], column: str, default: float = math.nan) -> float:
    """Return a cell as a number."""
    cell = record.get(column)
    return float(cell) if isinstance(cell, int | float) else default


def label(record: Mapping[str, Value], column: str | None) -> str:
    """Return a cell as a key of a table."""
    return str(record.get(column or ""))


@dataclass(frozen=True, kw_only=True)
class Column:
    """How the values of a column are drawn."""

    name: str
    role: Role
    level: Literal["group", "row"]  # whether a value belongs to the group or to each row
    missing: float = 0.0  # fraction of null; categories count it as a value
    blank: float = 0.0  # fraction of empty text, likewise
    parent: str | None = None  # the column on which the values depend
    overall: Frequencies = Frequencies()  # of categories, templates, or numbers and means ("~28")
    given: Mapping[str, Frequencies] = field(default_factory=dict)  # the same by value of `parent`
    differs: bool = False  # whether the rows of a group have different categories, as colours do
    of: tuple[str, ...] = ()  # of which column a number is a factor; which two a flag compares
    decimals: int = 0  # the most digits of a number after the point
    endings: Frequencies = Frequencies()  # of numbers, modulo 10: 8.0 mostly for 48.0 and 98.0
    words: Mapping[str, Frequencies] = field(default_factory=dict)
    """Value of `parent` -> words of texts, or shapes of rare ones, where a template has `[]`."""
    repeats: float = 0.0  # fraction of texts that occurred before

    def draw(
        self, rng: random.Random, record: Mapping[str, Value], used: Sequence[Value] = ()
    ) -> Value:
        """Draw a value, template, number or mean that fits the record, and none of `used`."""
        given = self.given.get(label(record, self.parent), Frequencies())
        value = given.draw(rng, used)
        return self.overall.draw(rng, (*used, *given.values)) if value == RARE else value

    def draw_number(self, rng: random.Random, record: Mapping[str, Value]) -> float | None:
        """Draw a number, None where the one that it follows from is missing."""
        base = number(record, self.of[0]) if self.of else 1.0
        amount = self.draw(rng, record)
        if math.isnan(base):
            return None
        if isinstance(amount, str):  # a mean becomes a number between it and one beside it
            table = self.given.get(label(record, self.parent), self.overall)
            means = sorted(float(value[1:]) for value in table.values if isinstance(value, str))
            place = means.index(float(amount[1:]))
            amount = rng.uniform(means[place], rng.choice(means[max(0, place - 1) : place + 2]))
        elif not self.of or amount == self.overall.values[0]:  # the usual factor is exact
            return round(base * float(amount or 0), self.decimals)
        # Moved to the nearest number with a real ending, where that is near enough.
        drawn, near = round(base * float(amount or 0), self.decimals), {}
        for ending, n in self.endings.named:
            turns = round((drawn - float(ending or 0)) / 10)
            moved = round(10 * turns + float(ending or 0), self.decimals)
            if moved > 0 and abs(moved - drawn) <= _MAX_SHIFT * drawn:
                near[moved] = n
        return rng.choices(list(near), list(near.values()))[0] if near else drawn


def measure_amounts(numbers: Sequence[tuple[float, int]]) -> Frequencies:
    """Count numbers that enough groups share, and means over groups of the others.

    Input:  98.0 in 6 groups, and 21.0, 25.0, 27.0, 30.0, 31.0, 34.0 in one group each
    Output: Frequencies(named=((98.0, 6), ("~28", 6)))
    """
    points = count(numbers)
    shared, least = set(points.values), math.ceil(len({g for _, g in numbers}) / _MAX_MEANS)
    runs: list[list[float]] = [[]]
    groups: set[int] = set()
    for number, group in sorted(pair for pair in numbers if pair[0] not in shared):
        runs[-1].append(number)
        groups.add(group)
        if len(groups) >= max(MIN_GROUPS, least):
            runs.append([])
            groups = set()
    *runs, last = runs  # too few groups to stand alone
    runs[-1:] = [runs[-1] + last] if runs else []
    means = [(f"~{fmean(run):.6g}", len(run)) for run in runs]
    return Frequencies(named=(*points.named, *means))


def measure_numbers(column: Column, facts: Facts, earlier: Sequence[str] = ()) -> Column:
    """Measure the numbers of a column, or their factors of one of those measured earlier.

    Input:  full_price 100, 80, 50; price 100, 80, 35
    Output: of ("full_price",), overall 1.0 (2 times) and 0.7
    """
    numbers = np.array([number(record, column.name) for record, _ in facts])
    decimals = max(len(f"{n:.4f}".rstrip("0").partition(".")[2]) for n in numbers)
    best, of, amounts = 0.5, tuple[str, ...](), numbers
    for other in earlier:
        bases = np.array([number(record, other) for record, _ in facts])
        bases[bases <= 0] = np.nan
        factors = numbers / bases
        likely = factors.round(3) == mode(factors.round(3).tolist())
        usual = round(float(np.median(factors[likely])), 6) if likely.any() else 1.0
        exact = np.abs(numbers - bases * usual) <= 0.51 * 10.0**-decimals
        if exact.mean() > best:
            best, of, amounts = exact.mean(), (other,), np.where(exact, usual, factors.round(2))
    known = [(a, fact) for a, fact in zip(amounts.tolist(), facts, strict=True) if a == a]
    by_parent: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for amount, (record, group) in known:
        by_parent[label(record, column.parent)].append((amount, group))
    given = {key: measure_amounts(pairs) for key, pairs in sorted(by_parent.items())}
    ends = [
        (round(n % 10, 4), group)
        for n, (_, group) in zip(numbers.tolist(), facts, strict=True)
        if n > 0
    ]
    return replace(
        column,
        overall=measure_amounts([(amount, group) for amount, (_, group) in known]),
        given={key: table for key, table in given.items() if table.named and not of},
        of=of,
        decimals=decimals,
        endings=count(ends if decimals <= 2 else ()),  # those of prices
    )
