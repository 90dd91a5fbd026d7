"""Datasets: Parquet files -> samples, and their split by group.

A dataset is a folder in the convention of the `datasets` library (`data/<split>-*.parquet` or
`<split>-*.parquet`), or one Parquet file: the output of `phi-vision prepare`. The column `image` is
`struct<bytes, path>`, or a list of these; `messages` holds a conversation; `rejected` a completion
that is worse than the right one, also in the form of TRL, where `prompt`, `chosen` and `rejected`
are texts or conversations. Every other column of plain values is a field of the record; that of a
conversation has its last completion as the field `completion`, which an evaluation compares.
"""

import decimal
import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.data.samples import IMAGE_MARK, Message, Record, Role, Sample, Value, failure
from phi_vision.data.template import CONVERSATION
from phi_vision.io.hashing import sha256

Row = Mapping[str, Any]

IMAGE_COLUMNS = ("image", "images")
MESSAGES_COLUMN = "messages"
REJECTED_COLUMN = "rejected"
(COMPLETION_FIELD,) = CONVERSATION.fields
TRL_COLUMNS = ("prompt", "chosen", "rejected")  # the prompt may begin both completions instead
ID_COLUMNS = ("id", "product_code")
GROUP_COLUMNS = ("group_id", "title")
SPLIT_ORDER = ("train", "validation", "test")
VALIDATION_FRACTION = 0.1  # default share held out where the data has no `validation` split
ROWS_PER_BATCH = 16  # decoded together: images may have many megabytes each
READ_AHEAD_BYTES = 2**20


def load_samples(
    source: str | Path, *, split: str | None = None, group_column: str | None = None
) -> list[Sample]:
    """Load the samples of a dataset, or of one split, with unique ids: a second "A" is "A (2)".

    Input:  {"image": {"bytes": b"...", "path": "a.jpg"}, "product_code": "A-red", "title": "Coat"}
    Output: Sample(id="A-red", group="Coat", images=(b"...",),
                   record={"product_code": "A-red", "title": "Coat"})

    The value of `group_column` must not straddle a split; by default it is `group_id`, else
    `title`, else each sample is its own group.
    """
    samples: list[Sample] = []
    taken: set[str] = set()
    times: Counter[str] = Counter()
    for sample in iterate_samples(source, split=split, group_column=group_column):
        name = sample.id
        while name in taken:
            times[sample.id] += 1
            name = f"{sample.id} ({times[sample.id] + 1})"
        taken.add(name)
        samples.append(sample if name == sample.id else replace(sample, id=name))
    if not samples:
        raise failure("no_samples", source=source, part=f" in the split {split!r}" * bool(split))
    return samples


def iterate_samples(
    source: str | Path, *, split: str | None = None, group_column: str | None = None
) -> Iterator[Sample]:
    """Read samples as `load_samples` does, but one by one in bounded memory; ids may repeat."""
    number = itertools.count()
    for _, file in list_files(Path(source), split):
        schema = read_schema(file)
        for batch in read_batches(file, [*_rich_columns(schema.names), *record_columns(schema)]):
            for row in batch.to_pylist():
                yield as_sample(row, next(number), Path(source), group_column)


def as_sample(row: Row, number: int, source: Path, group_column: str | None = None) -> Sample:
    """Convert a row (column -> cell) to a sample; an invalid row is an error.

    `number` is the id where no column has one; paths of images are relative to `source`.
    """
    rich = _rich_columns(row)
    record = as_record(row, [name for name in row if name not in rich])
    if group_column is not None and group_column not in record:
        raise failure("no_column", column=group_column, source=source, columns=", ".join(record))
    name = _first(record, ID_COLUMNS) or str(number)
    group = _first(record, GROUP_COLUMNS if group_column is None else (group_column,))
    location = f"sample {name!r} in {source}"
    if {*TRL_COLUMNS[1:]} <= {*row}:
        messages, rejected = _preference(row, location)
    else:
        messages = _turns(row.get(MESSAGES_COLUMN), location)
        rejected = str(row.get(REJECTED_COLUMN) or "")
    if messages and messages[-1].role == "assistant":
        record = {**record, COMPLETION_FIELD: messages[-1].content.strip()}
    if not messages and not {*IMAGE_COLUMNS} & {*row}:
        raise failure("no_image_column", source=source, columns=", ".join(row))
    cell = next((row[column] for column in IMAGE_COLUMNS if column in row), None)
    cells = cell if isinstance(cell, list) else [] if cell is None and messages else [cell]
    return Sample(
        id=name,
        group=group or name,
        images=tuple(read_image(cell, location, source) for cell in cells),
        record=record,
        messages=messages,
        rejected=rejected,
    )


def available_splits(source: str | Path) -> list[str]:
    """List a folder's splits, such as ["train", "validation", "test"]; one file has none."""
    return [name for name in dict(list_files(Path(source))) if name]


def list_files(source: Path, split: str | None = None) -> list[tuple[str, Path]]:
    """List the files of a folder, or of one of its splits, with their split; one file has ""."""
    if not source.exists():
        raise failure("no_data", source=source, kind="file or folder")
    if source.is_file() and source.suffix.lower() != ".parquet":
        raise failure("no_parquet", source=source, suffix=source.suffix or "without an ending")
    if source.is_file() and split is not None:
        raise failure("no_splits", source=source, split=split)
    files = files_by_split(source) if source.is_dir() else {"": [source]}
    if split is not None and split not in files:
        raise failure("no_split", split=split, source=source, splits=", ".join(files))
    return [(name, file) for name in files if split in (None, name) for file in files[name]]


def files_by_split(folder: Path) -> dict[str, list[Path]]:
    """Map each split of a folder to its files; a folder without any is an error.

    Output: {"train": [data/train-00000-of-00002.parquet, data/train-00001-of-00002.parquet]}
    """
    if not folder.is_dir():
        raise failure("no_data", source=folder, kind="folder")
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("data/[!.]*.parquet")) or sorted(folder.glob("[!.]*.parquet")):
        files.setdefault(file.stem.split("-")[0], []).append(file)
    if not files:
        raise failure("no_files", folder=folder)
    order = dict.fromkeys([*SPLIT_ORDER, *sorted(files)])
    return {name: files[name] for name in order if name in files}


def split_by_group(
    samples: Sequence[Sample], *, validation_fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Split samples into training and validation so that no group is on both sides.

    Groups are chosen in the order of a hash of their name until they hold the wanted share: the
    same groups and seed give the same split, in whatever order the samples come.

    Input:  groups a a b c c d, validation_fraction=0.3
    Output: (a a b d, c c), or another choice of whole groups holding at least 30 %
    """
    if not 0 <= validation_fraction < 1:
        raise failure("no_fraction", fraction=validation_fraction)
    sizes = Counter(sample.group for sample in samples)
    groups = sorted(sizes, key=lambda group: sha256(f"{seed}:{group}"))
    if validation_fraction and len(groups) < 2:
        raise failure("one_group", count=len(samples), group="".join(groups))
    chosen: set[str] = set()
    missing = validation_fraction * len(samples)
    for group in groups[:-1]:
        if missing > 0:
            chosen.add(group)
            missing -= sizes[group]
    training = [sample for sample in samples if sample.group not in chosen]
    return training, [sample for sample in samples if sample.group in chosen]


def record_columns(schema: pa.Schema) -> list[str]:
    """List the columns that are fields of the record: texts, numbers, booleans and times."""
    rich = _rich_columns(schema.names)
    return [column.name for column in schema if column.name not in rich and _is_plain(column.type)]


def as_record(row: Row, columns: Sequence[str]) -> Record:
    """Return the named cells; a cell that is not a text, a number or a boolean becomes text."""
    return {name: _value(row[name]) for name in columns}


def read_schema(file: Path) -> pa.Schema:
    """Read the names and types of a Parquet file's columns."""
    with _open_parquet(file) as parquet:
        return parquet.schema_arrow


def count_rows(file: Path) -> int:
    """Read the number of rows of a Parquet file."""
    with _open_parquet(file) as parquet:
        return int(parquet.metadata.num_rows)


def read_batches(
    file: Path, columns: Sequence[str], *, start: int = 0, stop: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Read a range of rows of a Parquet file, a few at a time; other row groups are not read.

    Input:  rows 90 to 110 of a file with row groups of 100
    Output: batches of at most 16 rows, 20 in all
    """
    with _open_parquet(file) as parquet:
        metadata = parquet.metadata
        stop = metadata.num_rows if stop is None else stop
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        ends = [0, *itertools.accumulate(sizes)]
        spans = itertools.pairwise(ends)
        groups = [number for number, (a, b) in enumerate(spans) if a < stop and b > start]
        position = ends[groups[0]] if groups else 0
        for batch in parquet.iter_batches(
            batch_size=ROWS_PER_BATCH, row_groups=groups, columns=list(columns)
        ):
            begin, end = max(start - position, 0), min(stop - position, len(batch))
            if begin < end:
                yield batch.slice(begin, end - begin)
            position += len(batch)


def read_image(cell: object, location: str, source: Path) -> bytes:
    """Return the bytes in an image cell, or of the file at its path; `location` is for errors."""
    match cell:
        case bytes(encoded) | {"bytes": bytes(encoded)}:
            return encoded
        case {"path": str(path)} if path:
            file = (source if source.is_dir() else source.parent) / path
            if not file.is_file():
                raise failure("no_image_file", location=location, file=file)
            return file.read_bytes()
    raise failure("no_image", location=location, kind=type(cell).__name__)


@contextmanager
def _open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        # Pages are read as they are needed; by default whole columns of a row group.
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_AHEAD_BYTES) as parquet:
            yield parquet
    except (OSError, pa.ArrowException) as error:
        raise failure("damaged_parquet", file=file, error=error) from error


def _rich_columns(names: Collection[str]) -> list[str]:
    """List the columns that are no fields of the record: images, turns and preferences."""
    trl = TRL_COLUMNS if {*TRL_COLUMNS[1:]} <= {*names} else ()
    rich = dict.fromkeys((*IMAGE_COLUMNS, MESSAGES_COLUMN, REJECTED_COLUMN, *trl))
    return [name for name in rich if name in names]


def _is_plain(kind: pa.DataType) -> bool:
    is_extension = isinstance(kind, pa.BaseExtensionType)
    return not (pa.types.is_nested(kind) or is_extension or "binary" in str(kind))


def _value(cell: object) -> Value:
    if isinstance(cell, decimal.Decimal):
        cell = float(cell)
    if isinstance(cell, float) and not math.isfinite(cell):
        return None  # pandas writes NaN for a missing number
    return cell if isinstance(cell, str | int | float | bool | None) else str(cell)


def _first(record: Record, columns: Sequence[str]) -> str | None:
    values = (record.get(column) for column in columns)
    return next((str(value) for value in values if value not in (None, "")), None)


def _preference(row: Row, location: str) -> tuple[tuple[Message, ...], str]:
    """Read a row in TRL's preference format as a conversation and a rejected last turn.

    Input:  prompt "What is it?", chosen "A hat.", rejected "A bag."; or lists of
            {"role": ..., "content": ...}
    Output: (user "What is it?", assistant "A hat."), "A bag."
    """
    prompt = _turns(row.get("prompt"), location, "user")
    chosen, rejected = (_turns(row[name], location, "assistant") for name in TRL_COLUMNS[1:])
    roles = [turns[-1].role if turns else None for turns in (chosen, rejected)]
    if roles != ["assistant"] * 2 or chosen[:-1] != rejected[:-1]:
        found = row["chosen"], row["rejected"]
        raise failure("no_preference", location=location, chosen=found[0], rejected=found[1])
    return (*prompt, *chosen), rejected[-1].content


def _turns(cell: Any, location: str, role: Role | None = None) -> tuple[Message, ...]:
    """Read a cell of turns; where a role is given, a text is one turn of it."""
    if isinstance(cell, str) and role is not None:
        return (Message(role, cell),)
    try:
        return tuple(Message(turn["role"], _content(turn["content"])) for turn in cell or ())
    except (TypeError, KeyError) as error:
        if role is None:
            raise failure("no_messages", location=location, cell=cell) from error
        raise failure("no_turns", location=location, cell=cell) from error


def _content(content: Any) -> str:
    r"""Join the parts of a message, where images may stand among the texts.

    Input:  [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    Output: "<image>\nWhat is it?"
    """
    if isinstance(content, str):
        return content
    return "\n".join(IMAGE_MARK if part["type"] == "image" else part["text"] for part in content)
