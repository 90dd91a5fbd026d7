"""Row, Broken and Source: what every reader of catalogs yields, before anything is cleaned.

Holds no reading (`tables.py`, `folders.py`) and no judgement (`cleaning.py`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a source, as it came."""

    number: int
    """Its place in the source, from 0."""

    origin: str
    """Where a person finds it again: `products.csv line 14`, `shard-3.tar: 000012`."""

    values: Mapping[str, object]
    """Column -> value as read: text from CSV, typed values elsewhere. An image is bytes, a path,
    a data URI, a URL, the struct `{"bytes": …, "path": …}` of `datasets`, or a list of these."""

    split: str | None = None
    """The part the source itself puts it in, where it says so."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A piece of a source that cannot be read as a row; the rows around it can."""

    number: int
    """Its place in the source, counted together with the rows."""

    origin: str
    """Where a person finds it again."""

    reason: str
    """What is wrong, short and the same for all of its kind: `found more cells than columns`."""

    raw: str
    """What stands there."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A catalog that can be read from its first row as often as wished."""

    name: str
    """As the user named it."""

    kind: str
    """Which of the `SOURCES` reads it."""

    rows: Callable[[], Iterator[Row | Broken]]
    """Starts from the first row at every call, always in the same order."""

    folder: Path | None
    """Where relative paths of images begin, and what they may not leave; None for a hub id."""

    detected: Mapping[str, str] = field(default_factory=dict)
    """What was found out about its form, to be shown: `{"encoding": "cp1252"}`."""

    notes: Mapping[str, str] = field(default_factory=dict)
    """What it says of itself: `license`, `description`, `homepage`, `citation`, where given."""
