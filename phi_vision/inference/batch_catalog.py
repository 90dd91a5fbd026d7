"""The options of batch prediction, and the rows it predicts; no model, for a fast `--help`."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa

from phi_vision.data import dataset
from phi_vision.data.dataset import ID_COLUMNS, IMAGE_COLUMNS, MESSAGES_COLUMN
from phi_vision.data.parquet_rows import count_rows, read_batches, read_schema
from phi_vision.data.samples import Sample
from phi_vision.io.formatting import error_texts, format_count
from phi_vision.prepare.sources.files import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

MAX_NAMED = 5  # Files that a message names.
# Bytes of images at which a part ends early: it is held in memory, and sent to workers.
MAX_PART_BYTES = 128_000_000
Reason = Literal["no image", "unreadable image", "impossible shape", "no prediction"]


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How a catalog is predicted. Every field is an option of the command."""

    out: Path
    """Parquet file to write."""
    split: str | None = None
    """Split of the dataset to predict; by default all splits, one after the other."""
    keep: tuple[str, ...] = ()
    """Columns of the dataset to copy beside the predictions; COLUMN=NAME renames one."""
    rows_per_part: int = 64
    """Rows predicted and stored together; an interruption costs at most one such part."""
    engine: Literal["local", "ray"] = "local"
    """Where the model runs: here, or on a Ray cluster whose machines can all read the model."""
    workers: int | None = None
    """Model replicas, with ray; by default one for each GPU, or for each machine without GPUs."""
    ray_address: str | None = None
    """Address of a Ray cluster, such as auto; by default one is started here."""
    restart: bool = False
    """Discard earlier predictions, and replace an existing file."""

    def __post_init__(self) -> None:
        """Check that counts are positive."""
        for name, number in {"rows_per_part": self.rows_per_part, "workers": self.workers}.items():
            if number is not None and number < 1:
                raise failure("not_positive", name=name, number=number)


class Failure(NamedTuple):
    """Why a row has no prediction: a reason to count by, and a sentence to act on."""

    reason: Reason
    detail: str


class CatalogRow(NamedTuple):
    """One row of a catalog, with its images or why there are none; ids may repeat."""

    position: int
    id: str
    split: str
    sample: Sample | Failure


CatalogPart = Sequence[CatalogRow]
"""Consecutive rows, which are predicted and stored together; never empty."""


class Catalog:
    """Rows of a prepared folder, Parquet file or folder of images, opened without reading them.

    The splits come one after the other. Without any row a ValueError.
    """

    def __init__(self, source: Path, split: str | None = None) -> None:
        self._source, self._split = source, split
        self._images: list[str] = []  # Names, not paths: there may be millions.
        self._files: list[tuple[str, Path, range]] = []
        self.schema = pa.schema([])  # of the columns that can be copied
        self.has_conversations = False
        folders = (source / "data", source)
        if source.is_dir() and not any(any(each.glob("[!.]*.parquet")) for each in folders):
            if split is not None:
                raise failure("no_splits", source=source, split=split)
            self._images = list_images(source)
            if not self._images:
                raise failure("no_images", source=source, endings=", ".join(IMAGE_SUFFIXES))
            self._files = [("", source, range(len(self._images)))]
        else:
            stop = 0
            for name, file in dataset.list_files(source, split):
                start, stop = stop, stop + count_rows(file)
                self._files.append((name, file, range(start, stop)))
            files = [file for _, file, _ in self._files]
            self.schema = _common_schema(files, source)
            self.has_conversations = MESSAGES_COLUMN in read_schema(files[0]).names
        self.rows = self._files[-1][2].stop
        self.has_splits = bool(self._files[0][0])
        if not self.rows:
            where = f" in the split {split!r}" if split else ""
            raise failure("no_rows", source=source, where=where)

    def parts(self, span: range, size: int) -> Iterator[CatalogPart]:
        """Read the rows of a span in parts of at most `size`, always cut at the same positions."""
        held, held_bytes, stop = list[CatalogRow](), 0, span.start
        for row in self._rows(span):
            held.append(row)
            stop = row.position + 1
            if isinstance(row.sample, Sample):
                held_bytes += sum(map(len, row.sample.images))
            if len(held) == size or held_bytes >= MAX_PART_BYTES or stop == span.stop:
                yield held
                held, held_bytes = [], 0
        if stop != span.stop:
            raise failure("changed", end=stop, stop=span.stop)

    def columns(self, names: Sequence[str], span: range) -> pa.Table:
        """Read columns of a span."""
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.concat_tables(
            pa.Table.from_batches([batch]).cast(schema)
            for _, file, start, stop in self._overlaps(span)
            for batch in read_batches(file, names, start=start, stop=stop)
        )

    def check_output(self, out: Path) -> None:
        """Raise a ValueError if a file there would become part of the catalog."""
        files = {file.resolve() for _, file, _ in self._files}
        folders = {file.parent for file in files} if self.has_splits else set()
        if out.resolve() in files or out.parent.resolve() in folders:
            raise failure("out_among_data", out=out, source=self._source)

    def identity(self) -> list[str]:
        """List names, sizes and times of the files: other data have other ones."""
        files = {name: self._source / name for name in self._images}
        facts = [f"split {self._split}"]
        for name, file in files.items() or [(file.name, file) for _, file, _ in self._files]:
            try:
                status = file.stat()
                facts.append(f"{name} {status.st_size} {status.st_mtime_ns}")
            except OSError as error:  # A dangling link is a row that cannot be read.
                facts.append(f"{name} {error.strerror}")
        return facts

    def _overlaps(self, span: range) -> Iterator[tuple[str, Path, int, int]]:
        """List the files that a span touches, with the first and last row in each."""
        for split, file, held in self._files:
            start, stop = max(span.start, held.start), min(span.stop, held.stop)
            if start < stop:
                yield split, file, start - held.start, stop - held.start

    def _rows(self, span: range) -> Iterator[CatalogRow]:
        position = span.start
        for split, file, start, stop in self._overlaps(span):
            for cells in self._cells(file, start, stop):
                # As `as_sample` names a row, also where it fails.
                ids = (cells.get(column) for column in ID_COLUMNS)
                name = next((str(each) for each in ids if each not in (None, "")), str(position))
                sample: Sample | Failure
                try:
                    sample = dataset.as_sample(cells, position, self._source)
                    if not sample.images and not sample.messages:
                        sample = Failure("no image", "the row has no image")
                # A path may be forbidden or lead to something that is no file: only this row fails.
                except (ValueError, OSError) as error:
                    sample = Failure("no image", str(error))
                yield CatalogRow(position, name, split, sample)
                position += 1

    def _cells(self, file: Path, start: int, stop: int) -> Iterator[Mapping[str, object]]:
        if self._images:
            yield from ({"id": name, "image": {"path": name}} for name in self._images[start:stop])
            return
        names = {*read_schema(file).names} & {*IMAGE_COLUMNS, *ID_COLUMNS, MESSAGES_COLUMN}
        for batch in read_batches(file, sorted(names), start=start, stop=stop):
            yield from batch.to_pylist()


def list_images(folder: Path) -> list[str]:
    """List the images in a folder and its subfolders by their endings, and log what is left out.

    Input:  b.JPG, a.png, notes.txt, .cache/c.png, sub/d.heic
    Output: ["a.png", "b.JPG", "sub/d.heic"], and the message that notes.txt is left out
    """
    shown: list[str] = []
    for place, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        # Links to folders are not followed, as they may lead back.
        links = [name for name in folders if Path(place, name).is_symlink()]
        names = [name for name in files + links if not name.startswith(".")]
        shown += [str(Path(place, name).relative_to(folder)) for name in names]
    images = [name for name in sorted(shown) if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if others := sorted({*shown} - {*images}):
        named = format_count(len(others), "file"), ", ".join(others[:MAX_NAMED])
        logger.info("Left out of %s: %s without an image's ending, such as %s", folder, *named)
    return images


def _raise(error: OSError) -> None:
    raise failure("unlisted", folder=error.filename, error=error.strerror) from error


def _common_schema(files: Sequence[Path], source: Path) -> pa.Schema:
    """Return the plain columns that all files have, each in a type that holds all their values."""
    schemas = [read_schema(file) for file in files]
    for file, schema in zip(files, schemas, strict=True):
        if not set(IMAGE_COLUMNS) & set(schema.names):
            raise failure("no_image_column", file=file, names=", ".join(schema.names))
    first, *others = [dataset.record_columns(schema) for schema in schemas]
    shared = [name for name in first if all(name in columns for columns in others)]
    parts = [pa.schema([schema.field(name) for name in shared]) for schema in schemas]
    try:
        return pa.unify_schemas(parts, promote_options="permissive").remove_metadata()
    except pa.ArrowException as error:
        raise failure("other_types", source=source, error=error) from error
