"""Models of a column: how its categories, numbers, titles or codes are measured and drawn.

This is where a profile becomes k-anonymous (Sweeney 2002): a value that fewer than `MIN_GROUPS`
groups share is counted without its name, a number only in a mean over several groups
(microaggregation, Domingo-Ferrer & Mateo-Sanz 2002), a word or a part of a code only by its shape
(length, capitals, marks), in which a new one is invented.

In the template of a text, `{title|slug}` repeats another column of the row, `[AA99]` is invented in
that shape, `[#2]` is the second to last word, drawn by the one that follows it, and the rest is
verbatim, as enough groups share it.
"""

import math
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from os.path import commonprefix
from statistics import fmean, mode
from typing import Literal

import numpy as np

from phi_vision.data.samples import Value

Role = Literal["category", "number", "marked", "flag", "text", "code", "empty"]
Level = Literal["group", "row"]  # whether a value belongs to the group or to each row
Facts = Sequence[tuple[Mapping[str, Value], int]]  # (record, group) of each group, or of each row

# Groups that must share a value before a profile may name it: a usual minimum for published
# tables, with which a dataset of a few hundred groups still keeps its categories.
MIN_GROUPS = 5
_MAX_MEANS = 40  # more would not show in a drawn dataset, and each reveals something
_MAX_SHIFT = 0.05  # fraction by which an ending may move a price: it keeps its place

RARE = "(rare)"  # stands for a value that may not be named
HIDDEN = " (hidden)"  # ends the name of a number that a record lacks while others follow from it
NEW_WORD = "Aaaaaaa"  # shape where enough groups share none
_USUAL = {"text": "[#3] [#2] [#1]", "code": "[AAAA9999]"}  # templates likewise
_MAX_PLACE = 9
_ENTITY = r"&#?\w+;"
_PLACEHOLDER = re.compile(r"\{([^}|]*)\|([a-z]*)\}|\[(?:#(\d)|([^]]*))\]")
_MAX_FACTS = 20_000  # a template beyond them would be in fewer than one row in 4,000
_MIN_REFERENCE = 3  # characters
_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """How often which value occurs."""

    named: tuple[tuple[Value, int], ...] = ()  # that enough groups share
    rest: int = 0  # count of all others together
    rest_values: int = 0  # number of different others

    @property
    def values(self) -> tuple[Value, ...]:
        """The named values."""
        return tuple(value for value, _ in self.named)

    def draw(self, rng: random.Random, without: Iterable[Value] = ()) -> Value:
        """Draw a value by its frequency, RARE for the others; none of `without`."""
        counts = [0 if value in without else n for value, n in self.named]
        total = sum(counts) + self.rest
        return rng.choices([*self.values, RARE], [*counts, self.rest])[0] if total else RARE


def count(pairs: Iterable[tuple[Value, int]]) -> Frequencies:
    """Count (value, group) pairs.

    Input:  Tees in 9 groups (30 times), Vests in 5 (7 times), Belts in 2 (4 times)
    Output: Frequencies(named=(("Tees", 30), ("Vests", 7)), rest=4, rest_values=1)
    """
    times: Counter[Value] = Counter()
    groups: defaultdict[Value, set[int]] = defaultdict(set)
    for value, group in pairs:
        times[value] += 1
        groups[value].add(group)
    named = [(value, n) for value, n in times.items() if len(groups[value]) >= MIN_GROUPS]
    named.sort(key=lambda pair: (-pair[1], str(pair[0])))
    rest = times.total() - sum(n for _, n in named)
    return Frequencies(named=tuple(named), rest=rest, rest_values=len(times) - len(named))


def count_by(triples: Iterable[tuple[str, Value, int]]) -> dict[str, Frequencies]:
    """Count (key, value, group) triples by key; keys without a named value are left out."""
    pairs: defaultdict[str, list[tuple[Value, int]]] = defaultdict(list)
    for key, value, group in triples:
        pairs[key].append((value, group))
    found = {key: count(pairs[key]) for key in sorted(pairs)}
    return {key: frequencies for key, frequencies in found.items() if frequencies.named}


def number(record: Mapping[str, Value], column: str, default: float = math.nan) -> float:
    """Return a cell as a number."""
    cell = record.get(column)
    return float(cell) if isinstance(cell, int | float) else default


def label(record: Mapping[str, Value], column: str | None) -> str:
    """Return a cell as a key of a table."""
    return str(record.get(column or ""))


@dataclass(frozen=True, kw_only=True)
class Column:
    """How the values of a column are drawn."""

    name: str
    role: Role
    level: Level
    missing: float = 0.0  # fraction of null where no pattern of gaps is named; categories count it
    blank: float = 0.0  # fraction of empty text, likewise
    helper: bool = False  # whether it is no column, but others are drawn by it
    parent: str | None = None  # the column on which the values depend
    overall: Frequencies = Frequencies()  # of categories, templates, or numbers and means ("~28")
    given: Mapping[str, Frequencies] = field(default_factory=dict)  # the same by value of `parent`
    differs: bool = False  # whether the rows of a group have different categories, as colours do
    of: tuple[str, ...] = ()  # of which column a number is a factor; which two a flag compares
    decimals: int = 0  # the most digits of a number after the point
    endings: Frequencies = Frequencies()  # of numbers, modulo 10: 8.0 mostly for 48.0 and 98.0
    # "Skirts 1" -> last words of texts of a category, or shapes of rare ones; "Skirts < Skirt" ->
    # words in front of another; "" -> all shapes.
    words: Mapping[str, Frequencies] = field(default_factory=dict)
    repeats: float = 0.0  # fraction of texts that occurred before
    separator: str = ""  # of the parts of lists and paths, whose tables `words` holds then
    numbers: Mapping[str, "Column"] = field(default_factory=dict)  # of quantities and money by mark

    def draw(
        self, rng: random.Random, record: Mapping[str, Value], used: Sequence[Value] = ()
    ) -> Value:
        """Draw a value, template, number or mean that fits the record, and none of `used`."""
        given = self.given.get(label(record, self.parent), Frequencies())
        value = given.draw(rng, used)
        return self.overall.draw(rng, (*used, *given.values)) if value == RARE else value

    def draw_number(self, rng: random.Random, record: Mapping[str, Value]) -> float | None:
        """Draw a number, where that is near enough one with a real ending.

        It is None where the number that it follows from is missing.
        """
        base = number(record, self.of[0], number(record, self.of[0] + HIDDEN)) if self.of else 1.0
        amount = self.draw(rng, record)
        if math.isnan(base):
            return None
        is_exact = not self.of or amount == self.overall.values[0]  # the usual factor is
        if isinstance(amount, str):  # a mean becomes a number between it and one beside it
            table, is_exact = self.given.get(label(record, self.parent), self.overall), False
            means = sorted(float(value[1:]) for value in table.values if isinstance(value, str))
            place = means.index(float(amount[1:]))
            amount = rng.uniform(means[place], rng.choice(means[max(0, place - 1) : place + 2]))
        drawn = round(base * float(amount or 0), self.decimals)
        endings = {float(ending or 0): n for ending, n in self.endings.named}
        moved = {10 * round((drawn - ending) / 10) + ending: n for ending, n in endings.items()}
        near = {m: n for m, n in moved.items() if m > 0 and abs(m - drawn) <= _MAX_SHIFT * drawn}
        if is_exact or not near:
            return drawn
        return round(rng.choices([*near], [*near.values()])[0], self.decimals)


def measure_amounts(numbers: Sequence[tuple[float, int]]) -> Frequencies:
    """Count numbers (not NaN) that enough groups share, and means over groups of the others.

    Input:  98.0 in 6 groups, and 21.0, 25.0, 27.0, 30.0, 31.0, 34.0 in one group each
    Output: Frequencies(named=((98.0, 6), ("~28", 6)))
    """
    numbers = [pair for pair in numbers if not math.isnan(pair[0])]
    points = count(numbers)
    shared, least = set(points.values), math.ceil(len({g for _, g in numbers}) / _MAX_MEANS)
    runs, last, groups = list[list[float]](), list[float](), set[int]()
    for number, group in sorted(pair for pair in numbers if pair[0] not in shared):
        last.append(number)
        groups.add(group)
        if len(groups) >= max(MIN_GROUPS, least):
            runs.append(last)
            last, groups = [], set()
    if runs:
        runs[-1] += last  # too few groups to stand alone
    means = [(f"~{fmean(run):.6g}", len(run)) for run in runs]
    return Frequencies(named=(*points.named, *means))


def measure_numbers(column: Column, facts: Facts, earlier: Sequence[str] = ()) -> Column:
    """Measure the numbers of a column, or their factors of one of those measured earlier.

    Input:  full_price 100, 80, 50; price 100, 80, 35
    Output: of ("full_price",), overall 1.0 (2 times) and 0.7
    """
    numbers = np.array([number(record, column.name) for record, _ in facts])
    decimals = max(len(f"{n:.4f}".rstrip("0").partition(".")[2]) for n in numbers)
    best, of, amounts = 0.5, tuple[str, ...](), numbers
    for other in earlier:
        bases = np.array([number(record, other) for record, _ in facts])
        bases[bases <= 0] = np.nan
        factors = numbers / bases
        likely = factors.round(3) == mode(factors.round(3).tolist())
        usual = round(float(np.median(factors[likely])), 6) if likely.any() else 1.0
        tolerance = np.minimum(0.51 * 10.0**-decimals, 0.02 * numbers)
        exact = np.abs(numbers - bases * usual) <= tolerance
        if exact.mean() > best:
            best, of, amounts = exact.mean(), (other,), np.where(exact, usual, factors.round(2))
    pairs = [(a, group) for a, (_, group) in zip(amounts.tolist(), facts, strict=True)]
    by_parent: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for pair, (record, _) in zip(pairs, facts, strict=True):
        by_parent[label(record, column.parent)].append(pair)
    given = {} if of else {key: measure_amounts(by_parent[key]) for key in sorted(by_parent)}
    ends = [
        (round(n % 10, 4), g) for n, (_, g) in zip(numbers.tolist(), facts, strict=True) if n > 0
    ]
    return replace(
        column,
        overall=measure_amounts(pairs),
        given={key: table for key, table in given.items() if table.named},
        of=of,
        decimals=decimals,
        endings=count(ends if decimals <= 2 else ()),  # those of prices
    )


def shape_of(word: str) -> str:
    """Return a word's shape: A for a capital, a for another letter, 9 for a digit, marks verbatim.

    HTML entities are marks, too. Scripts without capitals have small letters.

    Input:  "EverCool&trade;"   "MP08"   "Crew-Neck"
    Output: "AaaaAaaa&trade;"   "AA99"   "Aaaa-Aaaa"
    """

    def shape(match: re.Match[str]) -> str:
        piece = match[0]
        return piece if piece[1:] else "9" if piece.isdigit() else "A" if piece.isupper() else "a"

    return re.sub(rf"{_ENTITY}|[^\W_]", shape, word)


def invent(shape: str, rng: random.Random) -> str:
    """Invent a word of a shape; longer runs of letters can be pronounced.

    Input:  "AaaaAaaa&trade;"   "AA99"
    Output: "VetoLuka&trade;"   "RB41", or others
    """

    def fill(match: re.Match[str]) -> str:
        piece = match[0]
        if piece[0] == "&":
            return piece
        sounds, start = ["aeiou", "bcdfghklmnprstvwz"], rng.randrange(2)
        if len(piece) <= 3 and len(set(piece)) == 1:  # an abbreviation such as XL needs no vowels
            sounds = ["0123456789" if piece == "9" else "abcdefghijklmnopqrstuvwxyz"]
        letters = [rng.choice(sounds[(start + i) % len(sounds)]) for i in range(len(piece))]
        cased = zip(letters, piece, strict=True)
        return "".join(letter.upper() if case == "A" else letter for letter, case in cased)

    return re.sub(f"{_ENTITY}|[Aa]+|9", fill, shape)


def draw_text(column: Column, record: Mapping[str, Value], rng: random.Random) -> str:
    """Compose a text for a record.

    Input:  template "p/{title|slug}-[AA99].jpg", record {"title": "Wool Coat"}
    Output: "p/wool-coat-RB41.jpg", or others
    """
    for _ in range(_TRIES):
        template = str(column.draw(rng, record))
        names = re.findall(r"\{([^}|]*)\|", template)
        if template != RARE and all(record.get(name) not in (None, "") for name in names):
            break
    else:
        template = _USUAL[column.role]
    words = _draw_words(column, label(record, column.parent), template.count("[#"), rng)

    def put(match: re.Match[str]) -> str:
        name, form, place, shape = match.groups()
        if name is not None:
            return FORMS[form](str(record[name]))
        return words.pop() if place else invent(shape, rng)

    return _PLACEHOLDER.sub(put, template)


def _draw_words(column: Column, category: str, count: int, rng: random.Random) -> list[str]:
    """Draw the words of a text from the last to the first, each by the one that follows it."""
    words: list[str] = []
    for place in range(1, count + 1):
        keys = [f"{category} < {words[-1]}"] if words else []
        keys.append(f"{category} {min(place, _MAX_PLACE)}")
        keys += [f"(all) {min(place, _MAX_PLACE)}"] if words else []  # other last words mislead
        drawn = (column.words[key].draw(rng, words) for key in keys if key in column.words)
        word = str(next((word for word in drawn if word != RARE), column.words[""].draw(rng)))
        shape = NEW_WORD if word == RARE else word[1:-1]
        words.append(invent(shape, rng) if word == RARE or word[0] == "[" else word)
    return words


def measure_wording(column: Column, facts: Facts) -> Column:
    """Measure the number of words of the texts of a column, and the words at each place.

    Input:  "Bellona Pleated Skirt", "Davina Slim  Skirt", and the like, all of the category Skirts
    Output: given {"Skirts": "[#3] [#2] [#1]" and "[#3] [#2]  [#1]"}, words {"Skirts 1": Skirt,
            "Skirts 2" and "Skirts < Skirt": Pleated and Slim, "Skirts 3": "[Aaaaaaa]", …}
    """
    templates, words = [], []
    for record, group in facts:
        category, text = label(record, column.parent), str(record[column.name])
        ends = [_plain(word) for word in text.split()[::-1]]
        places = [min(place, _MAX_PLACE) for place in range(1, len(ends) + 1)]
        slots = [f"[#{place}]" for place in reversed(places)]
        templates.append((category, re.sub(r"\S+", "{}", text).format(*slots), group))
        words += [(f"{category} {n}", word, group) for n, word in zip(places, ends, strict=True)]
        words += [(f"(all) {n}", word, group) for n, word in zip(places[1:], ends[1:], strict=True)]
        # A key with a rare word gets no named value, and is left out.
        words += [(f"{category} < {after}", word, group) for after, word in pairwise(ends)]
    known = {*count((word, group) for _, word, group in words).values}
    shapes = {*count((shape_of(w), group) for _, w, group in words if w not in known).values}

    def named(word: str) -> str:
        shape = shape_of(word)
        plain = f"A{'a' * min(len(shape) - 1, 13)}"  # a rare shape counts as a plain word
        return word if word in known else f"[{shape if shape in shapes else plain}]"

    words = [(key, named(word), group) for key, word, group in words]
    everywhere = count((word, group) for _, word, group in words if word[0] == "[")
    return replace(
        column,
        overall=replace(count((template, group) for _, template, group in templates), rest=0),
        given=count_by(templates),
        words=count_by(words) | {"": everywhere},
        repeats=_repeats(column, facts),
    )


def measure_codes(column: Column, facts: Facts, references: Sequence[str] = ()) -> Column:
    """Find the templates of codes, links or file names, the most special that enough groups share.

    They may repeat the columns `references`, the likeliest first.

    Input:  "shop/wsh10-white_main.jpg" beside product_code "WSH10-White", and the like
    Output: overall "shop/{product_code|lower}_main.jpg"
    """
    plain = [(_plain(str(record[column.name])), record, group) for record, group in facts]
    raw = [text for text, _, _ in plain]
    # Digits that all numbers of a column begin with, such as 800 of 80012345.
    start = commonprefix(raw) if all(map(str.isdigit, raw)) and len({*raw}) > 1 else ""  # noqa: RUF071
    parts = re.compile((rf"^{start}(?=.)|" if start else "") + r"(?s:\{[^}]*\}|[^\W_]+|.)")
    texts = [
        (parts.findall(_refer(text, record, references)), label(record, column.parent), group)
        for text, record, group in plain[:_MAX_FACTS]
    ]
    shared = count((piece, group) for pieces, _, group in texts for piece in {*pieces})
    half = len({group for _, _, group in texts}) / 2
    known, usual = {*shared.values}, {piece for piece, times in shared.named if times >= half}

    def template(pieces: Sequence[str], kept: Collection[Value]) -> str:
        return "".join(
            piece if piece in kept or not piece[0].isalnum() else f"[{shape_of(piece)}]"
            for piece in pieces
        )

    exact = [(category, template(pieces, known), group) for pieces, category, group in texts]
    overall = count((code, group) for _, code, group in exact)
    pairs = zip(texts, exact, strict=True)
    others = [text for text, (_, code, _) in pairs if code not in overall.values]
    loose = count((template(pieces, usual), group) for pieces, _, group in others)
    return replace(
        column,
        overall=Frequencies(named=overall.named + loose.named),
        given=count_by(exact) if column.parent else {},
        repeats=_repeats(column, facts),
    )


def _repeats(column: Column, facts: Facts) -> float:
    return round(1 - len({record[column.name] for record, _ in facts}) / len(facts), 4)


def _plain(text: str) -> str:
    """Return a text without marks of placeholders, a link with a reserved host (RFC 2606).

    Input:  https://www.burberry.com/p/[1]
    Output: https://shop.example.com/p/(1)
    """

    def hide(match: re.Match[str]) -> str:
        length = max(1, len(match[2]) - len(".example.com"))
        return f"{match[1]}{('shop' * 16)[:length]}.example.com"

    return re.sub(r"^(\w+://)([^/?#]+)", hide, text).translate(str.maketrans("{}[]", "()()"))


def _refer(text: str, record: Mapping[str, Value], columns: Sequence[str]) -> str:
    """Replace repetitions of other columns by placeholders, the longest first."""
    found: dict[str, str] = {}
    for column in columns:
        for form, change in FORMS.items():
            repeated = change(str(record.get(column) or ""))
            if len(repeated) >= _MIN_REFERENCE and repeated in text:
                found.setdefault(repeated, f"{{{column}|{form}}}")

    def edge(character: str, look: str) -> str:  # matches where no word or number is cut
        kind = r"\d" if character.isdigit() else r"[^\W\d_]" if character.isalpha() else ""
        return f"(?{look}{kind})" if kind else ""

    longest = sorted(found, key=len, reverse=True)
    whole = [edge(each[0], "<!") + re.escape(each) + edge(each[-1], "!") for each in longest]
    return re.sub("|".join(whole), lambda match: found[match[0]], text) if whole else text


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.lower())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[\W_]+", "-", bare).strip("-")


FORMS: dict[str, Callable[[str], str]] = {  # name -> how a code may repeat another column
    "as": str,
    "lower": str.lower,
    "tail": lambda text: text.rsplit("/", 1)[-1],
    "slug": _slug,
    "underlined": lambda text: _slug(text).replace("-", "_"),
}
