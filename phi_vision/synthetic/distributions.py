"""Distributions of the values and numbers of a column.

This is where a profile becomes k-anonymous (Sweeney 2002): a value that fewer than `MIN_GROUPS`
groups share is counted without its name, a number only through means over several groups
(microaggregation, Domingo-Ferrer & Mateo-Sanz 2002).
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from statistics import fmean

from phi_vision.data.samples import Value

MIN_GROUPS = 5
"""Groups that must share a value before a profile may name it: a usual minimum for published
tables, with which a dataset of a few hundred groups still keeps its categories."""

_MAX_MEANS = 40  # more would not show in a drawn dataset, and each reveals something
_MAX_SHIFT = 0.05  # fraction by which an ending may move a price: it keeps its place


class Rare(Enum):
    """Stands for a value that may not be named."""

    RARE = "rare"


RARE = Rare.RARE


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """How often which value occurs."""

    named: tuple[tuple[Value, int], ...] = ()  # that enough groups share, the commonest first
    rest: int = 0  # count of all others together
    rest_values: int = 0  # number of different others

    @property
    def values(self) -> tuple[Value, ...]:
        """The named values."""
        return tuple(value for value, _ in self.named)

    def draw(self, rng: random.Random, without: Iterable[Value] = ()) -> Value | Rare:
        """Draw a value by its frequency, RARE for the others; none of `without`."""
        excluded = set(without)
        values = [*(value for value, _ in self.named), RARE]
        counts = [0 if value in excluded else n for value, n in self.named]
        return rng.choices(values, [*counts, self.rest])[0] if any(counts) or self.rest else RARE


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


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How the numbers of a column are distributed."""

    points: Frequencies  # numbers that enough groups share, such as 98.0
    means: tuple[float, ...]  # of the others in order of size, each over at least MIN_GROUPS groups
    endings: Mapping[str, Frequencies]  # period -> remainders: {"10": 8.0 mostly} for 48.0, 98.0
    decimals: int  # the most digits after the point

    def draw(self, rng: random.Random) -> float:
        """Draw a number from the distribution."""
        point = self.points.draw(rng)
        if isinstance(point, int | float):
            return float(point)
        place = rng.random() * (len(self.means) - 1)
        low, high = self.means[math.floor(place)], self.means[math.ceil(place)]
        return self.snap(low + (place % 1) * (high - low), rng)

    def snap(self, amount: float, rng: random.Random) -> float:
        """Move a number to the nearest one with a real ending, where that is near enough."""
        amount, near = round(amount, self.decimals), {}
        period = _period(amount)
        for ending, n in self.endings.get(str(period), Frequencies()).named:
            assert isinstance(ending, float)
            moved = round(round((amount - ending) / period) * period + ending, self.decimals)
            if moved > 0 and abs(moved - amount) <= _MAX_SHIFT * amount:
                near[moved] = n
        return rng.choices(list(near), list(near.values()))[0] if near else amount


def measure_amounts(
    numbers: Sequence[tuple[float, int]], *, endings: bool = True
) -> Amounts | None:
    """Measure (number, group) pairs; None where there are too few groups.

    Input:  98.0 in 6 groups, and 21.0, 25.0, 27.0, 30.0, 31.0, 34.0 in one group each
    Output: points 98.0 (6 times) and 6 others, means (28.0,), endings {"10": …}, decimals 0
    """
    points = count(numbers)
    means = _means(sorted(pair for pair in numbers if pair[0] not in points.values))
    if not points.named and not means:
        return None
    ends = [(str(_period(n)), round(n % _period(n), 4), g) for n, g in numbers if n > 0]
    return Amounts(
        # Without means the others cannot be drawn, and are left out.
        points=points if means else replace(points, rest=0, rest_values=0),
        means=means,
        endings=count_by(ends if endings else ()),
        decimals=max(len(f"{n:.4f}".rstrip("0").partition(".")[2]) for n, _ in numbers),
    )


def _means(numbers: Sequence[tuple[float, int]]) -> tuple[float, ...]:
    """Cut sorted numbers into runs of at least `MIN_GROUPS` groups and average each."""
    least = max(MIN_GROUPS, math.ceil(len({group for _, group in numbers}) / _MAX_MEANS))
    runs: list[list[float]] = [[]]
    groups: set[int] = set()
    for number, group in numbers:
        runs[-1].append(number)
        groups.add(group)
        if len(groups) == least:
            runs.append([])
            groups = set()
    last = runs.pop()  # too few groups to stand alone
    return tuple(round(fmean(run), 4) for run in [*runs[:-1], runs[-1] + last]) if runs else ()


def _period(number: float) -> int:
    """Return the period of endings: 10 up to 999.99, then 100 up to 9999.99, and so on."""
    return int(10 ** max(1, len(str(int(abs(number)))) - 2))
