"""Assign rows to splits by group, and count what a random split of the rows would have leaked.

Groups of each category are dealt out in order of appearance, so that every category is in every
split by its fraction, and appended rows move nothing. Exact duplicates are left out.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from phi_vision.data.dataset import SPLIT_ORDER
from phi_vision.io.hashing import hash_bits
from phi_vision.prepare.dedup import (
    GENERIC,
    NEAR_IMAGE,
    SAME_IMAGE,
    Grouping,
    Groups,
    Mask,
    RowKeys,
    group_rows,
)

RANDOM_SPLITS = 20  # whose leakage is averaged; the average is then known to a few per cent
MAX_CATEGORIES = 200  # in the metadata, the largest
ANY = "any of these"


class Placed(NamedTuple):
    """A row that becomes a sample."""

    group: str
    split: str


class Assignment(NamedTuple):
    """Where each clean row goes, in their order, and metadata for the data card."""

    decisions: Sequence[Placed | int]
    """An integer is the number of an earlier row with the same record, messages and images."""
    metadata: Mapping[str, Any]


def assign_rows(
    rows: Sequence[RowKeys],
    earlier: Mapping[str, str],
    fractions: Mapping[str, float],
    *,
    tolerance: int,
    seed: int,
    source: Mapping[str, str] | None = None,
    grouping: Grouping = "auto",
) -> Assignment:
    """Assign rows to splits, each with its whole group, and leave out exact duplicates.

    Rows whose id is in `earlier` stay where an earlier run put them. Where a new row joins groups
    of different splits, the group that appears first wins and the other rows move. Rows whose id is
    in `source` stay in the source's own split, also without their group and beside a duplicate in
    another, unless it is `strict`.
    """
    own = {} if grouping == "strict" or source is None else source
    first: dict[tuple[str, str | None], int] = {}
    decisions: list[Placed | int] = [
        first.setdefault((row.fingerprint, own.get(row.id)), row.number) for row in rows
    ]
    first.clear()  # a tenth of a kilobyte a row
    places = [place for place, row in enumerate(rows) if decisions[place] == row.number]
    kept = [rows[place] for place in places]
    groups = group_rows(kept, tolerance=tolerance, grouping=grouping)
    group_of = [groups.names[group] for group in groups.of.tolist()]
    known = {**earlier, **(source or {})}
    fixed: dict[str, str] = {}
    moved = 0
    for row, group in zip(kept, group_of, strict=True):
        if split := known.get(row.id):
            moved += fixed.setdefault(group, split) != split and row.id not in own
    begun = list_groups(groups, [row.category for row in kept])
    split_of = assign_splits(begun, fractions, seed=seed, kept=fixed)
    splits = [own.get(row.id) or split_of[g] for row, g in zip(kept, group_of, strict=True)]
    for place, group, split in zip(places, group_of, splits, strict=True):
        decisions[place] = Placed(group, split)
    return Assignment(decisions, _describe(kept, groups, splits, moved, seed))


def source_splits(rows: Iterable[RowKeys]) -> dict[str, str]:
    """Return the source's own splits by id; a source with training data only defines none.

    Input:  rows A in "train", B in "validation", C in "extra", D in none
    Output: {"A": "train", "B": "validation"}
    """
    named = {row.id: row.split for row in rows if row.split in SPLIT_ORDER}
    return {} if set(named.values()) == {"train"} else named


def list_groups(
    groups: Groups, categories: Sequence[str | None]
) -> list[tuple[str | None, str | None]]:
    """List name and category of what began as a group; the name is None where it was joined.

    What a later row joined to an earlier group keeps its place, or all groups after it would move.
    A group has the category of its first row, which no later row changes.

    Input:  rows A, B, C of which C links A and B; categories Coats, Shirts, Coats
    Output: ("A", "Coats"), (None, "Shirts")
    """
    begins = np.flatnonzero(groups.begins)
    firsts = {*np.unique(groups.of, return_index=True)[1].tolist()}
    return [
        (groups.names[group] if row in firsts else None, categories[row])
        for row, group in zip(begins.tolist(), groups.of[begins].tolist(), strict=True)
    ]


def assign_splits(
    groups: Iterable[tuple[str | None, str | None]],
    fractions: Mapping[str, float],
    *,
    seed: int,
    kept: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Assign each group a split, so that each category is in each split by its fraction.

    The k-th group of a category takes the k-th place of an order that depends on the seed, the
    category and the fractions alone. The first group of all goes to the largest split, which
    therefore never is empty.

    Input:  10 groups of shirts, 10 of coats; {"train": 0.8, "validation": 0.1, "test": 0.1}
    Output: 8 shirts and 8 coats in train, 1 shirt and 1 coat in each of the others

    Args:
        groups: Name and category, in order of first appearance; without a name one gets no split.
        kept: Group -> split, for groups that stay where they are.
    """
    kept = kept or {}
    total = sum(fractions.values())
    if not math.isclose(total, 1, abs_tol=1e-9) or min(fractions.values()) < 0:
        given = ", ".join(f"{name} {fraction}" for name, fraction in fractions.items())
        raise ValueError(
            f"the fractions of the splits add up to {total:g}: found {given or 'none'}; they must "
            "be 0 or more and add up to 1"
        )
    for unknown in sorted({*kept.values()} - {*fractions}):
        raise ValueError(
            f"there are rows in the split {unknown!r}, which has no fraction: found "
            f"{', '.join(fractions)}; set its fraction, or split again (--resplit)"
        )
    orders: dict[str | None, Iterator[str]] = {}
    splits = {}
    for name, category in groups:
        if category not in orders:
            orders[category] = _order(fractions, f"{seed}:{category!r}", largest_first=not orders)
        split = next(orders[category])
        if name is not None:
            splits[name] = kept.get(name, split)
    return splits


def _order(fractions: Mapping[str, float], seed: str, *, largest_first: bool) -> Iterator[str]:
    """Yield a split for place after place, with the right fractions up to every one.

    One split after another, the largest first, takes its share of the places that are left: the
    count it has taken of the first h is ⌊share·h + phase⌋ (systematic sampling, W. G. Madow 1949).
    Phases are random, or a category of a single group would never be tested on, but only within the
    range in which every split of up to three has, of the first k places of all, less than one more
    or less than its fraction of k. A fourth and further splits can be off by less than two.
    """
    named = sorted(fractions, key=lambda name: (-fractions[name], name))
    *takers, last = (name for name in named if fractions[name])
    phases: list[tuple[str, float, float]] = []
    left = 1.0
    # How far the count of places that are left can be from their fraction of k.
    least, most = 0.0, 0.0
    for name in takers:
        share = fractions[name] / left
        low = max(-share * least, (1 - share) * most)
        high = max(min(1 - share * most, 1 + (1 - share) * least), low)
        if largest_first and not phases:
            low = 1 - share  # then ⌊share + phase⌋ is 1
        phase = low + (high - low) * hash_bits(f"{seed}:{name}", 48) / 2**48
        phases.append((name, share, phase))
        least, most = (1 - share) * least - phase, (1 - share) * most + 1 - phase
        left -= fractions[name]
    for place in itertools.count(1):
        for name, share, phase in phases:
            taken = math.floor(share * place + phase)
            if taken > math.floor(share * (place - 1) + phase):
                yield name
                break
            place -= taken
        else:
            yield last


def count_leaks(
    groups: Groups, splits: Sequence[str], fractions: Mapping[str, float], *, seed: int
) -> dict[tuple[str, str], tuple[int, float]]:
    """Count the rows that are linked to training rows, here and in random splits of the rows.

    A near-duplicate counts where its image is not in training itself.

    Input:  10 images, each in 2 rows; train 0.5, test 0.5
    Output: {("same image", "test"): (0, 5.2), …}: none here; about 5 at random, as the other row of
            each of 10 is in train half the time
    """
    actual = np.array(splits, dtype=object)
    names = [name for name in fractions if name != "train" and (actual == name).any()]

    def count(members: Mapping[str, Mask]) -> dict[tuple[str, str], int]:
        linked = {kind: links.linked_to(members["train"]) for kind, links in groups.links.items()}
        linked[NEAR_IMAGE] &= ~linked[SAME_IMAGE]
        linked[ANY] = np.logical_or.reduce(list(linked.values()))
        pairs = itertools.product(names, linked)
        return {(kind, name): int((linked[kind] & members[name]).sum()) for name, kind in pairs}

    at_random: Counter[tuple[str, str]] = Counter()
    random = np.random.default_rng(seed)
    for _ in range(RANDOM_SPLITS):
        places = random.choice(len(fractions), size=len(actual), p=list(fractions.values()))
        at_random.update(count({name: places == place for place, name in enumerate(fractions)}))
    found = count({name: actual == name for name in ("train", *names)})
    return {leak: (rows, at_random[leak] / RANDOM_SPLITS) for leak, rows in found.items()}


def _describe(
    rows: Sequence[RowKeys], groups: Groups, splits: Sequence[str], moved: int, seed: int
) -> dict[str, object]:
    sizes = {name: splits.count(name) for name in SPLIT_ORDER}
    # Random splits of the sizes that there are, which the source may have decided.
    actual = {name: size / len(splits) for name, size in sizes.items()}
    leaks = count_leaks(groups, splits, actual, seed=seed)
    groups_in = Counter(split for _, split in {*zip(groups.of.tolist(), splits, strict=True)})
    categories = [row.category for row in rows]
    counts = Counter(zip(categories, splits, strict=True))
    totals = Counter(category for category in categories if category is not None)
    largest = sorted(totals, key=lambda name: (-totals[name], name))[:MAX_CATEGORIES]
    names = [name for name in SPLIT_ORDER if sizes[name]]
    return {
        "splits": {name: [sizes[name], groups_in[name]] for name in names},
        "groups": {
            "groups": len(groups.names),
            "rows of the largest group": int(np.bincount(groups.of).max()),
            **{f"{kind} as an earlier row": k.count_repeats() for kind, k in groups.links.items()},
            **({GENERIC: groups.generic} if groups.generic else {}),
            "near-duplicate images not grouped, as they join too many groups": groups.cut,
            "rows moved with their group": moved,
        },
        "leaks": {
            f"{kind}, of {sizes[name]} in {name}": [here, round(at_random, 1)]
            for (kind, name), (here, at_random) in leaks.items()
        },
        "categories": {name: [counts[name, split] for split in names] for name in largest},
    }
