"""Parquet and Arrow, read batch by batch with images left encoded."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.prepare.sources.rows import (
    INFO_FILE,
    FilePart,
    Found,
    Reader,
    Source,
    UnreadableRow,
    canonical_split,
    choose_parts,
    file_source,
    find_parts,
    read_json_object,
    read_notes,
)

PARQUET_SUFFIXES = (".parquet", ".pq")
ARROW_SUFFIXES = (".arrow", ".feather")
DATASET_DICT = "dataset_dict.json"
STATE = "state.json"
BATCH = 64
"""Rows in memory: some hundred MB of photographs."""

LabelNames = Mapping[str, list[str]]
"""Column -> names of its class labels."""

# Raised for values that Python cannot hold: text that is not UTF-8, the year 300000.
_UNREADABLE = (ValueError, OverflowError)
_ARROW_FILE_MARK = b"ARROW1"  # a file with an index at its end; without it, a stream


def open_parquet(name: str, *, split: str | None = None) -> Source:
    """Open a Parquet file or a folder of them, `data/<split>-*.parquet` or deeper.

    Raises:
        ValueError: There is no such file or split, or the only file is no Parquet.
    """
    parts = find_parts(Path(name), PARQUET_SUFFIXES, split)
    _check_readable(parts, read_parquet, "Parquet")
    return file_source(name, "parquet", parts, read_parquet, {"files": str(len(parts))})


def open_arrow(name: str, *, split: str | None = None) -> Source:
    """Open an Arrow file, or a folder saved by `datasets`: one dataset, or a DatasetDict.

    Raises:
        ValueError: There is no such file or split, or the only file is no Arrow.
    """
    path = Path(name)
    if (path / DATASET_DICT).is_file():
        splits = read_json_object(path / DATASET_DICT).get("splits")
        names = [str(each) for each in splits] if isinstance(splits, list) else []
        found = [part for each in names for part in _saved_parts(path / each, each)]
        parts = choose_parts(found, split, name)
    elif (path / STATE).is_file():
        parts = choose_parts(_saved_parts(path, None), split, name)
    else:
        parts = find_parts(path, ARROW_SUFFIXES, split)
    _check_readable(parts, read_arrow, "Arrow")
    first = parts[0].file.parent
    notes = read_notes(first) if (first / INFO_FILE).is_file() else {}
    detected = {"files": str(len(parts))}
    return file_source(name, "arrow", parts, read_arrow, detected, notes=notes)


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
    """Yield the rows of batches; one whose values Python cannot hold is unreadable.

    Input:  a batch of {"label": [0, -1]}, names={"label": ["coat", "hat"]}
    Output: (" row 1", {"label": "coat"}), (" row 2", {"label": None})
    """
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            for row in _python_rows(batch.slice(start, BATCH)):
                number += 1
                yield (
                    f" row {number}",
                    row if isinstance(row, UnreadableRow) else _named(row, names),
                )


def label_names(features: object) -> dict[str, list[str]]:
    """Read class-label names from the features of `datasets`.

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
    """Read class-label names from the metadata of a Parquet or Arrow file."""
    written = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        metadata = json.loads(written)
    except ValueError:
        return {}  # of another program; the labels stay numbers
    info = metadata.get("info") if isinstance(metadata, dict) else None
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
    """Yield the rows of a file up to its end, or to where it is damaged."""
    number = 0
    while True:
        try:
            batch, names = next(batches)
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:
            yield (
                f" row {number + 1}",
                UnreadableRow(reason=f"cannot be read as {kind}", raw=str(error)),
            )
            return
        for _, found in read_batches([batch], names):
            number += 1
            yield f" row {number}", found


def _python_rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, object] | UnreadableRow]:
    try:
        # Unchecked, offsets of a damaged file lead anywhere in memory, and the process ends.
        batch.validate(full=True)
        rows: list[dict[str, object] | UnreadableRow] = batch.to_pylist()
    except _UNREADABLE as error:
        if batch.num_rows == 1:
            return [UnreadableRow(reason="holds values that cannot be read", raw=str(error))]
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


def _check_readable(parts: Sequence[FilePart], read: Reader, kind: str) -> None:
    """Raise ValueError for a single file that is not of its kind; among several, skip it."""
    _, found = next(read(parts[0].file), ("", None))
    if len(parts) == 1 and isinstance(found, UnreadableRow) and found.reason.endswith(f"as {kind}"):
        raise ValueError(
            f"cannot read {parts[0].file} as {kind}: {found.raw}; fetch or write the file again"
        )


def _saved_parts(folder: Path, split: str | None) -> list[FilePart]:
    """List the files of one saved dataset in their stated order."""
    state = read_json_object(folder / STATE)
    listed = state.get("_data_files")
    files = listed if isinstance(listed, list) else []
    # Only names: a saved dataset has its files beside it.
    names = [Path(str(file["filename"])).name for file in files if isinstance(file, dict)]
    stated = split or (str(state["_split"]) if state.get("_split") else None)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ValueError(
            f"the dataset in {folder} is incomplete: {STATE} names {len(names)} files, of which "
            f"{', '.join(missing) or 'none'} could not be found; save it again"
        )
    canonical = stated and canonical_split(stated)
    return [FilePart(file=folder / name, split=canonical) for name in names]
