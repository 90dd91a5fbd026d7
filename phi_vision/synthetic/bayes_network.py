"""Categories that belong together: which columns nest into which, and how often values meet.

A Bayesian network in the form of a tree (Chow & Liu 1968): each column hangs on the one that says
most about it, so `Dresses` brings `WOMEN` along. Category names are structure, not records: those
that enough groups share are kept, the others are only counted.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi_vision.data.samples import Value
from phi_vision.synthetic.shares import RARE, Drawn, Shares, tally

_NESTED = 0.99
"""Share of the groups in which the finer value must imply the coarser one. A catalog's tree has
slips; one in a hundred does not make it another tree."""

Facts = Sequence[tuple[Mapping[str, Value], int]]
"""(record, group), one for each group or one for each row."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One column of categories.

    Attributes:
        column: its name.
        parent: the column it hangs on; None where no other says anything about it.
        shares: how often its values occur.
        given: (value of the parent, shares among those) where enough groups have both.
        nests_in: the coarser column of which each value has one: `Dresses` is always `WOMEN`.
        differs: whether the rows of a group have different values, as colours of a style have.
    """

    column: str
    parent: str | None
    shares: Shares
    given: tuple[tuple[Value, Shares], ...]
    nests_in: str | None
    differs: bool

    def draw(
        self, rng: random.Random, drawn: Mapping[str, Drawn], used: Sequence[Value] = ()
    ) -> Drawn:
        """Draw a value that goes with what was drawn before.

        Args:
            rng: where chance comes from.
            drawn: values of the other columns, the parent's among them.
            used: values that other rows of the group have, where rows of a group differ.
        """
        shares = self._among(drawn)
        if shares is None:
            return self.shares.draw(rng, without=used)
        value = shares.draw(rng, without=used)
        if value is RARE:
            return self.shares.draw(rng, without=(*used, *shares.values))
        return value

    def _among(self, drawn: Mapping[str, Drawn]) -> Shares | None:
        if self.parent is None or drawn[self.parent] is RARE:
            return None
        return next((shares for value, shares in self.given if value == drawn[self.parent]), None)

    @staticmethod
    def load(data: Mapping[str, Any]) -> "Node":
        """Build from what `dataclasses.asdict` and JSON made of it."""
        given = tuple((value, Shares.load(shares)) for value, shares in data["given"])
        return Node(**{**data, "shares": Shares.load(data["shares"]), "given": given})


def build_network(
    columns: Sequence[str], facts: Facts, *, above: Sequence[str] = (), differing: Sequence[str]
) -> list[Node]:
    """Arrange columns so that each comes after the one it hangs on.

    Args:
        columns: to arrange; the first is the root.
        facts: (record, group) pairs.
        above: columns that were drawn before and that these may hang on.
        differing: those of `columns` whose values differ within a group.
    """
    placed = list(above)
    waiting = list(columns)
    nodes = []
    while waiting:
        links = [
            (_information(facts, parent, column), -order, parent, column)
            for order, column in enumerate(waiting)
            for parent in placed
        ]
        strength, _, parent, column = max(links, default=(0.0, 0, None, waiting[0]))
        if strength <= 0:
            parent, column = None, waiting[0]
        nodes.append(_node(column, parent, facts, [*columns, *above], column in differing))
        placed.append(column)
        waiting.remove(column)
    return nodes


def finest(columns: Sequence[str], facts: Facts) -> str | None:
    """Find the column that tells products apart best: the leaves of the category tree.

    Columns named after categories go before others, as colours may be more varied than they.
    """
    named = [column for column in columns if "categor" in column.lower()]
    return max(named or columns, key=lambda column: _entropy(facts, column), default=None)


def _node(
    column: str, parent: str | None, facts: Facts, columns: Sequence[str], differs: bool
) -> Node:
    shares = tally((record.get(column), group) for record, group in facts)
    given = {}
    if parent is not None:
        parents = tally((record.get(parent), group) for record, group in facts)
        for value in parents.values:
            among = [pair for pair in facts if pair[0].get(parent) == value]
            given[value] = tally((record.get(column), group) for record, group in among)
    coarser = [other for other in columns if other != column and _nests(facts, column, other)]
    nests_in = max(coarser, key=lambda other: _entropy(facts, other), default=None)
    return Node(
        column=column, parent=parent, shares=shares, given=tuple(given.items()),
        nests_in=nests_in, differs=differs,
    )  # fmt: skip


def _nests(facts: Facts, finer: str, coarser: str) -> bool:
    pairs = Counter((record.get(finer), record.get(coarser)) for record, _ in facts)
    usual: dict[Value, int] = {}
    for (value, _), times in pairs.items():
        usual[value] = max(usual.get(value, 0), times)
    width = len({value for _, value in pairs})
    return 1 < width < len(usual) and sum(usual.values()) >= _NESTED * len(facts)


def _information(facts: Facts, one: str, other: str) -> float:
    """Estimate the mutual information of two columns in nats, less what chance gives.

    The correction is that of Miller and Madow: (rows - 1)(columns - 1) / 2N for a table.
    """
    pairs = Counter((record.get(one), record.get(other)) for record, _ in facts)
    ones, others = Counter[Value](), Counter[Value]()
    for (left, right), times in pairs.items():
        ones[left] += times
        others[right] += times
    total = len(facts)
    plain = sum(
        times / total * math.log(times * total / (ones[left] * others[right]))
        for (left, right), times in pairs.items()
    )
    return plain - (len(ones) - 1) * (len(others) - 1) / (2 * total)


def _entropy(facts: Facts, column: str) -> float:
    counts = Counter(record.get(column) for record, _ in facts)
    return -sum(times / len(facts) * math.log(times / len(facts)) for times in counts.values())
