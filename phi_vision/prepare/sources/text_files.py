"""Text files of any encoding, gzipped or not, read line by line however long or damaged they are.

The encoding comes from a byte-order mark or the whole file: exports hide their first `é` behind a
hundred thousand rows. Pieces of UTF-8 in another encoding have no vote, and are `damage` when read.
"""

import codecs
import gzip
import io
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any, cast

import chardet

from phi_vision.prepare.sources.files import VOCABULARY, failure
from phi_vision.prepare.sources.rows import UnreadableRow

MAX_UNPACKED, MAX_RATIO = 2**30, 200  # bytes of a compressed file, and times its own size
MAX_LINE = 64 * 2**20  # characters: enough for a dozen images as data URIs
# Raised when a compressed file is truncated or damaged.
COMPRESSION_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
BYTE_ORDER_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-8-sig": (codecs.BOM_UTF8,),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
# Encoding -> what its score begins with: most exports are Western Windows, few of an old Mac.
ENCODINGS: dict[str, float] = VOCABULARY["encodings"]
WESTERN, MAX_UNSURE = "cp1252", 3  # different letters, of which no language can be told for sure
COMMON_LETTERS = {*"àáâãäåæçèéêëìíîïñòóôõöøùúûüßœ"}  # all of Western languages but Icelandic
ALBANIAN = {"ë", "ç"}  # a language that the model of letter pairs does not know
given_encoding: ContextVar[str | None] = ContextVar("given_encoding", default=None)  # by the user
# Of 124 files of 40 lines in 40 languages 113 are read right, 9 of the 11 others as uncertain.
PLACES_WEIGHT, WESTERN_BONUS, DOUBTFUL, DOUBTFUL_IF_FEW, CLEAR = 0.03, 0.01, 0.012, 0.02, 0.06
MAX_STRAY, MAX_STRAY_SHARE = 5, 0.01  # lines with bytes that are damage rather than text
CHUNK = 2**20
MAX_EXCERPTS, EXCERPTS_PER_CHUNK = 2000, 100
MAX_SNIPPETS, MAX_SNIPPET = 3, 18
# Plausibility of 1 is reached by letters inside words only; a wrong encoding stays below 0.
GOOD_FIT = 0.4
MIN_CERTAIN = 3  # UTF-8 letters that a line of another encoding does not hold by accident
MIN_TWIN = 4  # letters of a word that another one resembles by no accident
_SPECIAL = re.compile("[^\x00-\x7f]")
_COMMON_MARKS = "’‘“”„–—…•·°®™©«»×½¼¾²ªºµ\xa0"
# Up to bytes that no character of several bytes contains, so that all of them stay whole.
_EXCERPT = re.compile(
    rb"(?:^|(?<=[\x00-\x2f:-?]))[^\n\r]{0,60}[\x80-\xff][^\n\r]{0,200}(?=[\x00-\x2f:-?]|$)"
)
_BYTES_WORD = re.compile(rb"[A-Za-z]*[\x80-\xff][A-Za-z\x80-\xff]*")
_EDGE = rb"(?<![A-Za-z\x80-\xff])", rb"(?![A-Za-z\x80-\xff])"
_NO_CONTROLS = bytes(byte if byte in b"\t\n\r" or byte > 31 else 32 for byte in range(256))
_UNDECODED = re.compile("[\udc80-\udcff]")
_WORD = re.compile(r'([^\s;,|"\x80-\U0010ffff]*)([^\x00-\x7f][^\s;,|"]*)')

Line = tuple[int, str | UnreadableRow]  # line number, from 1, and the line with its end


class _BoundedGzip(gzip.GzipFile):
    def read1(self, size: int = -1) -> bytes:
        chunk = super().read1(size)
        check_unpacked(Path(self.name), self.tell())
        return chunk


def check_unpacked(file: Path, size: int) -> None:
    """Raise ValueError where so many bytes are out of a compressed file as in no real one."""
    limit = max(MAX_UNPACKED, MAX_RATIO * file.stat().st_size)
    if size > limit:
        raise failure("bomb", file=file, limit=limit, ratio=MAX_RATIO)


def open_bytes(file: Path) -> io.BufferedReader:
    """Open a file for reading, decompressed if its magic bytes are those of gzip."""
    with file.open("rb") as start:
        compressed = start.read(2) == b"\x1f\x8b"
    # GzipFile is a BufferedIOBase with read1, the only part of BufferedReader that is used.
    return cast(io.BufferedReader, _BoundedGzip(file)) if compressed else file.open("rb")


def open_text(file: Path, encoding: str) -> io.TextIOWrapper:
    """Open a text file; undecodable bytes are kept for `damage` to find."""
    # PEP 383 keeps single bytes, of which UTF-16 and UTF-32 have none.
    errors = "replace" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
    return io.TextIOWrapper(open_bytes(file), encoding=encoding, errors=errors)


def read_lines(file: Path, encoding: str) -> Iterator[Line]:
    """Yield the lines of a file; an overlong line or a truncated end is unreadable."""
    number = 0
    try:
        with open_text(file, encoding) as stream:
            while line := stream.readline(MAX_LINE):
                number += 1
                if len(line) < MAX_LINE or line.endswith("\n"):
                    yield number, line
                    continue
                while (rest := stream.readline(MAX_LINE)) and not rest.endswith("\n"):
                    pass
                yield number, UnreadableRow("a line longer than 64 MB", line)
    except COMPRESSION_ERRORS as error:
        yield number + 1, UnreadableRow("the compressed file is truncated", str(error))


def damage(text: str, encoding: str) -> UnreadableRow | None:
    """Detect bytes of another encoding, or NUL bytes.

    Input:  "CafÃ© crÃ¨me", encoding="cp1252"
    Output: UnreadableRow(reason="is UTF-8 in a file that is cp1252", raw="Café crème")
    """
    if "\0" in text:
        return UnreadableRow("holds NUL bytes", text)
    if text.isascii():
        return None
    if not encoding.startswith("utf") and (meant := _decode_as_utf_8(text, encoding)):
        return UnreadableRow(f"is UTF-8 in a file that is {encoding}", meant)
    wide = encoding.startswith(("utf-16", "utf-32"))
    if "\ufffd" in text if wide else _UNDECODED.search(text):
        return UnreadableRow(f"holds bytes that are not {encoding}", text)
    return None


def detect_encoding(file: Path) -> dict[str, str]:
    """Detect the encoding of a text file, all of it; UTF-8 but for a few bytes is UTF-8.

    Output: {"encoding": "utf-8"}, {"encoding": "cp1252", "encoding guessed from": "Béret · £90"}
    """
    if given := given_encoding.get():
        return {"encoding": given}
    head = next(_chunks(file), b"")
    for name, marks in BYTE_ORDER_MARKS.items():
        if head.startswith(marks):
            return {"encoding": name}
    if b"\x1b$" in head:  # how Japanese and Korean begin in encodings of 7 bits
        return {"encoding": "iso2022_kr" if b"\x1b$)C" in head else "iso2022_jp_2"}
    # UTF-16 without a mark: every second byte of plain text is 0.
    even, odd = (head[start::2].count(0) / max(1, len(head) // 2) for start in (0, 1))
    if len(head) >= 8 and max(even, odd) >= 0.4 and min(even, odd) <= 0.1:
        return {"encoding": "utf-16-be" if even > odd else "utf-16-le"}
    special, undecoded, lines, excerpts = 0, 0, 0, list[bytes]()
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for chunk in _chunks(file):
        text = decoder.decode(chunk)
        lines += chunk.count(b"\n")
        if text.isascii():
            continue
        bad = len(_UNDECODED.findall(text))
        undecoded += bad
        special += len(_SPECIAL.findall(text)) - bad
        if bad and len(excerpts) < MAX_EXCERPTS:
            votes = (m[0] for m in _EXCERPT.finditer(chunk) if _read_as_utf_8(m[0]) is None)
            excerpts += islice(votes, EXCERPTS_PER_CHUNK)
    few = len(excerpts) <= MAX_STRAY
    if special >= undecoded or (few and _is_damage(excerpts, file)):  # 0 and 0: plain ASCII
        return {"encoding": "utf-8"}
    stray = few and len(excerpts) <= lines * MAX_STRAY_SHARE
    return _guess_encoding(b"\n".join(excerpts), file, is_stray=stray)


def _is_damage(excerpts: Sequence[bytes], file: Path) -> bool:
    """Whether most words with bad bytes have a twin without: "Co\\xe9at" where there is "Coat"."""
    words = {word for excerpt in excerpts for word in _BYTES_WORD.findall(excerpt)}
    twins = {
        re.compile(_EDGE[0] + re.sub(rb"[\x80-\xff]", rb"[A-Za-z]?", word) + _EDGE[1])
        for word in words
        if len(word) >= MIN_TWIN and len(re.findall(rb"[\x80-\xff]", word)) == 1
    }
    found = {twin for chunk in _chunks(file) for twin in twins if twin.search(chunk)}
    return len(found) > len(words) / 2


def _guess_encoding(sample: bytes, file: Path, *, is_stray: bool) -> dict[str, str]:
    """Choose by a model of letter pairs in 50 languages, and by the places of special signs."""
    sample = sample.translate(_NO_CONTROLS)  # for chardet, they make a binary file
    ranked = []
    options: dict[str, Any] = {"include_encodings": ENCODINGS, "compat_names": False}
    for each in chardet.detect_all(sample, ignore_threshold=True, **options):
        if name := each["encoding"]:
            text = sample.decode(name, "replace")
            places = _plausibility(text)
            score = each["confidence"] + ENCODINGS.get(name, 0.0)
            score += PLACES_WEIGHT * (places if places > 0 else 3 * places)
            letters = _letters(text)
            if name == WESTERN and not letters <= COMMON_LETTERS:
                score -= WESTERN_BONUS
            elif name == WESTERN and len(letters) < MAX_UNSURE:
                score += WESTERN_BONUS * (3 if letters and letters <= ALBANIAN else 1)
            ranked.append((score, name.replace("-", "_"), text))
    if not ranked:
        raise failure("no_encoding", file=file, sample=sample[:60])
    score, found, text = max(ranked)
    is_western = found == WESTERN and _plausibility(text) >= GOOD_FIT
    if is_stray and not is_western and score < CLEAR:
        return {"encoding": "utf-8"}
    facts = {"encoding": found}
    if shown := _words(text):
        facts["encoding guessed from"] = shown
    letters = _letters(text)
    margin = DOUBTFUL_IF_FEW if 0 < len(letters) <= MAX_UNSURE else DOUBTFUL
    margin += 3 * WESTERN_BONUS if letters and letters <= ALBANIAN else 0
    others = [each for each in ranked if each[2] != text and each[0] > score - margin]
    if others and shown:
        _, name, other = max(others)
        pairs = zip(text.split(), other.split(), strict=False)
        words = _words(" ".join(ours for ours, theirs in pairs if ours != theirs)) or shown
        facts["encoding uncertain"] = f"check {words}; --encoding {name} is as likely"
    elif shown and _plausibility(text) < GOOD_FIT:
        facts["encoding uncertain"] = f"check {shown}; --encoding NAME decides"
    return facts


def _letters(text: str) -> set[str]:
    return {*filter(str.isalpha, _SPECIAL.findall(text.lower()))}


def _words(text: str) -> str:
    pairs = _WORD.findall(text)
    snippets = ((before[-MAX_SNIPPET // 2 :] + word)[:MAX_SNIPPET] for before, word in pairs)
    good = (each for each in snippets if each.isprintable() and "\ufffd" not in each)
    return " · ".join(islice(dict.fromkeys(good), MAX_SNIPPETS))


def _read_as_utf_8(data: bytes) -> str | None:
    """Decode bytes as UTF-8; None if they are not, or are plain ASCII."""
    try:
        return None if data.isascii() else data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _decode_as_utf_8(text: str, encoding: str) -> str | None:
    try:
        data = text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        return None  # not decoded by `open_text`
    meant = _read_as_utf_8(data) if len(data) == len(text) else None
    if meant is None:
        return None
    special = "".join(_SPECIAL.findall(meant))
    known = bool(special.encode(encoding, "ignore"))
    # `NESTLÉ®` in cp1252 is by chance UTF-8, too: a single sign must be known, or make no sense.
    return meant if known or len(special) >= MIN_CERTAIN or _plausibility(text) < GOOD_FIT else None


def _plausibility(text: str) -> float:
    """Score special characters by their neighbours, on average from -3 to 1: "Béret £90" has 1."""
    places = [match.start() for match in _SPECIAL.finditer(text)]
    scores = [_score(text[i - 1 : i], text[i], text[i + 1 : i + 2]) for i in places]
    return sum(scores) / max(1, len(scores))


def _score(before: str, sign: str, after: str) -> float:
    """Score one character: `é` belongs among letters of its script, `£` beside a digit."""
    letters, digits = before.isalpha() + after.isalpha(), before.isdigit() or after.isdigit()
    category = unicodedata.category(sign)
    if sign in "\ufffd¤" or category in ("Cc", "Cs", "Co", "Cn"):
        return -3
    if sign in _COMMON_MARKS:
        inside = (letters == 2 and sign != "’") or (letters and sign in "¼½¾")
        return -3 if inside else 0.5
    if category == "Sc":
        return 1 if digits or " " in (before, after) else -1
    if category[0] == "M":  # accents that follow their letter
        return 1 if before.isalpha() else -1
    if not sign.isalpha():  # accents of their own, which no word has, in ISO 8859-15 are letters
        return -1 if letters == 2 or (letters and category == "Sk") else 0
    if any(each.isalpha() and _is_latin(each) != _is_latin(sign) for each in before + after):
        return -3
    if category == "Lu":
        return -2 if before.islower() else 0 if before.isupper() and after.islower() else 1
    return 1 if letters else -1 if digits else 0.5


def _is_latin(letter: str) -> bool:
    return letter < "\u0250" or "\u1e00" <= letter < "\u1f00"


def _chunks(file: Path) -> Iterator[bytes]:
    try:
        with open_bytes(file) as stream:
            while chunk := stream.read1(CHUNK):
                yield chunk
    except COMPRESSION_ERRORS:
        return  # the reader of the rows reports a truncated file
