"""Tree: what stands above each category, found in columns such as category1_code.

Answering a neighbour in the right branch is less wrong than answering another branch; the metric
that says so (`hierarchical_f1`) needs to know the branches.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from phi_vision.data.samples import Sample, Value

ODD_ROWS = 0.01
"""This share of rows may contradict the parent that most rows give a value: slips of the pen occur
in every catalog, while columns that are no levels of one tree contradict each other all over."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The levels above a category field."""

    levels: tuple[str, ...]
    """The columns above the field, nearest first."""

    above: Mapping[Value, tuple[Value, ...]]
    """Category -> its value in each of `levels`; None where a level is empty."""

    def ancestors(self, value: Value) -> tuple[Value, ...]:
        """List what stands above a category, nearest first; () for one that is not known.

        Input:  "BOOTS"
        Output: ("SHOES", "WOMEN")
        """
        return self.above.get(value, ())

    def branch(self, value: Value) -> frozenset[tuple[int, Value]]:
        """Give a category and all above it, each with its height, as sets to be compared.

        Input:  "BOOTS"
        Output: {(0, "BOOTS"), (1, "SHOES"), (2, "WOMEN")}
        """
        above = enumerate(self.ancestors(value), start=1)
        return frozenset(
            [(0, value), *((height, each) for height, each in above if each is not None)]
        )


def find_tree(field: str, samples: Sequence[Sample]) -> Tree | None:
    """Find the levels above a category field: columns of the same name but for a lower number.

    A column is a level where every value of the level below it has one parent, but for one row in
    a hundred. A column that holds a single value is the root, which tells nothing apart; one that
    has as many values as the level below pools nothing. Both are left out.

    Input:  "category3_code", records with category1_code WOMEN, category2_code SHOES,
            category3_code BOOTS
    Output: a tree in which ("SHOES", "WOMEN") stand above "BOOTS"

    Returns:
        The tree; None where there is no level above.
    """
    records = [sample.record for sample in samples]
    levels, parents = [field], []
    for column in _columns_above(field, {name for record in records for name in record}):
        pairs = [(record.get(levels[-1]), record.get(column)) for record in records]
        found = _parents(pairs)
        if found is not None:
            levels.append(column)
            parents.append(found)
    if not parents:
        return None
    return Tree(
        levels=tuple(levels[1:]), above={value: _above(value, parents) for value in parents[0]}
    )


def _columns_above(field: str, columns: Set[str]) -> list[str]:
    """List the columns above a field, nearest first.

    Input:  "category3_code", columns category1_code, category2_code, category3_code, title
    Output: ["category2_code", "category1_code"]
    """
    for number in re.finditer(r"\d+", field, re.ASCII):
        before, after = re.escape(field[: number.start()]), re.escape(field[number.end() :])
        form = re.compile(f"{before}([0-9]+){after}")
        matches = filter(None, map(form.fullmatch, columns))
        heights = {match.group(): int(match.group(1)) for match in matches}
        above = [name for name, height in heights.items() if height < int(number.group())]
        if above:
            return sorted(above, key=lambda name: (-heights[name], name))
    return []


def _parents(pairs: Sequence[tuple[Value, Value]]) -> dict[Value, Value] | None:
    """Give every child its most frequent parent; None where the parents are no level of a tree."""
    filled = [pair for pair in pairs if not {None, ""} & set(pair)]
    counts: defaultdict[Value, Counter[Value]] = defaultdict(Counter)
    for child, parent in filled:
        counts[child][parent] += 1
    parents = {child: found.most_common(1)[0][0] for child, found in counts.items()}
    odd = sum(parents[child] != parent for child, parent in filled)
    is_level = 1 < len(set(parents.values())) < len(parents) and odd <= ODD_ROWS * len(filled)
    return parents if is_level else None


def _above(value: Value, parents: Sequence[Mapping[Value, Value]]) -> tuple[Value, ...]:
    """Climb from a value to the top."""
    path = []
    for level in parents:
        value = level.get(value)
        path.append(value)
    return tuple(path)
