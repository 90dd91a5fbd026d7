"""CategoryHierarchy: the levels above a category field, found in columns such as category1_code."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from phi_vision.data.samples import Sample, Value

MAX_CONFLICTS = 0.01
"""Fraction of rows that may contradict the most frequent parent of their value, as typing errors
do: columns that are not levels of one hierarchy contradict each other often."""


@dataclass(frozen=True, kw_only=True)
class CategoryHierarchy:
    """The ancestors of each category."""

    levels: tuple[str, ...]  # the columns above the field, nearest first
    ancestors: Mapping[Value, tuple[Value, ...]]  # on each level; None where empty

    def path(self, value: Value) -> frozenset[tuple[int, Value]]:
        """Return a category and its ancestors with their heights: {(0, "BOOTS"), (1, "SHOES")}."""
        above = enumerate(self.ancestors.get(value, ()), start=1)
        return frozenset({(0, value)} | {each for each in above if each[1] is not None})


def find_hierarchy(field: str, samples: Sequence[Sample]) -> CategoryHierarchy | None:
    """Find the levels above a category field: columns of the same name with a lower number, each
    with one parent for each value below; without a single root and a column that merges nothing.

    Input:  "category3_code", records with category1_code WOMEN, category2_code SHOES, ... BOOTS
    Output: a hierarchy in which "BOOTS" has the ancestors ("SHOES", "WOMEN")
    """
    records = [sample.record for sample in samples]
    levels: list[str] = []
    ancestors: dict[Value, tuple[Value, ...]] = {}
    for column in _columns_above(field, {name for record in records for name in record}):
        below = levels[-1] if levels else field
        parents = _parents((record.get(below), record.get(column)) for record in records)
        if parents is not None:
            ancestors = {
                value: (*above, parents.get(above[-1] if above else value))
                for value, above in (ancestors or dict.fromkeys(parents, ())).items()
            }
            levels.append(column)
    return CategoryHierarchy(levels=tuple(levels), ancestors=ancestors) if levels else None


def _columns_above(field: str, columns: Set[str]) -> list[str]:
    """List the columns above a field, nearest first: category2_code and category1_code above
    category3_code."""
    for number in re.finditer(r"\d+", field, re.ASCII):
        before, after = re.escape(field[: number.start()]), re.escape(field[number.end() :])
        matches = (re.fullmatch(f"{before}([0-9]+){after}", column) for column in columns)
        heights = {match.group(): int(match[1]) for match in matches if match}
        above = [name for name, height in heights.items() if height < int(number.group())]
        if above:
            return sorted(above, key=lambda name: (-heights[name], name))
    return []


def _parents(pairs: Iterable[tuple[Value, Value]]) -> dict[Value, Value] | None:
    """Map each child to its most frequent parent; None where the parents are not a level."""
    filled = [pair for pair in pairs if not {None, ""} & set(pair)]
    counts: defaultdict[Value, Counter[Value]] = defaultdict(Counter)
    for child, parent in filled:
        counts[child][parent] += 1
    parents = {child: found.most_common(1)[0][0] for child, found in counts.items()}
    conflicts = sum(parents[child] != parent for child, parent in filled)
    is_level = 1 < len(set(parents.values())) < len(parents)
    return parents if is_level and conflicts <= MAX_CONFLICTS * len(filled) else None
