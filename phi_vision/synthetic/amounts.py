"""Amounts: how prices and other numbers lie, without telling any one of them.

A number that enough groups share is kept (a price point such as 98.0); the others are known only
as means of at least `FEWEST` groups (microaggregation, Domingo-Ferrer & Mateo-Sanz 2002), between
which new ones are drawn and given an ending that the shop's prices have.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from phi_vision.synthetic.shares import FEWEST, Shares, tally

_MOST_MEANS = 40
"""More would not show in a drawn dataset, and each makes the profile more telling."""

_MOST_DECIMALS = 4
_SMALL_STEP = 0.05
"""How far an ending may move a price: five per cent keep its place among the others."""


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How the numbers of a column lie.

    Attributes:
        points: numbers that at least `FEWEST` groups share.
        means: means of the others in order of size, each of at least `FEWEST` groups.
        endings: digits before the point -> the last digits: `{"2": 8.0 in most}` for 48.0, 98.0.
        decimals: how many digits after the point they have at most.
    """

    points: Shares
    means: tuple[float, ...]
    endings: Mapping[str, Shares]
    decimals: int

    def draw(self, rng: random.Random) -> float:
        """Draw a number that lies like the others."""
        point = self.points.draw(rng)
        if isinstance(point, int | float):
            return float(point)
        place = rng.random() * (len(self.means) - 1)
        low = math.floor(place)
        high = min(low + 1, len(self.means) - 1)
        amount = self.means[low] + (place - low) * (self.means[high] - self.means[low])
        return self.settle(amount, rng)

    def settle(self, amount: float, rng: random.Random) -> float:
        """Move a number to the nearest one with an ending, where that is near enough."""
        amount = round(amount, self.decimals)
        endings = self.endings.get(_digits(amount))
        if endings is None:
            return amount
        step = _step(amount)
        near = []
        for ending, times in endings.named:
            assert isinstance(ending, float)
            moved = round(round((amount - ending) / step) * step + ending, self.decimals)
            if moved > 0 and abs(moved - amount) <= _SMALL_STEP * amount:
                near.append((moved, times))
        if not near:
            return amount
        return rng.choices([moved for moved, _ in near], [times for _, times in near])[0]

    @staticmethod
    def load(data: Mapping[str, Any]) -> "Amounts":
        """Build from what `dataclasses.asdict` and JSON made of it."""
        return Amounts(
            points=Shares.load(data["points"]),
            means=tuple(data["means"]),
            endings={digits: Shares.load(each) for digits, each in data["endings"].items()},
            decimals=data["decimals"],
        )


def measure_amounts(numbers: Sequence[tuple[float, int]]) -> Amounts | None:
    """Measure (number, group) pairs; None where there are too few groups to tell anything.

    Input:  98.0 in 6 groups, and 21.0, 25.0, 27.0, 30.0, 31.0, 34.0 in one group each
    Output: points 98.0 (6 times) and 6 others, means (28.0,), endings {"2": …}, decimals 0
    """
    points = tally(numbers)
    kept = set(points.values)
    means = _means([pair for pair in numbers if pair[0] not in kept])
    if not kept and not means:
        return None
    if not means:  # then what remains cannot be drawn, and is left out
        points = Shares(named=points.named)
    return Amounts(
        points=points,
        means=means,
        endings=_endings(numbers),
        decimals=max(decimals_of(number) for number, _ in numbers),
    )


def _means(numbers: Iterable[tuple[float, int]]) -> tuple[float, ...]:
    """Cut numbers into runs of at least `FEWEST` groups and take the mean of each."""
    ordered = sorted(numbers)
    groups = len({group for _, group in ordered})
    least = max(FEWEST, math.ceil(groups / _MOST_MEANS))
    runs: list[list[float]] = [[]]
    seen: set[int] = set()
    for number, group in ordered:
        runs[-1].append(number)
        seen.add(group)
        if len(seen) == least:
            runs.append([])
            seen = set()
    if len(runs) == 1:
        return ()
    last = runs.pop()
    runs[-1] += last  # too few groups to stand alone
    return tuple(round(fmean(run), 4) for run in runs)


def _endings(numbers: Iterable[tuple[float, int]]) -> dict[str, Shares]:
    by_digits: dict[str, list[tuple[float, int]]] = {}
    for number, group in numbers:
        if number > 0:
            ending = round(number % _step(number), _MOST_DECIMALS)
            by_digits.setdefault(_digits(number), []).append((ending, group))
    endings = {digits: tally(pairs) for digits, pairs in sorted(by_digits.items())}
    return {digits: shares for digits, shares in endings.items() if shares.named}


def _digits(number: float) -> str:
    return str(len(str(int(abs(number)))))


def _step(number: float) -> float:
    """What an ending repeats after: 10 up to 999.99, then 100 up to 9999.99, and so on."""
    return float(10 ** max(1, len(str(int(abs(number)))) - 2))


def decimals_of(number: float) -> int:
    """Count the digits after the point, four at most.

    Input:  390.0, 12.5, 0.333333
    Output: 0, 1, 4
    """
    places = range(_MOST_DECIMALS)
    return next((n for n in places if math.isclose(round(number, n), number)), _MOST_DECIMALS)
