"""What is asked about: a prepared folder, a Parquet file or a folder of images, read in pieces.

Only a few rows are in memory at a time, and reading begins at any place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from phi_vision.data.dataset import (
    ID_COLUMNS,
    IMAGE_COLUMNS,
    as_sample,
    files_by_split,
    record_columns,
)
from phi_vision.data.parquet_rows import count_rows, read_batches, read_schema
from phi_vision.data.samples import Sample
from phi_vision.inference.batches import Entry, Failure, Span

IMAGE_ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What is taken out of a folder of images."""


class Catalog(Protocol):
    """Rows with images, in an order."""

    rows: int
    """How many there are."""

    has_splits: bool
    """Whether it is known to which split a row belongs."""

    schema: pa.Schema
    """The columns that can be kept."""

    def entries(self, span: Span) -> Iterator[Entry]:
        """Read what is asked about in a part of the catalog."""
        ...

    def columns(self, names: Sequence[str], span: Span) -> pa.Table:
        """Read columns in a part of the catalog."""
        ...

    def refuse_output(self, out: Path) -> None:
        """Refuse to write predictions where they would become part of the catalog.

        Raises:
            ValueError: They would.
        """
        ...

    def identity(self) -> list[str]:
        """Tell the catalog from another in the same place: names, sizes and times of files."""
        ...


def open_catalog(source: Path, split: str | None = None) -> Catalog:
    """Find out what a source is, without reading its rows.

    Args:
        source: Folder or file.
        split: Part to read; all parts, one after the other, unless given.

    Raises:
        ValueError: There is no such source or split, or nothing to ask about in it.
    """
    if source.is_dir() and not _has_parquet(source):
        return ImageFolder(source, split)
    if source.is_file() and source.suffix.lower() != ".parquet":
        raise ValueError(
            f"{source} is no catalog: found a {source.suffix or 'nameless kind of'} file; give a "
            f"folder of images, or what `phi-vision prepare {source} --out FOLDER` makes"
        )
    if not source.exists():
        raise ValueError(f"no catalog at {source}: there is no such file or folder")
    return ParquetCatalog(source, split)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Rows of one file."""

    file: Path
    split: str | None
    span: Span


class ParquetCatalog:
    """A prepared folder or a Parquet file.

    Args:
        source: The folder or file.
        split: Part to read.

    Raises:
        ValueError: There is no such split, no column with images, or no row.
    """

    def __init__(self, source: Path, split: str | None) -> None:
        self._source, self._split = source, split
        self.has_splits = source.is_dir()
        self._stretches = list(_stretches(_files(source, split)))
        self.rows = self._stretches[-1].span.stop
        if not self.rows:
            part = f" in the split {split!r}" if split else ""
            raise ValueError(f"{source} has no rows{part}; give other data")
        schemas = [read_schema(stretch.file) for stretch in self._stretches]
        for stretch, schema in zip(self._stretches, schemas, strict=True):
            if not set(IMAGE_COLUMNS) & set(schema.names):
                raise ValueError(
                    f"no image column in {stretch.file}: found {', '.join(schema.names)}; "
                    "name it 'image', holding struct<bytes, path>"
                )
        self.schema = _joined(schemas, source)

    def entries(self, span: Span) -> Iterator[Entry]:
        """Read ids and images; a row without any is an entry as well."""
        for stretch, start, stop in self._parts(span):
            held = read_schema(stretch.file).names
            names = [name for name in held if name in (*IMAGE_COLUMNS, *ID_COLUMNS)]
            place = stretch.span.start + start
            for batch in read_batches(stretch.file, names, start=start, stop=stop):
                for row in batch.to_pylist():
                    yield self._entry(row, place, stretch)
                    place += 1

    def columns(self, names: Sequence[str], span: Span) -> pa.Table:
        """Read columns in a part of the catalog, all of one type."""
        schema = pa.schema([self.schema.field(name) for name in names])
        tables = [
            pa.Table.from_batches([batch]).cast(schema)
            for stretch, start, stop in self._parts(span)
            for batch in read_batches(stretch.file, names, start=start, stop=stop)
        ]
        return pa.concat_tables(tables)

    def refuse_output(self, out: Path) -> None:
        """Refuse a place among the dataset's own files, where it would be taken for a split."""
        folders = {stretch.file.parent.resolve() for stretch in self._stretches}
        is_source = out.resolve() in {stretch.file.resolve() for stretch in self._stretches}
        if is_source or (self._source.is_dir() and out.parent.resolve() in folders):
            raise ValueError(
                f"{out} lies among the files of the dataset {self._source}, and would be taken for "
                "one of them; name a file elsewhere"
            )

    def identity(self) -> list[str]:
        """Tell the files from others."""
        facts = [f"{s.file.name} {_state(s.file)}" for s in self._stretches]
        return [f"split {self._split}", *facts]

    def _parts(self, span: Span) -> Iterator[tuple[Stretch, int, int]]:
        """List the files that a span lies in, with the rows of each that belong to it."""
        for stretch in self._stretches:
            offset = stretch.span.start
            start = max(span.start, offset)
            stop = min(span.stop, stretch.span.stop)
            if start < stop:
                yield stretch, start - offset, stop - offset

    def _entry(self, row: Mapping[str, object], place: int, stretch: Stretch) -> Entry:
        asked: Sample | Failure
        try:
            sample = as_sample(row, place, self._source)
            asked = sample if sample.images else Failure("no image", "the row has no image")
        # A path may be forbidden or lead to something that is no file; the row is lost, no other.
        except (ValueError, OSError) as error:
            asked = Failure("no image", str(error))
        return Entry(id=_name(row, place), split=stretch.split, asked=asked)


class ImageFolder:
    """A folder of images, by name; each one's name is its id.

    Args:
        source: The folder.
        split: Must be None.

    Raises:
        ValueError: A split is given, or there is no image.
    """

    has_splits = False
    schema = pa.schema([])

    def __init__(self, source: Path, split: str | None) -> None:
        if split is not None:
            raise ValueError(f"{source} is a folder of images without splits; leave {split!r} out")
        self._source = source
        # Names are kept, not paths: there may be millions.
        self._names = sorted(
            file.name for file in source.iterdir() if file.suffix.lower() in IMAGE_ENDINGS
        )
        self.rows = len(self._names)
        if not self.rows:
            raise ValueError(
                f"nothing to ask about in {source}: found no data/<split>-*.parquet, no "
                f"<split>-*.parquet and no images ({', '.join(sorted(IMAGE_ENDINGS))})"
            )

    def entries(self, span: Span) -> Iterator[Entry]:
        """Read images; one that cannot be opened is an entry as well."""
        for name in self._names[span.start : span.stop]:
            asked: Sample | Failure
            try:
                images = ((self._source / name).read_bytes(),)
                asked = Sample(id=name, group=name, images=images, record={})
            except OSError as error:
                asked = Failure("no image", f"{self._source / name}: {error.strerror}")
            yield Entry(id=name, split=None, asked=asked)

    def columns(self, names: Sequence[str], span: Span) -> pa.Table:
        """Never asked for: there are none."""
        raise AssertionError(f"images have no columns {names} at {span}")

    def refuse_output(self, out: Path) -> None:
        """Let it be anywhere: a Parquet file is no image."""

    def identity(self) -> list[str]:
        """Tell the images from others."""
        return [f"{name} {_state(self._source / name)}" for name in self._names]


def _has_parquet(folder: Path) -> bool:
    data = folder / "data"
    return any(data.glob("[!.]*.parquet")) or any(folder.glob("[!.]*.parquet"))


def _files(source: Path, split: str | None) -> list[tuple[str | None, Path]]:
    """List the files to read, each with its split."""
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


def _stretches(files: Sequence[tuple[str | None, Path]]) -> Iterator[Stretch]:
    start = 0
    for split, file in files:
        stop = start + count_rows(file)
        yield Stretch(file=file, split=split, span=Span(start=start, stop=stop))
        start = stop


def _joined(schemas: Sequence[pa.Schema], source: Path) -> pa.Schema:
    """Find one type for each plain column that all files have."""
    plain = [set(record_columns(schema)) for schema in schemas]
    shared = [name for name in record_columns(schemas[0]) if all(name in held for held in plain)]
    parts = [pa.schema([schema.field(name) for name in shared]) for schema in schemas]
    try:
        return pa.unify_schemas(parts, promote_options="permissive").remove_metadata()
    except pa.ArrowException as error:
        raise ValueError(
            f"the files of {source} hold columns of one name and of types that do not go together: "
            f"{error}; prepare the dataset again"
        ) from error


def _name(row: Mapping[str, object], place: int) -> str:
    """Say what `as_sample` calls a row, also where it refuses it."""
    found = (row.get(column) for column in ID_COLUMNS)
    return next((str(value) for value in found if value not in (None, "")), str(place))


def _state(file: Path) -> str:
    try:
        facts = file.stat()
    except OSError as error:  # A link that leads nowhere is an entry that cannot be read.
        return str(error.strerror)
    return f"{facts.st_size} {facts.st_mtime_ns}"
