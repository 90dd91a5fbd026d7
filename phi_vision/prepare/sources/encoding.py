"""Which encoding a text file has: said by its first bytes, proved by all of them, or guessed.

The whole file is looked at, because exports hide their first `é` behind a hundred thousand rows.
What had to be guessed is shown with words from the file, for people to check. Pieces of UTF-8 in a
file that is not have no vote; their lines are found broken when they are read (`lines.damage`).
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from charset_normalizer import from_bytes

from phi_vision.prepare.sources.lines import PACKING_ERRORS, open_bytes, read_as_utf_8
from phi_vision.prepare.sources.mojibake import GOOD_FIT, SPECIAL, fit

# UTF-32 first: its mark begins with the one of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Exports are mostly of Windows in the West: the others must fit clearly better than it.
WESTERN = {"cp1252": 0.0, "cp1250": 0.2, "mac_roman": 0.2}
CHUNK = 2**20
EXCERPTS = 2000  # of text around special characters, of which a guess is made
EXCERPTS_PER_CHUNK = 100  # so that they come from everywhere in a file

MOST_SNIPPETS = 3
LONGEST_SNIPPET = 18  # characters: three and what stands between them are 60

# The last part keeps a character of several bytes in one piece.
_EXCERPT = re.compile(rb"[^\n\r]{0,30}[\x80-\xff][^\n\r]{0,30}[\x80-\xff]{0,3}")
_UNDECODED = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the bytes of a file become text."""

    name: str
    """As Python calls it: `utf-8`, `cp1252`."""

    guessed_from: str | None = None
    """Words with special characters as the guess reads them; None where nothing was guessed."""

    def described(self) -> dict[str, str]:
        """Say it for people.

        Output: {"encoding": "cp1252", "encoding guessed from": "Béret · £90"}
        """
        guess = {"encoding guessed from": self.guessed_from} if self.guessed_from else {}
        return {"encoding": self.name, **guess}


@dataclass(kw_only=True)
class _Census:
    """What was counted while reading a file as UTF-8."""

    special: int = 0
    undecoded: int = 0
    excerpts: list[bytes] = field(default_factory=list)


def detect_encoding(file: Path) -> Encoding:
    """Find the encoding of a text file, reading all of it once.

    A file that is UTF-8 but for a few bytes is UTF-8: the rows with these bytes are broken, the
    others are saved.

    Input:  a file with the bytes 42 e9 72 65 74 20 a3 39 30  ("B\\xe9ret \\xa390")
    Output: Encoding(name="cp1252", guessed_from="Béret · £90")

    Raises:
        ValueError: No known encoding gives readable text.
    """
    head = next(_chunks(file), b"")
    for mark, name in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return Encoding(name=name)
    if wide := _wide_without_mark(head):
        return Encoding(name=wide)
    census = _take_census(file)
    if census.special >= census.undecoded:  # also when both are 0: plain ASCII
        return Encoding(name="utf-8")
    return guess_encoding(b"\n".join(census.excerpts), file)


def guess_encoding(excerpts: bytes, file: Path) -> Encoding:
    """Guess the encoding of text that is no UTF-8.

    Raises:
        ValueError: No known encoding gives readable text.
    """
    fits = {
        name: fit(excerpts.decode(name, "replace")) - handicap for name, handicap in WESTERN.items()
    }
    found: str | None = max(WESTERN, key=lambda name: fits[name])
    if not _looks_western(excerpts) or max(fits.values()) < GOOD_FIT:
        best = from_bytes(excerpts).best()
        found = best.encoding if best else None
    if found is None:
        raise ValueError(
            f"cannot tell the encoding of {file}: it is not UTF-8, and no other one makes text of "
            f"{excerpts[:60]!r}; save the file as UTF-8"
        )
    return Encoding(name=found, guessed_from=_snippets(excerpts.decode(found, "replace")))


def _snippets(text: str) -> str:
    """Take a few words with special characters out of a text, short enough for one line.

    Input:  "A;Béret\nB;Coat £90"
    Output: "Béret · £90"
    """
    around = LONGEST_SNIPPET // 2
    found: dict[str, None] = {}
    for word in re.finditer(r'[^\s;,|"]*[^\x00-\x7f][^\s;,|"]*', text):
        special = SPECIAL.search(word[0])
        start = max(0, special.start() - around) if special else 0
        snippet = word[0][start : start + LONGEST_SNIPPET]
        if snippet.isprintable() and "\ufffd" not in snippet:
            found[snippet] = None
        if len(found) == MOST_SNIPPETS:
            break
    return " · ".join(found)


def _looks_western(excerpts: bytes) -> bool:
    """Whether special letters stand alone among plain ones; in other scripts they are together."""
    words = re.findall(rb"[^\s,;|]*[\x80-\xff][^\s,;|]*", excerpts)
    words = [word for word in words if len(word) > 2]
    special = sum(len(re.findall(rb"[\x80-\xff]", word)) for word in words)
    return special / max(1, sum(map(len, words))) <= 0.45  # żółty has 3 of 5, and is rare


def _wide_without_mark(head: bytes) -> str | None:
    """UTF-16 that does not say so: every second byte of plain text is 0."""
    pairs = len(head) // 2
    if pairs < 4:
        return None
    even, odd = head[0::2].count(0) / pairs, head[1::2].count(0) / pairs
    if max(even, odd) < 0.4 or min(even, odd) > 0.1:
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


def _take_census(file: Path) -> _Census:
    census = _Census()
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for chunk in _chunks(file):
        text = decoder.decode(chunk)
        if text.isascii():
            continue
        undecoded = len(_UNDECODED.findall(text))
        census.undecoded += undecoded
        census.special += len(SPECIAL.findall(text)) - undecoded
        if undecoded and len(census.excerpts) < EXCERPTS:
            census.excerpts += islice(_voters(chunk), EXCERPTS_PER_CHUNK)
    return census


def _voters(chunk: bytes) -> Iterator[bytes]:
    """Cut out text around special characters, leaving out what is UTF-8."""
    for match in _EXCERPT.finditer(chunk):
        if read_as_utf_8(match[0]) is None:
            yield match[0]


def _chunks(file: Path) -> Iterator[bytes]:
    try:
        with open_bytes(file) as stream:
            while chunk := stream.read1(CHUNK):
                yield chunk
    except PACKING_ERRORS:
        return  # a packed file that ends in the middle: the reader of its rows tells
