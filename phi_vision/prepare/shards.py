"""Files of a prepared dataset: the stage, the Parquet shards of each split, the rejected rows.

Clean rows go to the stage on disk at once, until their group and split are known. Shards open with
`load_dataset` and `load_samples`. Rows are written a few at a time, so only those are in memory.
"""

import json
import math
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.io.atomic import check_kind, publish_file
from phi_vision.io.hashing import digest
from phi_vision.prepare.cleaning import CleanRow, RejectedRow
from phi_vision.prepare.columns import RESERVED
from phi_vision.prepare.data_card import Statistics
from phi_vision.prepare.dedup import RowKeys

GROUP_ROWS = 100  # of a row group, as `datasets` advises for images: readers load whole ones
GROUP_BYTES = 32_000_000  # of images, after which a row group is closed early: it is in memory
_TEXTS = ("origin", "reason", "detail", "values")
_REJECTED = pa.schema([("row", pa.int64()), *((name, pa.string()) for name in _TEXTS)])
_EXACT: dict[str, set[str]] = {  # type -> the kinds of values it holds exactly
    **{"string": set(), "bool": {"bool"}},
    **{"int64": {"int", "long int"}, "float64": {"int", "float"}},
}
_SUFFIXES = {b"\x89PNG": ".png", b"RIFF": ".webp"}  # by how a kept image begins


def check_output_folder(out: Path, source: Path, command: str, manifest: str) -> None:
    """Check that a folder is free or was written by the same command, and apart from the source."""
    whole, given = out.resolve(), source.resolve()
    if source.exists() and (given.is_relative_to(whole) or whole.is_relative_to(given)):
        raise ValueError(
            f"one of {out} and the source {source} contains the other; choose an --out beside it"
        )
    existing = next(path for path in (whole, *whole.parents) if path.exists())
    check_kind(existing, is_folder=True)
    if out.is_dir() and any(out.iterdir()) and not (out / manifest).is_file():
        raise ValueError(
            f"{out} was not written by `{command}` (it has no {manifest}); choose another --out"
        )


class Shards(AbstractContextManager["Shards"]):
    """Writes rows to Parquet files; one that has reached a given size is closed.

    Files are named as `datasets` does, train-00000-of-00002.parquet; without a size there is one
    file, train.parquet, also where there are no rows.
    """

    def __init__(
        self, folder: Path, name: str, schema: pa.Schema, *, max_bytes: float = math.inf
    ) -> None:
        self._file, self._schema, self._max_bytes = folder / name, schema, max_bytes
        self._rows: list[Mapping[str, object]] = []
        self._image_bytes = 0
        self._files: list[Path] = []
        self._writer: pq.ParquetWriter | None = None

    def __exit__(self, *error: object) -> None:
        is_one = self._max_bytes == math.inf
        if self._rows or (is_one and not self._files):
            self._write_group()
        self._close_file()
        for number, file in enumerate(self._files if error[0] is None else ()):
            ending = "" if is_one else f"-{number:05d}-of-{len(self._files):05d}"
            publish_file(file, self._file.with_name(f"{self._file.name}{ending}.parquet"))

    def add(self, row: Mapping[str, object], image_bytes: int = 0) -> None:
        """Write a row, possibly later."""
        self._rows.append(row)
        self._image_bytes += image_bytes
        is_large = self._image_bytes >= min(GROUP_BYTES, self._max_bytes)
        if is_large or len(self._rows) >= GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        if self._writer is None:
            name = f"{self._file.name}-{len(self._files):05d}.unfinished"
            self._files.append(self._file.with_name(name))
            self._writer = pq.ParquetWriter(self._files[-1], self._schema)
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._image_bytes = [], 0
        if self._files[-1].stat().st_size >= self._max_bytes:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class RejectedRows(AbstractContextManager["RejectedRows"]):
    """Writes `rejected.parquet`: every row that became no sample, with its original values."""

    def __init__(self, folder: Path) -> None:
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, str] = {}  # reason -> the first row of its kind
        self._file = Shards(folder, "rejected", _REJECTED)

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def add(self, rejected: RejectedRow) -> None:
        """Write a rejected row, possibly later."""
        self.reasons[rejected.reason] += 1
        found = rejected.detail or rejected.values
        self.examples.setdefault(rejected.reason, f"{rejected.origin}: {found:.200}")
        self._file.add({"row": rejected.number, **asdict(rejected)})


class Stage(AbstractContextManager["Stage"]):
    """Takes clean rows, in order, and returns them once they are all there, from a file."""

    def __init__(self, folder: Path, columns: Mapping[str, str]) -> None:
        self.keys: list[RowKeys] = []
        self.statistics = Statistics()
        self._columns = columns
        self._title = "title" if "title" in columns else "name"
        self._category = "category3_code" if "category3_code" in columns else "category"
        self._price = "full_price" if "full_price" in columns else "price"
        self._ids: Counter[str] = Counter()
        self._file = (folder / "stage").open("w+b")

    def __exit__(self, *error: object) -> None:
        self._file.close()
        Path(self._file.name).unlink()

    def add(self, row: CleanRow) -> None:
        """Write a clean row, and keep what it is grouped by."""
        digests = tuple(image.digest for image in row.images)
        record = json.dumps(row.record, ensure_ascii=False)
        messages = json.dumps([message._asdict() for message in row.messages])
        # Of ten million rows, two share 16 letters with a probability of three in a million.
        fingerprint = digest((record, messages, *digests))[:16]
        # Without an id the image names the row, not its position: rows inserted before it must not
        # rename it, nor corrections of its texts.
        name = row.id or (digest(digests)[:16] if digests else fingerprint)
        fields = (self._title, self._category, self._price)
        texts = (row.record.get(field) for field in fields)
        title, category, price = (None if text is None else str(text) for text in texts)
        self.keys.append(
            RowKeys(
                number=row.raw.number,
                id=self._unique(name),
                title=title,
                group=row.group,
                digests=digests,
                hashes=tuple(image.perceptual_hash for image in row.images),
                split=row.split,
                category=category,
                price=price,
                fingerprint=fingerprint,
            )
        )
        self.statistics.add(row)
        for field, column in self._columns.items():
            if f"{field} as ambiguous" in row.changes:
                value = row.record[field]
                read = value if isinstance(value, str) else f"{value:.12g}"
                example = f"{row.raw.values[column]!s:.40}, read as {read}"
                self.statistics.examples.setdefault(field, example)
        values = {  # encoded images by their size: the sample holds them
            name: f"{len(value)} bytes" if isinstance(value, bytes) else value
            for name, value in row.raw.values.items()
            if not (isinstance(value, dict) and value.get("bytes"))
        }
        pickle.dump(replace(row, raw=replace(row.raw, values=values)), self._file)

    def rows(self) -> Iterator[CleanRow]:
        """Read the rows back, in order, one at a time."""
        self._file.seek(0)
        return (pickle.load(self._file) for _ in self.keys)

    def _unique(self, name: str) -> str:
        """Number the further rows of an id: `A`, `A-2`, `A-3`."""
        self._ids[name] += 1
        while self._ids[name] > 1:
            self.statistics.changes["duplicate id renamed"] += 1
            name = f"{name}-{self._ids[name]}"
            self._ids[name] += 1
        return name


class Layout:
    """The columns of a dataset, derived from the statistics of all its values.

    A field has the smallest type that holds all of its values exactly:

    Input:  {"int"}  {"int", "float"}  {"long int", "float"}  {"bool"}  {"int", "str"}  set()
    Output: int64    float64           string                 bool      string          string
    """

    def __init__(self, statistics: Statistics) -> None:
        from datasets import Features, Image, List, Value  # here, as importing it takes a second

        self.dtypes = {
            name: next((dtype for dtype, held in _EXACT.items() if field.kinds <= held), "string")
            for name, field in statistics.fields.items()
            if name not in RESERVED
        }
        self.has_one_image_each = set(statistics.image_counts) == {1}
        self.has_messages = statistics.has_messages
        # The types of features make `datasets` decode the images.
        dtypes = {"id": "string", "group_id": "string", **self.dtypes}
        features: dict[str, object] = {name: Value(dtype) for name, dtype in dtypes.items()}
        features |= {"image": Image()} if self.has_one_image_each else {"images": List(Image())}
        if self.has_messages:
            features["messages"] = List({"role": Value("string"), "content": Value("string")})
        self.schema = Features(features).arrow_schema

    def row(self, name: str, group: str, row: CleanRow) -> dict[str, Any]:
        """Return the row of a sample."""
        found: dict[str, Any] = {"id": name, "group_id": group}
        for field, dtype in self.dtypes.items():
            value = row.record.get(field)
            found[field] = str(value) if dtype == "string" and value is not None else value
        stem = re.sub(r"[^\w.-]", "_", name)
        images = [
            {
                "bytes": image.encoded,
                "path": f"{stem}{number or ''}{_SUFFIXES.get(image.encoded[:4], '.jpg')}",
            }
            for number, image in enumerate(row.images)
        ]
        found |= {"image": images[0]} if self.has_one_image_each else {"images": images}
        if self.has_messages:
            found["messages"] = [message._asdict() for message in row.messages]
        return found
