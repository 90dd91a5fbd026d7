"""Prepare a catalog: read, fetch, clean, group, split and write it, and account for every row.

    source -> rows with images -> cleaned (by an executor) -> stage -> groups -> splits -> shards

Rows are read once into a stage on disk; groups and splits need all of them and are computed from
the little that stays in memory. Run it with `phi-vision prepare SOURCE --out DIR`.
"""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from phi_vision.data.template import TEMPLATE_FILE, write_template
from phi_vision.io.atomic import atomic_folder, recover, same_content, write_text
from phi_vision.io.formatting import format_percent
from phi_vision.io.http import RetryPolicy
from phi_vision.prepare.cleaning import CleanRow, LoadedRow, RejectedRow, clean_chunk, reject
from phi_vision.prepare.columns import Columns, image_cells
from phi_vision.prepare.data_card import as_html, as_markdown, describe_kind
from phi_vision.prepare.executors import EXECUTORS
from phi_vision.prepare.fetch import Fetched, Limits, fetch
from phi_vision.prepare.image_references import named_images, read_reference, url_of
from phi_vision.prepare.prepare_config import PrepareConfig
from phi_vision.prepare.prepare_warnings import warn_of_splits, warn_of_values
from phi_vision.prepare.schema import Schema, find_schema, order_answer
from phi_vision.prepare.shards import Layout, RejectedRows, Shards, Stage, check_output_folder
from phi_vision.prepare.sources.registry import open_source
from phi_vision.prepare.sources.rows import AnyRow, Row, Source, UnreadableRow, storable
from phi_vision.prepare.splits import Assignment, Placed, assign_rows, source_splits

CHUNK = 32  # rows cleaned at once: a tenth of a second of work, and a few megabytes
CARD_IMAGES = 24  # samples shown on the card, evenly spread over the dataset
MANIFEST = "prepared.json"  # metadata; a folder that has it may be replaced by another run

Progress = Callable[[Fetched], None]


class Prepared(NamedTuple):
    """Result of `prepare`."""

    folder: Path
    metadata: Mapping[str, Any]  # the content of `prepared.json`
    changed: bool  # False where the folder already held exactly this


@dataclass(frozen=True, kw_only=True)
class PrepareCallbacks:
    """Called in the caller's thread: once with the detected format and columns, for each image that
    was downloaded or failed, and after each chunk with the numbers of samples and rejected rows."""

    on_columns: Callable[[Mapping[str, str]], None] = lambda columns: None
    on_fetched: Progress = lambda fetched: None
    on_cleaned: Callable[[int, int], None] = lambda samples, rejected: None


def prepare(
    name: str, config: PrepareConfig, callbacks: PrepareCallbacks | None = None
) -> Prepared:
    """Prepare a catalog: a file, a folder, or a hub id.

    Images are cleaned in processes of their own where there are many, so a script that calls this
    at its top level needs the usual `if __name__ == "__main__":`.

    Raises ValueError if the source cannot be read, a column is missing, no row is usable (with the
    three most common reasons), or OUT holds something else.
    """
    callbacks = callbacks or PrepareCallbacks()
    check_output_folder(config.out, Path(name), "prepare", MANIFEST)
    recover(config.out)
    named_images.cache_clear()
    source = open_source(
        name,
        kind=config.kind,
        split=config.split,
        revision=config.revision,
        streaming=config.streaming,
        encoding=config.encoding,
        mapped=[text.partition("=")[2] for text in config.map],
    )
    schema = find_schema(source, config)
    by_name = {"images found by name": schema.by_name} if schema.by_name else {}
    callbacks.on_columns({**source.detected, **schema.describe(), **by_name})
    with atomic_folder(config.out, replace=True) as folder:
        with RejectedRows(folder) as rejected, Stage(folder, schema.columns.fields) as stage:
            for rows in _clean_rows(source, schema, config, callbacks.on_fetched):
                for row in rows:
                    (rejected if isinstance(row, RejectedRow) else stage).add(row)  # type: ignore[arg-type]
                callbacks.on_cleaned(len(stage.keys), rejected.reasons.total())
            if stage.keys:
                own = {} if config.resplit else source_splits(stage.keys)
                assignment = assign_rows(
                    stage.keys,
                    {} if config.resplit else _earlier_splits(config.out),
                    config.fractions,
                    tolerance=config.tolerance,
                    seed=config.seed,
                    source=own,
                    grouping=config.grouping,
                )
                images = _write_samples(stage, assignment, config, folder / "data", rejected)
        if not stage.keys:
            raise _nothing_usable(source, rejected, folder, config.out)
        moved: dict[str, str] = {}
        if schema.template and not (config.template or config.fields):
            schema, moved = _order_answer(schema, stage, assignment)
        metadata = _describe(source, config, schema, stage, assignment, rejected.reasons)
        metadata |= {"answer": moved}
        named = Counter(keys.split for keys in stage.keys)
        about = warn_of_splits(metadata, own, config.fractions, named)
        optional = schema.template.optional if schema.template else ()
        metadata |= {"warnings": about | warn_of_values(stage.statistics, optional)}
        text = json.dumps(metadata, indent=2, ensure_ascii=False)
        write_text(folder / MANIFEST, text + "\n")
        write_text(folder / "README.md", as_markdown(metadata))
        write_text(folder / "card.html", as_html(metadata, images))
        if schema.template:
            write_template(schema.template, folder / TEMPLATE_FILE)
        changed = not same_content(folder, config.out)
        if not changed:
            shutil.rmtree(folder)
    return Prepared(config.out, metadata, changed)


def _clean_rows(
    source: Source, schema: Schema, config: PrepareConfig, progress: Progress
) -> Iterator[list[CleanRow | RejectedRow]]:
    """Fetch and clean the rows of a source, in chunks."""
    cache = config.downloads or config.out.absolute().with_name(f"{config.out.name}-downloads")
    limits = Limits(
        per_host=config.per_host,
        retry=RetryPolicy(retries=config.retries),
        allow_private=config.allow_private_addresses,
    )
    run, clean = EXECUTORS[config.engine], partial(clean_chunk, schema=schema)
    with closing(load_images(source, schema.columns, cache, limits, progress)) as chunks:
        yield from run(clean, chunks, workers=config.workers, address=config.ray_address)


def load_images(
    source: Source, columns: Columns, cache: Path, limits: Limits, progress: Progress | None = None
) -> Generator[list[LoadedRow | UnreadableRow], None, None]:
    """Yield the source's rows in chunks, each row with its images or the reason why it has none.

    Everything that needs this machine's disk and network happens here: cleaning needs neither.
    URLs are read far ahead of the rows, so that downloads run meanwhile.
    """
    rows = source.rows()
    with closing(fetch(_urls(source.rows(), columns), cache, limits, progress)) as fetched:
        while chunk := list(itertools.islice(rows, CHUNK)):
            yield [
                _load_row(row, columns, source.folder, fetched) if isinstance(row, Row) else row
                for row in chunk
            ]


def _urls(rows: Iterable[AnyRow], columns: Columns) -> Iterator[str]:
    for row in rows:
        if isinstance(row, Row):
            yield from filter(None, map(url_of, image_cells(row, columns)))


def _load_row(
    row: Row, columns: Columns, folder: Path | None, fetched: Iterator[Fetched]
) -> LoadedRow:
    cells = image_cells(row, columns)
    # All of the row's results, whatever its other cells hold: those of the next row follow.
    results = {url: next(fetched) for url in _urls([row], columns)}
    problem = None if cells or columns.messages else "no image: the cell is empty"
    images = []
    try:
        for cell in cells:
            result = results.get(url_of(cell) or "")
            if result and result.reason:
                raise ValueError(f"not fetched, {result.reason}: {result.url}")
            file = result and result.file
            images.append(file.read_bytes() if file else read_reference(cell, folder))
    except (ValueError, OSError) as error:
        images, problem = [], str(error)
    return LoadedRow(row=row, images=tuple(images), problem=problem)


def _earlier_splits(out: Path) -> dict[str, str]:
    """Return the split of each id that an earlier run wrote."""
    return {
        name: file.name.split("-")[0]
        for file in sorted(out.glob("data/*.parquet"))
        for name in pq.read_table(file, columns=["id"])["id"].to_pylist()
    }


def _write_samples(
    stage: Stage, assignment: Assignment, config: PrepareConfig, data: Path, rejected: RejectedRows
) -> list[tuple[str, bytes]]:
    """Write each staged row to its split, or to the rejected rows; return captioned images."""
    layout = Layout(stage.statistics)
    data.mkdir()
    images: list[tuple[str, bytes]] = []
    every = max(1, len(stage.keys) // CARD_IMAGES)
    max_bytes = config.shard_size * 1_000_000
    with ExitStack() as stack:
        shards = {
            split: stack.enter_context(Shards(data, split, layout.schema, max_bytes=max_bytes))
            for split in assignment.metadata["splits"]
        }
        rows = zip(stage.keys, stage.rows(), assignment.decisions, strict=True)
        for index, (keys, row, decision) in enumerate(rows):
            if not isinstance(decision, Placed):
                rejected.add(reject(row.raw, f"duplicate of an earlier row: row {decision}"))
                continue
            image_bytes = sum(len(image.encoded) for image in row.images)
            shards[decision.split].add(layout.row(keys.id, decision.group, row), image_bytes)
            if index % every == 0 and row.images and len(images) < CARD_IMAGES:
                caption = keys.title or keys.category or keys.id
                images.append((caption, row.images[0].encoded))
    return images


def _order_answer(
    schema: Schema, stage: Stage, assignment: Assignment
) -> tuple[Schema, dict[str, str]]:
    """Choose the order of the answer from the training titles; describe one that is not usual."""
    splits, titles = assignment.metadata["splits"], []
    for keys, decision in zip(stage.keys, assignment.decisions, strict=True):
        if keys.title and isinstance(decision, Placed):
            is_seen = decision.split == "train" or "train" not in splits
            titles += [(keys.title, decision.group)] * is_seen
    assert schema.template
    template, share = order_answer(schema.template, titles)
    if template == schema.template:
        return schema, {}
    about = {
        "order": ", ".join(template.fields),
        "reason": f"{share:.0%} of the titles have a word that no other product has, which no "
        "image shows; `--template product` keeps the title first",
    }
    return replace(schema, template=template), about


def _describe(
    source: Source,
    config: PrepareConfig,
    schema: Schema,
    stage: Stage,
    assignment: Assignment,
    rejected: Counter[str],
) -> dict[str, Any]:
    """Return the metadata. No times and no paths of this machine: a rerun writes the same bytes."""
    samples = sum(isinstance(decision, Placed) for decision in assignment.decisions)
    license = {"license": config.license} if config.license else {}
    found = {"kind": source.kind, **source.detected, **source.notes, **license}
    changes, fields = stage.statistics.changes.items(), stage.statistics.fields.items()
    rows, template = len(stage.keys), schema.template
    missing = {
        name: [rows - each.filled, format_percent(1 - each.filled / rows)]
        for name, each in fields
        if template and name in template.optional
    }
    kinds = {
        name: [template.kinds[name], describe_kind(template.kinds[name], each.texts)]
        for name, each in fields
        if template and name in schema.contexts
    }
    return {
        "name": storable(config.out.absolute().name),
        "rows": samples + rejected.total(),
        "samples": samples,
        "source": {"name": storable(source.name), **found},
        "columns": schema.describe(),
        "template": template.as_dict() if template else None,
        **assignment.metadata,
        "rejected": dict(rejected.most_common()),
        "changes": dict(sorted(changes, key=lambda each: (-each[1], each[0]))),
        "images": stage.statistics.describe_images(),
        "fields": {name: field.describe(rows) for name, field in fields},
        **({"missing": missing} if missing else {}),
        **({"kinds": kinds} if kinds else {}),
    }


def _nothing_usable(source: Source, rejected: RejectedRows, folder: Path, out: Path) -> ValueError:
    """Describe the three most common reasons with an example of each, and keep the rows."""
    kept = out.absolute().with_name(f"{out.name}-rejected.parquet")
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "rejected.parquet", kept)
    found = "; ".join(
        f"{reason} ({rows} rows, such as {rejected.examples[reason]})"
        for reason, rows in rejected.reasons.most_common(3)
    )
    return ValueError(
        f"none of the {rejected.reasons.total()} rows of {source.name} is usable: {found}; check "
        f"the columns (--map) and the images; all rows with their reasons are in {kept}"
    )
