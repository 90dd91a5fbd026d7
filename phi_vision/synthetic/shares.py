"""Shares: how often which value occurs, naming only what enough groups have in common.

This is where a profile becomes k-anonymous (Sweeney 2002): every count that leaves a dataset goes
through a `Tally`, and what fewer than `FEWEST` groups share is counted without being named.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from phi_vision.data.samples import Value

FEWEST = 5
"""Groups that must share a value before a profile may name it. Five is a usual least for tables
that are given away; a dataset of a few hundred groups still keeps its categories with it."""


class Rare(Enum):
    """What is drawn in the place of a value that may not be named."""

    RARE = "rare"


RARE = Rare.RARE
Drawn = Value | Rare


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How often which value occurs.

    Attributes:
        named: (value, times) of what at least `FEWEST` groups share, the most frequent first.
        rest: times of everything else together.
        rest_values: how many different values that is.
    """

    named: tuple[tuple[Value, int], ...]
    rest: int = 0
    rest_values: int = 0

    @property
    def total(self) -> int:
        """How many times in all."""
        return sum(times for _, times in self.named) + self.rest

    @property
    def values(self) -> tuple[Value, ...]:
        """The named values."""
        return tuple(value for value, _ in self.named)

    def draw(self, rng: random.Random, without: Iterable[Value] = ()) -> Drawn:
        """Draw a value as often as it occurs, or RARE where it may not be named.

        Args:
            rng: where chance comes from.
            without: values that are not to be drawn, if there is anything else.
        """
        out = set(without)
        choices = [(value, times) for value, times in self.named if value not in out]
        place = rng.random() * (sum(times for _, times in choices) + self.rest)
        for value, times in choices:
            place -= times
            if place < 0:
                return value
        return RARE

    @staticmethod
    def load(data: Mapping[str, Any]) -> "Shares":
        """Build from what `dataclasses.asdict` and JSON made of it."""
        named = tuple((value, times) for value, times in data["named"])
        return Shares(named=named, rest=data["rest"], rest_values=data["rest_values"])


class Tally:
    """Counts values together with the groups that have them."""

    def __init__(self) -> None:
        self._times: dict[Value, int] = {}
        self._groups: dict[Value, set[int]] = {}

    def add(self, value: Value, group: int) -> None:
        """Count a value that was seen in a group."""
        self._times[value] = self._times.get(value, 0) + 1
        groups = self._groups.setdefault(value, set())
        if len(groups) < FEWEST:
            groups.add(group)

    def shares(self) -> Shares:
        """Tell what was counted.

        Input:  Tees in 9 groups (30 times), Vests in 5 (7 times), Belts in 2 (4 times)
        Output: Shares(named=(("Tees", 30), ("Vests", 7)), rest=4, rest_values=1)
        """
        named = [(v, times) for v, times in self._times.items() if len(self._groups[v]) >= FEWEST]
        named.sort(key=lambda pair: (-pair[1], str(pair[0])))
        return Shares(
            named=tuple(named),
            rest=sum(self._times.values()) - sum(times for _, times in named),
            rest_values=len(self._times) - len(named),
        )


def tally(pairs: Iterable[tuple[Value, int]]) -> Shares:
    """Count (value, group) pairs."""
    counts = Tally()
    for value, group in pairs:
        counts.add(value, group)
    return counts.shares()
