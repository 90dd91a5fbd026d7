"""Parquet files a few rows at a time, from any place on: a catalog never fills the memory.

Knows nothing of samples (`loading.py`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_AT_ONCE = 16
"""Rows decoded together: images may have many megabytes each."""

BUFFER = 2**20
"""Bytes of a file that are read ahead."""


def read_schema(file: Path) -> pa.Schema:
    """Read the names and types of a Parquet file's columns.

    Raises:
        ValueError: It cannot be read as Parquet.
    """
    with _open_parquet(file) as parquet:
        return parquet.schema_arrow


def count_rows(file: Path) -> int:
    """Read the number of rows of a Parquet file.

    Raises:
        ValueError: It cannot be read as Parquet.
    """
    with _open_parquet(file) as parquet:
        return int(parquet.metadata.num_rows)


def read_batches(
    file: Path, columns: Sequence[str], *, start: int = 0, stop: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Read rows of a Parquet file from one place up to another, a few at a time.

    Row groups that lie outside are not read.

    Input:  rows 90 to 110 of a file with row groups of 100
    Output: batches of at most 16 rows, 20 in all

    Raises:
        ValueError: It cannot be read as Parquet.
    """
    with _open_parquet(file) as parquet:
        stop = parquet.metadata.num_rows if stop is None else stop
        groups, place = _row_groups(parquet.metadata, start, stop)
        names = list(columns)
        for batch in parquet.iter_batches(
            batch_size=ROWS_AT_ONCE, row_groups=groups, columns=names
        ):
            begin, end = max(start - place, 0), min(stop - place, len(batch))
            if begin < end:
                yield batch.slice(begin, end - begin)
            place += len(batch)


@contextmanager
def _open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        # Pages are read as they are needed; otherwise whole columns of a row group.
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as parquet:
            yield parquet
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"cannot read {file} as Parquet: {error}; fetch or write the file again"
        ) from error


def _row_groups(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """List the row groups that hold rows of a range, and the place of the first row in them.

    Input:  row groups of 100 100 100 rows, the range from 150 to 210
    Output: [1, 2], 100
    """
    chosen: list[int] = []
    first = place = 0
    for number in range(metadata.num_row_groups):
        end = place + metadata.row_group(number).num_rows
        if place < stop and end > start:
            first = first if chosen else place
            chosen.append(number)
        place = end
    return chosen, first
