"""Where every clean row goes: into a split with its group, or aside as the repeat of another."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phi_vision.data.dataset import SPLIT_ORDER
from phi_vision.prepare.dedup import Groups, Trait, group_rows
from phi_vision.prepare.splits import (
    Kept,
    Leaks,
    assign_splits,
    group_facts,
    keep_splits,
    leak_report,
)
from phi_vision.prepare.staging import Entry

MOST_CATEGORIES = 200
"""Categories that are counted by split in the facts, the largest."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A row that becomes a sample."""

    group: str
    split: str


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """A row that says and shows the same as an earlier one."""

    of: int
    """The number of that row."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was decided about all clean rows, and what can be told of it."""

    decisions: Sequence[Placed | Repeat]
    """In the order of the rows."""

    facts: Mapping[str, object]
    """`splits`, `groups`, `leaks`, `categories`, for the card."""

    @property
    def splits(self) -> list[str]:
        """Those that got rows."""
        taken = {each.split for each in self.decisions if isinstance(each, Placed)}
        return [name for name in SPLIT_ORDER if name in taken]


def judge(
    entries: Sequence[Entry],
    earlier: Mapping[str, str],
    fractions: Mapping[str, float],
    *,
    tolerance: int,
    seed: int,
) -> Verdict:
    """Decide about all rows.

    Args:
        entries: What is known of each clean row, in order.
        earlier: Id -> split, of rows that stay where an earlier run or the source put them.
        fractions: Split -> its share.
        tolerance: Bits in which near duplicates may differ.
        seed: Of the splits.

    Raises:
        ValueError: A row was in a split that has no share now.
    """
    repeats = _find_repeats(entries)
    kept_entries = [entry for entry in entries if entry.number not in repeats]
    groups = group_rows((_trait(entry) for entry in kept_entries), tolerance=tolerance)
    of_row = [groups.names[group] for group in groups.of.tolist()]
    ids = [entry.id for entry in kept_entries]
    kept = keep_splits(zip(ids, of_row, strict=True), earlier)
    facts = group_facts(groups, [entry.category for entry in kept_entries])
    split_of = assign_splits(facts, fractions, seed=seed, kept=kept.splits)
    splits = [split_of[group] for group in of_row]
    placed = iter(
        Placed(group=group, split=split) for group, split in zip(of_row, splits, strict=True)
    )
    # Random splits of the sizes that there are, which the source may have decided.
    shares = {name: splits.count(name) / len(splits) for name in SPLIT_ORDER}
    leaks = leak_report(groups, splits, shares, seed=seed)
    return Verdict(
        decisions=[
            Repeat(of=repeats[entry.number]) if entry.number in repeats else next(placed)
            for entry in entries
        ],
        facts=_describe(kept_entries, groups, splits, kept, leaks),
    )


def source_splits(entries: Sequence[Entry]) -> dict[str, str]:
    """Take the parts that the source itself puts its rows in.

    A source that has training data alone sets nothing aside, and so leaves it to us.

    Input:  rows A in "train", B in "validation", C in "holdout 7", D in none
    Output: {"A": "train", "B": "validation"}
    """
    named = {entry.id: entry.split for entry in entries if entry.split in SPLIT_ORDER}
    return {} if set(named.values()) == {"train"} else named


def _find_repeats(entries: Sequence[Entry]) -> dict[int, int]:
    """Map each row that repeats another to the first of its kind."""
    first: dict[str, int] = {}
    return {
        entry.number: first[entry.fingerprint]
        for entry in entries
        if first.setdefault(entry.fingerprint, entry.number) != entry.number
    }


def _trait(entry: Entry) -> Trait:
    return Trait(
        number=entry.number,
        id=entry.id,
        title=entry.title,
        group=entry.group,
        digests=entry.digests,
        looks=entry.looks,
    )


def _describe(
    entries: Sequence[Entry], groups: Groups, splits: Sequence[str], kept: Kept, leaks: Leaks
) -> dict[str, object]:
    names = [name for name in SPLIT_ORDER if name in set(splits)]
    groups_in = {
        name: {g for g, split in zip(groups.of.tolist(), splits, strict=True) if split == name}
        for name in names
    }
    rows_in = Counter(splits)
    by_category: dict[str, Counter[str]] = {}
    for entry, split in zip(entries, splits, strict=True):
        if entry.category is not None:
            by_category.setdefault(entry.category, Counter())[split] += 1
    largest = sorted(by_category, key=lambda name: (-by_category[name].total(), name))
    return {
        "splits": {name: [rows_in[name], len(groups_in[name])] for name in names},
        "groups": {
            "groups": len(groups.names),
            "rows of the largest group": int(groups.sizes().max()),
            **{f"{kind} as an earlier row": t.count_repeats() for kind, t in groups.ties.items()},
            "near images left apart, in long chains": groups.chained,
            "rows moved with their group": kept.moved,
        },
        "leaks": {
            f"{leak.kind}, of {leaks.sizes[leak.split]} in {leak.split}": [
                leak.rows,
                round(leak.at_random, 1),
            ]
            for leak in leaks.found
            if leak.split in names
        },
        "categories": {
            name: [by_category[name][split] for split in names]
            for name in largest[:MOST_CATEGORIES]
        },
    }
