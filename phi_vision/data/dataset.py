"""Loads samples, and parts them so that a style stays on one side.

They lie in a folder in the convention of the `datasets` library (`data/<split>-*.parquet` or
`<split>-*.parquet`) or in one Parquet file: what `phi-vision prepare` makes of any catalog. The
`image` column is `struct<bytes, path>`, or a list of these; `messages` holds a conversation;
`rejected` an answer that is worse than the right one, also in the form of TRL, where `prompt`,
`chosen` and `rejected` are texts or conversations. Every other column of plain values becomes a
field of the record.
"""

import decimal
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from phi_vision.data.parquet_rows import read_batches, read_schema
from phi_vision.data.samples import Message, Record, Sample, Value
from phi_vision.data.trl_rows import TRL_COLUMNS, as_conversation, is_from_trl
from phi_vision.io.hashing import sha256

Row = Mapping[str, object]

IMAGE_COLUMNS = ("image", "images")
MESSAGES_COLUMN = "messages"
REJECTED_COLUMN = "rejected"
ID_COLUMNS = ("id", "product_code")
GROUP_COLUMNS = ("group_id", "title")
SPLIT_ORDER = ("train", "validation", "test")

VALIDATION_FRACTION = 0.1
"""What a training holds out of data without a `validation` split, where its recipe says nothing."""


def load_samples(
    source: str | Path, *, split: str | None = None, group_column: str | None = None
) -> list[Sample]:
    """Load samples, all of them or those of one split.

    Ids are unique: the second sample called A is called "A (2)".

    Input:  {"image": {"bytes": b"...", "path": "a.jpg"}, "product_code": "A-red", "title": "Coat"}
    Output: Sample(id="A-red", group="Coat", images=(b"...",),
                   record={"product_code": "A-red", "title": "Coat"})

    Args:
        source: A folder with Parquet files, or one Parquet file.
        split: Such as "train"; None for everything.
        group_column: The column whose value must not straddle a split. By default `group_id`,
            else `title`, else each sample is a group of its own.

    Raises:
        ValueError: There is no such source, split or column, or it holds nothing that can be read.
    """
    samples = _name_apart(iterate_samples(source, split=split, group_column=group_column))
    if not samples:
        part = f" in the split {split!r}" if split else ""
        raise ValueError(f"{source} holds no samples{part}: its files have 0 rows; give other data")
    return samples


def iterate_samples(
    source: str | Path, *, split: str | None = None, group_column: str | None = None
) -> Iterator[Sample]:
    """Load samples one after the other, so that a few are in memory, however many there are.

    Ids are those of the source: telling apart samples of one id would take all ids.

    Args:
        source: As for `load_samples`.
        split: As for `load_samples`.
        group_column: As for `load_samples`.

    Raises:
        ValueError: As `load_samples`, but for a source of no rows, which yields nothing.
    """
    path = Path(source)
    rows = _reader(path)(path, split)
    return (as_sample(row, number, path, group_column) for number, row in enumerate(rows))


def as_sample(row: Row, number: int, source: Path, group_column: str | None = None) -> Sample:
    """Make a sample of a row.

    Args:
        row: Column -> cell.
        number: Names the sample where no column does.
        source: Folder or file that the row comes from; paths of images are relative to it.
        group_column: As for `load_samples`.

    Raises:
        ValueError: The row has no image where one is due, or is no sample for another reason.
    """
    rich = _rich_columns(row)
    record = as_record(row, [name for name in row if name not in rich])
    if group_column is not None and group_column not in record:
        raise ValueError(f"no column {group_column!r} in {source}; it has {', '.join(record)}")
    name = _first(record, ID_COLUMNS) or str(number)
    group = _first(record, GROUP_COLUMNS if group_column is None else (group_column,))
    if is_from_trl(row):
        row = as_conversation(row, f"sample {name!r} in {source}")
    images = _images(row, f"sample {name!r} in {source}", source)
    messages = _messages(row, f"sample {name!r} in {source}")
    return Sample(
        id=name,
        group=group or name,
        images=images,
        record=record,
        messages=messages,
        rejected=str(row.get(REJECTED_COLUMN) or ""),
    )


def available_splits(source: str | Path) -> list[str]:
    """List a folder's splits, such as ["train", "validation", "test"]; one file has none."""
    path = Path(source)
    _reader(path)
    return list(files_by_split(path)) if path.is_dir() else []


def files_by_split(folder: Path) -> dict[str, list[Path]]:
    """Map each split of a folder to its files.

    Output: {"train": [data/train-00000-of-00002.parquet, data/train-00001-of-00002.parquet]}

    Raises:
        ValueError: It is no folder, or has no such files.
    """
    if not folder.is_dir():
        raise ValueError(f"no data at {folder}: there is no such folder; check the path")
    data = folder / "data"
    files: dict[str, list[Path]] = {}
    for file in sorted(data.glob("[!.]*.parquet")) or sorted(folder.glob("[!.]*.parquet")):
        files.setdefault(file.stem.split("-")[0], []).append(file)
    if not files:
        raise ValueError(
            f"no data in {folder}: found no data/<split>-*.parquet and no <split>-*.parquet; "
            "give a folder that has them, such as `phi-vision prepare SOURCE --out FOLDER` makes"
        )
    known = [name for name in SPLIT_ORDER if name in files]
    return {name: files[name] for name in [*known, *sorted(set(files) - set(known))]}


def split_by_group(
    samples: Sequence[Sample], *, validation_fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Part samples into training and validation so that no group is on both sides.

    Groups are taken in the order of a hash of their name until they hold the wished share: the
    same groups and seed give the same parts, in whatever order the samples come.

    Input:  groups a a b c c d, validation_fraction=0.3
    Output: (a a b d, c c), or another choice of whole groups holding at least 30 %

    Raises:
        ValueError: The fraction is not in [0, 1), or a single group leaves nothing to part.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"validation_fraction is {validation_fraction}; give a number from 0 up to below 1"
        )
    groups = sorted({sample.group for sample in samples}, key=lambda group: _hash(group, seed))
    if validation_fraction and len(groups) < 2:
        raise ValueError(
            f"cannot set validation samples aside: all {len(samples)} samples are in the group "
            f"{''.join(groups)!r}; choose another group column or give more data"
        )
    sizes = dict.fromkeys(groups, 0)
    for sample in samples:
        sizes[sample.group] += 1
    chosen: set[str] = set()
    missing = validation_fraction * len(samples)
    for group in groups[:-1]:
        if missing <= 0:
            break
        chosen.add(group)
        missing -= sizes[group]
    training = [sample for sample in samples if sample.group not in chosen]
    return training, [sample for sample in samples if sample.group in chosen]


def _hash(group: str, seed: int) -> str:
    return sha256(f"{seed}:{group}")


def record_columns(schema: pa.Schema) -> list[str]:
    """List the columns that become fields of the record: those of plain values."""
    rich = _rich_columns(schema.names)
    return [column.name for column in schema if column.name not in rich and _is_plain(column.type)]


def as_record(row: Row, columns: Sequence[str]) -> Record:
    """Take a record out of a row: texts, numbers and truth values; anything else as text."""
    return {name: _value(row[name]) for name in columns}


def _reader(path: Path) -> Callable[[Path, str | None], Iterator[Row]]:
    if not path.exists():
        raise ValueError(f"no data at {path}: there is no such file or folder; check the path")
    if path.is_dir():
        return _read_folder
    if path.suffix.lower() != ".parquet":
        raise ValueError(
            f"cannot read {path}: found a {path.suffix or 'nameless kind of'} file; give a folder "
            f"or file of Parquet, such as `phi-vision prepare {path} --out FOLDER` makes"
        )
    return _read_file


def _read_folder(folder: Path, split: str | None) -> Iterator[Row]:
    """Yield the rows of a folder's Parquet files, of one split or of all."""
    files = files_by_split(folder)
    if split is not None and split not in files:
        raise ValueError(f"no split {split!r} in {folder}; it has {', '.join(files)}")
    for name in files if split is None else [split]:
        for file in files[name]:
            yield from _read_file(file, None)


def _read_file(file: Path, split: str | None) -> Iterator[Row]:
    """Yield the rows of one Parquet file, a batch at a time in memory."""
    if split is not None:
        raise ValueError(f"{file} is one file without splits; leave {split!r} out or give a folder")
    schema = read_schema(file)
    columns = [*_rich_columns(schema.names), *record_columns(schema)]
    for batch in read_batches(file, [name for name in schema.names if name in columns]):
        yield from batch.to_pylist()


def _name_apart(samples: Iterable[Sample]) -> list[Sample]:
    """Number samples of one id from the second on, so that answers can be laid beside them.

    Input:  ids A B A A
    Output: ids A, B, "A (2)", "A (3)"
    """
    apart: list[Sample] = []
    taken: set[str] = set()
    times: Counter[str] = Counter()
    for sample in samples:
        name = sample.id
        while name in taken:
            times[sample.id] += 1
            name = f"{sample.id} ({times[sample.id] + 1})"
        taken.add(name)
        apart.append(sample if name == sample.id else replace(sample, id=name))
    return apart


def _rich_columns(names: Collection[str]) -> tuple[str, ...]:
    """Name the columns that are no fields of the record."""
    own = (*IMAGE_COLUMNS, MESSAGES_COLUMN, REJECTED_COLUMN)
    return (*own, *TRL_COLUMNS) if is_from_trl(names) else own


def _is_plain(column: pa.DataType) -> bool:
    """Whether a column holds text, numbers, truth values or times: what a record can hold."""
    kinds = pa.types
    if kinds.is_dictionary(column):
        return _is_plain(column.value_type)
    text = kinds.is_string(column) or kinds.is_large_string(column) or kinds.is_string_view(column)
    number = kinds.is_primitive(column) or kinds.is_decimal(column)  # times and dates included
    return bool(text or number or kinds.is_null(column))


def _value(cell: object) -> Value:
    if isinstance(cell, decimal.Decimal):
        return float(cell)
    return cell if isinstance(cell, str | int | float | bool | None) else str(cell)


def _first(record: Mapping[str, Value], columns: Sequence[str]) -> str | None:
    """The first of the columns that says something in this record."""
    values = (record.get(column) for column in columns)
    return next((str(value) for value in values if value not in (None, "")), None)


def _images(row: Row, sample: str, source: Path) -> tuple[bytes, ...]:
    column = next((name for name in IMAGE_COLUMNS if name in row), None)
    if row.get(MESSAGES_COLUMN) and (column is None or row[column] is None):
        return ()
    if column is None:
        raise ValueError(
            f"no image column in {source}: found {', '.join(row)}; "
            "name it 'image', holding struct<bytes, path>"
        )
    cell = row[column]
    cells = cell if isinstance(cell, list) else [cell]
    return tuple(_encoded(each, sample, source) for each in cells)


def _messages(row: Row, sample: str) -> tuple[Message, ...]:
    turns = row.get(MESSAGES_COLUMN) or []
    try:
        return tuple(Message(turn["role"], turn["content"]) for turn in turns)  # type: ignore[attr-defined]
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{sample}: its messages hold {turns!r:.80}; write a list of "
            '{"role": "user", "content": "..."}, or turn it into samples with `phi-vision prepare`'
        ) from error


def _encoded(cell: object, sample: str, source: Path) -> bytes:
    """Take an image's bytes out of a cell, or read them from the path it names."""
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, dict):
        if isinstance(cell.get("bytes"), bytes):
            return bytes(cell["bytes"])
        if cell.get("path"):
            file = (source if source.is_dir() else source.parent) / str(cell["path"])
            if not file.is_file():
                raise ValueError(f"{sample}: no image at {file}; put it there or embed its bytes")
            return file.read_bytes()
    raise ValueError(
        f"{sample} has no image: its image column holds a {type(cell).__name__} without bytes or "
        "path; fill it or leave the row out"
    )
