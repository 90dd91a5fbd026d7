"""Templates of the texts of a column: titles, codes, links and file names.

A word or a part of a code that fewer than `MIN_GROUPS` groups share is known by its shape alone
(length, capitals, marks), and a new one is invented in that shape. In a template, `{title|slug}`
repeats another column of the row, `[AA99]` is invented in that shape, `[#2]` is a word that
stands second to last in texts of the category, and the rest is verbatim, as enough groups share it.
"""

import random
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from os.path import commonprefix

from phi_vision.data.samples import Value
from phi_vision.synthetic.distributions import (
    RARE,
    Column,
    Facts,
    Frequencies,
    count,
    count_by,
    label,
)

NEW_WORD = "Aaaaaaa"  # shape where enough groups share none
_USUAL = {"text": "[#3] [#2] [#1]", "code": "[AAAA9999]"}  # templates likewise
_MAX_PLACE = 9
_ENTITY = r"&#?\w+;"
_PLACEHOLDER = re.compile(r"\{([^}|]*)\|([a-z]*)\}|\[(?:#(\d)|([^]]*))\]")
_MAX_FACTS = 20_000  # a template beyond them would be in fewer than one row in 4,000
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
        cased = zip(letters, piece, strict=True)
        return "".join(letter.upper() if case == "A" else letter for letter, case in cased)

    return re.sub(f"{_ENTITY}|[Aa]+|9", fill, shape)


def draw_text(column: Column, record: Mapping[str, Value], rng: random.Random) -> str:
    """Compose a text for a record.

    Input:  template "p/{title|slug}-[AA99].jpg", record {"title": "Wool Coat"}
    Output: "p/wool-coat-RB41.jpg", or others
    """
    for _ in range(_TRIES):
        template = column.draw(rng, record)
        names = re.findall(r"\{([^}|]*)\|", str(template))
        if template != RARE and all(record.get(name) not in (None, "") for name in names):
            break
    else:
        template = _USUAL[column.role]

    def put(match: re.Match[str]) -> str:
        name, form, place, shape = match.groups()
        if name is not None:
            return FORMS[form](str(record[name]))
        if place:
            table = column.words.get(f"{label(record, column.parent)} {place}", Frequencies())
            word = table.draw(rng)
            word = column.words[""].draw(rng) if word == RARE else word
            if word != RARE and not str(word).startswith("["):
                return str(word)
            shape = NEW_WORD if word == RARE else str(word)[1:-1]
        return invent(shape, rng)

    return _PLACEHOLDER.sub(put, str(template))


def measure_wording(column: Column, facts: Facts) -> Column:
    """Measure the number of words of the texts of a column, and the words at each place.

    Input:  "Bellona Pleated Skirt", "Davina Slim  Skirt", and the like, all of the category Skirts
    Output: given {"Skirts": "[#3] [#2] [#1]" and "[#3] [#2]  [#1]"}, words {"Skirts 1": Skirt,
            "Skirts 2": Pleated and Slim, "Skirts 3": "[Aaaaaaa]" and "[Aaaaaa]"}
    """
    templates, words = [], []
    for record, group in facts:
        category, text = label(record, column.parent), str(record[column.name])
        ends = text.split()[::-1]
        places = [min(place, _MAX_PLACE) for place in range(1, len(ends) + 1)]
        slots = [f"[#{place}]" for place in reversed(places)]
        templates.append((category, re.sub(r"\S+", "{}", text).format(*slots), group))
        pairs = zip(places, ends, strict=True)
        words += [(f"{category} {place}", _plain(word), group) for place, word in pairs]
    known = set(count((word, group) for _, word, group in words).values)
    rare = [(shape_of(word), group) for _, word, group in words if word not in known]
    shapes = set(count(rare).values)

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
    """Find the templates of codes, links or file names.

    Each counts as the most special template that enough groups share.

    Input:  "shop/wsh10-white_main.jpg" beside product_code "WSH10-White", and the like
    Output: overall "shop/{product_code|lower}_main.jpg"

    Args:
        column: to measure.
        facts: those that have a value in the column.
        references: columns that the values may repeat, the likeliest first.
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
    loose = count(
        (template(pieces, usual), group)
        for (pieces, _, group), (_, code, _) in zip(texts, exact, strict=True)
        if code not in overall.values
    )
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

    def edge(character: str, look: str) -> str:
        """Match where no word or number is cut."""
        kind = r"\d" if character.isdigit() else r"[^\W\d_]" if character.isalpha() else ""
        return f"(?{look}{kind})" if kind else ""

    longest = sorted(found, key=len, reverse=True)
    whole = [edge(each[0], "<!") + re.escape(each) + edge(each[-1], "!") for each in longest]
    return re.sub("|".join(whole), lambda match: found[match[0]], text) if whole else text


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
