"""A catalog becomes a table of predictions: one row for each, in order, none lost.

    catalog -> portions -> asked (by an engine) -> kept as parts -> joined into one Parquet file

Run it with `phi-vision predict MODEL DATASET --out predictions.parquet`. Killed, it goes on where
it was.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.inference.batch_config import BatchConfig
from phi_vision.inference.batch_executors import ENGINES
from phi_vision.inference.batch_job_spec import JobSpec
from phi_vision.inference.batch_sources import Catalog, open_catalog
from phi_vision.inference.batch_table import as_table, columns_of, kept_columns, refuse_place
from phi_vision.inference.batches import Portion, Span, portions
from phi_vision.inference.resume_store import ResumeStore, fingerprint, gaps
from phi_vision.io.atomic import atomic_file, is_full_disk
from phi_vision.io.formatting import format_bytes
from phi_vision.io.hashing import digest

ROW_GROUP = 10_000
"""Rows of a row group of the table: some megabytes, which are held in memory."""

PACKAGES = ("phi-vision", "torch", "transformers")
"""Whose versions may change an answer."""

QUESTION_KEY = "question"
"""Metadata of the table: the fingerprint of what was asked."""

KEPT_KEY = "kept"
"""Metadata of the table: which columns of the catalog were copied, under which names."""

Progress = Callable[[int, int], None]
"""Called with how many rows are answered, of how many."""


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """What became of a catalog."""

    rows: int
    """In the table, as many as in the catalog."""

    errors: Mapping[str, int]
    """Why there is no answer -> rows."""

    unreadable: int
    """Answers that do not have the template's form."""

    asked: int
    """Rows that were asked about just now; the others were answered before."""

    seconds: float
    """What that took."""


def predict_catalog(
    source: Path, inquiry: JobSpec, job: BatchConfig, progress: Progress | None = None
) -> BatchSummary:
    """Ask about every row of a catalog and write the table.

    Args:
        source: Prepared folder, Parquet file or folder of images.
        inquiry: Who is asked what.
        job: How, and where the table goes.
        progress: Called at the start and after each portion.

    Raises:
        ValueError: Something given does not go together, or the model answers nothing; what is
            answered by then is kept.
        OSError: The disk is full; what is answered by then is kept.
    """
    task = _plan(source, inquiry, job)
    started, asked = time.perf_counter(), 0
    if not task.is_done():
        with _explained(task.keeper):
            asked = _ask_all(task, progress or (lambda done, total: None))
            _join(task)
    task.keeper.remove()
    seconds = time.perf_counter() - started
    return _look_back(task, asked, seconds)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A job with all that was found out about it."""

    catalog: Catalog
    inquiry: JobSpec
    job: BatchConfig
    schema: pa.Schema
    """Of the predictions."""

    kept: Mapping[str, str]
    """Name in the table -> column of the catalog."""

    keeper: ResumeStore
    metadata: Mapping[str, str]
    """What the table says of itself."""

    def whole_schema(self) -> pa.Schema:
        """List all columns of the table, with what is known of it as metadata."""
        held = self.catalog.schema
        fields = [held.field(column).with_name(name) for name, column in self.kept.items()]
        return pa.schema([*self.schema, *fields], metadata=dict(self.metadata))

    def is_done(self) -> bool:
        """Whether the table is there already.

        Raises:
            ValueError: There is another file.
        """
        out = self.job.out
        if self.job.restart or not out.exists():
            return False
        try:
            found = pq.read_schema(out)
        except (OSError, pa.ArrowException):
            found = pa.schema([])
        told = found.metadata or {}
        same = all(
            told.get(key.encode()) == self.metadata[key].encode()
            for key in (QUESTION_KEY, KEPT_KEY)
        )
        if same and found.names == self.whole_schema().names:
            return True
        what = "other predictions" if QUESTION_KEY.encode() in told else "something else"
        raise ValueError(
            f"{out} is there already and holds {what} (another model, template, grammar, data, "
            "version or --keep); give another --out, or --restart to replace it"
        )


def _plan(source: Path, inquiry: JobSpec, job: BatchConfig) -> _Task:
    """Check everything that can be checked before a model is opened."""
    catalog = open_catalog(source, job.split)
    refuse_place(job.out, catalog)
    schema = columns_of(inquiry.template, has_splits=catalog.has_splits)
    versions = {package: version(package) for package in PACKAGES}
    told = ", ".join(f"{package} {number}" for package, number in versions.items())
    asked = {**inquiry.facts(), "data": digest(catalog.identity())[:16], "versions": told}
    kept = kept_columns(job.keep, catalog, schema)
    return _Task(
        catalog=catalog,
        inquiry=inquiry,
        job=job,
        schema=schema,
        kept=kept,
        keeper=ResumeStore(job.out, asked, restart=job.restart),
        metadata={**asked, QUESTION_KEY: fingerprint(asked), KEPT_KEY: json.dumps(kept)},
    )


def _ask_all(task: _Task, progress: Progress) -> int:
    """Ask about what is not answered yet, and keep it; return how many rows that were."""
    keeper, rows = task.keeper, task.catalog.rows
    keeper.open()
    done = keeper.spans()
    answered = before = sum(span.stop - span.start for span in done)
    progress(answered, rows)
    engine = ENGINES[task.job.engine]
    for portion, outcomes in engine(
        task.inquiry.opening,
        _portions(task, list(gaps(done, rows))),
        grammar=task.inquiry.grammar,
        workers=task.job.workers,
        address=task.job.ray_address,
    ):
        keeper.add(portion.span, as_table(portion, outcomes, task.inquiry.template, task.schema))
        answered += len(portion.entries)
        progress(answered, rows)
    return answered - before


@contextmanager
def _explained(keeper: ResumeStore) -> Iterator[None]:
    """Say of a full disk what it costs and how to go on."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        free = shutil.disk_usage(keeper.out.parent).free
        raise OSError(
            f"the disk is full ({format_bytes(free)} are free): {error.strerror} while writing "
            f"{keeper.out}; what was answered before stays in {keeper.folder}: free some space, "
            "and the same command goes on from there"
        ) from error


def _portions(task: _Task, spans: list[Span]) -> Iterator[Portion]:
    for span in spans:
        yield from portions(task.catalog.entries(span), span, task.job.portion)


def _join(task: _Task) -> None:
    """Write the table: whole, or not at all."""
    schema = task.whole_schema()
    with (
        atomic_file(task.job.out, unfinished=task.keeper.folder / "joined") as unfinished,
        unfinished.open("wb") as sink,
        pq.ParquetWriter(sink, schema) as writer,
    ):
        for table in _row_groups(task):
            writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)


def _row_groups(task: _Task) -> Iterator[pa.Table]:
    """Read the parts in order, in pieces that do not tell where a part ended."""
    waiting, start = task.schema.empty_table(), 0
    for span in [*task.keeper.spans(), None]:
        if span is not None:
            waiting = pa.concat_tables([waiting, task.keeper.read(span)])
        while waiting.num_rows >= ROW_GROUP or (span is None and waiting.num_rows):
            table = waiting.slice(0, ROW_GROUP).combine_chunks()
            waiting = waiting.slice(ROW_GROUP)
            yield _with_kept_columns(table, start, task)
            start += table.num_rows
    assert start == task.catalog.rows, f"{start} of {task.catalog.rows} rows are answered"


def _with_kept_columns(table: pa.Table, start: int, task: _Task) -> pa.Table:
    if not task.kept:
        return table
    span = Span(start=start, stop=start + table.num_rows)
    source = task.catalog.columns(list(task.kept.values()), span).combine_chunks()
    for name, column in task.kept.items():
        table = table.append_column(name, source[column])
    return table


def _look_back(task: _Task, asked: int, seconds: float) -> BatchSummary:
    """Count what stands in the table."""
    errors: Counter[str] = Counter()
    unreadable = rows = 0
    with pq.ParquetFile(task.job.out) as parquet:
        for batch in parquet.iter_batches(columns=["error", "readable"]):
            rows += len(batch)
            errors.update(reason for reason in batch["error"].to_pylist() if reason is not None)
            unreadable += batch["readable"].to_pylist().count(False)
    return BatchSummary(
        rows=rows, errors=errors, unreadable=unreadable, asked=asked, seconds=seconds
    )
