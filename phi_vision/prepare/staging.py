"""What is clean waits here until its group and its split are known.

Images go to disk at once; of each sample only what grouping needs stays in memory, about half a
kilobyte.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.data.samples import Value
from phi_vision.io.hashing import digest
from phi_vision.prepare.buffered import ROWS, RowWriter
from phi_vision.prepare.cleaning import Clean, values_as_json
from phi_vision.prepare.sources.rows import storable
from phi_vision.prepare.statistics import Tally

_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("origin", pa.string()),
        ("record", pa.string()),
        ("messages", pa.string()),
        ("images", pa.list_(pa.binary())),
        ("values", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What stays in memory of a clean row."""

    number: int
    id: str
    group: str | None
    split: str | None
    title: str | None
    category: str | None
    digests: tuple[str, ...]
    looks: tuple[int | None, ...]

    fingerprint: str
    """The same for rows that say and show the same."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A clean row as it was set down."""

    number: int
    origin: str
    record: Mapping[str, Value]
    messages: Sequence[Mapping[str, str]]
    images: Sequence[bytes]
    values: str


class Stage:
    """Takes clean rows, in order, and gives them back as often as wished."""

    def __init__(self, file: Path, *, title: str | None, category: str | None) -> None:
        self.file = file
        self.entries: list[Entry] = []
        self.tally = Tally()
        self._title, self._category = title, category
        self._writer = RowWriter(file, _SCHEMA, compression="none")
        self._ids: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def add(self, clean: Clean) -> None:
        """Set a clean row down."""
        record = json.dumps(clean.record, ensure_ascii=False)
        messages = json.dumps([message._asdict() for message in clean.messages])
        digests = tuple(image.digest for image in clean.images)
        fingerprint = _fingerprint(record, messages, *digests)
        self._writer.add(
            {
                "number": clean.row.number,
                "origin": storable(clean.row.origin),
                "record": record,
                "messages": messages,
                "images": [image.encoded for image in clean.images],
                "values": values_as_json(_without_images(clean.row.values)),
            },
            sum(len(image.encoded) for image in clean.images),
        )
        self.entries.append(
            Entry(
                number=clean.row.number,
                # Without an id the image names the row, not its place: rows that are put in
                # between must not make it another one, nor what is corrected in its texts.
                id=self._unique(clean.id or (_fingerprint(*digests) if digests else fingerprint)),
                group=clean.group,
                split=clean.split,
                title=_text(clean.record.get(self._title or "")),
                category=_text(clean.record.get(self._category or "")),
                digests=digests,
                looks=tuple(image.look for image in clean.images),
                fingerprint=fingerprint,
            )
        )
        self.tally.count(clean)

    def rows(self) -> Iterator[Staged]:
        """Read the rows back, in order, a few megabytes at a time."""
        with pq.ParquetFile(self.file, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    row["record"] = json.loads(row["record"])
                    row["messages"] = json.loads(row["messages"])
                    yield Staged(**row)

    def _unique(self, name: str) -> str:
        """Give the second row of an id another one: `A`, `A-2`, `A-3`."""
        self._ids[name] += 1
        while self._ids[name] > 1:
            self.tally.changes["id given again"] += 1
            name = f"{name}-{self._ids[name]}"
            self._ids[name] += 1
        return name


def _without_images(values: Mapping[str, object]) -> dict[str, object]:
    """Leave encoded images out of what is kept of a clean row: the sample holds them."""
    return {
        name: f"{len(value)} bytes" if isinstance(value, bytes) else value
        for name, value in values.items()
        if not (isinstance(value, dict) and value.get("bytes"))
    }


def _fingerprint(*parts: str) -> str:
    """Name what a row says and shows, in 16 letters.

    Two of ten million rows have the same by chance three times in a million.
    """
    return digest(parts)[:16]


def _text(value: Value) -> str | None:
    return None if value is None else str(value)
