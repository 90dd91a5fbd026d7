"""Rows of memory-mapped Parquet files, in any order and in bounded memory.

    files -> row groups -> rows, of which only the wanted columns are decoded

Processes share the pages of a file. `datasets` maps Arrow files instead, which it has to write
first: a second copy on the disk and, for two gigabytes, some ten seconds before the first step,
where decoding a row group of `phi-vision prepare` costs 0.3 ms a sample (docs/log.md).
"""

import itertools
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phi_vision.data.row_groups import with_small_groups
from phi_vision.data.samples import Places, failure
from phi_vision.io.hashing import sha256, sha256_of_all

MAX_OPEN = 256  # files whose metadata are held
# Decoded row groups that are held: of a small dataset all; else those of two samples, one of which
# has the other's images.
HELD_BYTES, MIN_HELD = 2**26, 4
BATCH_BYTES, BATCH_ROWS = 2**22, 1024  # decoded together in a walk
ROWS_PER_BATCH, READ_AHEAD_BYTES = 16, 2**20  # of whole rows: images may have megabytes each
MIN_WALK = 64  # rows in order from which on row groups are read as a stream

_lock = threading.Lock()  # a reader of Parquet serves one thread at a time


class FileVersion(NamedTuple):
    """A file as it was found; reading it after a change is an error."""

    path: Path
    size: int
    modified: int  # in nanoseconds

    @classmethod
    def of(cls, path: Path) -> "FileVersion":
        """Describe the present file."""
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)


Columns = Callable[[FileVersion], Sequence[str]]  # the columns to read of a file
Numbered = tuple[int, Mapping[str, Any]]  # the number of a row, and its cells by column


class ParquetRows:
    """The rows of files, one file after the other; pickled, their paths and row groups."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.originals = [FileVersion.of(file) for file in files]
        for file in self.originals:
            open_parquet(file)  # so that a damaged one is named
        self.files = [FileVersion.of(file) for file in with_small_groups(files)]
        self.starts, self.groups = [0], list[tuple[int, int]]()  # of each group: file, number there
        for place, file in enumerate(self.files):
            metadata = open_parquet(file).metadata
            for group in range(metadata.num_row_groups):
                self.groups.append((place, group))
                self.starts.append(self.starts[-1] + metadata.row_group(group).num_rows)

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, numbers: Places, columns: Columns) -> Iterator[Numbered]:
        """Yield rows in the order of the numbers.

        Input:  [0, 3], and a function that returns ["id"]
        Output: (0, {"id": "A"}), (3, {"id": "D"})
        """
        wanted = np.asarray(numbers, dtype=np.int64)
        if len(wanted) >= MIN_WALK and (wanted[1:] > wanted[:-1]).all():
            for place, file in enumerate(self.files):
                yield from self._walk(place, wanted, columns(file))
            return
        for number in wanted.tolist():
            file, group, place = self._find(number)
            names = tuple(columns(file))
            table = _read_group(file, group, names).slice(place, 1) if names else None
            yield number, table.to_pylist()[0] if table is not None else {}

    def cell(self, number: int, column: Callable[[FileVersion], str]) -> Any:
        """Read one cell."""
        file, group, place = self._find(number)
        return _read_group(file, group, (column(file),)).column(0)[place].as_py()

    def fingerprint(self) -> str:
        """Hash the content of the files, in order."""
        with ThreadPoolExecutor() as pool:  # hashing needs no interpreter
            return sha256_of_all(pool.map(sha256, [file.path for file in self.originals]))

    def _find(self, number: int) -> tuple[FileVersion, int, int]:
        """Find the file of a row, the row group there, and the place in that."""
        at = bisect_right(self.starts, number) - 1
        file, group = self.groups[at]
        return self.files[file], group, number - self.starts[at]

    def _walk(
        self, file: int, wanted: NDArray[np.int64], columns: Sequence[str]
    ) -> Iterator[Numbered]:
        """Yield the wanted rows, given in order, of one file."""
        own = [at for at, (place, _) in enumerate(self.groups) if place == file]
        starts = np.array([self.starts[at] for at in [*own, own[-1] + 1]]) if own else np.zeros(1)
        wanted = wanted[slice(*np.searchsorted(wanted, starts[[0, -1]]))]
        if not columns or not len(wanted):
            yield from ((number, {}) for number in wanted.tolist())
            return
        of_row = np.searchsorted(starts, wanted, side="right") - 1
        touched, place = np.unique(of_row, return_inverse=True)
        sizes = np.diff(starts)[touched]
        at = wanted - starts[of_row] + (np.cumsum(sizes) - sizes)[place]  # in those groups alone
        start = done = 0
        for batch in _stream(self.files[file], [self.groups[own[t]][1] for t in touched], columns):
            held = at[slice(*np.searchsorted(at, [start, start + len(batch)]))] - start
            start += len(batch)
            rows = batch if len(held) == len(batch) else batch.take(pa.array(held))
            numbers = wanted[done : done + len(rows)].tolist()
            done += len(rows)
            yield from zip(numbers, rows.to_pylist(), strict=True)


def read_schema(file: Path) -> pa.Schema:
    """Read the names and types of a Parquet file's columns."""
    with _open_parquet(file) as parquet:
        return parquet.schema_arrow


def count_rows(file: Path) -> int:
    """Read the number of rows of a Parquet file."""
    with _open_parquet(file) as parquet:
        return int(parquet.metadata.num_rows)


def read_batches(
    file: Path, columns: Sequence[str], *, start: int = 0, stop: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Read a range of rows of a Parquet file, a few at a time; other row groups are not read.

    Input:  rows 90 to 110 of a file with row groups of 100
    Output: batches of at most 16 rows, 20 in all
    """
    with _open_parquet(file) as parquet:
        metadata = parquet.metadata
        stop = metadata.num_rows if stop is None else stop
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        ends = [0, *itertools.accumulate(sizes)]
        spans = itertools.pairwise(ends)
        groups = [number for number, (a, b) in enumerate(spans) if a < stop and b > start]
        position = ends[groups[0]] if groups else 0
        for batch in parquet.iter_batches(
            batch_size=ROWS_PER_BATCH, row_groups=groups, columns=list(columns)
        ):
            begin, end = max(start - position, 0), min(stop - position, len(batch))
            if begin < end:
                yield batch.slice(begin, end - begin)
            position += len(batch)


@lru_cache(maxsize=MAX_OPEN)
def open_parquet(file: FileVersion) -> pq.ParquetFile:
    """Map a file, and read its metadata, once in a process."""
    with parquet_errors(file.path):
        if FileVersion.of(file.path) != file:
            raise failure("changed_file", file=file.path)
        return pq.ParquetFile(file.path, memory_map=True)


@contextmanager
def parquet_errors(file: Path) -> Iterator[None]:
    """Turn errors of reading a file into a clear one."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise failure("damaged_parquet", file=file, error=error) from error


class _HeldGroups:
    """The row groups that were read last, decoded."""

    def __init__(self) -> None:
        self.tables: dict[object, pa.Table] = {}
        self.size = 0  # bytes

    def take(self, key: object) -> pa.Table | None:
        """Take a group out; `put` puts it behind the others."""
        if (table := self.tables.pop(key, None)) is not None:
            self.size -= table.nbytes
        return table

    def put(self, key: object, table: pa.Table) -> None:
        """Hold a group, instead of the oldest ones."""
        self.tables[key] = table
        self.size += table.nbytes
        while len(self.tables) > MIN_HELD and self.size > HELD_BYTES:
            self.take(next(iter(self.tables)))


_held = _HeldGroups()


def _read_group(file: FileVersion, group: int, columns: tuple[str, ...]) -> pa.Table:
    key = (file, group, columns)
    with _lock, parquet_errors(file.path):
        table = _held.take(key)
        if table is None:
            table = open_parquet(file).read_row_group(group, columns=[*columns], use_threads=False)
        _held.put(key, table)
    return table


def _stream(
    file: FileVersion, groups: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Decode row groups one after the other, some megabytes at a time."""
    metadata = open_parquet(file).metadata
    group = metadata.row_group(groups[0])
    leaves = [group.column(number) for number in range(metadata.num_columns)]
    size = sum(
        leaf.total_uncompressed_size
        for leaf in leaves
        if any(f"{leaf.path_in_schema}.".startswith(f"{name}.") for name in columns)
    )
    rows = min(BATCH_ROWS, max(1, BATCH_BYTES * group.num_rows // max(1, size)))
    with (
        parquet_errors(file.path),
        pq.ParquetFile(file.path, memory_map=True, metadata=metadata) as parquet,
    ):
        yield from parquet.iter_batches(
            rows, row_groups=groups, columns=[*columns], use_threads=False
        )


@contextmanager
def _open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    # Pages are read as they are needed; by default whole columns of a row group.
    with (
        parquet_errors(file),
        pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_AHEAD_BYTES) as parquet,
    ):
        yield parquet
