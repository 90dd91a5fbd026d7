"""A right record -> plausible wrong ones, in the words and prices of its own catalog.

What is wrong must be seen in the image or known of the shop, and must not be told by its form: a
category exists, a price ends as prices there do, a title is made of words that stand in such
places.
"""

import bisect
import itertools
import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from phi_vision.data.samples import Record, Value
from phi_vision.data.template import Template

LEAST_FACTOR, MOST_FACTOR = 1.2, 3.0
"""How far a wrong price is off: well outside of the 10 % that count as right, and believable."""

FEW = 5
"""A text is a category where each of its values stands on average in this many rows or more."""

PARENT_SHARE = 0.95
"""Share of rows in which a value must have the same parent, for exports are never quite clean."""

ATTEMPTS = 20
"""Tries at another answer before a record is given up."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """What the catalog says in one field of the answer."""

    values: list[Value]
    """Different values, the most frequent first."""

    rows: list[int]
    """Rows of each and of those before it."""

    prices: list[float]
    """Different positive numbers, ascending; empty for texts."""

    parents: dict[str, Value] = field(default_factory=dict)
    """Value -> what most of its rows hold in a coarser column."""

    siblings: dict[Value, list[Value]] = field(default_factory=dict)
    """Parent -> its values."""

    words: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    """(word before, word after) -> words between them; "" stands for a text's border."""


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A right answer and a wrong one, in words."""

    right: str
    text: str
    fields: tuple[str, ...]
    """Those in which they differ."""


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """What wrong answers are made of."""

    template: Template
    fields: dict[str, Field]

    def wrong(
        self, record: Record, draw: random.Random, *, but: Collection[str] = ()
    ) -> Wrong | None:
        """Make an answer that is wrong in at least one field; None where nothing else can be said.

        Input:  {"title": "Check Wool Scarf", "category3_code": "SCARVES", "full_price": 390.0}
        Output: Wrong(right="Product: Check Wool Scarf, Category: SCARVES, Full Price: 390.0",
                      text="Product: Check Wool Cape, Category: SCARVES, Full Price: 590.0",
                      fields=("title", "full_price"))

        Args:
            record: What is right.
            draw: Decides what is wrong, and how.
            but: Wrong answers that are there already.

        Raises:
            ValueError: The record lacks a field of the answer.
        """
        known = self.template.select(record)
        right = self.template.render(known)
        for _ in range(ATTEMPTS):
            chosen = [name for name in known if draw.random() < 0.5] or [draw.choice([*known])]
            wrong = {**known, **{name: self._change(name, known[name], draw) for name in chosen}}
            text = self.template.render(wrong)
            if text not in {right, *but}:
                fields = tuple(name for name in known if wrong[name] != known[name])
                return Wrong(right=right, text=text, fields=fields)
        return None

    def _change(self, name: str, value: Value, draw: random.Random) -> Value:
        known = self.fields[name]
        if known.prices and _is_number(value) and value > 0:
            return _other_price(known, float(value), draw)
        if isinstance(value, str) and known.words:
            return _other_words(known, value, draw)
        return _other_value(known, value, draw)


def learn(records: Iterable[Record], template: Template) -> Catalog:
    """Find out what a catalog says in the fields of the answer.

    Raises:
        ValueError: A record lacks one of them.
    """
    kept = [(template.select(record), record) for record in records]
    return Catalog(
        template=template,
        fields={name: _learn_field(name, kept) for name in template.fields},
    )


def _learn_field(name: str, kept: Sequence[tuple[Record, Record]]) -> Field:
    counts = Counter(right[name] for right, _ in kept if right[name] not in (None, ""))
    ordered = sorted(counts, key=lambda value: (-counts[value], str(value)))
    numbers = [float(value) for value in ordered if _is_number(value) and value > 0]
    texts = [value for value in ordered if isinstance(value, str)]
    parents: dict[str, Value] = {}
    siblings: dict[Value, list[Value]] = {}
    is_category = len(texts) * FEW <= sum(counts[text] for text in texts)
    if is_category:
        parents = _find_parents(name, [record for _, record in kept])
        for text in texts if parents else ():
            siblings.setdefault(parents[text], []).append(text)
    return Field(
        values=ordered,
        rows=list(itertools.accumulate(counts[value] for value in ordered)),
        prices=sorted(set(numbers)) if len(numbers) * 2 > len(ordered) else [],
        parents=parents,
        siblings=siblings,
        words={} if is_category else _learn_words(texts),
    )


def _is_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _find_parents(name: str, records: Sequence[Record]) -> dict[str, Value]:
    """Find the finest column that tells kinds of categories apart, and the kind of each.

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
        if explained >= PARENT_SHARE * len(records):
            best = (kinds, parents)
    return best[1]


def _learn_words(texts: Sequence[str]) -> dict[tuple[str, str], Counter[str]]:
    """Count which words stand between which others, each text once.

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


def _other_price(known: Field, price: float, draw: random.Random) -> float:
    """Choose a price of the catalog that is off by a factor, as likely too low as too high.

    Input:  390.0, in a catalog with 90, 250, 390, 420, 590 and 1290
    Output: 250.0 or 590.0; where it has none in reach, the price itself times the factor: 640.0
    """
    factor = math.exp(draw.uniform(math.log(LEAST_FACTOR), math.log(MOST_FACTOR)))
    sides = [(price * factor, _between(known, price * LEAST_FACTOR, price * MOST_FACTOR))]
    sides += [(price / factor, _between(known, price / MOST_FACTOR, price / LEAST_FACTOR))]
    draw.shuffle(sides)
    for wished, prices in sides:
        if prices:
            return min(prices, key=lambda other: abs(math.log(other / wished)))
    return _end_like(sides[0][0], price)


def _between(known: Field, lowest: float, highest: float) -> list[float]:
    first, last = bisect.bisect_left(known.prices, lowest), bisect.bisect(known.prices, highest)
    return known.prices[first:last]


def _end_like(amount: float, price: float) -> float:
    """Give an amount the ending of a price.

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


def _other_value(known: Field, value: Value, draw: random.Random) -> Value:
    """Choose another value of the field: of the same kind half of the time, else by frequency.

    Gives the value itself where it is the only one, or drawn again and again.
    """
    siblings = known.siblings.get(known.parents.get(str(value)), ())
    if len(siblings) > 1 and draw.random() < 0.5:
        return draw.choice([other for other in siblings if other != value])
    for _ in range(ATTEMPTS if known.values else 0):
        (other,) = draw.choices(known.values, cum_weights=known.rows)
        if other != value:
            return other
    return value


def _other_words(known: Field, text: str, draw: random.Random) -> Value:
    """Exchange a word for one that stands between the same words elsewhere, or take another text.

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
        return _other_value(known, text, draw)
    place = draw.choice(sorted({at for at, _ in options}))
    words[place] = draw.choice([other for at, other in options if at == place])
    return " ".join(words)
