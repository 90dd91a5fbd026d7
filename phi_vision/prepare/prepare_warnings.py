"""List what a user must know of a prepared dataset: wrong splits, leaks, ambiguous prices."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from phi_vision.data.dataset import SPLIT_ORDER
from phi_vision.io.formatting import format_count, join_few, read_yaml
from phi_vision.prepare.data_card import Statistics
from phi_vision.prepare.dedup import GENERIC, SAME_TITLE
from phi_vision.prepare.splits import ANY

_TEXTS = read_yaml(__file__)
MIN_EVALUATED = 10  # samples of a category, from which it should be evaluated


def warn_of_splits(
    metadata: Mapping[str, Any],
    source: Mapping[str, str],
    fractions: Iterable[str],
    named: Mapping[str | None, int],
) -> dict[str, str]:
    """Describe splits that are empty, leak, or lack categories, with the option that changes it.

    `fractions` are the splits that are wanted, `source` the source's own that were kept, by id, and
    `named` the rows of each name that the source has for a split.
    """
    splits, groups, found = metadata["splits"], metadata["groups"], dict[str, str]()
    samples = sum(size for size, _ in splits.values())
    by_title = "images or " if groups[f"{SAME_TITLE} as an earlier row"] else ""
    more = f"--grouping {by_title}none makes more groups, " if groups["groups"] < samples else ""
    for name in [name for name in fractions if name not in splits]:
        is_held_out = name == "validation" and "train" in splits
        has_several = groups["groups"] > 1
        found[name] = _TEXTS["empty in the source" if source else "empty"].format(
            held_out="training holds out some of train, " if is_held_out else "",
            samples=format_count(samples, "sample") + (" is" if samples == 1 else " are"),
            groups=format_count(groups["groups"], "group"),
            largest=groups["rows of the largest group"],
            option=more
            + (f"--{name} 0.3 or another --seed" if has_several else "only another row"),
        )
    for key, (here, _) in metadata["leaks"].items():
        if key.startswith(ANY) and here:
            leak = _TEXTS["leak in the source" if source else "leak"].format(count=here)
            found[f"leakage {key.removeprefix(f'{ANY}, ')}"] = leak
    counts, names = metadata["categories"], list(splits)
    unseen = [f"{c} ({sum(n)})" for c, n in counts.items() if names[0] == "train" and not n[0]]
    never = [f"{c} ({n[0]})" for c, n in counts.items() if sum(n) == n[0] >= MIN_EVALUATED]
    for about, listed, option in (
        ("never in train", unseen, "another --seed moves them"),
        ("only in train", never if len(names) > 1 else [], f"--grouping {by_title}none"),
    ):
        if listed:
            option = "--resplit draws others" if source else option
            found[about] = (
                f"{len(listed)} of {len(counts)} categories: {join_few(listed)}; {option}"
            )
    nameless = {"none": named[None]} if source and named.get(None) else {}
    others = {n: rows for n, rows in named.items() if n and n not in SPLIT_ORDER} | nameless
    if other := [f"{name} ({rows})" for name, rows in others.items()]:
        found["splits of the source"] = _TEXTS["other names"].format(names=join_few(other))
    if generic := groups.get(GENERIC):
        found["titles"] = _TEXTS["generic titles"].format(count=generic)
    if moved := groups["rows moved with their group"]:
        found["moved"] = f"{format_count(moved, 'row')} moved to the split of their group"
    return found


def warn_of_values(statistics: Statistics, optional: Sequence[str] = ()) -> dict[str, str]:
    """Describe ambiguous prices, mixed currencies, placeholders, and values of optional fields that
    cannot be read, with numbers."""
    changes, found = statistics.changes, dict[str, str]()
    for name in optional:
        if count := changes[f"{name} not parsed, left empty"]:
            about = f"{format_count(count, 'row')} cannot be read, and trained as missing"
            found[f"values of {name}"] = f"{about}; a required field rejects them with the reason"
    for name, values in statistics.fields.items():
        if count := changes[f"{name} as ambiguous"]:
            listed = f"{format_count(count, 'ambiguous number')}, such as "
            found[name] = f"{listed}{statistics.examples[name]}; --decimal point or comma decides"
        if "price" in name.lower() and (count := values.numbers.count(0)):
            zeros = f"{format_count(count, 'row')} with the price 0"
            found[f"{name} of 0"] = f"{zeros}, which is trained on; leave it empty"
        start = f"{name} in "
        currencies = {c[len(start) :]: n for c, n in changes.items() if c.startswith(start)}
        if "currency" in name.lower() and not values.has_more_texts:
            currencies |= values.texts
        if len(currencies) > 1:
            codes = join_few([f"{code} ({n})" for code, n in sorted(currencies.items())])
            found[f"currencies of {name}"] = f"{codes}; amounts are not converted"
    if count := changes["placeholder left empty"]:
        found["placeholders"] = f"{format_count(count, 'row')} with N/A or the like, left empty"
    return found
