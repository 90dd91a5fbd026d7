"""Reads a prepared dataset for measuring: records, groups, and facts about the images.

Of a dataset larger than `MAX_ROWS`, whole groups are kept, chosen by a hash of their name, so that
memory stays bounded and colours of a style stay together.
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

MAX_ROWS = 100_000
"""Rows kept in memory, about 2 kB each: enough to measure a share to half a per cent."""

_EPOCH = datetime.date(1970, 1, 1).toordinal()


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Facts about one image file."""

    width: int
    height: int
    size: int  # in bytes
    format: str  # as PIL names it: "JPEG"
    path: str | None  # the file name beside it
    digest: int  # 64 bits of the SHA-256 of the file
    perceptual_hash: int | None  # None for a flat image


@dataclass(frozen=True, kw_only=True)
class ObservedRow:
    """One row of a dataset, with facts in place of its images."""

    split: str
    group: int
    record: Mapping[str, Value]
    images: tuple[ImageFacts, ...]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A dataset in memory."""

    schema: pa.Schema
    splits: Mapping[str, int]  # split -> rows, of the whole dataset
    rows: tuple[ObservedRow, ...]  # of the chosen groups; all where there are at most MAX_ROWS


def observe(dataset: Path, on_row: Callable[[ObservedRow], None] | None = None) -> Observation:
    """Read a dataset once, in order.

    Args:
        dataset: a folder with `data/<split>-*.parquet` or `<split>-*.parquet`.
        on_row: called with every row, including those that are not kept.

    Raises:
        ValueError: The dataset does not exist, or is unreadable or empty.
    """
    files = files_by_split(dataset)
    splits = dict.fromkeys(files, 0)
    kept: list[ObservedRow] = []
    limit = 2**64
    paths = ((split, path) for split, each in files.items() for path in each)
    for split, cells in ((split, cells) for split, path in paths for cells in read_rows(path)):
        row = _observe_row(cells, sum(splits.values()), split, dataset)
        splits[split] += 1
        if on_row:
            on_row(row)
        if row.group < limit:
            kept.append(row)
        while len(kept) > MAX_ROWS and limit > 1:
            limit //= 2
            kept = [each for each in kept if each.group < limit]
    if not kept:
        raise ValueError(f"{dataset} has no rows to model; use a dataset with some hundred rows")
    schema = pq.read_schema(next(iter(files.values()))[0])
    return Observation(schema=schema, splits=splits, rows=tuple(kept))


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file.

    Raises:
        ValueError: It is unreadable.
    """
    try:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(batch_size=64):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"cannot read {file} as Parquet: {error}; download or write the file again"
        ) from error


def inspect_image(encoded: bytes, path: str | None = None) -> ImageFacts:
    """Read the facts of an image file.

    Raises:
        ValueError: It is not an image.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            (width, height), name = image.size, image.format or "JPEG"
            image.draft("RGB", (64, 64))  # a JPEG is decoded at a fraction of its size
            hashed = perceptual_hash(image)
    # Decoders fail in their own ways, and for the user they are one thing.
    except Exception as error:
        raise ValueError(
            f"cannot read the image {path!r} ({len(encoded)} bytes): {error}; "
            "run `phi-vision prepare` on the source, which rejects such rows"
        ) from error
    return ImageFacts(
        width=width, height=height, size=len(encoded), format=name, path=path,
        digest=hash_bits(encoded), perceptual_hash=hashed,
    )  # fmt: skip


def _observe_row(cells: Mapping[str, Any], number: int, split: str, dataset: Path) -> ObservedRow:
    images = [cells[name] for name in IMAGE_COLUMNS if cells.get(name) is not None]
    several = [each for cell in images for each in (cell if isinstance(cell, list) else [cell])]
    record = {
        name: _plain(cell)
        for name, cell in cells.items()
        if name not in IMAGE_COLUMNS and not isinstance(cell, list | dict | bytes)
    }
    name = next((str(record[c]) for c in GROUP_COLUMNS if record.get(c) not in (None, "")), "")
    return ObservedRow(
        split=split,
        group=hash_bits(name or f"row {number}"),
        record=record,
        images=tuple(_inspect_cell(each, dataset) for each in several if each is not None),
    )


def _inspect_cell(cell: Any, dataset: Path) -> ImageFacts:
    cell = {"bytes": cell} if isinstance(cell, bytes) else cell
    encoded, path = cell.get("bytes"), cell.get("path")
    if encoded is None:
        file = dataset / str(path)
        if not file.is_file():
            raise ValueError(f"no image at {file}; put it there or embed its bytes")
        encoded = file.read_bytes()
    return inspect_image(encoded, path)


def _plain(cell: object) -> Value:
    """Turn decimals into floats, times into days or seconds since 1970."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if isinstance(cell, decimal.Decimal):
        return float(cell)
    if isinstance(cell, datetime.datetime):
        return round(cell.replace(tzinfo=datetime.UTC).timestamp())
    if isinstance(cell, datetime.date):
        return cell.toordinal() - _EPOCH
    return cell if isinstance(cell, str | int | float | bool | None) else str(cell)
