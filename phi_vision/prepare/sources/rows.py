"""Row, UnreadableRow and Source: the output of every reader."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

MAX_RAW = 100_000  # characters kept of an unreadable piece; anything longer is binary, not a row


@dataclass(frozen=True, kw_only=True)
class Row:
    """One raw row of a source."""

    number: int
    origin: str  # location for display: `products.csv line 14`, `shard-3.tar: 000012`
    values: Mapping[str, object]
    """Column -> raw value: text from CSV, typed values elsewhere. An image is bytes, a path,
    a data URI, a URL, the struct `{"bytes": …, "path": …}` of `datasets`, or a list of these."""

    split: str | None = None


@dataclass(frozen=True)
class UnreadableRow:
    """A piece of a source that cannot be parsed; the rows around it can."""

    reason: str  # identical for all of its kind: `found more cells than columns`
    raw: str
    number: int = -1  # counted together with the rows
    origin: str = ""


AnyRow = Row | UnreadableRow
Values = Mapping[str, object] | UnreadableRow
Found = tuple[str, Values]  # location in a file, with its separator (` line 14`, `: 000012`)
Piece = tuple[str, str | None, Values]  # origin, split, values
Reader = Callable[[], Iterable[Found]]
Format = tuple[dict[str, str], Reader]  # how a file is written, for display; what reads it


@dataclass(frozen=True, kw_only=True)
class Source:
    """A catalog whose rows can be iterated any number of times, always in the same order."""

    name: str
    kind: str
    rows: Callable[[], Iterator[AnyRow]]
    folder: Path | None  # root of relative image paths, which must stay inside; None for a Hub id
    detected: Mapping[str, str] = field(default_factory=dict)  # format: `{"encoding": "cp1252"}`
    notes: Mapping[str, str] = field(default_factory=dict)  # license, description, …, if stated


def numbered(read: Callable[..., Iterable[Piece]], *arguments: Any) -> Iterator[AnyRow]:
    """Number the rows of a source, which are read as origin, split and values."""
    for number, (origin, split, values) in enumerate(read(*arguments)):
        if isinstance(values, UnreadableRow):
            yield replace(values, number=number, origin=origin, raw=storable(values.raw))
        else:
            yield Row(number=number, origin=origin, values=values, split=split)


def storable(raw: str) -> str:
    r"""Escape undecodable bytes, "caf\udce9" to "caf\\xe9", and cap the length, for any file."""
    # Undecodable bytes travel as lone surrogates (PEP 383); others come out of JSON escapes.
    text = re.sub("[\udc80-\udcff]", lambda s: f"\\x{ord(s[0]) - 0xDC00:02x}", raw[:MAX_RAW])
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return f"{text}… ({len(raw) - MAX_RAW:,} characters more)" if len(raw) > MAX_RAW else text
