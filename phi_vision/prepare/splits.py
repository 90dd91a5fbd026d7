"""Which split each group goes to, and what a random split of the rows would have leaked.

Groups of each category are dealt out in the order in which they appear, so that every category is
in every split by its share, and rows added at the end move nothing that is there.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phi_vision.io.hashing import hash_bits
from phi_vision.prepare.dedup import NEAR_IMAGE, SAME_IMAGE, Groups

RANDOM_SPLITS = 20
"""Random splits whose leaks are averaged; the average is then known to a few per cent."""

ANY = "any of these"

Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """What decides where a group goes."""

    name: str
    """Unique among the groups that have rows."""

    category: str | None
    """The category of its first row, which no later row changes; None is one of its own."""

    rows: int
    """How many rows it has. 0 is what began as a group until a later row joined it to an earlier
    one: it keeps its place in the order, or all groups after it would move."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where groups were before."""

    splits: Mapping[str, str]
    """Group -> split."""

    moved: int
    """Rows that were in another split than their group is now."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Rows of a split that are tied to a row of the training split."""

    kind: str
    """How they are tied: `same image`, `near image`, ..., or `any of these`."""

    split: str
    """Where the rows are."""

    rows: int
    """How many there are. An image counts as near where it is not in training itself."""

    at_random: float
    """How many a random split of the rows by the same shares has."""


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """What leaks from the training split to the others."""

    found: tuple[Leak, ...]
    """For each split but training and each kind."""

    train: str
    """The split that leaks."""

    sizes: Mapping[str, int]
    """Rows of each split, for comparison."""


def group_facts(groups: Groups, categories: Sequence[str | None]) -> list[GroupFacts]:
    """List the groups for `assign_splits`, those that were joined to others in their place.

    Input:  rows A, B, C of which C ties A and B; categories Coats, Shirts, Coats
    Output: GroupFacts(name="A", category="Coats", rows=3),
            GroupFacts(name="A", category="Shirts", rows=0)

    Args:
        groups: The groups.
        categories: Of each row.
    """
    sizes = groups.sizes()
    facts = []
    seen = -1
    for row in np.flatnonzero(groups.begins).tolist():
        group = int(groups.of[row])
        joined = group <= seen
        seen = max(seen, group)
        facts.append(
            GroupFacts(
                name=groups.names[group],
                category=categories[row],
                rows=0 if joined else int(sizes[group]),
            )
        )
    return facts


def keep_splits(rows: Iterable[tuple[str, str]], earlier: Mapping[str, str]) -> Kept:
    """Find out which groups have a split already, from that of their rows in an earlier run.

    Where a new row joins groups of different splits, the one that appears first wins and the rows
    of the others move, as a group cannot stay on both sides.

    Input:  rows (A, A) (B, A) (C, A); earlier {"A": "train", "B": "test"}
    Output: Kept(splits={"A": "train"}, moved=1)

    Args:
        rows: The id and the group of each row, in order.
        earlier: Id of a row -> its split.
    """
    splits: dict[str, str] = {}
    moved = 0
    for row, group in rows:
        if row in earlier:
            moved += splits.setdefault(group, earlier[row]) != earlier[row]
    return Kept(splits=splits, moved=moved)


def assign_splits(
    groups: Iterable[GroupFacts],
    fractions: Mapping[str, float],
    *,
    seed: int,
    kept: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Give each group a split, so that each category is in each split by its share.

    The k-th group of a category takes the k-th place of an order that depends on the seed, the
    category and the fractions alone (see `_Order`). The first group of all goes to the largest
    split, which therefore never is empty.

    Input:  10 groups of shirts, 10 of coats; {"train": 0.8, "validation": 0.1, "test": 0.1}
    Output: 8 shirts and 8 coats in train, 1 shirt and 1 coat in each of the others

    Args:
        groups: In order of first appearance.
        fractions: Split -> its share of the groups.
        seed: Which of the possible orders are taken.
        kept: Group -> split, for groups that stay where they are.

    Returns:
        Group -> split, without those that have no rows.

    Raises:
        ValueError: The fractions do not add up to 1, or a kept group is in an unknown split.
    """
    kept = kept or {}
    _check(fractions, kept)
    orders: dict[str | None, _Order] = {}
    dealt: Counter[str | None] = Counter()
    splits = {}
    for group in groups:
        stratum = group.category
        if stratum not in orders:
            orders[stratum] = _Order(fractions, f"{seed}:{stratum!r}", largest_first=not orders)
        dealt[stratum] += 1
        if group.rows:
            splits[group.name] = kept.get(group.name) or orders[stratum].split(dealt[stratum])
    return splits


def _check(fractions: Mapping[str, float], kept: Mapping[str, str]) -> None:
    total = sum(fractions.values())
    if not math.isclose(total, 1, abs_tol=1e-9) or min(fractions.values()) < 0:
        given = ", ".join(f"{name} {fraction}" for name, fraction in fractions.items())
        raise ValueError(
            f"the shares of the splits add up to {total:g}: found {given or 'none'}; give shares "
            "of 0 or more that add up to 1"
        )
    unknown = sorted(set(kept.values()) - set(fractions))
    if unknown:
        raise ValueError(
            f"there are rows in the split {unknown[0]!r} and no share for it: found "
            f"{', '.join(fractions)}; give it a share, or split anew"
        )


class _Order:
    """Places numbered from 1, each of one split, in shares that hold up to every place.

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
            phase = low + (high - low) * _uniform(f"{seed}:{name}")
            self._takers.append((name, share, phase))
            least, most = (1 - share) * least - phase, (1 - share) * most + 1 - phase
            left -= fractions[name]

    def split(self, place: int) -> str:
        """Name the split of a place."""
        for name, share, phase in self._takers:
            taken = math.floor(share * place + phase)
            if taken > math.floor(share * (place - 1) + phase):
                return name
            place -= taken
        return self._last


def _uniform(seed: str) -> float:
    """Turn a text into a number from 0 up to below 1."""
    return hash_bits(seed, 48) / 2**48


def leak_report(
    groups: Groups,
    splits: Sequence[str],
    fractions: Mapping[str, float],
    *,
    seed: int,
    train: str = "train",
) -> Leaks:
    """Count the rows that are tied to training rows, here and in random splits of the rows.

    Input:  10 images, each in 2 rows; train 0.5, test 0.5
    Output: same image in test: 0 rows; at random: about 5, as the other row of each of 10 is in
            train half the time

    Args:
        groups: The groups, with what ties their rows.
        splits: Of each row.
        fractions: Split -> its share, for the random splits.
        seed: Of the random splits, over which the counts are averaged.
        train: The split whose rows should not be known elsewhere.
    """
    here = np.array(splits, dtype=object)
    names = [name for name in fractions if name != train and (here == name).any()]
    found = {name: _leaks_into(groups, here == train, here == name) for name in names}
    at_random = {name: dict.fromkeys(found[name], 0.0) for name in names}
    random = np.random.default_rng(seed)
    for _ in range(RANDOM_SPLITS):
        places = random.choice(len(fractions), size=len(here), p=list(fractions.values()))
        drawn = dict(
            zip(fractions, (places == place for place in range(len(fractions))), strict=True)
        )
        for name in names:
            for kind, rows in _leaks_into(groups, drawn[train], drawn[name]).items():
                at_random[name][kind] += rows / RANDOM_SPLITS
    return Leaks(
        found=tuple(
            Leak(kind=kind, split=name, rows=rows, at_random=at_random[name][kind])
            for name in names
            for kind, rows in found[name].items()
        ),
        train=train,
        sizes={name: int((here == name).sum()) for name in fractions},
    )


def _leaks_into(groups: Groups, train: Rows, held_out: Rows) -> dict[str, int]:
    """Count the held-out rows that are tied to training rows, for each kind of tie."""
    reached = {kind: ties.reached(train) & held_out for kind, ties in groups.ties.items()}
    reached[NEAR_IMAGE] &= ~reached[SAME_IMAGE]
    counts = {kind: int(rows.sum()) for kind, rows in reached.items()}
    return {**counts, ANY: int(np.logical_or.reduce(list(reached.values())).sum())}
