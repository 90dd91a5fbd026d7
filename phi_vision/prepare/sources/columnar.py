"""Rows out of Parquet and Arrow files, a batch at a time in memory, images left encoded."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.prepare.sources.parts import Fault, Found

BATCH = 64
"""Rows in memory: of photographs of a few MB, some hundred MB."""

LabelNames = Mapping[str, list[str]]
"""Column -> what its numbers stand for."""

# What pyarrow raises for values that Python cannot hold: text that is not UTF-8, the year 300000.
_UNREADABLE = (ValueError, OverflowError)
_ARROW_FILE_MARK = b"ARROW1"  # a file with an index at its end; without it, a stream


def read_parquet(file: Path) -> Iterator[Found]:
    """Yield the rows of a Parquet file; class labels of `datasets` become their names.

    Input:  a file with the columns image: struct<bytes, path>, label: ClassLabel(names=["coat"])
    Output: (" row 1", {"image": {"bytes": b"…", "path": "a.jpg"}, "label": "coat"})
    """
    yield from _until_unreadable(_parquet_batches(file), "Parquet")


def read_arrow(file: Path) -> Iterator[Found]:
    """Yield the rows of an Arrow file or stream, such as `datasets` saves."""
    yield from _until_unreadable(_arrow_batches(file), "Arrow")


def read_batches(
    batches: Iterable[pa.RecordBatch | pa.Table], names: LabelNames
) -> Iterator[Found]:
    """Yield the rows of batches; one whose values Python cannot hold is a fault.

    Input:  a batch of {"label": [0, -1]}, names={"label": ["coat", "hat"]}
    Output: (" row 1", {"label": "coat"}), (" row 2", {"label": None})
    """
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            for row in _python_rows(batch.slice(start, BATCH)):
                number += 1
                yield f" row {number}", row if isinstance(row, Fault) else _named(row, names)


def label_names(features: object) -> dict[str, list[str]]:
    """Read the names of class labels out of the features that `datasets` writes down.

    Input:  {"label": {"_type": "ClassLabel", "names": ["coat", "hat"]}, "title": {…}}
    Output: {"label": ["coat", "hat"]}
    """
    columns = features.items() if isinstance(features, dict) else ()
    return {
        column: list(feature["names"])
        for column, feature in columns
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and "names" in feature
    }


def schema_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Read the names of class labels out of the metadata of a Parquet or Arrow file."""
    written = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        said = json.loads(written)
    except ValueError:
        return {}  # metadata of another program; the labels stay numbers, as in any other file
    info = said.get("info") if isinstance(said, dict) else None
    return label_names(info.get("features") if isinstance(info, dict) else None)


_Batches = Iterator[tuple[pa.RecordBatch, LabelNames]]


def _parquet_batches(file: Path) -> _Batches:
    # The buffer makes it read a long row group in pieces; read ahead, it would keep all of them.
    with pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as parquet:
        names = schema_labels(parquet.schema_arrow)
        for batch in parquet.iter_batches(batch_size=BATCH):
            yield batch, names


def _arrow_batches(file: Path) -> _Batches:
    with file.open("rb") as start:
        indexed = start.read(len(_ARROW_FILE_MARK)) == _ARROW_FILE_MARK
    with pa.memory_map(str(file)) as mapped:
        opened = pa.ipc.open_file(mapped) if indexed else pa.ipc.open_stream(mapped)
        names = schema_labels(opened.schema)
        places = range(opened.num_record_batches) if indexed else ()
        for batch in map(opened.get_batch, places) if indexed else opened:
            yield batch, names


def _until_unreadable(batches: _Batches, kind: str) -> Iterator[Found]:
    """Yield the rows of a file up to the end, or to where it is damaged, which is a fault."""
    number = 0
    while True:
        try:
            batch, names = next(batches)
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:
            yield f" row {number + 1}", Fault(reason=f"cannot be read as {kind}", raw=str(error))
            return
        for _, found in read_batches([batch], names):
            number += 1
            yield f" row {number}", found


def _python_rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, object] | Fault]:
    try:
        # Unchecked, offsets of a damaged file lead anywhere in memory, and the process ends.
        batch.validate(full=True)
        rows: list[dict[str, object] | Fault] = batch.to_pylist()
    except _UNREADABLE as error:
        if batch.num_rows == 1:
            return [Fault(reason="holds values that cannot be read", raw=str(error))]
        return [
            row for place in range(batch.num_rows) for row in _python_rows(batch.slice(place, 1))
        ]
    return rows


def _named(row: dict[str, object], names: LabelNames) -> dict[str, object]:
    for column, known in names.items():
        label = row.get(column)
        if isinstance(label, int):
            row[column] = known[label] if 0 <= label < len(known) else None
    return row
