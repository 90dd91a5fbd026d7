"""Rows written to a Parquet file a few at a time, so that only those are held in memory."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 100
"""Rows of a row group at most, as `datasets` advises for images: readers load whole ones."""

BYTES = 32_000_000
"""Bytes of images after which a row group is closed early: it is held in memory."""


class RowWriter:
    """Writes rows to one file, which is complete when it is closed."""

    def __init__(
        self,
        file: Path,
        schema: pa.Schema,
        *,
        most_bytes: int = BYTES,
        compression: str = "snappy",
    ) -> None:
        self._schema, self._most_bytes = schema, most_bytes
        self._writer = pq.ParquetWriter(file, schema, compression=compression)
        self._waiting: list[Mapping[str, object]] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, row: Mapping[str, object], image_bytes: int = 0) -> None:
        """Write a row, sooner or later."""
        self._waiting.append(row)
        self._bytes += image_bytes
        if len(self._waiting) >= ROWS or self._bytes >= self._most_bytes:
            self._flush()

    def close(self) -> None:
        """Finish the file; nothing can be added afterwards."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
            self._waiting.clear()
            self._bytes = 0
