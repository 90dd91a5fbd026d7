"""Samples -> Parquet shards that `load_dataset` and `load_samples` open; rejected rows beside them.

A shard is written as it fills, so that one row group is all that is held in memory.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from phi_vision.data.samples import Value
from phi_vision.io.atomic import publish_file
from phi_vision.prepare.buffered import BYTES, RowWriter
from phi_vision.prepare.cleaning import Rejected
from phi_vision.prepare.columns import RESERVED
from phi_vision.prepare.staging import Staged
from phi_vision.prepare.statistics import Tally

_REJECTED = pa.schema(
    [
        ("row", pa.int64()),
        ("origin", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("values", pa.string()),
    ]
)
_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
_TEXT = {"dtype": "string", "_type": "Value"}
_HELD = {"bool": {"bool"}, "int64": {"int", "long int"}, "float64": {"int", "float"}}
"""Type -> the kinds of values that it holds exactly, as `Tally` names them."""
_DTYPES = {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(), "string": pa.string()}


class Layout:
    """The columns of a dataset, found out from all its values."""

    def __init__(self, tally: Tally) -> None:
        self.dtypes = {
            name: _dtype(field.kinds)
            for name, field in tally.fields.items()
            if name not in RESERVED
        }
        self.has_one_image_each = set(tally.image_counts) == {1}
        self.has_messages = tally.has_messages
        self.schema = self._make_schema()

    def row(self, name: str, group: str, staged: Staged) -> dict[str, object]:
        """Make the row of a sample."""
        plain = {
            field: _cast(staged.record.get(field), dtype) for field, dtype in self.dtypes.items()
        }
        images = [
            {"bytes": encoded, "path": f"{_file_name(name)}{number or ''}{_ending(encoded)}"}
            for number, encoded in enumerate(staged.images)
        ]
        shown = {"image": images[0]} if self.has_one_image_each else {"images": images}
        said = {"messages": staged.messages} if self.has_messages else {}
        return {"id": name, "group_id": group, **plain, **shown, **said}

    def _make_schema(self) -> pa.Schema:
        fields = [("id", pa.string()), ("group_id", pa.string())]
        fields += [(name, _DTYPES[dtype]) for name, dtype in self.dtypes.items()]
        features: dict[str, object] = {"id": _TEXT, "group_id": _TEXT}
        features |= {n: {"dtype": dtype, "_type": "Value"} for n, dtype in self.dtypes.items()}
        if self.has_one_image_each:
            fields.append(("image", _STRUCT))
            features["image"] = {"_type": "Image"}
        else:
            fields.append(("images", pa.list_(_STRUCT)))
            features["images"] = {"feature": {"_type": "Image"}, "_type": "List"}
        if self.has_messages:
            fields.append(("messages", pa.list_(_TURN)))
            features["messages"] = {"feature": {"role": _TEXT, "content": _TEXT}, "_type": "List"}
        # The feature types as the `datasets` library notes them, so that it decodes the images.
        described = json.dumps({"info": {"features": features}})
        return pa.schema(fields, metadata={"huggingface": described})


class Shards:
    """Writes the rows of one split; a file that has reached a given size is closed."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema, *, most_bytes: int) -> None:
        self.folder, self.split, self.schema = folder, split, schema
        self.most_bytes = most_bytes
        self._files: list[Path] = []
        self._writer: RowWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_file()
        if kind is None:
            self._name_files()

    def add(self, row: Mapping[str, object], image_bytes: int) -> None:
        """Write a row, sooner or later."""
        if self._writer is None:
            self._files.append(self.folder / f"{self.split}-{len(self._files):05d}.unfinished")
            most = min(BYTES, self.most_bytes)
            self._writer = RowWriter(self._files[-1], self.schema, most_bytes=most)
        self._writer.add(row, image_bytes)
        if self._files[-1].stat().st_size >= self.most_bytes:
            self._end_file()

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _name_files(self) -> None:
        """Name the files as `datasets` does, which needs their number: train-00000-of-00002."""
        count = len(self._files)
        for number, file in enumerate(self._files):
            name = f"{self.split}-{number:05d}-of-{count:05d}.parquet"
            publish_file(file, self.folder / name)


class RejectedRows:
    """Writes `rejected.parquet`: every row that became no sample, with its original values."""

    def __init__(self, file: Path) -> None:
        self.reasons: Counter[str] = Counter()
        self._writer = RowWriter(file, _REJECTED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def add(self, rejected: Rejected) -> None:
        """Write a rejected row, sooner or later."""
        self.reasons[rejected.reason] += 1
        self._writer.add(
            {
                "row": rejected.number,
                "origin": rejected.origin,
                "reason": rejected.reason,
                "detail": rejected.detail,
                "values": rejected.values,
            }
        )


def _dtype(kinds: set[str]) -> str:
    """Choose one type for all values of a field, one that holds each of them exactly.

    Input:  {"int"}  {"int", "float"}  {"long int", "float"}  {"bool"}  {"int", "str"}  set()
    Output: int64    float64           string                 bool      string          string
    """
    for dtype, held in _HELD.items():
        if kinds and kinds <= held:
            return dtype
    return "string"


def _cast(value: Value, dtype: str) -> Value:
    if value is None or isinstance(value, str):
        return value
    if dtype == "string":
        return str(value)
    return float(value) if dtype == "float64" else value


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def _ending(encoded: bytes) -> str:
    """The ending that fits the content: images are kept as JPEG, PNG or WebP."""
    if encoded.startswith(b"\x89PNG"):
        return ".png"
    return ".webp" if encoded[8:12] == b"WEBP" else ".jpg"
