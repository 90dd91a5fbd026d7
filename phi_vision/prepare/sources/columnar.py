"""Parquet, Arrow and Hub datasets, read batch by batch with images left encoded."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.io.formatting import read_fields
from phi_vision.prepare.sources import files
from phi_vision.prepare.sources.rows import Format, Found, Piece, Source, UnreadableRow, numbered

DATASET_DICT = "dataset_dict.json"
STATE = "state.json"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")  # owner/name:configuration
BATCH = 64  # rows in memory: some hundred MB of photographs
_Batch = Any  # pa.RecordBatch or pa.Table; neither is typed


def inspect_columnar(kind: str, file: Path) -> Format:
    """Return the reader of a Parquet or Arrow file; class labels become names: "coat" for 0."""
    return {}, partial(_read, kind, file)


def saved_parts(folder: Path, split: str | None = None) -> list[files.FilePart]:
    """List the files of a folder saved by `datasets`, a Dataset or a DatasetDict; else none."""
    if (folder / DATASET_DICT).is_file():
        splits: Any = read_fields(folder / DATASET_DICT, files.REWRITE).get("splits")
        return [part for each in splits or [] for part in saved_parts(folder / each, each)]
    if split is None and not (folder / STATE).is_file():
        return []
    state = read_fields(folder / STATE, files.REWRITE)
    listed: Any = state.get("_data_files")
    # Only names: a saved dataset has its files beside it.
    names = [Path(str(each["filename"])).name for each in listed or [] if isinstance(each, dict)]
    found = [folder / name for name in names]
    missing = [file.name for file in found if not file.is_file()]
    if missing or not found:
        lost = ", ".join(missing) or "none"
        raise files.failure("incomplete", folder=folder, state=STATE, count=len(found), lost=lost)
    stated = files.canonical_split(split or str(state.get("_split") or "")) or None
    return [(file, stated) for file in found]


def open_hub(
    name: str, *, split: str | None = None, revision: str | None = None, streaming: bool = False
) -> Source:
    """Open a Hub dataset, or a folder, through `datasets`; owner/photos:small is its `small`."""
    import datasets  # takes a second to import, and only this kind needs it

    repository, _, configuration = (name, "", "") if Path(name).exists() else name.partition(":")
    options: dict[str, Any] = {"revision": revision, "streaming": streaming}
    try:
        loaded = datasets.load_dataset(repository, configuration or None, **options)
    # The library, its builders and the network fail in their own ways.
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('. ')}"
        raise files.failure("not_loaded", name=name, reason=reason) from error
    chosen = {each: loaded[each] for each in files.choose_splits(split, list(loaded), name)}
    settings = {"revision": revision or "", "streaming": "yes" if streaming else ""}
    folder = Path(name) if Path(name).is_dir() else None
    detected = {"splits": ", ".join(chosen)} | {n: each for n, each in settings.items() if each}
    notes = files.read_notes(folder) if folder else {}
    notes |= files.select_notes(vars(next(iter(chosen.values())).info))
    rows = partial(numbered, _read_splits, name, chosen)
    return Source(name=name, kind="hub", rows=rows, folder=folder, detected=detected, notes=notes)


def _read(kind: str, file: Path) -> Iterator[Found]:
    number = 0
    try:
        for number, row in enumerate(_rows(_batches(kind, file)), start=1):
            yield f" row {number}", row
    except (OSError, pa.ArrowException) as error:
        yield f" row {number + 1}", UnreadableRow(f"cannot be read as {kind}", str(error))


def _batches(kind: str, file: Path) -> Iterator[_Batch]:
    if kind == "Parquet":
        # The buffer makes it read a long row group in pieces; read ahead, it would keep all.
        with pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as parquet:
            yield from parquet.iter_batches(batch_size=BATCH)
        return
    with file.open("rb") as start:
        indexed = start.read(6) == b"ARROW1"  # with an index at its end; without it, a stream
    with pa.memory_map(str(file)) as mapped:
        opened = pa.ipc.open_file(mapped) if indexed else pa.ipc.open_stream(mapped)
        yield from map(opened.get_batch, range(opened.num_record_batches)) if indexed else opened


def _rows(batches: Iterable[_Batch]) -> Iterator[dict[str, object] | UnreadableRow]:
    for batch in batches:
        labels = _class_labels(batch.schema)
        for start in range(0, batch.num_rows, BATCH):
            for row in _python_rows(batch.slice(start, BATCH)):
                if isinstance(row, dict):
                    for column, known in labels.items():
                        if isinstance(label := row.get(column), int):
                            row[column] = known[label] if 0 <= label < len(known) else None
                yield row


def _python_rows(batch: _Batch) -> list[Any]:
    try:
        # Unchecked, offsets of a damaged file lead anywhere in memory, and the process ends.
        batch.validate(full=True)
        return list(batch.to_pylist())
    except (ValueError, OverflowError) as error:  # not UTF-8; the year 300000
        if batch.num_rows == 1:
            return [UnreadableRow("holds values that cannot be read", str(error))]
        return [row for at in range(batch.num_rows) for row in _python_rows(batch.slice(at, 1))]


def _class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        kinds = {column: feature for column, feature in features.items() if "names" in feature}
        return {n: each["names"] for n, each in kinds.items() if each.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # of another program; the labels stay numbers


def _read_splits(name: str, splits: Mapping[str, Any]) -> Iterator[Piece]:
    import datasets

    # Where `datasets` keeps the files of this dataset; no other path is opened.
    caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.HF_CACHE_HOME)
    is_local = Path(name).exists()
    own = [str(Path(each).resolve()) for each in ([name] if is_local else caches)]
    own += [] if is_local else [f"hf://datasets/{name.partition(':')[0]}@"]
    for split, loaded in splits.items():
        # In Arrow's format nothing is decoded, so broken images do not end the reading.
        batches = loaded.with_format("arrow").iter(batch_size=BATCH)
        for number, row in enumerate(_rows(batches), start=1):
            if isinstance(row, dict):
                row = {column: _with_bytes(cell, own) for column, cell in row.items()}
            yield f"{name} {split} row {number}", files.canonical_split(split), row


def _with_bytes(cell: object, own: Sequence[str]) -> object:
    """Read an image of which `datasets` keeps only the path."""
    if isinstance(cell, list):
        return [_with_bytes(each, own) for each in cell]
    if not isinstance(cell, dict) or set(cell) != {"bytes", "path"} or cell["bytes"] is not None:
        return cell
    path = str(cell["path"] or "")
    address = path.rpartition("::")[2]  # zip://7.jpg::hf://datasets/owner/name@main/photos.zip
    remote = address.startswith("hf://")
    place = Path(address).resolve()
    if not any(address.startswith(at) if remote else place.is_relative_to(at) for at in own):
        return cell
    from datasets.utils.file_utils import xopen  # reads hf:// and members of archives too

    with xopen(path, "rb") as stream:
        return {"bytes": stream.read(), "path": path.rpartition("/")[2]}
