"""Assign rows to splits by group, and count what a random split of the rows would have leaked.

Groups of each category are dealt out in order of appearance, so that every category is in every
split by its fraction, and appended rows move nothing. Exact duplicates are left out.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phi_vision.data.dataset import SPLIT_ORDER
from phi_vision.io.hashing import hash_bits
from phi_vision.prepare.dedup import NEAR_IMAGE, SAME_IMAGE, Groups, RowKeys, group_rows

RANDOM_SPLITS = 20
"""Random splits whose leakage is averaged; the average is then known to a few per cent."""

MAX_CATEGORIES = 200
"""Categories in the metadata, the largest."""

ANY = "any of these"

Mask = npt.NDArray[np.bool_]


class Placed(NamedTuple):
    """A row that becomes a sample."""

    group: str
    split: str


class Duplicate(NamedTuple):
    """A row with the same record, messages and images as an earlier one."""

    of: int
    """The number of that row."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Where each clean row goes, in their order, and metadata for the data card."""

    decisions: Sequence[Placed | Duplicate]
    metadata: Mapping[str, object]

    @property
    def splits(self) -> list[str]:
        """The splits that have rows."""
        used = {each.split for each in self.decisions if isinstance(each, Placed)}
        return [name for name in SPLIT_ORDER if name in used]


class GroupInfo(NamedTuple):
    """What a group is assigned by."""

    name: str
    category: str | None
    """Of its first row, which no later row changes; None is one of its own."""

    rows: int
    """How many rows it has. 0 is what began as a group until a later row joined it to an earlier
    one: it keeps its place in the order, or all groups after it would move."""


class Leak(NamedTuple):
    """Rows of a split that are linked to a row of the training split."""

    kind: str
    split: str
    rows: int
    """A near-duplicate counts where its image is not in training itself."""

    at_random: float
    """How many there are in a random split of the rows by the same fractions."""

    size: int
    """All rows of the split."""


def assign_rows(
    rows: Sequence[RowKeys],
    earlier: Mapping[str, str],
    fractions: Mapping[str, float],
    *,
    tolerance: int,
    seed: int,
) -> Assignment:
    """Assign rows to splits, each with its whole group, and leave out exact duplicates.

    Args:
        rows: All clean rows, in order.
        earlier: Id -> split, of rows that stay where an earlier run or the source put them.
        fractions: Split -> its fraction of the groups.
        tolerance: Maximum Hamming distance between near-duplicates.
        seed: Of the splits.
    """
    duplicates = _find_duplicates(rows)
    kept = [row for row in rows if row.number not in duplicates]
    groups = group_rows(kept, tolerance=tolerance)
    group_of = [groups.names[group] for group in groups.of.tolist()]
    ids = [row.id for row in kept]
    fixed, moved = keep_splits(zip(ids, group_of, strict=True), earlier)
    infos = describe_groups(groups, [row.category for row in kept])
    split_of = assign_splits(infos, fractions, seed=seed, kept=fixed)
    splits = [split_of[group] for group in group_of]
    placed = iter(map(Placed, group_of, splits))
    # Random splits of the sizes that there are, which the source may have decided.
    actual = {name: splits.count(name) / len(splits) for name in SPLIT_ORDER}
    leaks = count_leaks(groups, splits, actual, seed=seed)
    return Assignment(
        decisions=[
            Duplicate(duplicates[row.number]) if row.number in duplicates else next(placed)
            for row in rows
        ],
        metadata=_describe(kept, groups, splits, moved, leaks),
    )


def source_splits(rows: Iterable[RowKeys]) -> dict[str, str]:
    """Return the source's own splits by id; a source with training data only defines none.

    Input:  rows A in "train", B in "validation", C in "holdout 7", D in none
    Output: {"A": "train", "B": "validation"}
    """
    named = {row.id: row.split for row in rows if row.split in SPLIT_ORDER}
    return {} if set(named.values()) == {"train"} else named


def describe_groups(groups: Groups, categories: Sequence[str | None]) -> list[GroupInfo]:
    """List the groups for `assign_splits`, with a placeholder for each one joined to another.

    Input:  rows A, B, C of which C links A and B; categories Coats, Shirts, Coats
    Output: GroupInfo("A", "Coats", rows=3), GroupInfo("A", "Shirts", rows=0)
    """
    sizes = groups.sizes()
    infos = []
    seen = -1
    for row in np.flatnonzero(groups.begins).tolist():
        group = int(groups.of[row])
        size = 0 if group <= seen else int(sizes[group])
        seen = max(seen, group)
        infos.append(GroupInfo(groups.names[group], categories[row], size))
    return infos


def keep_splits(
    rows: Iterable[tuple[str, str]], earlier: Mapping[str, str]
) -> tuple[dict[str, str], int]:
    """Find the groups that have a split already, from that of their rows in an earlier run.

    Where a new row joins groups of different splits, the group that appears first wins and the rows
    of the others move.

    Input:  rows (id A, group A) (B, A) (C, A); earlier {"A": "train", "B": "test"}
    Output: {"A": "train"}, and 1 row that moves
    """
    splits: dict[str, str] = {}
    moved = 0
    for row, group in rows:
        if row in earlier:
            moved += splits.setdefault(group, earlier[row]) != earlier[row]
    return splits, moved


def assign_splits(
    groups: Iterable[GroupInfo],
    fractions: Mapping[str, float],
    *,
    seed: int,
    kept: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Assign each group a split, so that each category is in each split by its fraction.

    The k-th group of a category takes the k-th place of an order that depends on the seed, the
    category and the fractions alone (see `_Order`). The first group of all goes to the largest
    split, which therefore never is empty.

    Input:  10 groups of shirts, 10 of coats; {"train": 0.8, "validation": 0.1, "test": 0.1}
    Output: 8 shirts and 8 coats in train, 1 shirt and 1 coat in each of the others

    Args:
        groups: In order of first appearance; those without rows get no split.
        fractions: Split -> its fraction of the groups; they must add up to 1.
        seed: Which of the possible orders are taken.
        kept: Group -> split, for groups that stay where they are.
    """
    kept = kept or {}
    _check_fractions(fractions, kept)
    orders: dict[str | None, _Order] = {}
    dealt: Counter[str | None] = Counter()
    splits = {}
    for group in groups:
        category = group.category
        if category not in orders:
            orders[category] = _Order(fractions, f"{seed}:{category!r}", largest_first=not orders)
        dealt[category] += 1
        if group.rows:
            splits[group.name] = kept.get(group.name) or orders[category].split(dealt[category])
    return splits


def _check_fractions(fractions: Mapping[str, float], kept: Mapping[str, str]) -> None:
    total = sum(fractions.values())
    if not math.isclose(total, 1, abs_tol=1e-9) or min(fractions.values()) < 0:
        given = ", ".join(f"{name} {fraction}" for name, fraction in fractions.items())
        raise ValueError(
            f"the fractions of the splits add up to {total:g}: found {given or 'none'}; they must "
            "be 0 or more and add up to 1"
        )
    unknown = sorted(set(kept.values()) - set(fractions))
    if unknown:
        raise ValueError(
            f"there are rows in the split {unknown[0]!r}, which has no fraction: found "
            f"{', '.join(fractions)}; set its fraction, or split again (--resplit)"
        )


class _Order:
    """Places numbered from 1, each of one split, with the right fractions up to every place.

    One split after another, the largest first, takes its share of the places that are left: the
    count it has taken of the first h is ⌊share·h + phase⌋ (systematic sampling, W. G. Madow 1949).
    Phases are random, or a category of a single group would never be tested on, but only within the
    range in which every split of up to three has, of the first k places of all, less than one more
    or less than its fraction of k. A fourth and further splits can be off by less than two.
    """

    def __init__(self, fractions: Mapping[str, float], seed: str, *, largest_first: bool) -> None:
        named = sorted(fractions, key=lambda name: (-fractions[name], name))
        *takers, self._last = (name for name in named if fractions[name])
        self._takers: list[tuple[str, float, float]] = []
        left = 1.0
        # How far the count of places that are left can be from their fraction of k.
        least, most = 0.0, 0.0
        for name in takers:
            share = fractions[name] / left
            low = max(-share * least, (1 - share) * most)
            high = max(min(1 - share * most, 1 + (1 - share) * least), low)
            if largest_first and not self._takers:
                low = 1 - share  # then ⌊share + phase⌋ is 1
            phase = low + (high - low) * hash_bits(f"{seed}:{name}", 48) / 2**48
            self._takers.append((name, share, phase))
            least, most = (1 - share) * least - phase, (1 - share) * most + 1 - phase
            left -= fractions[name]

    def split(self, place: int) -> str:
        """Return the split of a place."""
        for name, share, phase in self._takers:
            taken = math.floor(share * place + phase)
            if taken > math.floor(share * (place - 1) + phase):
                return name
            place -= taken
        return self._last


def count_leaks(
    groups: Groups,
    splits: Sequence[str],
    fractions: Mapping[str, float],
    *,
    seed: int,
    train: str = "train",
) -> list[Leak]:
    """Count the rows that are linked to training rows, here and in random splits of the rows.

    Input:  10 images, each in 2 rows; train 0.5, test 0.5
    Output: same image in test: 0 rows; at random: about 5, as the other row of each of 10 is in
            train half the time

    Args:
        groups: The groups, with the links between their rows.
        splits: Of each row.
        fractions: Split -> its fraction, for the random splits.
        seed: Of the random splits.
        train: The training split.
    """
    actual = np.array(splits, dtype=object)
    names = [name for name in fractions if name != train and (actual == name).any()]
    found = {name: _count_linked(groups, actual == train, actual == name) for name in names}
    at_random: Counter[tuple[str, str]] = Counter()
    random = np.random.default_rng(seed)
    for _ in range(RANDOM_SPLITS):
        places = random.choice(len(fractions), size=len(actual), p=list(fractions.values()))
        drawn = {name: places == place for place, name in enumerate(fractions)}
        for name in names:
            for kind, rows in _count_linked(groups, drawn[train], drawn[name]).items():
                at_random[name, kind] += rows
    return [
        Leak(kind, name, rows, at_random[name, kind] / RANDOM_SPLITS, int((actual == name).sum()))
        for name in names
        for kind, rows in found[name].items()
    ]


def _count_linked(groups: Groups, train: Mask, held_out: Mask) -> dict[str, int]:
    """Count the held-out rows that are linked to training rows, by kind of link."""
    linked = {kind: links.linked_to(train) & held_out for kind, links in groups.links.items()}
    linked[NEAR_IMAGE] &= ~linked[SAME_IMAGE]
    counts = {kind: int(rows.sum()) for kind, rows in linked.items()}
    return {**counts, ANY: int(np.logical_or.reduce(list(linked.values())).sum())}


def _find_duplicates(rows: Sequence[RowKeys]) -> dict[int, int]:
    first: dict[str, int] = {}
    return {
        row.number: first[row.fingerprint]
        for row in rows
        if first.setdefault(row.fingerprint, row.number) != row.number
    }


def _describe(
    rows: Sequence[RowKeys],
    groups: Groups,
    splits: Sequence[str],
    moved: int,
    leaks: Sequence[Leak],
) -> dict[str, object]:
    groups_in: dict[str, set[int]] = {}
    by_category: dict[str, Counter[str]] = {}
    for row, group, split in zip(rows, groups.of.tolist(), splits, strict=True):
        groups_in.setdefault(split, set()).add(group)
        if row.category is not None:
            by_category.setdefault(row.category, Counter())[split] += 1
    names = [name for name in SPLIT_ORDER if name in groups_in]
    largest = sorted(by_category, key=lambda name: (-by_category[name].total(), name))
    return {
        "splits": {name: [splits.count(name), len(groups_in[name])] for name in names},
        "groups": {
            "groups": len(groups.names),
            "rows of the largest group": int(groups.sizes().max()),
            **{f"{kind} as an earlier row": k.count_repeats() for kind, k in groups.links.items()},
            "near-duplicate images not grouped, as they join too many groups": groups.cut,
            "rows moved with their group": moved,
        },
        "leaks": {
            f"{leak.kind}, of {leak.size} in {leak.split}": [leak.rows, round(leak.at_random, 1)]
            for leak in leaks
        },
        "categories": {
            name: [by_category[name][split] for split in names] for name in largest[:MAX_CATEGORIES]
        },
    }
