"""Titles: how many words, which ones where, and what the others look like.

Titles are written from their last word to their first, each word chosen by the one that follows
it ("… Coat" is often "Trench Coat"), by the category and by its place. Words that fewer than
`FEWEST` groups share are known by their shape alone and are made up anew.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from phi_vision.data.samples import Value
from phi_vision.synthetic.shares import RARE, Drawn, Shares, Tally, tally
from phi_vision.synthetic.word_lists import invent, shape_of

_END = "(end)"
_RARE_WORD = "(rare)"
_LONGEST_SHAPE = 14
_PLAIN_SHAPE = "Aaaaaaa"
"""What a rare word looks like where no shape is shared by enough groups."""

Title = tuple[str, Value, int]
"""Text, category, group."""


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """How the texts of a column are made.

    Attributes:
        lengths: category -> how many words; "" for all categories.
        words: context -> words that occur there, None for a rare one. A context is written
            `category ◂ next word` or `category ◂ place`, with an empty category for all.
        shapes: of rare words.
        gaps: what stands between words, nearly always one blank.
        tails: blanks after the last word, nearly always none.
        repeats: share of groups whose text another group has too.
    """

    lengths: Mapping[str, Shares]
    words: Mapping[str, Shares]
    shapes: Shares
    gaps: Shares
    tails: Shares
    repeats: float

    def draw(self, rng: random.Random, category: Drawn) -> str:
        """Write a text for a category.

        Input:  "Skirts"
        Output: "Velanta Pleated Skirt", or others
        """
        name = _name(category)
        shares = self.lengths.get(name, self.lengths[""])
        length = shares.draw(rng)
        length = length if isinstance(length, int) else self.lengths[""].draw(rng)
        count = length if isinstance(length, int) else 3
        words: list[str | None] = []
        for place in range(count - 1, -1, -1):
            words.insert(0, self._word(rng, name, place, count, words))
        return self._join([word or self._rare_word(rng) for word in words], rng)

    def _word(
        self, rng: random.Random, category: str, place: int, count: int, after: list[str | None]
    ) -> str | None:
        """Choose the word in front of some others; None for a rare one."""
        seen: list[Value] = [word for word in after if word is not None]
        following = (after[0] or _RARE_WORD) if after else _END
        for context in _contexts(category, following, _place(place, count)):
            shares = self.words.get(context)
            word = shares.draw(rng, without=seen) if shares else RARE
            if word is None or isinstance(word, str):
                return word
            seen += shares.values if shares else ()
            if following == _END:
                # What ends the titles of another category would name another thing: no "Pant"
                # among the blouses.
                seen += self._nouns
        return None

    @cached_property
    def _nouns(self) -> tuple[Value, ...]:
        """Words that end the titles of some category."""
        ends = [key for key in self.words if key.endswith(f" ◂ {_END}") and key[0] != " "]
        return tuple(dict.fromkeys(word for key in ends for word in self.words[key].values))

    def _rare_word(self, rng: random.Random) -> str:
        shape = self.shapes.draw(rng)
        return invent(shape if isinstance(shape, str) else _PLAIN_SHAPE, rng)

    def _join(self, words: Sequence[str], rng: random.Random) -> str:
        text = words[0] if words else ""
        for word in words[1:]:
            gap = self.gaps.draw(rng)
            text += (gap if isinstance(gap, str) else " ") + word
        tail = self.tails.draw(rng)
        return text + (tail if isinstance(tail, str) else "")

    @staticmethod
    def load(data: Mapping[str, Any]) -> "Grammar":
        """Build from what `dataclasses.asdict` and JSON made of it."""
        parts: dict[str, Any] = {
            name: Shares.load(data[name]) for name in ("shapes", "gaps", "tails")
        }
        for name in ("lengths", "words"):
            parts[name] = {key: Shares.load(shares) for key, shares in data[name].items()}
        return Grammar(**parts, repeats=data["repeats"])


def measure_grammar(titles: Sequence[Title]) -> Grammar:
    """Learn how texts are made from (text, category, group) triples.

    Input:  ("Bellona Pleated Skirt", "Skirts", 1), ("Davina Skirt", "Skirts", 2), and so on
    Output: lengths {"Skirts": 2 or 3}, words {"Skirts ◂ (end)": Skirt,
            "Skirts ◂ Skirt": Pleated and rare ones}, shapes Aaaaaaa and Aaaaaa
    """
    known = set(
        tally((word, group) for text, _, group in titles for word in set(text.split())).values
    )
    words: dict[str, Tally] = {}
    lengths: dict[str, Tally] = {}
    for text, category, group in titles:
        plain = [word if word in known else None for word in text.split()]
        for name in {_name(category), ""}:
            lengths.setdefault(name, Tally()).add(len(plain), group)
        for context, word in _places(plain, _name(category)):
            words.setdefault(context, Tally()).add(word, group)
    return Grammar(
        lengths=_named(lengths) | {"": lengths[""].shares()},
        words=_named(words),
        shapes=_shapes(titles, known),
        gaps=tally((gap, group) for text, _, group in titles for gap in _gaps(text)),
        tails=tally((text[len(text.rstrip()) :], group) for text, _, group in titles),
        repeats=_repeats(titles),
    )


def _named(tallies: Mapping[str, Tally]) -> dict[str, Shares]:
    shares = {context: counts.shares() for context, counts in sorted(tallies.items())}
    return {context: each for context, each in shares.items() if each.named}


def _places(words: Sequence[str | None], category: str) -> Iterator[tuple[str, str | None]]:
    following = _END
    for place in range(len(words) - 1, -1, -1):
        for context in _contexts(category, following, _place(place, len(words))):
            yield context, words[place]
        following = words[place] or _RARE_WORD


def _contexts(category: str, following: str, place: str) -> tuple[str, ...]:
    """From the most telling to the least."""
    contexts = [f"{category} ◂ {following}", f" ◂ {following}"]
    return tuple(dict.fromkeys((*contexts, f"{category} ◂ {place}", f" ◂ {place}")))


def _place(place: int, count: int) -> str:
    return "(last)" if place == count - 1 else "(first)" if place == 0 else "(middle)"


def _shapes(titles: Sequence[Title], known: set[Value]) -> Shares:
    """Count the shapes of rare words; a shape that is itself rare counts as a plain word."""
    rare = [(word, g) for text, _, g in titles for word in text.split() if word not in known]
    exact = tally((shape_of(word), group) for word, group in rare)
    plain = [
        (_plain_shape(word), group) for word, group in rare if shape_of(word) not in exact.values
    ]
    return Shares(named=(*exact.named, *tally(plain).named))


def _plain_shape(word: str) -> str:
    return "A" + "a" * (min(len(word), _LONGEST_SHAPE) - 1)


def _gaps(text: str) -> list[str]:
    return re.findall(r"\s+", text.strip())


def _repeats(titles: Sequence[Title]) -> float:
    owners: dict[str, set[int]] = {}
    for text, _, group in titles:
        owners.setdefault(text, set()).add(group)
    groups = len({group for _, _, group in titles})
    # The first group of a text has it to itself; the others repeat it.
    return round(sum(len(each) - 1 for each in owners.values()) / max(1, groups), 4)


def _name(category: Drawn) -> str:
    return "" if category is None or category is RARE else str(category)
