"""Make preference pairs of a dataset: each correct record beside a plausible wrong one.

    rows -> values of the catalog (of train) -> hard negatives -> OUT, with a column `rejected`

Every row keeps all of its columns and its split. Run it with `phi-vision pairs DATA --out DIR`.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard

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
from phi_vision.io.atomic import atomic_folder, write_text
from phi_vision.prepare.data_card import card_header, render
from phi_vision.prepare.hard_negatives import NegativeSampler, fit_sampler
from phi_vision.prepare.shards import GROUP_ROWS, Shards, check_output_folder

MANIFEST = "pairs.json"
"""Metadata of a folder of pairs; one that has it may be replaced by another run."""

MAX_SHARD_BYTES = 256_000_000

EXAMPLES = 5
"""Pairs on the card."""

PairRow = dict[str, Any]


@dataclass(kw_only=True)
class PreferencePairs:
    """Result of `write_pairs`."""

    folder: Path

    splits: dict[str, int] = field(default_factory=dict)
    """Split -> its pairs."""

    changed: dict[str, int] = field(default_factory=dict)
    """Field of the completion -> pairs in which it is wrong."""

    left_out: int = 0
    """Samples for which the catalog has no other completion."""


def write_pairs(
    data: Path,
    out: Path,
    *,
    template: str | None = None,
    pairs_per_sample: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PreferencePairs:
    """Write a dataset again, with a wrong completion beside each correct one.

    The same data and seed give the same pairs.

    Args:
        data: Folder of samples, as `phi-vision prepare` writes it.
        out: Folder to write; one that an earlier run wrote is replaced.
        template: Prompt template; by default the data's own, else `product`.
        pairs_per_sample: Wrong completions for each sample of `train`. Other splits are for
            measuring, where repeated samples would make estimates look surer: they have one.
        seed: Decides what is wrong, and how.
        progress: Called with (done, total) after each sample.
    """
    if pairs_per_sample < 1:
        raise ValueError(f"pairs_per_sample is {pairs_per_sample}; it must be at least 1")
    check_output_folder(out, data, "pairs", MANIFEST)
    files = files_by_split(data)
    has_own = (data / TEMPLATE_FILE).is_file()
    wording = find_template(template or (str(data) if has_own else "product"))
    schemas = {split: _extended_schema(those) for split, those in files.items()}
    known = files.get("train") or next(iter(files.values()))
    sampler = fit_sampler(_records(known), wording)
    total = sum(pq.read_metadata(file).num_rows for those in files.values() for file in those)
    counts = PreferencePairs(folder=out, changed=dict.fromkeys(wording.fields, 0))
    examples: list[tuple[str, str]] = []
    done = 0
    with atomic_folder(out, replace=True) as folder:
        (folder / "data").mkdir()
        for split, those in files.items():
            copies = pairs_per_sample if split == "train" else 1
            columns = record_columns(schemas[split])
            with Shards(
                folder / "data", split, schemas[split], max_bytes=MAX_SHARD_BYTES
            ) as shards:
                for row in _rows(those):
                    # A row's own id, not its position: inserted rows must not change its pairs.
                    name = next((row[column] for column in ID_COLUMNS if column in row), done)
                    rng = random.Random(f"{seed} {split} {name}")
                    pairs = list(_pairs(row, as_record(row, columns), sampler, rng, copies, counts))
                    for pair, correct in pairs:
                        shards.add(pair, _image_bytes(pair))
                        examples.append((correct, pair[REJECTED_COLUMN]))
                        del examples[EXAMPLES:]
                    if pairs:
                        counts.splits[split] = counts.splits.get(split, 0) + len(pairs)
                    done += 1
                    if progress:
                        progress(done, total)
        if not counts.splits:
            raise ValueError(
                f"no wrong completion can be made for any of {done} samples: the catalog has one "
                f"value only in each of {', '.join(wording.fields)}; give more data, or write "
                f"completions to a column {REJECTED_COLUMN} yourself"
            )
        write_template(wording, folder / TEMPLATE_FILE)
        _write_card(folder, data, counts, examples)
    return counts


def _pairs(
    row: PairRow,
    record: Record,
    sampler: NegativeSampler,
    rng: random.Random,
    copies: int,
    counts: PreferencePairs,
) -> Iterator[tuple[PairRow, str]]:
    """Yield the row with each of its wrong completions, and the correct one."""
    wrongs: list[str] = []
    for number in range(copies):
        negative = sampler.draw(record, rng, exclude=wrongs)
        if negative is None:
            break
        copy = {"id": f"{row['id']}-{number + 1}"} if number and "id" in row else {}
        wrongs.append(negative.wrong)
        for name in negative.fields:
            counts.changed[name] += 1
        yield {**row, **copy, REJECTED_COLUMN: negative.wrong}, negative.correct
    counts.left_out += not wrongs


def _records(files: Iterable[Path]) -> list[Record]:
    """Read the records of files, without their images."""
    records: list[Record] = []
    for file in files:
        columns = record_columns(pq.read_schema(file))
        rows = pq.read_table(file, columns=columns).to_pylist()
        records += [as_record(row, columns) for row in rows]
    return records


def _rows(files: Iterable[Path]) -> Iterator[PairRow]:
    """Read all columns of files, a few megabytes at a time."""
    for file in files:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(batch_size=GROUP_ROWS):
                yield from batch.to_pylist()


def _extended_schema(files: Sequence[Path]) -> pa.Schema:
    """Return the schema of a split with the column of wrong completions."""
    schemas = [pq.read_schema(file) for file in files]
    schema, file = schemas[0], files[0]
    if any(other.names != schema.names or other.types != schema.types for other in schemas):
        raise ValueError(f"{file} and the files beside it differ in columns; prepare them together")
    if REJECTED_COLUMN in schema.names:
        raise ValueError(
            f"{file} has a column {REJECTED_COLUMN} already, so these are pairs; give the data "
            "they were made from"
        )
    if MESSAGES_COLUMN in schema.names:
        raise ValueError(
            f"{file} holds conversations, and plausible wrong completions are made of records "
            f"only; write worse last messages to a column {REJECTED_COLUMN} yourself"
        )
    schema = schema.append(pa.field(REJECTED_COLUMN, pa.string()))
    metadata = dict(schema.metadata or {})
    described = json.loads(metadata.get(b"huggingface", b"{}"))
    if "features" not in described.get("info", {}):
        return schema
    described["info"]["features"][REJECTED_COLUMN] = {"dtype": "string", "_type": "Value"}
    return schema.with_metadata({**metadata, b"huggingface": json.dumps(described)})


def _image_bytes(row: PairRow) -> int:
    cells = row.get("images") or [row.get("image")]
    return sum(len(cell["bytes"] or b"") for cell in cells if cell)


def _write_card(
    folder: Path,
    data: Path,
    counts: PreferencePairs,
    examples: Sequence[tuple[str, str]],
) -> None:
    """Write metadata and card beside the rows."""
    name = counts.folder.absolute().name
    metadata = {"name": name} | {k: v for k, v in asdict(counts).items() if k != "folder"}
    text = json.dumps(metadata, indent=2, ensure_ascii=False)
    write_text(folder / MANIFEST, text + "\n")
    source = data / "README.md"
    license = DatasetCard.load(source).data.get("license") if source.is_file() else None
    card = render(
        "pairs_card.md.j2",
        header=card_header(list(counts.splits), license),
        name=name,
        total=sum(counts.splits.values()),
        data=data.absolute().name,
        without_pair=counts.left_out,
        splits=counts.splits,
        changed=counts.changed,
        examples=examples,
    )
    write_text(folder / "README.md", card)
