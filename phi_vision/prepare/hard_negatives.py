"""Make plausible wrong records from a catalog's own words, values and prices.

What is wrong must be visible in the image or known of the shop, and not betrayed by its form: a
category exists, a price ends as prices there do, a title consists of words that occur in such
places.
"""

import bisect
import itertools
import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

from phi_vision.data.samples import Record, Value
from phi_vision.data.template import Template

MIN_FACTOR, MAX_FACTOR = 1.2, 3.0
"""How far a wrong price is off: well outside of the 10 % that count as correct, and plausible."""

MIN_CATEGORY_ROWS = 5
"""A text field is a category where its values have on average so many rows or more."""

MIN_PARENT_SHARE = 0.95
"""Fraction of rows in which a value must have the same parent: exports are never quite clean."""

ATTEMPTS = 20
"""Attempts at another completion before a record is given up."""


@dataclass(frozen=True, kw_only=True)
class FieldValues:
    """Values of one field of the completion in the catalog."""

    values: list[Value]
    """Distinct, the most frequent first."""

    cumulative: list[int]
    """Rows of each value and of those before it."""

    prices: list[float]
    """Distinct positive numbers, ascending; empty for texts."""

    parents: dict[str, Value]
    """Value -> its most frequent value in a coarser column."""

    siblings: dict[Value, list[Value]]
    """Parent -> its values."""

    words: dict[tuple[str, str], Counter[str]]
    """(word before, word after) -> words between them; "" stands for the start or end of a text."""


class HardNegative(NamedTuple):
    """A correct and a wrong completion."""

    correct: str
    wrong: str
    fields: tuple[str, ...]
    """Those in which they differ."""


@dataclass(frozen=True, kw_only=True)
class NegativeSampler:
    """Draws wrong completions from the values of a catalog."""

    template: Template
    fields: dict[str, FieldValues]

    def draw(
        self, record: Record, rng: random.Random, *, exclude: Collection[str] = ()
    ) -> HardNegative | None:
        """Draw a completion that is wrong in at least one field; None where there is no other.

        Input:  {"title": "Check Wool Scarf", "category3_code": "SCARVES", "full_price": 390.0}
        Output: HardNegative(
                    correct="Product: Check Wool Scarf, Category: SCARVES, Full Price: 390.0",
                    wrong="Product: Check Wool Cape, Category: SCARVES, Full Price: 590.0",
                    fields=("title", "full_price"))

        Args:
            record: The correct record; it must have all fields of the completion.
            rng: Decides what is wrong, and how.
            exclude: Wrong completions that exist already.
        """
        known = self.template.select(record)
        correct = self.template.render(known)
        for _ in range(ATTEMPTS):
            chosen = [name for name in known if rng.random() < 0.5] or [rng.choice([*known])]
            changed = {name: self._change(name, known[name], rng) for name in chosen}
            wrong = self.template.render({**known, **changed})
            if wrong not in {correct, *exclude}:
                fields = tuple(
                    name for name in known if changed.get(name, known[name]) != known[name]
                )
                return HardNegative(correct, wrong, fields)
        return None

    def _change(self, name: str, value: Value, rng: random.Random) -> Value:
        known = self.fields[name]
        if known.prices and _is_number(value) and value > 0:
            return _other_price(known, float(value), rng)
        if isinstance(value, str) and known.words:
            return _other_words(known, value, rng)
        return _other_value(known, value, rng)


def fit_sampler(records: Iterable[Record], template: Template) -> NegativeSampler:
    """Collect the values of a catalog in the fields of the completion."""
    rows = [(template.select(record), record) for record in records]
    return NegativeSampler(
        template=template, fields={name: _collect(name, rows) for name in template.fields}
    )


def _collect(name: str, rows: Sequence[tuple[Record, Record]]) -> FieldValues:
    counts = Counter(selected[name] for selected, _ in rows if selected[name] not in (None, ""))
    ordered = sorted(counts, key=lambda value: (-counts[value], str(value)))
    numbers = [float(value) for value in ordered if _is_number(value) and value > 0]
    texts = [value for value in ordered if isinstance(value, str)]
    is_category = len(texts) * MIN_CATEGORY_ROWS <= sum(counts[text] for text in texts)
    parents = _find_parents(name, [record for _, record in rows]) if is_category else {}
    siblings: dict[Value, list[Value]] = {}
    for text in texts if parents else ():
        siblings.setdefault(parents[text], []).append(text)
    return FieldValues(
        values=ordered,
        cumulative=list(itertools.accumulate(counts[value] for value in ordered)),
        prices=sorted(set(numbers)) if len(numbers) * 2 > len(ordered) else [],
        parents=parents,
        siblings=siblings,
        words={} if is_category else _collect_words(texts),
    )


def _is_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _find_parents(name: str, records: Sequence[Record]) -> dict[str, Value]:
    """Return each category's value in the finest column that groups the categories.

    Input:  category3_code COATS COATS SHIRTS HATS, category2_code CLOTHES CLOTHES CLOTHES HEAD
    Output: {"COATS": "CLOTHES", "SHIRTS": "CLOTHES", "HATS": "HEAD"}
    """
    children = len({record.get(name) for record in records})
    best: tuple[int, dict[str, Value]] = (1, {})
    for column in records[0] if records else ():
        pairs = Counter((str(record.get(name)), record.get(column)) for record in records)
        kinds = len({parent for _, parent in pairs})
        if not best[0] < kinds < children or column == name:
            continue
        parents: dict[str, Value] = {}
        explained = 0
        for (child, parent), rows in pairs.most_common():
            if child not in parents:
                parents[child] = parent
                explained += rows
        if explained >= MIN_PARENT_SHARE * len(records):
            best = (kinds, parents)
    return best[1]


def _collect_words(texts: Sequence[str]) -> dict[tuple[str, str], Counter[str]]:
    """Count the words between any two others, each text once.

    Input:  ["Wool Scarf", "Silk Scarf"]
    Output: {("", "Scarf"): {"Wool", "Silk"}, ("Wool", ""): {"Scarf"}, ("Silk", ""): {"Scarf"}}
    """
    words: dict[tuple[str, str], Counter[str]] = {}
    for text in texts:
        for before, word, after in _neighbours(text.split(" ")):
            words.setdefault((before, after), Counter())[word] += 1
    return words


def _neighbours(words: Sequence[str]) -> list[tuple[str, str, str]]:
    bordered = ["", *words, ""]
    return list(zip(bordered, words, bordered[2:], strict=False))


def _other_price(known: FieldValues, price: float, rng: random.Random) -> float:
    """Choose a price of the catalog that is off by a factor, as likely too low as too high.

    Input:  390.0, in a catalog with 90, 250, 390, 420, 590 and 1290
    Output: 250.0 or 590.0; without one in reach, the price times the factor, rounded: 640.0
    """
    factor = math.exp(rng.uniform(math.log(MIN_FACTOR), math.log(MAX_FACTOR)))
    sides = [
        (price * factor, price * MIN_FACTOR, price * MAX_FACTOR),
        (price / factor, price / MAX_FACTOR, price / MIN_FACTOR),
    ]
    rng.shuffle(sides)
    for wanted, lowest, highest in sides:
        first, last = bisect.bisect_left(known.prices, lowest), bisect.bisect(known.prices, highest)
        if first < last:
            nearby = known.prices[first:last]
            return min(nearby, key=lambda other: abs(math.log(other / wanted)))
    return _round_like(sides[0][0], price)


def _round_like(amount: float, price: float) -> float:
    """Round an amount so that it ends like a price.

    Input:  663.2 like 390.0, 78.183 like 45.99, 78.183 like 45.5, 1.7 like 1.0
    Output: 660.0             78.99              78.5             2.0
    """
    whole, cents = divmod(round(price * 100), 100)
    if cents:
        return (max(1, math.floor(amount)) * 100 + cents) / 100
    step = 1
    while step * 10 <= amount and whole % (step * 10) == 0:
        step *= 10
    return float(max(1, round(amount / step)) * step)


def _other_value(known: FieldValues, value: Value, rng: random.Random) -> Value:
    """Choose another value of the field: half of the time of the same parent, else by frequency.

    Returns the value itself where it is the only one, or drawn again and again.
    """
    siblings = known.siblings.get(known.parents.get(str(value)), ())
    if len(siblings) > 1 and rng.random() < 0.5:
        return rng.choice([other for other in siblings if other != value])
    for _ in range(ATTEMPTS if known.values else 0):
        (other,) = rng.choices(known.values, cum_weights=known.cumulative)
        if other != value:
            return other
    return value


def _other_words(known: FieldValues, text: str, rng: random.Random) -> Value:
    """Replace a word by one that stands between the same words elsewhere, or take another text.

    Input:  "Check Wool Scarf", where "Check Silk Scarf" and "Check Wool Cape" exist
    Output: "Check Silk Scarf" or "Check Wool Cape"
    """
    words = text.split(" ")
    options = [
        (at, other)
        for at, (before, word, after) in enumerate(_neighbours(words))
        for other in known.words.get((before, after), ())
        if other != word
    ]
    if not options:
        return _other_value(known, text, rng)
    place = rng.choice(sorted({at for at, _ in options}))
    words[place] = rng.choice([other for at, other in options if at == place])
    return " ".join(words)
