"""A dataset -> preference pairs: each right record beside a plausibly wrong one.

    rows -> what the catalog says (of train) -> wrong answers -> OUT, with a column `rejected`

Every row keeps all of its columns and its split. The folder appears complete or not at all. Run it
with `phi-vision pairs DATA --out DIR`.
"""

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from phi_vision.data.dataset import (
    ID_COLUMNS,
    MESSAGES_COLUMN,
    REJECTED_COLUMN,
    as_record,
    files_by_split,
    record_columns,
)
from phi_vision.data.samples import Record
from phi_vision.data.template import TEMPLATE_FILE, find_template, write_template
from phi_vision.io.atomic import atomic_folder
from phi_vision.prepare.buffered import ROWS
from phi_vision.prepare.hard_negatives import Catalog, learn
from phi_vision.prepare.shards import Shards

MANIFEST = "pairs.json"
"""The facts of a folder of pairs; one that has it may be replaced by another run."""

MOST_BYTES = 256_000_000
"""Size at which a file is closed and the next begun."""

SHOWN = 5
"""Pairs on the card."""

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What was made of a dataset."""

    folder: Path

    splits: Mapping[str, int]
    """Split -> its pairs."""

    changed: Mapping[str, int]
    """Field of the answer -> pairs in which it is wrong."""

    left_out: int
    """Samples for which the catalog has nothing else to say."""


def write_pairs(
    data: Path,
    out: Path,
    *,
    template: str | None = None,
    pairs_per_sample: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Pairs:
    """Write a dataset again, with a wrong answer beside each right one.

    The same data and seed give the same pairs.

    Args:
        data: Folder of samples, as `phi-vision prepare` writes it.
        out: Folder to write; one that an earlier run wrote is replaced.
        template: Wording of the answers; by default the data's own, else `product`.
        pairs_per_sample: Wrong answers for each sample of `train`. Other splits are for measuring,
            where a sample that counts more than once would make figures look surer: they have one.
        seed: Decides what is wrong, and how.
        progress: Called with (done, total) after each sample.

    Raises:
        ValueError: The data cannot be read, has no records or has pairs already, or OUT holds
            something else.
    """
    if pairs_per_sample < 1:
        raise ValueError(f"pairs_per_sample is {pairs_per_sample}; it must be at least 1")
    _refuse_other_folders(out, data)
    files = files_by_split(data)
    has_own = (data / TEMPLATE_FILE).is_file()
    wording = find_template(template or (str(data) if has_own else "product"))
    schemas = {split: _read_schema(those) for split, those in files.items()}
    known = files.get("train") or next(iter(files.values()))
    maker = _Maker(learn(_records(known), wording), seed)
    total = sum(pq.read_metadata(file).num_rows for those in files.values() for file in those)
    with atomic_folder(out, replace=True) as folder:
        (folder / "data").mkdir()
        for split, those in files.items():
            columns = record_columns(schemas[split])
            copies = pairs_per_sample if split == "train" else 1
            with Shards(folder / "data", split, schemas[split], most_bytes=MOST_BYTES) as shards:
                for row in _rows(those):
                    record = as_record(row, columns)
                    for pair in maker.pairs(split, row, record, copies):
                        shards.add(pair, _image_bytes(pair))
                    if progress:
                        progress(maker.seen, total)
        pairs = maker.sum_up(out)
        _describe(folder, pairs, maker, data)
    return pairs


class _Maker:
    """Makes the pairs of one row after the other, and counts them."""

    def __init__(self, catalog: Catalog, seed: int) -> None:
        self.seen = 0
        self.shown: list[tuple[str, str]] = []
        """The first answers, right and wrong."""
        self.template = catalog.template
        self._catalog, self._seed = catalog, seed
        self._left_out = 0
        self._splits: Counter[str] = Counter()
        self._changed: Counter[str] = Counter()

    def pairs(self, split: str, row: Row, record: Record, copies: int) -> Iterator[Row]:
        """Yield the row with each of its wrong answers; nothing where there is none."""
        # A row's own name, not its place: rows put in between must not change its pairs.
        name = next((row[column] for column in ID_COLUMNS if column in row), self.seen)
        draw = random.Random(f"{self._seed} {split} {name}")
        self.seen += 1
        wrongs: list[str] = []
        for _ in range(copies):
            made = self._catalog.wrong(record, draw, but=wrongs)
            if made is None:
                break
            again = {"id": f"{row['id']}-{len(wrongs) + 1}"} if wrongs and "id" in row else {}
            wrongs.append(made.text)
            self._changed.update(made.fields)
            if len(self.shown) < SHOWN:
                self.shown.append((made.right, made.text))
            yield {**row, **again, REJECTED_COLUMN: made.text}
        self._splits[split] += len(wrongs)
        self._left_out += not wrongs

    def sum_up(self, folder: Path) -> Pairs:
        """Say what was made.

        Raises:
            ValueError: Nothing was.
        """
        if not self._splits.total():
            raise ValueError(
                f"no wrong answer can be made for any of {self.seen} samples: the catalog has "
                f"one value only in each of {', '.join(self.template.fields)}; give more data, or "
                f"write answers into a column {REJECTED_COLUMN} yourself"
            )
        return Pairs(
            folder=folder,
            splits=dict(self._splits),
            changed={field: self._changed[field] for field in self.template.fields},
            left_out=self._left_out,
        )


def _records(files: Iterable[Path]) -> list[Record]:
    """Read the records of files, without their images."""
    records: list[Record] = []
    for file in files:
        columns = record_columns(pq.read_schema(file))
        rows = pq.read_table(file, columns=columns).to_pylist()
        records += [as_record(row, columns) for row in rows]
    return records


def _rows(files: Iterable[Path]) -> Iterator[Row]:
    """Read all columns of files, a few megabytes at a time."""
    for file in files:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(batch_size=ROWS):
                yield from batch.to_pylist()


def _read_schema(files: Sequence[Path]) -> pa.Schema:
    """Read the columns of a split, and add the one of wrong answers.

    Raises:
        ValueError: Wrong answers are there already, the samples are conversations, or the files
            have other columns than each other.
    """
    schemas = [pq.read_schema(file) for file in files]
    schema, file = schemas[0], files[0]
    if any(other.names != schema.names or other.types != schema.types for other in schemas):
        raise ValueError(
            f"{file} has other columns than the files beside it; prepare them together"
        )
    if REJECTED_COLUMN in schema.names:
        raise ValueError(
            f"{file} has a column {REJECTED_COLUMN} already, so these are pairs; give the data "
            "that they were made of"
        )
    if MESSAGES_COLUMN in schema.names:
        raise ValueError(
            f"{file} holds conversations, and only of records it is known what a plausible wrong "
            f"one is; write worse last answers into a column {REJECTED_COLUMN} yourself"
        )
    return _with_feature(schema.append(pa.field(REJECTED_COLUMN, pa.string())))


def _with_feature(schema: pa.Schema) -> pa.Schema:
    """Add the column to what the `datasets` library notes of the others, if it did."""
    noted = dict(schema.metadata or {})
    described = json.loads(noted.get(b"huggingface", b"{}"))
    if "features" not in described.get("info", {}):
        return schema
    described["info"]["features"][REJECTED_COLUMN] = {"dtype": "string", "_type": "Value"}
    return schema.with_metadata({**noted, b"huggingface": json.dumps(described)})


def _image_bytes(row: Row) -> int:
    cells = row.get("images") or [row.get("image")]
    assert isinstance(cells, list)
    return sum(len(cell["bytes"] or b"") for cell in cells if cell)


def _refuse_other_folders(out: Path, data: Path) -> None:
    whole, given = out.resolve(), data.resolve()
    if whole.is_relative_to(given) or given.is_relative_to(whole):
        raise ValueError(f"{out} and the data {data} lie in each other; name a folder beside it")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise ValueError(
            f"{out} is in use and was not written by `pairs` (it has no {MANIFEST}); "
            "name a new folder"
        )


def _describe(folder: Path, pairs: Pairs, maker: _Maker, data: Path) -> None:
    """Write template, facts and card beside the rows."""
    write_template(maker.template, folder / TEMPLATE_FILE)
    facts = {name: value for name, value in dataclasses.asdict(pairs).items() if name != "folder"}
    text = json.dumps({"name": pairs.folder.absolute().name, **facts}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    header = {
        **_license_of(data),
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*"} for name in pairs.splits],
            }
        ],
    }
    card = _CARD.format(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        name=pairs.folder.absolute().name,
        total=sum(pairs.splits.values()),
        data=data.absolute().name,
        left_out=pairs.left_out,
        splits="\n".join(f"| {split} | {count} |" for split, count in pairs.splits.items()),
        changed="\n".join(f"| {field} | {count} |" for field, count in pairs.changed.items()),
        shown="\n".join(f"+ {right}\n- {wrong}\n" for right, wrong in maker.shown).rstrip(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _license_of(data: Path) -> dict[str, object]:
    """Read the licence in the header of a dataset's own card, if it names one."""
    card = data / "README.md"
    parts = card.read_text(encoding="utf-8").split("---\n") if card.is_file() else []
    header = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0] else {}
    return {name: value for name, value in (header or {}).items() if name == "license"}


_CARD = """---
{header}---

# {name}

{total} pairs of a right and a plausibly wrong answer, made of {data} with `phi-vision pairs`; for
{left_out} samples no wrong one could be made. The column `rejected` holds the wrong answer.

## Splits

| split | pairs |
|---|---|
{splits}

## What is wrong

| field | pairs |
|---|---|
{changed}

## The first pairs

```diff
{shown}
```
"""
