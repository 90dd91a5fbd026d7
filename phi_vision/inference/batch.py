"""Batch prediction: a catalog becomes a Parquet table with one row for each of its rows, in order.

    catalog -> parts -> predicted (by an engine) -> stored -> joined into one Parquet file

Run it with `phi-vision predict MODEL DATASET --out predictions.parquet`. An interrupted job resumes
with the same command.
"""

import dataclasses
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.data.template import Template, find_template
from phi_vision.inference.batch_config import BatchConfig
from phi_vision.inference.batch_executors import ENGINES, Load
from phi_vision.inference.batch_parts import prediction_schema, to_table
from phi_vision.inference.batch_sources import Catalog, Span, open_catalog, split_into_parts
from phi_vision.inference.predictor import load_predictor, model_identity, resolve_template
from phi_vision.inference.resume_store import ResumeStore, gaps
from phi_vision.io.atomic import atomic_file, is_full_disk
from phi_vision.io.formatting import format_bytes
from phi_vision.io.hashing import digest
from phi_vision.model.checkpoint import SMALL

ROWS_PER_GROUP = 10_000
"""Rows of a row group of the table: some megabytes, which are held in memory."""

PACKAGES = ("phi-vision", "torch", "transformers")
"""Packages whose version may change a prediction."""

JOB_KEY = "job"
"""Metadata of the table: the digest of the job."""

KEPT_KEY = "kept"
"""Metadata of the table: the copied columns of the catalog, by their new names."""

Progress = Callable[[int, int], None]
"""Called with the number of finished rows and of all rows."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What decides the predictions, beside the catalog."""

    load: Load
    """Loads the predictor, here or on another machine."""

    name: str
    identity: Sequence[str]
    """Distinguishes models of the same name."""

    template: Template
    grammar: str | None = None


def job_spec(
    model: str, *, template: str | None = None, grammar: str | None = None, batch_size: int = 16
) -> JobSpec:
    """Describe a job; the model is loaded when the first part is predicted.

    Args:
        model: As for `load_predictor`, but not a file of predictions.
        template: As for `load_predictor`.
        grammar: Constrains the texts (`data.template_grammar.grammar_of`).
        batch_size: As for `load_predictor`.

    Raises:
        ValueError: The model is a file of predictions, or there is no such template.
    """
    if Path(model).suffix == ".jsonl":
        raise ValueError(
            f"{model} is a file of finished predictions, not a model; give a model or a server"
        )
    # Workers of a cluster have another working directory.
    chosen, place = map(_absolute, (resolve_template(model, template), model))
    return JobSpec(
        load=partial(load_predictor, place, template=chosen, batch_size=batch_size),
        name=model,
        identity=model_identity(model),
        template=find_template(chosen),
        grammar=grammar,
    )


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """The result of a batch prediction."""

    rows: int
    errors: Mapping[str, int]
    """Reason -> rows without a prediction."""

    unparsed: int
    """Rows whose text does not parse."""

    predicted: int
    """Rows predicted in this run; the others were finished before."""

    seconds: float


def predict_catalog(
    source: Path, spec: JobSpec, config: BatchConfig, progress: Progress | None = None
) -> BatchSummary:
    """Predict every row of a catalog and write the table.

    Args:
        source: Prepared folder, Parquet file or folder of images.
        spec: The model, its template and grammar.
        config: How, and where to write the table.
        progress: Called at the start and after each part.

    Raises:
        ValueError: The arguments do not fit together, or every prediction fails; finished parts are
            kept.
        OSError: The disk is full; finished parts are kept.
    """
    job = _plan(source, spec, config)
    start, predicted = time.perf_counter(), 0
    if not job.is_done():
        with _explain_full_disk(job.store):
            predicted = _predict_missing(job, progress or (lambda done, total: None))
            _write_table(job)
    job.store.remove()
    return _summarize(config.out, predicted, time.perf_counter() - start)


@dataclass(frozen=True, kw_only=True)
class _Job:
    catalog: Catalog
    spec: JobSpec
    config: BatchConfig
    schema: pa.Schema
    """Of the predictions."""

    kept: Mapping[str, str]
    """Name in the table -> column of the catalog."""

    store: ResumeStore
    metadata: Mapping[str, str]

    def table_schema(self) -> pa.Schema:
        """List all columns of the table, with its metadata."""
        held = self.catalog.schema
        fields = [held.field(column).with_name(name) for name, column in self.kept.items()]
        return pa.schema([*self.schema, *fields], metadata=dict(self.metadata))

    def is_done(self) -> bool:
        """Whether the table exists; raise a ValueError if the file is another one."""
        out = self.config.out
        if self.config.restart or not out.exists():
            return False
        try:
            found = pq.read_schema(out)
        except (OSError, pa.ArrowException):
            found = pa.schema([])
        held = {key.decode(): value.decode() for key, value in (found.metadata or {}).items()}
        is_same = all(held.get(key) == self.metadata[key] for key in (JOB_KEY, KEPT_KEY))
        if is_same and found.names == self.table_schema().names:
            return True
        what = "other predictions" if JOB_KEY in held else "something else"
        raise ValueError(
            f"{out} exists and holds {what} (another model, template, grammar, data, version or "
            "--keep); choose another --out, or replace it with --restart"
        )


def _plan(source: Path, spec: JobSpec, config: BatchConfig) -> _Job:
    """Check everything that can be checked without the model."""
    catalog = open_catalog(source, config.split)
    if config.out.suffix != ".parquet" or config.out.is_dir():
        found = "it is a folder" if config.out.is_dir() else "its name has another ending"
        raise ValueError(f"--out {config.out} must be a .parquet file: {found}")
    catalog.check_output(config.out)
    schema = prediction_schema(spec.template, has_splits=catalog.has_splits)
    kept = _kept_columns(config.keep, catalog, schema)
    decisive = {
        "model": f"{spec.name} {digest(list(spec.identity))[:16]}",
        "template": json.dumps(dataclasses.asdict(spec.template), ensure_ascii=False),
        "grammar": digest(spec.grammar)[:16] if spec.grammar is not None else "none",
        "data": digest(catalog.identity())[:16],
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }
    return _Job(
        catalog=catalog,
        spec=spec,
        config=config,
        schema=schema,
        kept=kept,
        store=ResumeStore(config.out, decisive, restart=config.restart),
        metadata={**decisive, JOB_KEY: digest(decisive), KEPT_KEY: json.dumps(kept)},
    )


def _kept_columns(words: Sequence[str], catalog: Catalog, schema: pa.Schema) -> dict[str, str]:
    """Parse --keep.

    Input:  ["brand", "full_price=true_price"]
    Output: {"brand": "brand", "true_price": "full_price"}
    """
    kept: dict[str, str] = {}
    for word in words:
        column, _, name = word.partition("=")
        name = name or column
        if column not in catalog.schema.names:
            held = ", ".join(catalog.schema.names) or "none"
            raise ValueError(
                f"cannot keep {column!r}: there is no such column of plain values in all files of "
                f"the source; it has {held}"
            )
        if name in schema.names or name in kept:
            raise ValueError(
                f"cannot keep {column!r} as {name!r}: the predictions have a column of that name; "
                f"rename it, such as --keep {column}=true_{column}"
            )
        kept[name] = column
    return kept


def _predict_missing(job: _Job, progress: Progress) -> int:
    """Predict and store the missing rows; return their number."""
    store, rows, config = job.store, job.catalog.rows, job.config
    store.open()
    finished = store.spans()
    done = before = sum(span.stop - span.start for span in finished)
    progress(done, rows)
    missing = (
        part
        for span in gaps(finished, rows)
        for part in split_into_parts(job.catalog.read(span), span, config.rows_per_part)
    )
    for part, outcomes in ENGINES[config.engine](
        job.spec.load,
        missing,
        grammar=job.spec.grammar,
        workers=config.workers,
        address=config.ray_address,
    ):
        store.add(part.span, to_table(part, outcomes, job.spec.template, job.schema))
        done += len(part.rows)
        progress(done, rows)
    return done - before


@contextmanager
def _explain_full_disk(store: ResumeStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        free = format_bytes(shutil.disk_usage(store.out.parent).free)
        raise OSError(
            f"the disk is full ({free} are free): {error.strerror} while writing {store.out}; "
            f"finished parts are kept in {store.folder}: free some space, and the same command "
            "resumes"
        ) from error


def _write_table(job: _Job) -> None:
    """Join the parts to the table, atomically."""
    schema = job.table_schema()
    with (
        atomic_file(job.config.out, unfinished=job.store.folder / "joined") as unfinished,
        pq.ParquetWriter(unfinished, schema) as writer,
    ):
        for table in _row_groups(job):
            writer.write_table(table.cast(schema), row_group_size=ROWS_PER_GROUP)


def _row_groups(job: _Job) -> Iterator[pa.Table]:
    """Read the parts in order, in groups that do not depend on the size of the parts."""
    waiting, start = job.schema.empty_table(), 0
    for span in [*job.store.spans(), None]:
        if span is not None:
            waiting = pa.concat_tables([waiting, job.store.read(span)])
        while waiting.num_rows >= ROWS_PER_GROUP or (span is None and waiting.num_rows):
            table = waiting.slice(0, ROWS_PER_GROUP).combine_chunks()
            waiting = waiting.slice(ROWS_PER_GROUP)
            if job.kept:
                position = Span(start, start + table.num_rows)
                source = job.catalog.columns(list(job.kept.values()), position).combine_chunks()
                for name, column in job.kept.items():
                    table = table.append_column(name, source[column])
            start += table.num_rows
            yield table
    assert start == job.catalog.rows, f"{start} of {job.catalog.rows} rows are predicted"


def _summarize(out: Path, predicted: int, seconds: float) -> BatchSummary:
    errors: Counter[str] = Counter()
    unparsed = rows = 0
    with pq.ParquetFile(out) as parquet:
        for batch in parquet.iter_batches(columns=["error", "readable"]):
            rows += len(batch)
            errors.update(reason for reason in batch["error"].to_pylist() if reason is not None)
            unparsed += batch["readable"].to_pylist().count(False)
    return BatchSummary(
        rows=rows, errors=errors, unparsed=unparsed, predicted=predicted, seconds=seconds
    )


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path != SMALL and Path(path).exists() else path
