"""Datasets: Parquet files -> samples, and their split by group.

A dataset is a folder in the convention of the `datasets` library (`data/<split>-*.parquet` or
`<split>-*.parquet`), or one Parquet file: the output of `phi-vision prepare`. The column `image` is
`struct<bytes, path>`, or a list of these; `messages` holds a conversation; `rejected` a completion
that is worse than the right one, also in the form of TRL, where `prompt`, `chosen` and `rejected`
are texts or conversations. Every other column of plain values is a field of the record; that of a
conversation has its last completion as the field `completion`, which an evaluation compares.
"""

import decimal
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from phi_vision.data.parquet_rows import MAX_OPEN, FileVersion, ParquetRows, open_parquet
from phi_vision.data.samples import (
    IMAGE_MARK,
    LazySamples,
    Message,
    Places,
    Record,
    Role,
    Sample,
    StoredImages,
    Value,
    failure,
    select,
)
from phi_vision.data.template import CONVERSATION
from phi_vision.io.formatting import suggestion
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
# Samples whose images are checked before the first step, in runs of consecutive ones: all of a
# usual dataset. A faulty one of the others is named when it is used.
MAX_CHECKED, RUN = 5000, 100


def load_samples(
    source: str | Path, *, split: str | None = None, group_column: str | None = None
) -> LazySamples:
    """Load the samples of a dataset, or of one split, with unique ids: a second "A" is "A (2)".

    Samples are built on access, and their images are read when they are used.

    Input:  {"image": {"bytes": b"...", "path": "a.jpg"}, "product_code": "A-red", "title": "Coat"}
    Output: Sample(id="A-red", group="Coat", images=(b"...",),
                   record={"product_code": "A-red", "title": "Coat"})

    The value of `group_column` must not straddle a split; by default it is `group_id`, else
    `title`, else each sample is its own group.
    """
    table = SampleTable(Path(source), split, group_column)
    samples = LazySamples(table, range(len(table.rows)))
    if not samples:
        raise failure("no_samples", source=source, part=f" in the split {split!r}" * bool(split))
    for sample in select(samples, spread(len(samples), MAX_CHECKED)):
        list(sample.images)
    return samples


class SampleTable:
    """The rows of Parquet files as samples. It holds no row, only the ids that were changed."""

    def __init__(self, source: Path, split: str | None, group_column: str | None) -> None:
        self.source, self.group_column = source, group_column
        self.rows = ParquetRows([file for _, file in list_files(source, split)])
        self.renamed: dict[int, str] = {}
        taken: set[str] = set()
        times: Counter[str] = Counter()
        for number, row in self.rows.read(range(len(self.rows)), _id_columns):
            own = name = _first(as_record(row, row), ID_COLUMNS) or str(number)
            while name in taken:
                times[own] += 1
                name = self.renamed[number] = f"{own} ({times[own] + 1})"
            taken.add(name)

    def read(self, places: Places) -> Iterator[Sample]:
        """Build samples by the numbers of their rows."""
        for number, row in self.rows.read(places, _light_columns):
            store = partial(self._store_images, number)
            sample = as_sample(row, number, self.source, self.group_column, store)
            name = self.renamed.get(number)
            yield sample if name is None else replace(sample, id=name)

    def groups(self, places: Places) -> list[str]:
        """Read the groups of samples alone."""
        if self.group_column is not None:
            return [sample.group for sample in self.read(places)]
        rows = self.rows.read(places, _naming_columns)
        records = ((number, as_record(row, row)) for number, row in rows)
        names = (*GROUP_COLUMNS, *ID_COLUMNS)
        return [_first(record, names) or str(number) for number, record in records]

    @property
    def may_have_messages(self) -> bool:
        """Whether there are columns of conversations."""
        names = {name for file in self.rows.files for name in open_parquet(file).schema_arrow.names}
        return bool(names & {MESSAGES_COLUMN, *TRL_COLUMNS[1:]})

    def fingerprint(self) -> str | None:
        """Hash the files, of all splits that are loaded; None if some images are beside them."""
        return self.rows.fingerprint() if all(map(_holds_images, self.rows.files)) else None

    def _store_images(self, number: int, count: int, location: str) -> StoredImages:
        return StoredImages(count, partial(self._read_images, number, location))

    def _read_images(self, number: int, location: str) -> tuple[bytes, ...]:
        cell = self.rows.cell(number, _image_column)
        cells = cell if isinstance(cell, list) else [cell]
        return tuple(read_image(cell, location, self.source) for cell in cells)


def spread(count: int, most: int) -> Sequence[int]:
    """Choose up to `most` of `count` places, in evenly spread runs that share row groups.

    Input:  1,000,000 places, of which at most 5,000
    Output: 0 to 99, 20,000 to 20,099, ..., 980,000 to 980,099
    """
    if count <= most:
        return range(count)
    starts = (run * count // (most // RUN) for run in range(most // RUN))
    return [place for start in starts for place in range(start, start + RUN)]


def as_sample(
    row: Row,
    number: int,
    source: Path,
    group_column: str | None = None,
    store_images: Callable[[int, str], Sequence[bytes]] | None = None,
) -> Sample:
    """Convert a row (column -> cell) to a sample; an invalid row is an error.

    `number` is the id where no column has one; paths of images are relative to `source`. The images
    are read, or those that `store_images` returns for their count and the location in errors.
    """
    roles = _roles(tuple(row))
    record = as_record(row, roles.record)
    if group_column is not None and group_column not in record:
        raise failure("no_column", column=group_column, source=source, columns=", ".join(record))
    name = _first(record, ID_COLUMNS) or str(number)
    group = _first(record, GROUP_COLUMNS if group_column is None else (group_column,))
    location = f"sample {name!r} in {source}"
    messages: tuple[Message, ...] = ()
    rejected = row.get(REJECTED_COLUMN)
    if roles.is_trl:
        messages, rejected = _preference(row, location)
    elif MESSAGES_COLUMN in row:
        messages = _turns(row[MESSAGES_COLUMN], location)
    if messages and messages[-1].role == "assistant":
        record = {**record, COMPLETION_FIELD: messages[-1].content.strip()}
    if not messages and not roles.image:
        raise failure("no_image_column", source=source, columns=", ".join(row))
    cell = row[roles.image] if roles.image else None
    cells = cell if isinstance(cell, list) else [] if cell is None and messages else [cell]
    if store_images is None or None in cells:
        images: Sequence[bytes] = tuple(read_image(cell, location, source) for cell in cells)
    else:
        images = store_images(len(cells), location) if cells else ()
    return Sample(
        id=name,
        group=group or name,
        images=images,
        record=record,
        messages=messages,
        rejected=str(rejected or ""),
    )


class _Roles(NamedTuple):
    """What the columns of a row are for."""

    record: list[str]
    image: str  # "" without one
    is_trl: bool


@lru_cache(maxsize=MAX_OPEN)
def _roles(names: tuple[str, ...]) -> _Roles:
    rich = _rich_columns(names)
    image = next((name for name in IMAGE_COLUMNS if name in names), "")
    is_trl = {*TRL_COLUMNS[1:]} <= {*names}
    return _Roles([name for name in names if name not in rich], image, is_trl)


def available_splits(source: str | Path) -> list[str]:
    """List a folder's splits, such as ["train", "validation", "test"]; one file has none."""
    return [name for name in dict(list_files(Path(source))) if name]


def list_files(source: Path, split: str | None = None) -> list[tuple[str, Path]]:
    """List the files of a folder, or of one of its splits, with their split; one file has ""."""
    if not source.exists():
        if link := re.match(r"(\w+:)/(.*)", str(source)):  # a path has lost a slash of the two
            raise failure("link", link="//".join(link.groups()))
        raise failure("no_data", source=source, meant=suggestion(source))
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
    if not folder.is_dir() and list_files(folder):
        raise failure("no_folder", file=folder, folder=folder.parent)
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("data/[!.]*.parquet")) or sorted(folder.glob("[!.]*.parquet")):
        files.setdefault(file.stem.split("-")[0], []).append(file)
    if not files:
        raise failure("no_files", folder=folder)
    order = dict.fromkeys([*SPLIT_ORDER, *sorted(files)])
    return {name: files[name] for name in order if name in files}


def split_by_group(
    samples: Sequence[Sample], *, validation_fraction: float, seed: int
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Split samples into training and validation so that no group is on both sides.

    Groups are chosen in the order of a hash of their name until they hold the wanted share: the
    same groups and seed give the same split, in whatever order the samples come.

    Input:  groups a a b c c d, validation_fraction=0.3
    Output: (a a b d, c c), or another choice of whole groups holding at least 30 %
    """
    if not 0 <= validation_fraction < 1:
        raise failure("no_fraction", fraction=validation_fraction)
    if isinstance(samples, LazySamples) and isinstance(samples.source, SampleTable):
        of_each = samples.source.groups(samples.places)
    else:
        of_each = [sample.group for sample in samples]
    sizes = Counter(of_each)
    groups = sorted(sizes, key=lambda group: sha256(f"{seed}:{group}"))
    if validation_fraction and len(groups) < 2:
        raise failure("one_group", count=len(samples), group="".join(groups))
    chosen: set[str] = set()
    missing = validation_fraction * len(samples)
    for group in groups[:-1]:
        if missing > 0:
            chosen.add(group)
            missing -= sizes[group]
    sides: tuple[list[int], list[int]] = ([], [])
    for place, group in enumerate(of_each):
        sides[group in chosen].append(place)
    return select(samples, sides[0]), select(samples, sides[1])


def record_columns(schema: pa.Schema) -> list[str]:
    """List the columns that are fields of the record: texts, numbers, booleans and times."""
    rich = _rich_columns(schema.names)
    return [column.name for column in schema if column.name not in rich and _is_plain(column.type)]


def sample_columns(schema: pa.Schema) -> list[str]:
    """List the columns that samples are made of."""
    return [*_rich_columns(schema.names), *record_columns(schema)]


def as_record(row: Row, columns: Iterable[str]) -> Record:
    """Return the named cells; a cell that is not a text, a number or a boolean becomes text."""
    # Most cells are texts, and there may be millions.
    return {name: cell if type(cell := row[name]) is str else _value(cell) for name in columns}


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


@lru_cache(maxsize=MAX_OPEN)
def _id_columns(file: FileVersion) -> list[str]:
    plain = record_columns(open_parquet(file).schema_arrow)
    return [name for name in ID_COLUMNS if name in plain]


@lru_cache(maxsize=MAX_OPEN)
def _naming_columns(file: FileVersion) -> list[str]:
    plain = record_columns(open_parquet(file).schema_arrow)
    return [name for name in (*GROUP_COLUMNS, *ID_COLUMNS) if name in plain]


@lru_cache(maxsize=MAX_OPEN)
def _light_columns(file: FileVersion) -> list[str]:
    """List what a sample needs without its images, of which only the paths tell the number."""
    schema, image = open_parquet(file).schema_arrow, _image_column(file)
    rich = [name for name in _rich_columns(schema.names) if name not in IMAGE_COLUMNS]
    paths = [each for each in _image_leaves(file) if each.endswith(".path")]
    return [*rich, *record_columns(schema), *(paths or filter(None, [image]))]


def _image_column(file: FileVersion) -> str:
    """Return the name of the column with images; "" without one."""
    return _roles(tuple(open_parquet(file).schema_arrow.names)).image


def _image_leaves(file: FileVersion) -> list[str]:
    """List the leaves of the images in Parquet: ["image.bytes", "image.path"]."""
    schema, image = open_parquet(file).schema, _image_column(file)
    paths = [schema.column(number).path for number in range(len(schema))]
    return [path for path in paths if image and f"{path}.".startswith(f"{image}.")]


def _holds_images(file: FileVersion) -> bool:
    """Whether the bytes of every image are in the file, by its statistics."""
    metadata, paths = open_parquet(file).metadata, _image_leaves(file)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for leaf in map(group.column, range(group.num_columns)):
            if leaf.path_in_schema in paths and not leaf.path_in_schema.endswith(".path"):
                found = leaf.statistics
                if found is None or not found.has_null_count or found.null_count:
                    return False
    return True


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
    for column in columns:
        if (value := record.get(column)) not in (None, ""):
            return str(value)
    return None


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
