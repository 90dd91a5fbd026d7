"""Reads a prepared dataset a batch at a time: what each row says, and its images' outer facts.

A dataset larger than `MOST_ROWS` is known by whole groups chosen by a hash of their name, so
that memory stays bounded and colours of a style stay together.
"""

import datetime
import decimal
import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from phi_vision.data.dataset import GROUP_COLUMNS, IMAGE_COLUMNS, files_by_split
from phi_vision.data.samples import Value
from phi_vision.io.hashing import hash_bits, perceptual_hash

MOST_ROWS = 100_000
"""Rows kept in memory, about 2 kB each. Shares measured on so many are right to half a per cent."""

_BATCH = 64
_WHOLE_RANGE = 2**64


@dataclass(frozen=True, kw_only=True)
class Shot:
    """The outer facts of one image.

    Attributes:
        width: in pixels, as stored.
        height: in pixels.
        size: of the file, in bytes.
        format: as PIL names it: "JPEG".
        path: the file name beside it.
        digest: 64 bits of the SHA-256 of the file.
        look: perceptual hash of 64 bits; None for a flat image.
    """

    width: int
    height: int
    size: int
    format: str
    path: str | None
    digest: int
    look: int | None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One row of a dataset, its images known by their outer facts."""

    split: str
    group: int
    record: Mapping[str, Value]
    shots: tuple[Shot, ...]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What was seen of a dataset.

    Attributes:
        schema: columns and types.
        splits: split -> rows, of the whole dataset.
        rows: those of the chosen groups; all where there are at most `MOST_ROWS`.
    """

    schema: pa.Schema
    splits: Mapping[str, int]
    rows: tuple[Seen, ...]


def observe(dataset: Path, each: Callable[[Seen], None] | None = None) -> Observed:
    """Read a dataset once, from its first row to its last.

    Args:
        dataset: a folder with `data/<split>-*.parquet` or `<split>-*.parquet`.
        each: called with every row, also with those that are not kept.

    Raises:
        ValueError: There is no such dataset, or it cannot be read.
    """
    files = files_by_split(dataset)
    schema = _schema(next(iter(files.values()))[0])
    kept: list[Seen] = []
    limit = _WHOLE_RANGE
    splits = dict.fromkeys(files, 0)
    for seen in _rows(dataset, files):
        splits[seen.split] += 1
        if each:
            each(seen)
        if seen.group < limit:
            kept.append(seen)
        while len(kept) > MOST_ROWS and limit > 1:
            limit //= 2
            kept = [row for row in kept if row.group < limit]
    if not kept:
        raise ValueError(f"{dataset} holds no rows to resemble; give a dataset with some hundred")
    return Observed(schema=schema, splits=splits, rows=tuple(kept))


def can_resemble(kind: pa.DataType) -> bool:
    """Whether a column holds text, numbers, truth values or dates, which can be drawn anew."""
    types = pa.types
    if types.is_dictionary(kind):
        return can_resemble(kind.value_type)
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    time = types.is_timestamp(kind) or types.is_date(kind)
    return bool(text or number or time or types.is_boolean(kind))


def inspect_image(encoded: bytes, path: str | None) -> Shot:
    """Take an image's outer facts.

    Raises:
        ValueError: It is no image.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            width, height, name = *image.size, image.format or "JPEG"
            image.draft("RGB", (64, 64))  # a JPEG is decoded at a fraction of its size
            look = perceptual_hash(image)
    # Decoders fail in their own ways, and for the user they are one thing.
    except Exception as error:
        raise ValueError(
            f"cannot read the image {path!r} ({len(encoded)} bytes): {error}; "
            "run `phi-vision prepare` on the source, which sets such rows aside"
        ) from error
    digest = hash_bits(encoded)
    return Shot(
        width=width, height=height, size=len(encoded), format=name, path=path,
        digest=digest, look=look,
    )  # fmt: skip


def _schema(file: Path) -> pa.Schema:
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        return parquet.schema_arrow


def _rows(dataset: Path, files: Mapping[str, list[Path]]) -> Iterator[Seen]:
    number = 0
    for split, paths in files.items():
        for file in paths:
            for row in _read(file):
                yield _seen(row, number, split, dataset)
                number += 1


def _read(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"cannot read {file} as Parquet: {error}; fetch or write the file again"
        ) from error


def _seen(row: Mapping[str, Any], number: int, split: str, dataset: Path) -> Seen:
    cells = [row[name] for name in IMAGE_COLUMNS if name in row]
    images = [each for cell in cells for each in (cell if isinstance(cell, list) else [cell])]
    record = {
        name: _value(cell)
        for name, cell in row.items()
        if name not in IMAGE_COLUMNS and not isinstance(cell, list | dict | bytes)
    }
    name = next((str(record[c]) for c in GROUP_COLUMNS if record.get(c) not in (None, "")), "")
    shots = tuple(_shot(each, dataset) for each in images if each is not None)
    group = hash_bits(name or f"row {number}")
    return Seen(split=split, group=group, record=record, shots=shots)


def _shot(cell: object, dataset: Path) -> Shot:
    cell = {"bytes": cell} if isinstance(cell, bytes) else cell
    assert isinstance(cell, dict), "an image column holds bytes or struct<bytes, path>"
    path = cell.get("path")
    encoded = cell.get("bytes")
    if encoded is None:
        file = dataset / str(path)
        if not file.is_file():
            raise ValueError(f"no image at {file}; put it there or embed its bytes")
        encoded = file.read_bytes()
    return inspect_image(encoded, path)


def _value(cell: object) -> Value:
    """Make plain: exact decimals become floats, times the number of days or seconds they are."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if isinstance(cell, decimal.Decimal):
        return float(cell)
    if isinstance(cell, datetime.datetime):
        return round(cell.replace(tzinfo=datetime.UTC).timestamp())
    if isinstance(cell, datetime.date):
        return cell.toordinal() - datetime.date(1970, 1, 1).toordinal()
    return cell if isinstance(cell, str | int | float | bool | None) else str(cell)
