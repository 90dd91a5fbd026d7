"""Parquet, Arrow and Hub datasets, read batch by batch with images left encoded."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.prepare.sources import files
from phi_vision.prepare.sources.rows import Found, Row, Source, UnreadableRow, located

PARQUET_SUFFIXES = (".parquet", ".pq")
ARROW_SUFFIXES = (".arrow", ".feather")
DATASET_DICT = "dataset_dict.json"
STATE = "state.json"
# `owner/name`, optionally with a configuration after a colon.
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")
BATCH = 64  # rows in memory: some hundred MB of photographs
# Batches, each with the names of the class labels in its columns.
_Batches = Iterable[tuple[pa.RecordBatch | pa.Table, Mapping[str, list[str]]]]


def open_parquet(name: str, *, split: str | None = None) -> Source:
    """Open a Parquet file or a folder of them, `data/<split>-*.parquet` or deeper."""
    parts = files.find_parts(Path(name), PARQUET_SUFFIXES, split)
    _check_readable(parts, read_parquet)
    return files.file_source(name, "parquet", parts, read_parquet, [{"files": str(len(parts))}])


def open_arrow(name: str, *, split: str | None = None) -> Source:
    """Open an Arrow file, or a folder saved by `datasets`: one dataset, or a DatasetDict."""
    path = Path(name)
    if (path / DATASET_DICT).is_file():
        splits = files.read_json_object(path / DATASET_DICT).get("splits")
        names = map(str, splits if isinstance(splits, list) else [])
        found = [part for each in names for part in _saved_parts(path / each, each)]
        parts = files.choose_parts(found, split, name)
    elif (path / STATE).is_file():
        parts = files.choose_parts(_saved_parts(path, None), split, name)
    else:
        parts = files.find_parts(path, ARROW_SUFFIXES, split)
    _check_readable(parts, read_arrow)
    first = parts[0].file.parent
    notes = files.read_notes(first) if (first / files.INFO_FILE).is_file() else {}
    detected = [{"files": str(len(parts))}]
    return files.file_source(name, "arrow", parts, read_arrow, detected, notes=notes)


def open_hub(
    name: str, *, split: str | None = None, revision: str | None = None, streaming: bool = False
) -> Source:
    """Open a Hub dataset, or a folder, through `datasets`.

    Input:  "owner/photos", or "owner/photos:small" for its configuration `small`
    Output: Source(kind="hub", rows=… Row(origin="owner/photos train row 1",
                   values={"image": {"bytes": b"…", "path": "7.jpg"}}, split="train"))
    """
    import datasets  # takes a second to import, and only this kind needs it

    repository, _, configuration = (name, "", "") if Path(name).exists() else name.partition(":")
    options: dict[str, Any] = {"revision": revision, "streaming": streaming}
    try:
        loaded = datasets.load_dataset(repository, configuration or None, **options)
    # The library, its builders and the network fail in their own ways.
    except Exception as error:
        reason = " ".join(str(error).split())[:300].rstrip(". ")
        raise ValueError(
            f"cannot load {name!r} through `datasets`: {type(error).__name__}: {reason}; "
            "check the id and the network, or download it and give its folder"
        ) from error
    splits = {str(part): loaded[part] for part in sorted(loaded, key=files.split_rank)}
    chosen = {n: each for n, each in splits.items() if split in (None, n, files.canonical_split(n))}
    if not chosen:
        raise ValueError(f"no split {split!r} in {name}; it has {', '.join(splits)}")
    settings = {"revision": revision or "", "streaming": "yes" if streaming else ""}
    detected = {"splits": ", ".join(chosen)} | {n: each for n, each in settings.items() if each}
    folder = Path(name) if Path(name).is_dir() else None
    notes = files.read_notes(folder) if folder else {}
    notes |= files.select_notes(vars(next(iter(chosen.values())).info))
    rows = partial(_read_splits, name, chosen)
    return Source(name=name, kind="hub", rows=rows, folder=folder, detected=detected, notes=notes)


def read_parquet(file: Path) -> Iterator[Found]:
    """Yield the rows of a Parquet file; class labels of `datasets` become their names.

    Input:  a file with the columns image: struct<bytes, path>, label: ClassLabel(names=["coat"])
    Output: (" row 1", {"image": {"bytes": b"…", "path": "a.jpg"}, "label": "coat"})
    """
    return _until_damaged(_parquet_batches(file), "Parquet")


def read_arrow(file: Path) -> Iterator[Found]:
    """Yield the rows of an Arrow file or stream, such as `datasets` saves."""
    return _until_damaged(_arrow_batches(file), "Arrow")


def _parquet_batches(file: Path) -> _Batches:
    # The buffer makes it read a long row group in pieces; read ahead, it would keep all of them.
    with pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as parquet:
        names = _schema_labels(parquet.schema_arrow)
        yield from ((batch, names) for batch in parquet.iter_batches(batch_size=BATCH))


def _arrow_batches(file: Path) -> _Batches:
    with file.open("rb") as start:
        indexed = start.read(6) == b"ARROW1"  # with an index at its end; without it, a stream
    with pa.memory_map(str(file)) as mapped:
        opened = pa.ipc.open_file(mapped) if indexed else pa.ipc.open_stream(mapped)
        names = _schema_labels(opened.schema)
        batches = map(opened.get_batch, range(opened.num_record_batches)) if indexed else opened
        yield from ((batch, names) for batch in batches)


def _until_damaged(batches: _Batches, kind: str) -> Iterator[Found]:
    number = 0
    try:
        for number, row in enumerate(_rows(batches), start=1):
            yield f" row {number}", row
    except (OSError, pa.ArrowException) as error:
        damaged = UnreadableRow(reason=f"cannot be read as {kind}", raw=str(error))
        yield f" row {number + 1}", damaged


def _rows(batches: _Batches) -> Iterator[dict[str, object] | UnreadableRow]:
    """Yield the rows of batches with class labels as names: "coat" for 0, None for -1."""
    for batch, names in batches:
        for start in range(0, batch.num_rows, BATCH):
            for row in _python_rows(batch.slice(start, BATCH)):
                if isinstance(row, dict):
                    for column, known in names.items():
                        if isinstance(label := row.get(column), int):
                            row[column] = known[label] if 0 <= label < len(known) else None
                yield row


def _python_rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, object] | UnreadableRow]:
    try:
        # Unchecked, offsets of a damaged file lead anywhere in memory, and the process ends.
        batch.validate(full=True)
        rows: list[dict[str, object] | UnreadableRow] = batch.to_pylist()
    except (ValueError, OverflowError) as error:  # not UTF-8; the year 300000
        if batch.num_rows == 1:
            return [UnreadableRow(reason="holds values that cannot be read", raw=str(error))]
        return [row for at in range(batch.num_rows) for row in _python_rows(batch.slice(at, 1))]
    return rows


def _schema_labels(schema: pa.Schema) -> dict[str, list[str]]:
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except ValueError:
        return {}  # of another program; the labels stay numbers
    info = metadata.get("info") if isinstance(metadata, dict) else None
    return _label_names(info.get("features") if isinstance(info, dict) else None)


def _label_names(features: object) -> dict[str, list[str]]:
    return {
        column: list(feature["names"])
        for column, feature in (features.items() if isinstance(features, dict) else ())
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and "names" in feature
    }


def _check_readable(parts: Sequence[files.FilePart], read: files.Reader) -> None:
    """Raise ValueError for a single file that is not of its kind; among several, skip it."""
    _, found = next(read(parts[0].file), ("", None))
    if len(parts) > 1 or not isinstance(found, UnreadableRow):
        return
    reason, kind = found.reason.rsplit(" ", 1)
    if reason == "cannot be read as":
        raise ValueError(
            f"cannot read {parts[0].file} as {kind}: {found.raw}; fetch or write the file again"
        )


def _saved_parts(folder: Path, split: str | None) -> list[files.FilePart]:
    state = files.read_json_object(folder / STATE)
    listed = state.get("_data_files")
    listed = listed if isinstance(listed, list) else []
    # Only names: a saved dataset has its files beside it.
    names = [Path(str(file["filename"])).name for file in listed if isinstance(file, dict)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ValueError(
            f"the dataset in {folder} is incomplete: {STATE} names {len(names)} files, of which "
            f"{', '.join(missing) or 'none'} could not be found; save it again"
        )
    stated = split or str(state.get("_split") or "")
    canonical = files.canonical_split(stated) if stated else None
    return [files.FilePart(file=folder / name, split=canonical) for name in names]


def _read_splits(name: str, splits: Mapping[str, Any]) -> Iterator[Row | UnreadableRow]:
    number, own = 0, _own_files(name)
    for split, loaded in splits.items():
        names = _label_names(loaded.features.to_dict() if loaded.features else None)
        # In Arrow's format nothing is decoded, so broken images do not end the reading.
        batches = ((batch, names) for batch in loaded.with_format("arrow").iter(batch_size=BATCH))
        for place, row in enumerate(_rows(batches), start=1):
            if isinstance(row, dict):
                row = {column: _with_bytes(cell, own) for column, cell in row.items()}
            yield located(number, f"{name} {split} row {place}", row, files.canonical_split(split))
            number += 1


def _own_files(name: str) -> tuple[str, ...]:
    """List where `datasets` keeps the files of this dataset; no other path is opened."""
    import datasets

    if Path(name).exists():
        return (str(Path(name).resolve()),)
    caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.HF_CACHE_HOME)
    return (f"hf://datasets/{name.partition(':')[0]}@", *(str(Path(c).resolve()) for c in caches))


def _with_bytes(cell: object, own: tuple[str, ...]) -> object:
    """Read an image of which `datasets` keeps only the path."""
    if isinstance(cell, list):
        return [_with_bytes(each, own) for each in cell]
    if not isinstance(cell, dict) or set(cell) != {"bytes", "path"} or cell["bytes"] is not None:
        return cell
    if not _is_own(path := str(cell["path"] or ""), own):
        return cell
    from datasets.utils.file_utils import xopen  # reads hf:// and members of archives too

    with xopen(path, "rb") as stream:
        return {"bytes": stream.read(), "path": path.rpartition("/")[2]}


def _is_own(path: str, own: tuple[str, ...]) -> bool:
    address = path.rpartition("::")[2]  # zip://7.jpg::hf://datasets/owner/name@main/photos.zip
    if address.startswith("hf://"):
        return own[0].startswith("hf://") and address.startswith(own[0])
    resolved = Path(address).resolve()
    return any(resolved.is_relative_to(folder) for folder in own if not folder.startswith("hf://"))
