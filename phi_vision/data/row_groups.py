"""Copies of Parquet files with row groups small enough to read, kept between runs."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from phi_vision.io.atomic import atomic_file
from phi_vision.io.formatting import format_bytes
from phi_vision.io.hashing import sha256
from phi_vision.io.process import CACHE_VARIABLE, cache_folder

logger = logging.getLogger(__name__)

# To read one sample its row group is decoded: 5 ms for 64 MB. `phi-vision prepare` writes up to 32.
MAX_GROUP_BYTES, WRITTEN_GROUP_BYTES = 2**26, 2**23
SMALL_BYTES = 2**28  # of all files of a dataset, which then stay decoded


def with_small_groups(files: Sequence[Path]) -> list[Path]:
    """Replace large files with large row groups by copies with small ones, made on first use.

    Input:  data/train-00000.parquet of 2 GB with one row group, as pandas writes it
    Output: ~/.cache/phi-vision/row-groups/5a0e….parquet, its rows in groups of 8 MB
    """
    if sum(file.stat().st_size for file in files) < SMALL_BYTES:
        return list(files)
    return [_copy(file) if _largest_group(file) > MAX_GROUP_BYTES else file for file in files]


def _largest_group(file: Path) -> int:
    metadata = pq.read_metadata(file)
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return max((group.total_byte_size for group in groups), default=0)


def _copy(file: Path) -> Path:
    """Return the copy of a file; the file itself, with a warning, where none can be kept."""
    folder, status = cache_folder("row-groups"), file.stat()
    place = sha256(str(file.resolve()))[:16]
    version = sha256(f"{status.st_size} {status.st_mtime_ns}")[:16]
    problem: object = f"{CACHE_VARIABLE} is off"
    if folder is not None:
        copy = folder / f"{place}-{version}.parquet"
        try:
            if not copy.exists():
                folder.mkdir(parents=True, exist_ok=True)
                with atomic_file(copy) as unfinished:
                    _rewrite(file, unfinished)
                logger.info("kept a copy of %s with small row groups in %s", file, folder)
                for older in folder.glob(f"{place}-*.parquet"):
                    if older != copy:
                        older.unlink(missing_ok=True)
            return copy
        except OSError as error:
            problem = error
    logger.warning(
        "%s has row groups of %s, each of which is decoded for one sample, and no copy with small "
        "ones is kept (%s): set %s to a folder with space, or run `phi-vision prepare` on the data",
        *(file, format_bytes(_largest_group(file)), problem, CACHE_VARIABLE),
    )
    return file


def _rewrite(file: Path, to: Path) -> None:
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as parquet:
        metadata = parquet.metadata
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        size = sum(group.total_byte_size for group in groups)
        rows = max(1, WRITTEN_GROUP_BYTES * metadata.num_rows // max(1, size))
        with pq.ParquetWriter(to, parquet.schema_arrow, use_dictionary=False) as writer:
            for batch in parquet.iter_batches(rows, use_threads=False):
                writer.write_batch(batch)
