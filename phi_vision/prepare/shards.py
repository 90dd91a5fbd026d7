"""Parquet files of a prepared dataset: the stage, the shards of each split, the rejected rows.

Images go to the stage on disk at once, until their group and split are known. Shards open with
`load_dataset` and `load_samples`. Rows are written a few at a time, so only those are in memory.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.data.samples import Value as FieldValue
from phi_vision.io.atomic import publish_file
from phi_vision.io.hashing import digest
from phi_vision.prepare.cleaning import CleanRow, RejectedRow, values_as_json
from phi_vision.prepare.columns import RESERVED
from phi_vision.prepare.data_card import Statistics
from phi_vision.prepare.dedup import RowKeys
from phi_vision.prepare.sources.rows import storable

GROUP_ROWS = 100
"""Rows of a row group at most, as `datasets` advises for images: readers load whole ones."""

GROUP_BYTES = 32_000_000
"""Bytes of images after which a row group is closed early: it is held in memory."""

_STAGE = pa.schema(
    [
        ("number", pa.int64()),
        ("origin", pa.string()),
        ("record", pa.string()),
        ("messages", pa.string()),
        ("images", pa.list_(pa.binary())),
        ("values", pa.string()),
    ]
)
_REJECTED = pa.schema(
    [
        ("row", pa.int64()),
        *((name, pa.string()) for name in ("origin", "reason", "detail", "values")),
    ]
)
_EXACT = {"bool": {"bool"}, "int64": {"int", "long int"}, "float64": {"int", "float"}}
"""Type -> the kinds of values it holds exactly, as `FieldStatistics` names them."""


def check_output_folder(out: Path, source: Path, command: str, manifest: str) -> None:
    """Check that a folder is free or was written by the same command, and apart from the source.

    Raises:
        ValueError: It is not.
    """
    whole, given = out.resolve(), source.resolve()
    if source.exists() and (given.is_relative_to(whole) or whole.is_relative_to(given)):
        raise ValueError(
            f"one of {out} and the source {source} contains the other; choose a folder beside the "
            "source"
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / manifest).is_file()):
        raise ValueError(
            f"{out} is in use and was not written by `{command}` (it has no {manifest}); "
            "choose a new folder"
        )


class RowWriter(AbstractContextManager["RowWriter"]):
    """Writes rows to one Parquet file, which is complete once it is closed."""

    def __init__(
        self,
        file: Path,
        schema: pa.Schema,
        *,
        max_bytes: int = GROUP_BYTES,
        compression: str = "snappy",
    ) -> None:
        self._schema, self._max_bytes = schema, max_bytes
        self._writer = pq.ParquetWriter(file, schema, compression=compression)
        self._rows: list[Mapping[str, object]] = []
        self._bytes = 0

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, row: Mapping[str, object], image_bytes: int = 0) -> None:
        """Write a row, possibly later."""
        self._rows.append(row)
        self._bytes += image_bytes
        if len(self._rows) >= GROUP_ROWS or self._bytes >= self._max_bytes:
            self._flush()

    def close(self) -> None:
        """Complete the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()
            self._bytes = 0


class RejectedRows(AbstractContextManager["RejectedRows"]):
    """Writes `rejected.parquet`: every row that became no sample, with its original values."""

    def __init__(self, file: Path) -> None:
        self.reasons: Counter[str] = Counter()
        self._writer = RowWriter(file, _REJECTED)

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def add(self, rejected: RejectedRow) -> None:
        """Write a rejected row, possibly later."""
        self.reasons[rejected.reason] += 1
        values = asdict(rejected)
        self._writer.add({"row": values.pop("number"), **values})


class StagedRow(NamedTuple):
    """A clean row as read back from the stage."""

    number: int
    origin: str
    record: Mapping[str, FieldValue]
    messages: list[dict[str, str]]
    images: list[bytes]
    values: str


class Stage(AbstractContextManager["Stage"]):
    """Takes clean rows, in order, and returns them any number of times."""

    def __init__(self, file: Path, *, title: str | None, category: str | None) -> None:
        self.file = file
        self.keys: list[RowKeys] = []
        self.statistics = Statistics()
        self._title, self._category = title, category
        self._writer = RowWriter(file, _STAGE, compression="none")
        self._ids: Counter[str] = Counter()

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def add(self, row: CleanRow) -> None:
        """Write a clean row, and keep what it is grouped by."""
        record = json.dumps(row.record, ensure_ascii=False)
        messages = json.dumps([message._asdict() for message in row.messages])
        digests = tuple(image.digest for image in row.images)
        fingerprint = _fingerprint(record, messages, *digests)
        staged = StagedRow(
            number=row.raw.number,
            origin=storable(row.raw.origin),
            record=record,  # type: ignore[arg-type]  # JSON until it is read back
            messages=messages,  # type: ignore[arg-type]
            images=[image.encoded for image in row.images],
            values=values_as_json(_without_images(row.raw.values)),
        )
        self._writer.add(staged._asdict(), sum(map(len, staged.images)))
        title, category = (
            None if value is None else str(value)
            for value in map(row.record.get, (self._title or "", self._category or ""))
        )
        self.keys.append(
            RowKeys(
                number=row.raw.number,
                # Without an id the image names the row, not its position: rows inserted before it
                # must not rename it, nor corrections of its texts.
                id=self._unique(row.id or (_fingerprint(*digests) if digests else fingerprint)),
                title=title,
                group=row.group,
                digests=digests,
                hashes=tuple(image.perceptual_hash for image in row.images),
                split=row.split,
                category=category,
                fingerprint=fingerprint,
            )
        )
        self.statistics.add(row)

    def rows(self) -> Iterator[StagedRow]:
        """Read the rows back, in order, a few megabytes at a time."""
        with pq.ParquetFile(self.file, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(batch_size=GROUP_ROWS):
                for row in batch.to_pylist():
                    row["record"] = json.loads(row["record"])
                    row["messages"] = json.loads(row["messages"])
                    yield StagedRow(**row)

    def _unique(self, name: str) -> str:
        """Number the further rows of an id: `A`, `A-2`, `A-3`."""
        self._ids[name] += 1
        while self._ids[name] > 1:
            self.statistics.changes["duplicate id renamed"] += 1
            name = f"{name}-{self._ids[name]}"
            self._ids[name] += 1
        return name


class Layout:
    """The columns of a dataset, derived from the statistics of all its values."""

    def __init__(self, statistics: Statistics) -> None:
        self.dtypes = {
            name: _smallest_dtype(field.kinds)
            for name, field in statistics.fields.items()
            if name not in RESERVED
        }
        self.has_one_image_each = set(statistics.image_counts) == {1}
        self.has_messages = statistics.has_messages

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, with the feature types that make `datasets` decode the images."""
        from datasets import Features, Image, List, Value  # here, as importing it takes a second

        dtypes = {"id": "string", "group_id": "string", **self.dtypes}
        features: dict[str, object] = {name: Value(dtype) for name, dtype in dtypes.items()}
        features |= {"image": Image()} if self.has_one_image_each else {"images": List(Image())}
        if self.has_messages:
            features["messages"] = List({"role": Value("string"), "content": Value("string")})
        return Features(features).arrow_schema

    def row(self, name: str, group: str, staged: StagedRow) -> dict[str, Any]:
        """Return the row of a sample."""
        stem = "".join(char if char.isalnum() or char in "-_." else "_" for char in name)
        images = [
            {"bytes": encoded, "path": f"{stem}{number or ''}{_suffix(encoded)}"}
            for number, encoded in enumerate(staged.images)
        ]
        return {
            "id": name,
            "group_id": group,
            **{field: _cast(staged.record.get(field), dt) for field, dt in self.dtypes.items()},
            **({"image": images[0]} if self.has_one_image_each else {"images": images}),
            **({"messages": staged.messages} if self.has_messages else {}),
        }


class Shards(AbstractContextManager["Shards"]):
    """Writes the rows of one split; a file that has reached a given size is closed."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema, *, max_bytes: int) -> None:
        self.folder, self.split, self.schema = folder, split, schema
        self.max_bytes = max_bytes
        self._files: list[Path] = []
        self._writer: RowWriter | None = None

    def __exit__(self, *error: object) -> None:
        self._close_file()
        if error[0] is None:
            # Named as `datasets` does, which needs their number: train-00000-of-00002.
            for number, file in enumerate(self._files):
                name = f"{self.split}-{number:05d}-of-{len(self._files):05d}.parquet"
                publish_file(file, self.folder / name)

    def add(self, row: Mapping[str, object], image_bytes: int) -> None:
        """Write a row, possibly later."""
        if self._writer is None:
            self._files.append(self.folder / f"{self.split}-{len(self._files):05d}.unfinished")
            max_bytes = min(GROUP_BYTES, self.max_bytes)
            self._writer = RowWriter(self._files[-1], self.schema, max_bytes=max_bytes)
        self._writer.add(row, image_bytes)
        if self._files[-1].stat().st_size >= self.max_bytes:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _without_images(values: Mapping[str, object]) -> dict[str, object]:
    """Replace encoded images by their size: the sample holds them."""
    return {
        name: f"{len(value)} bytes" if isinstance(value, bytes) else value
        for name, value in values.items()
        if not (isinstance(value, dict) and value.get("bytes"))
    }


def _fingerprint(*parts: str) -> str:
    """Hash to 16 letters; two of ten million collide with a probability of three in a million."""
    return digest(parts)[:16]


def _smallest_dtype(kinds: set[str]) -> str:
    """Choose the type that holds all values of a field exactly.

    Input:  {"int"}  {"int", "float"}  {"long int", "float"}  {"bool"}  {"int", "str"}  set()
    Output: int64    float64           string                 bool      string          string
    """
    return next((dtype for dtype, exact in _EXACT.items() if kinds and kinds <= exact), "string")


def _cast(value: FieldValue, dtype: str) -> FieldValue:
    if value is None or isinstance(value, str):
        return value
    if dtype == "string":
        return str(value)
    return float(value) if dtype == "float64" else value


def _suffix(encoded: bytes) -> str:
    if encoded.startswith(b"\x89PNG"):
        return ".png"
    return ".webp" if encoded[8:12] == b"WEBP" else ".jpg"
