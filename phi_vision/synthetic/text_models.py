"""Models of the texts of a column: wording of titles, composition of codes, links and file names.

A word or a part of a code that fewer than `MIN_GROUPS` groups share is known by its shape alone
(length, capitals, marks), and a new one is invented in that shape.
"""

import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import NamedTuple

from phi_vision.data.samples import Value
from phi_vision.synthetic.distributions import MIN_GROUPS, RARE, Frequencies, count, count_by

NEW_WORD, _NEW_CODE = "Aaaaaaa", "[AAAA9999]"  # shapes where enough groups share none
_END, _RARE_WORD = "(end)", "(rare)"
_ENTITY = r"&#?\w+;"
_MAX_PATTERN_ROWS = 20_000  # a pattern beyond them would be in fewer than one row in 4,000
_MIN_REFERENCE = 3  # characters
_TRIES = 20


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
        return "".join(
            a.upper() if case == "A" else a for a, case in zip(letters, piece, strict=True)
        )

    return re.sub(f"{_ENTITY}|[Aa]+|9", fill, shape)


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """How the texts of a column are worded.

    Texts are written from the last word to the first, each chosen by the next one ("… Coat" is
    often "Trench Coat"), by the category and by its place. A context is written
    `category ◂ next word` or `category ◂ place`, with an empty category for all.
    """

    lengths: Mapping[str, Frequencies]  # category -> number of words; "" for all categories
    words: Mapping[str, Frequencies]  # context -> words that occur there, None for a rare one
    shapes: Frequencies  # of rare words
    gaps: Frequencies  # between words, nearly always one blank
    tails: Frequencies  # blanks after the last word, nearly always none
    repeats: float  # fraction of groups whose text another group has, too

    def draw(self, rng: random.Random, category: str) -> str:
        """Write a text for a category.

        Input:  "Skirts"
        Output: "Velanta Pleated Skirt", or others
        """
        everywhere = self.lengths.get("", Frequencies())
        lengths = [each.draw(rng) for each in (self.lengths.get(category, everywhere), everywhere)]
        size = next((length for length in lengths if isinstance(length, int)), 3)
        words: list[str | None] = []
        for place in reversed(range(size)):
            words.insert(0, self._word(rng, category, place, size, words))
        text = ""
        for word in words:
            text += self._draw(self.gaps, " ", rng) if text else ""
            text += word or invent(self._draw(self.shapes, NEW_WORD, rng), rng)
        return text + self._draw(self.tails, "", rng)

    def _draw(self, frequencies: Frequencies, otherwise: str, rng: random.Random) -> str:
        value = frequencies.draw(rng)
        return otherwise if value is RARE else str(value)

    def _word(
        self, rng: random.Random, category: str, place: int, size: int, after: list[str | None]
    ) -> str | None:
        """Choose the word in front of others; None for a rare one."""
        excluded: list[Value] = [word for word in after if word is not None]
        following = (after[0] or _RARE_WORD) if after else _END
        for context in _contexts(category, following, place, size):
            words = self.words.get(context, Frequencies())
            word = words.draw(rng, without=excluded)
            if word is not RARE:
                return None if word is None else str(word)
            excluded += words.values
            if following == _END:
                # The last word of another category would name another thing: no "Pant" among
                # the blouses.
                ends = [key for key in self.words if key.endswith(f" ◂ {_END}") and key[0] != " "]
                excluded += [value for key in ends for value in self.words[key].values]
        return None


def measure_grammar(texts: Sequence[tuple[str, str, int]]) -> Grammar:
    """Measure how texts are worded from (text, category, group) triples.

    Input:  ("Bellona Pleated Skirt", "Skirts", 1), ("Davina Skirt", "Skirts", 2), and so on
    Output: lengths {"Skirts": 2 or 3}, words {"Skirts ◂ (end)": Skirt,
            "Skirts ◂ Skirt": Pleated and rare ones}, shapes Aaaaaaa and Aaaaaa
    """
    words = [(word, group) for text, _, group in texts for word in text.split()]
    known = set(count(words).values)
    places: list[tuple[str, Value, int]] = []
    lengths: list[tuple[str, Value, int]] = []
    owners: defaultdict[str, set[int]] = defaultdict(set)
    for text, category, group in texts:
        plain = [word if word in known else None for word in text.split()]
        lengths += [(name, len(plain), group) for name in {category, ""}]
        places += [(context, word, group) for context, word in _places(plain, category)]
        owners[text].add(group)
    repeats = sum(len(groups) - 1 for groups in owners.values())
    shapes = [(shape_of(word), group) for word, group in words if word not in known]
    exact = count(shapes)  # a rare shape counts as a plain word
    plain_shapes = count(
        (f"A{'a' * min(len(s) - 1, 13)}", g) for s, g in shapes if s not in exact.values
    )
    return Grammar(
        lengths=count_by(lengths),
        words=count_by(places),
        shapes=Frequencies(named=exact.named + plain_shapes.named),
        gaps=count((gap, g) for text, _, g in texts for gap in re.findall(r"\s+", text.strip())),
        tails=count((text[len(text.rstrip()) :], group) for text, _, group in texts),
        repeats=round(repeats / max(1, len({group for _, _, group in texts})), 4),
    )


def _places(words: Sequence[str | None], category: str) -> Iterator[tuple[str, str | None]]:
    for place, (word, following) in enumerate(zip(words, [*words[1:], _END], strict=True)):
        for context in _contexts(category, following or _RARE_WORD, place, len(words)):
            yield context, word


def _contexts(category: str, following: str, place: int, size: int) -> tuple[str, ...]:
    """List contexts of a word, the most informative first."""
    where = "(last)" if place == size - 1 else "(first)" if place == 0 else "(middle)"
    names = (f"{name} ◂ {near}" for near in (following, where) for name in (category, ""))
    return tuple(dict.fromkeys(names))


class Mention(NamedTuple):
    """A code, link or file name, the record that holds it, and its group."""

    text: str
    record: Mapping[str, Value]
    group: int


@dataclass(frozen=True, kw_only=True)
class CodePattern:
    """How the codes, links or file names of a column are composed.

    In a template, `{title|slug}` repeats another column of the row, `[AA99]` is invented in that
    shape, and the rest is verbatim, as enough groups share it.
    """

    templates: Frequencies
    unique: bool  # no two rows (or groups) have the same

    def draw(self, rng: random.Random, record: Mapping[str, Value]) -> str:
        """Compose a text for a record.

        Input:  template "p/{title|slug}-[AA99].jpg", record {"title": "Wool Coat"}
        Output: "p/wool-coat-RB41.jpg", or others
        """
        templates = (self.templates.draw(rng) for _ in range(_TRIES))
        texts = (fill(each, record, rng) for each in templates if isinstance(each, str))
        return next((text for text in texts if text is not None), invent(_NEW_CODE[1:-1], rng))


def fill(template: str, record: Mapping[str, Value], rng: random.Random) -> str | None:
    """Fill the placeholders of a template; None where the record lacks one of the values."""
    if any(record.get(name) in (None, "") for name in re.findall(r"\{([^}|]*)\|", template)):
        return None

    def put(match: re.Match[str]) -> str:
        column, form, shape = match.groups()
        return FORMS[form](str(record[column])) if shape is None else invent(shape, rng)

    return re.sub(r"\{([^}|]*)\|([a-z]*)\}|\[([^]]*)\]", put, template)


def measure_pattern(mentions: Sequence[Mention], columns: Sequence[str]) -> CodePattern:
    """Find out how texts are composed; they may repeat `columns`, the likeliest first.

    Input:  "shop/wsh10-white_main.jpg" beside product_code "WSH10-White", and others like it
    Output: templates "shop/{product_code|lower}_main.jpg"
    """
    texts = [
        (_refer(_hide_host(each.text), each.record, columns), each.group)
        for each in mentions[:_MAX_PATTERN_ROWS]
        if not set(each.text) & set("{}[]|")  # these mark placeholders
    ]
    shared = count((token, group) for text, group in texts for token in set(_tokens(text)))
    half = len({group for _, group in texts}) / 2
    everywhere = {token for token, times in shared.named if times >= half}
    distinct = {each.text for each in mentions}
    # Digits that all numbers of a column begin with, such as 800 of 80012345.
    digits = list(distinct) if all(text.isdigit() for text in distinct) else []
    start = commonprefix(digits) if len(digits) >= MIN_GROUPS else ""  # noqa: RUF071
    templates = [(_template(text, shared.values, start), group) for text, group in texts]
    exact = count(templates)
    loose = count(
        (_template(text, everywhere, start), group)
        for (text, group), (template, _) in zip(texts, templates, strict=True)
        if template not in exact.values
    )
    named = exact.named + loose.named or ((_NEW_CODE, 1),)
    return CodePattern(templates=Frequencies(named=named), unique=len(distinct) == len(mentions))


def _refer(text: str, record: Mapping[str, Value], columns: Sequence[str]) -> str:
    """Replace repetitions of other columns by placeholders, the longest first."""
    found: dict[str, str] = {}
    for column in columns:
        for form, change in FORMS.items():
            repeated = change(str(record.get(column) or ""))
            if len(repeated) >= _MIN_REFERENCE and repeated in text:
                found.setdefault(repeated, f"{{{column}|{form}}}")
    for repeated in sorted(found, key=len, reverse=True):
        # A reference does not end inside a word or a number.
        whole = _edge(repeated[0], "<!") + re.escape(repeated) + _edge(repeated[-1], "!")
        pieces = re.split(r"(\{[^}]*\})", text)
        pieces[::2] = [re.sub(whole, lambda _, r=repeated: found[r], p) for p in pieces[::2]]
        text = "".join(pieces)
    return text


def _edge(character: str, look: str) -> str:
    kind = r"\d" if character.isdigit() else r"[^\W\d_]" if character.isalpha() else ""
    return f"(?{look}{kind})" if kind else ""


def _tokens(text: str) -> list[str]:
    return re.findall(r"(?s)\{[^}]*\}|[^\W_]+|.", text)


def _template(text: str, kept: Collection[Value], start: str) -> str:
    """Replace tokens that may not be named by their shape, except for a common start."""
    opening = start if text.startswith(start) else ""
    return opening + "".join(
        token if token in kept or not token[0].isalnum() else f"[{shape_of(token)}]"
        for token in _tokens(text[len(opening) :])
    )


def _hide_host(link: str) -> str:
    """Point a link to a host of the same length that is reserved (RFC 2606).

    Input:  https://www.burberry.com/p/1
    Output: https://shop.example.com/p/1
    """

    def hide(match: re.Match[str]) -> str:
        length = max(1, len(match[2]) - len(".example.com"))
        return f"{match[1]}{('shop' * 16)[:length]}.example.com"

    return re.sub(r"^(\w+://)([^/?#]+)", hide, link)


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.lower())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[\W_]+", "-", bare).strip("-")


FORMS: dict[str, Callable[[str], str]] = {
    "as": str,
    "lower": str.lower,
    "tail": lambda text: text.rsplit("/", 1)[-1],
    "slug": _slug,
    "underlined": lambda text: _slug(text).replace("-", "_"),
}
"""Name -> how a code may repeat another column."""
