"""Codes, links and file names: what they are composed of.

A pattern is a text with places: `{title|slug}` repeats another column of the row, `[AA99]` is
made up in that shape, the rest stands as it is because enough groups share it.
"""

import random
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi_vision.data.samples import Value
from phi_vision.synthetic.shares import Shares, tally
from phi_vision.synthetic.word_lists import invent, shape_of

_TOKEN = re.compile(r"\{[^}]*\}|[^\W_]+|.", re.DOTALL)
_PLACE = re.compile(r"\{([^}|]*)\|([a-z]*)\}|\[([^]]*)\]")
_HOST = re.compile(r"^(\w+://)([^/?#]+)")
_EXAMPLE = "example.com"
_SHORTEST_REFERENCE = 3
_EVERYWHERE = 0.5
_UNKNOWN = "[AAAA9999]"
"""A code where no pattern is shared by enough groups."""
_TRIES = 20
_ENOUGH = 20_000
"""Rows after which no new pattern is looked for: it would be in fewer than one in 4,000."""

Mention = tuple[str, Mapping[str, Value], int]
"""Text, the record it stands in, group."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """How the codes of a column are composed.

    Attributes:
        templates: texts with places.
        unique: whether no two rows (or groups) have the same.
    """

    templates: Shares
    unique: bool

    def draw(self, rng: random.Random, record: Mapping[str, Value]) -> str:
        """Compose a text for a record.

        Input:  template "p/{title|slug}-[AA99].jpg", record {"title": "Wool Coat"}
        Output: "p/wool-coat-RB41.jpg", or others
        """
        for _ in range(_TRIES):
            template = self.templates.draw(rng)
            text = fill(template, record, rng) if isinstance(template, str) else None
            if text is not None:
                return text
        return invent(_UNKNOWN[1:-1], rng)

    @staticmethod
    def load(data: Mapping[str, Any]) -> "Pattern":
        """Build from what `dataclasses.asdict` and JSON made of it."""
        return Pattern(templates=Shares.load(data["templates"]), unique=data["unique"])


def fill(template: str, record: Mapping[str, Value], rng: random.Random) -> str | None:
    """Fill the places of a template; None where the record has nothing for one of them."""
    missing = []

    def put(match: re.Match[str]) -> str:
        column, form, shape = match.groups()
        if shape is not None:
            return invent(shape, rng)
        if record.get(column) in (None, ""):
            missing.append(column)
        return FORMS[form](str(record.get(column)))

    text = _PLACE.sub(put, template)
    return None if missing else text


def measure_pattern(mentions: Sequence[Mention], columns: Sequence[str]) -> Pattern:
    """Find out how texts are composed.

    Input:  "shop/wsh10-white_main.jpg" beside product_code "WSH10-White", and others like it
    Output: templates "shop/{product_code|lower}_main.jpg"

    Args:
        mentions: (text, record, group) triples.
        columns: what a text may repeat, the likeliest first.
    """
    referred = [
        (_refer(_hide_host(text), record, columns), group)
        for text, record, group in mentions[:_ENOUGH]
    ]
    opened = [(text, group) for text, group in referred if text is not None]
    tokens = [(token, group) for text, group in opened for token in set(_TOKEN.findall(text))]
    shared = tally(tokens)
    some = {str(token) for token in shared.values}
    groups = len({group for _, group in opened})
    everywhere = {str(token) for token, times in shared.named if times >= _EVERYWHERE * groups}
    start = _common_start(mentions)
    exact = tally((_shape(text, some, start), group) for text, group in opened)
    loose = [
        (_shape(text, everywhere, start), group)
        for text, group in opened
        if _shape(text, some, start) not in exact.values
    ]
    named = (*exact.named, *tally(loose).named)
    distinct = len({text for text, _, _ in mentions})
    return Pattern(
        templates=Shares(named=named or ((_UNKNOWN, 1),)), unique=distinct == len(mentions)
    )


def _refer(text: str, record: Mapping[str, Value], columns: Sequence[str]) -> str | None:
    """Replace what repeats another column by its place; None for a text with marks of our own."""
    if set(text) & set("{}[]|"):
        return None
    found: list[tuple[int, str, str]] = []
    for column in columns:
        for form, change in FORMS.items():
            said = change(str(record.get(column) or ""))
            if len(said) >= _SHORTEST_REFERENCE and said in text:
                found.append((len(said), said, f"{{{column}|{form}}}"))
    # The longest first; of equals the first, as Python's sort keeps their order.
    for _, said, place in sorted(found, key=lambda each: -each[0]):
        pattern = re.compile(_edge(said[0], "<!") + re.escape(said) + _edge(said[-1], "!"))
        pieces = re.split(r"(\{[^}]*\})", text)
        text = "".join(
            piece if piece.startswith("{") else pattern.sub(lambda _, p=place: p, piece)
            for piece in pieces
        )
    return text


def _edge(character: str, look: str) -> str:
    """Write what must not stand beside a reference: letters by a letter, digits by a digit."""
    kind = r"\d" if character.isdigit() else r"[^\W\d_]" if character.isalpha() else ""
    return f"(?{look}{kind})" if kind else ""


def _shape(text: str, kept: set[str], start: str) -> str:
    """Write tokens that may not be named as their shape, but for a start that all have."""
    opening = start if start and text.startswith(start) else ""
    tokens = _TOKEN.findall(text[len(opening) :])
    return opening + "".join(
        token
        if token in kept or not token[0].isalnum() or token.startswith("{")
        else f"[{shape_of(token)}]"
        for token in tokens
    )


def _common_start(mentions: Sequence[Mention]) -> str:
    """Find the digits that all numbers of a column begin with, such as 800 of 80012345."""
    texts = [text for text, _, _ in mentions]
    groups = {group for _, _, group in mentions}
    if len(groups) < 2 or not all(text.isdigit() for text in texts):
        return ""
    lowest, highest = min(texts), max(texts)  # all that lie between begin like both
    pairs = enumerate(zip(lowest, highest, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), len(lowest))
    return lowest[:same]


def _hide_host(link: str) -> str:
    """Point a link to a host of the same length that belongs to nobody (RFC 2606).

    Input:  https://www.burberry.com/p/1
    Output: https://shop.example.com/p/1
    """
    match = _HOST.match(link)
    if match is None or match[2].endswith(_EXAMPLE):
        return link
    room = len(match[2]) - len(_EXAMPLE) - 1
    host = f"{('shop' * 16)[:room]}.{_EXAMPLE}" if room > 0 else _EXAMPLE
    return match[1] + host + link[match.end() :]


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.lower())
    marks = {ord(letter): None for letter in plain if unicodedata.combining(letter)}
    return re.sub(r"[\W_]+", "-", plain.translate(marks)).strip("-")


FORMS: dict[str, Callable[[str], str]] = {
    "as": str,
    "lower": str.lower,
    "tail": lambda text: text.rsplit("/", 1)[-1],
    "slug": _slug,
    "underlined": lambda text: _slug(text).replace("-", "_"),
}
"""Name -> how a code may repeat another column."""
