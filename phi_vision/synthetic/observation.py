"""Reads a prepared dataset for measuring: records, facts about the images, hashes of real values.

Of a dataset larger than `MAX_ROWS`, whole groups are kept, chosen by a hash of their name, so that
memory stays bounded and colours of a style stay together.
"""

import html
import io
import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from phi_vision.data import dataset as data
from phi_vision.data.parquet_rows import read_batches, read_schema
from phi_vision.data.samples import Value
from phi_vision.io.formatting import error_texts
from phi_vision.io.hashing import hash_bits, perceptual_hash

failure = error_texts(__file__, "errors.yaml")  # of this package

MAX_ROWS = 100_000  # kept in memory, about 2 kB each: enough to measure a share to half a per cent

IMAGE_FIELDS = tuple(
    f"image.{name}" for name in ("path", "size", "format", "longest", "aspect", "density", "count")
)
"""Fields of records about the first image: file name, "413x512", "JPEG", longest side in pixels,
width over height, bytes per pixel; and the number of images."""
PATH, SIZE, FORMAT, LONGEST, ASPECT, DENSITY, COUNT = IMAGE_FIELDS

LIST_MARK = "\x1f"  # between the items of a cell that is a list itself: ASCII's unit separator
OF_PATHS = (" > ", " » ", "::")
SEPARATORS = (LIST_MARK, *OF_PATHS, "; ", " | ", " / ", ", ")
"""What may separate the levels of paths, and the items of lists."""

# Bits of the perceptual hash in which a copy may differ after scaling and encoding again; other
# products differ in 20 or more.
MAX_DISTANCE = 4


class ImageFacts(NamedTuple):
    """Facts about one image file."""

    width: int
    height: int
    size: int  # in bytes
    format: str  # as PIL names it: "JPEG"
    path: str | None  # the file name beside it
    digest: int  # 64 bits of the SHA-256 of the file
    perceptual_hash: int | None  # None for a flat image


class ObservedRow(NamedTuple):
    """One row of a dataset, with facts in place of its images."""

    split: str
    group: int
    record: dict[str, Value]
    images: tuple[ImageFacts, ...]


class Observation(NamedTuple):
    """A dataset in memory."""

    schema: pa.Schema
    splits: Mapping[str, int]  # split -> rows, of the whole dataset
    rows: tuple[ObservedRow, ...]  # of the chosen groups; all where there are at most MAX_ROWS


class RealValues:
    """Texts and images of a dataset as hashes of 8 bytes: first all rows are added, then queried.

    Texts are compared without regard to case, blanks and HTML entities; images by their bytes and
    by their perceptual hash.
    """

    def __init__(self) -> None:
        self._added: defaultdict[str, array[int]] = defaultdict(lambda: array("Q"))

    def add(self, row: ObservedRow) -> None:
        """Add the texts and whole numbers of a row, and its images."""
        texts = [*row.record.items(), *((PATH, image.path or "") for image in row.images)]
        for column, value in texts:
            if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                self._added[column].append(_hash(value))
                for separator in (each for each in SEPARATORS if each in str(value)):
                    parts = str(value).split(separator)
                    self._added[parts_of(column)] += array("Q", map(_hash, parts))
        for image in row.images:
            self._added["(images)"].append(image.digest)
            if image.perceptual_hash is not None:
                self._added["(appearances)"].append(image.perceptual_hash)

    @cached_property
    def hashes(self) -> defaultdict[str, npt.NDArray[np.uint64]]:
        """Column, or "(images)" -> hashes of its values, sorted."""
        found = {name: np.unique(np.frombuffer(h, np.uint64)) for name, h in self._added.items()}
        return defaultdict(lambda: np.empty(0, np.uint64), found)

    def contains_text(self, text: Value, columns: Iterable[str]) -> bool:
        """Whether a text is a real value of any of the columns."""
        hashed = _hash(text)
        return any(self._contains(column, hashed) for column in columns)

    def contains_image(self, image: ImageFacts) -> bool:
        """Whether an image is real: by its bytes, or by its perceptual hash."""
        if self._contains("(images)", image.digest):
            return True
        if image.perceptual_hash is None:
            return False
        differences = self.hashes["(appearances)"] ^ np.uint64(image.perceptual_hash)
        return bool((np.bitwise_count(differences) <= MAX_DISTANCE).any())

    def _contains(self, name: str, wanted: int) -> bool:
        hashes = self.hashes[name]
        place = int(np.searchsorted(hashes, np.uint64(wanted)))
        return place < len(hashes) and int(hashes[place]) == wanted


def parts_of(column: str) -> str:
    """Return the key of the hashes of parts of lists and paths in a column."""
    return f"{column} (parts)"


def _hash(text: Value) -> int:
    return hash_bits(" ".join(html.unescape(str(text)).casefold().split()))


def observe(dataset: Path, on_row: Callable[[ObservedRow], None] | None = None) -> Observation:
    """Read a dataset once, in order; `on_row` gets every row, including those that are not kept."""
    files = [(split or "train", file) for split, file in data.list_files(dataset)]
    schema = read_product_schema(dataset, files[0][1])
    splits = dict.fromkeys(dict(files), 0)
    kept: list[ObservedRow] = []
    limit = 2**64
    cells_by_split = ((split, cells) for split, file in files for cells in _read(file))
    for number, (split, cells) in enumerate(cells_by_split):
        row = _observe_row(cells, number, split, dataset)
        splits[split] += 1
        if on_row:
            on_row(row)
        if row.group < limit:
            kept.append(row)
        while len(kept) > MAX_ROWS and limit > 1:
            limit //= 2
            kept = [each for each in kept if each.group < limit]
    if not kept:
        raise failure("no_rows", dataset=dataset)
    return Observation(schema=schema, splits=splits, rows=tuple(kept))


def read_product_schema(dataset: Path, file: Path) -> pa.Schema:
    """Read the columns of a file of a dataset; conversations cannot be imitated."""
    schema = read_schema(file)
    if turns := {data.MESSAGES_COLUMN, *data.TRL_COLUMNS[:2]} & {*schema.names}:
        raise failure("conversations", dataset=dataset, columns=", ".join(sorted(turns)))
    return schema


def plain_types(kind: pa.DataType) -> list[pa.DataType] | None:
    """List the types by which a column is cast to plain values, and back; None for no such type.

    Input:  date32          timestamp[us]                          list<string>   list<double>
    Output: int32, double   timestamp[s], int64, double (seconds)  list<string>   None
    """
    types = pa.types
    if types.is_date(kind):
        return [pa.date32(), pa.int32(), pa.float64()]
    if types.is_timestamp(kind):
        return [pa.timestamp("s", kind.tz), pa.int64(), pa.float64()]
    if types.is_decimal(kind) or types.is_floating(kind):
        return [pa.float64()]
    if types.is_dictionary(kind):
        return plain_types(kind.value_type)
    inner = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind
    text = types.is_string(inner) or types.is_large_string(inner)
    return [kind] if text or types.is_integer(kind) or types.is_boolean(kind) else None


def inspect_image(encoded: bytes, path: str | None = None) -> ImageFacts:
    """Read the facts of an image file; one that cannot be decoded is an error."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            (width, height), name = image.size, image.format or "JPEG"
            image.draft("RGB", (64, 64))  # a JPEG is decoded at a fraction of its size
            hashed = perceptual_hash(image)
    # Decoders fail in their own ways, and for the user they are one thing.
    except Exception as error:
        raise failure("no_image", path=path, size=len(encoded), error=error) from error
    return ImageFacts(width, height, len(encoded), name, path, hash_bits(encoded), hashed)


def _read(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file: images, and the columns that have plain values."""
    for batch in read_batches(file, read_schema(file).names):
        columns = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            steps = [column.type] if name in data.IMAGE_COLUMNS else plain_types(column.type)
            for kind in steps or []:
                columns[name] = column = column.cast(kind, safe=False)
        yield from pa.RecordBatch.from_pydict(columns).to_pylist()


def _observe_row(row: Mapping[str, Any], number: int, split: str, dataset: Path) -> ObservedRow:
    images: list[ImageFacts] = []
    record: dict[str, Value] = {}
    for name, cell in row.items():
        if name in data.IMAGE_COLUMNS:
            several = cell if isinstance(cell, list) else [cell]
            images += [_inspect_cell(each, dataset) for each in several if each is not None]
        else:
            cell = LIST_MARK.join(filter(None, cell)) if isinstance(cell, list) else cell
            record[name] = None if isinstance(cell, float) and not math.isfinite(cell) else cell
    if images:
        width, height, size, form, path, *_ = images[0]
        record |= {PATH: path, SIZE: f"{width}x{height}", FORMAT: form}
        record |= {LONGEST: float(max(width, height)), ASPECT: width / height}
        record |= {DENSITY: round(size / width / height, 4), COUNT: float(len(images))}
    name = next((str(record[c]) for c in data.GROUP_COLUMNS if record.get(c) not in (None, "")), "")
    return ObservedRow(split, hash_bits(name or f"row {number}"), record, tuple(images))


def _inspect_cell(cell: Any, dataset: Path) -> ImageFacts:
    encoded = data.read_image(cell, f"a row of {dataset}", dataset)
    return inspect_image(encoded, cell.get("path") if isinstance(cell, dict) else None)
