"""Catalogs for batch prediction: a prepared folder, a Parquet file or a folder of images.

Rows are read in parts, from any position; only a few are in memory at a time.

    CatalogPart(start=64, rows=(CatalogRow(id="A-red", sample=Sample(...)),
                                CatalogRow(id="B-blue", sample=Failure(reason="no image", ...))))
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import pyarrow as pa

from phi_vision.data.dataset import (
    ID_COLUMNS,
    IMAGE_COLUMNS,
    as_sample,
    count_rows,
    files_by_split,
    read_batches,
    read_schema,
    record_columns,
)
from phi_vision.data.samples import Sample

IMAGE_ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

MAX_PART_BYTES = 128_000_000
"""Bytes of images at which a part ends early: it is held in memory, and sent to workers."""

Reason = Literal["no image", "unreadable image", "impossible shape", "no prediction"]


class Failure(NamedTuple):
    """Why a row has no prediction: a reason to count by, and a sentence to act on."""

    reason: Reason
    detail: str


class Span(NamedTuple):
    """Positions in the catalog, from `start` up to but not including `stop`."""

    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class CatalogRow:
    """One row of a catalog; ids may repeat."""

    id: str
    split: str | None
    sample: Sample | Failure
    """Its images under its id, or why there are none."""


@dataclass(frozen=True, kw_only=True)
class CatalogPart:
    """Consecutive rows, which are predicted and stored together."""

    start: int
    rows: tuple[CatalogRow, ...]

    @property
    def span(self) -> Span:
        """The positions of the rows."""
        return Span(self.start, self.start + len(self.rows))


class Catalog(Protocol):
    """Rows with images, in a fixed order."""

    rows: int
    has_splits: bool
    schema: pa.Schema
    """The columns that can be copied."""

    def read(self, span: Span) -> Iterator[CatalogRow]:
        """Read the ids and images of a span."""
        ...

    def columns(self, names: Sequence[str], span: Span) -> pa.Table:
        """Read columns of a span."""
        ...

    def check_output(self, out: Path) -> None:
        """Raise a ValueError if a file there would become part of the catalog."""
        ...

    def identity(self) -> list[str]:
        """List names, sizes and times of the files: other data have other ones."""
        ...


def open_catalog(source: Path, split: str | None = None) -> Catalog:
    """Open a folder or file without reading its rows.

    Args:
        source: Prepared folder, Parquet file or folder of images.
        split: Split to read; by default all, one after the other.

    Raises:
        ValueError: There is no such source or split, or it has no images.
    """
    if source.is_dir() and not any(
        any(folder.glob("[!.]*.parquet")) for folder in (source / "data", source)
    ):
        return _ImageFolder(source, split)
    if source.is_file() and source.suffix.lower() != ".parquet":
        raise ValueError(
            f"{source} is not a catalog: found a file {source.suffix or 'without an ending'}; give "
            f"a folder of images, or the output of `phi-vision prepare {source} --out FOLDER`"
        )
    if not source.exists():
        raise ValueError(f"no catalog at {source}: there is no such file or folder")
    return _ParquetCatalog(source, split)


def split_into_parts(rows: Iterator[CatalogRow], span: Span, size: int) -> Iterator[CatalogPart]:
    """Cut the rows of a span into parts of at most `size` rows, always at the same positions.

    Raises:
        ValueError: There are fewer or more rows than the span has positions.
    """
    start, held, held_bytes = span.start, list[CatalogRow](), 0
    for row in rows:
        held.append(row)
        if isinstance(row.sample, Sample):
            held_bytes += sum(map(len, row.sample.images))
        if len(held) == size or held_bytes >= MAX_PART_BYTES:
            yield CatalogPart(start=start, rows=tuple(held))
            start, held, held_bytes = start + len(held), [], 0
    if held:
        yield CatalogPart(start=start, rows=tuple(held))
        start += len(held)
    if start != span.stop:
        raise ValueError(
            f"the catalog ended at row {start} instead of {span.stop}: it was changed while it was "
            "read; run again with --restart"
        )


class _FileSpan(NamedTuple):
    file: Path
    split: str | None
    span: Span


class _ParquetCatalog:
    """A prepared folder or a Parquet file."""

    def __init__(self, source: Path, split: str | None) -> None:
        self._source, self._split = source, split
        self.has_splits = source.is_dir()
        self._files = list(_file_spans(_files(source, split)))
        self.rows = self._files[-1].span.stop
        if not self.rows:
            where = f" in the split {split!r}" if split else ""
            raise ValueError(f"{source} has no rows{where}; give other data")
        schemas = [read_schema(each.file) for each in self._files]
        for each, schema in zip(self._files, schemas, strict=True):
            if not set(IMAGE_COLUMNS) & set(schema.names):
                raise ValueError(
                    f"no image column in {each.file}: found {', '.join(schema.names)}; "
                    "name it 'image', holding struct<bytes, path>"
                )
        self.schema = _common_schema(schemas, source)

    def read(self, span: Span) -> Iterator[CatalogRow]:
        for each, start, stop in self._overlaps(span):
            names = set(read_schema(each.file).names) & {*IMAGE_COLUMNS, *ID_COLUMNS}
            position = each.span.start + start
            for batch in read_batches(each.file, sorted(names), start=start, stop=stop):
                for row in batch.to_pylist():
                    yield self._row(row, position, each.split)
                    position += 1

    def columns(self, names: Sequence[str], span: Span) -> pa.Table:
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.concat_tables(
            pa.Table.from_batches([batch]).cast(schema)
            for each, start, stop in self._overlaps(span)
            for batch in read_batches(each.file, names, start=start, stop=stop)
        )

    def check_output(self, out: Path) -> None:
        files = {each.file.resolve() for each in self._files}
        folders = {file.parent for file in files} if self.has_splits else set()
        if out.resolve() in files or out.parent.resolve() in folders:
            raise ValueError(
                f"{out} is among the files of the dataset {self._source}, and would be read as "
                "one of them; write to another folder"
            )

    def identity(self) -> list[str]:
        return [f"split {self._split}", *(f"{f.file.name} {_state(f.file)}" for f in self._files)]

    def _overlaps(self, span: Span) -> Iterator[tuple[_FileSpan, int, int]]:
        """List the files that a span touches, with the first and last row in each."""
        for each in self._files:
            offset = each.span.start
            start, stop = max(span.start, offset), min(span.stop, each.span.stop)
            if start < stop:
                yield each, start - offset, stop - offset

    def _row(self, row: Mapping[str, object], position: int, split: str | None) -> CatalogRow:
        sample: Sample | Failure
        try:
            sample = as_sample(row, position, self._source)
            if not sample.images:
                sample = Failure("no image", "the row has no image")
        # A path may be forbidden or lead to something that is not a file: only this row fails.
        except (ValueError, OSError) as error:
            sample = Failure("no image", str(error))
        # As `as_sample` names a row, also where it fails.
        ids = (row.get(column) for column in ID_COLUMNS)
        name = next((str(each) for each in ids if each not in (None, "")), str(position))
        return CatalogRow(id=name, split=split, sample=sample)


class _ImageFolder:
    """A folder of images, sorted by name; the id is the file's name."""

    has_splits = False
    schema = pa.schema([])

    def __init__(self, source: Path, split: str | None) -> None:
        if split is not None:
            raise ValueError(f"{source} is a folder of images without splits; leave {split!r} out")
        self._source = source
        # Names, not paths: there may be millions.
        self._names = sorted(
            file.name for file in source.iterdir() if file.suffix.lower() in IMAGE_ENDINGS
        )
        self.rows = len(self._names)
        if not self.rows:
            raise ValueError(
                f"nothing to predict in {source}: found no data/<split>-*.parquet, no "
                f"<split>-*.parquet and no images ({', '.join(sorted(IMAGE_ENDINGS))})"
            )

    def read(self, span: Span) -> Iterator[CatalogRow]:
        for name in self._names[span.start : span.stop]:
            sample: Sample | Failure
            try:
                images = ((self._source / name).read_bytes(),)
                sample = Sample(id=name, group=name, images=images, record={})
            except OSError as error:
                sample = Failure("no image", f"{self._source / name}: {error.strerror}")
            yield CatalogRow(id=name, split=None, sample=sample)

    def columns(self, names: Sequence[str], span: Span) -> pa.Table:
        raise AssertionError(f"images have no columns {names} at {span}")

    def check_output(self, out: Path) -> None:
        pass  # A Parquet file is not an image.

    def identity(self) -> list[str]:
        return [f"{name} {_state(self._source / name)}" for name in self._names]


def _files(source: Path, split: str | None) -> list[tuple[str | None, Path]]:
    if source.is_file():
        if split is not None:
            raise ValueError(
                f"{source} is one file without splits; leave {split!r} out or give a folder"
            )
        return [(None, source)]
    files = files_by_split(source)
    if split is not None and split not in files:
        raise ValueError(f"no split {split!r} in {source}; it has {', '.join(files)}")
    chosen = list(files) if split is None else [split]
    return [(name, file) for name in chosen for file in files[name]]


def _file_spans(files: Sequence[tuple[str | None, Path]]) -> Iterator[_FileSpan]:
    start = 0
    for split, file in files:
        stop = start + count_rows(file)
        yield _FileSpan(file, split, Span(start, stop))
        start = stop


def _common_schema(schemas: Sequence[pa.Schema], source: Path) -> pa.Schema:
    """Return the plain columns that all files have, each in a type that holds all their values."""
    shared = [
        name
        for name in record_columns(schemas[0])
        if all(name in record_columns(schema) for schema in schemas)
    ]
    parts = [pa.schema([schema.field(name) for name in shared]) for schema in schemas]
    try:
        return pa.unify_schemas(parts, promote_options="permissive").remove_metadata()
    except pa.ArrowException as error:
        raise ValueError(
            f"the files of {source} hold columns of one name and of incompatible types: {error}; "
            "prepare the dataset again"
        ) from error


def _state(file: Path) -> str:
    try:
        facts = file.stat()
    except OSError as error:  # A dangling link is a row that cannot be read.
        return str(error.strerror)
    return f"{facts.st_size} {facts.st_mtime_ns}"
