"""Batch prediction: a catalog becomes a Parquet table with one row for each of its rows, in order.

    catalog -> parts -> predicted (by an engine) -> stored -> joined into one Parquet file

Run it with `phi-vision predict MODEL DATASET --out predictions.parquet`. An interrupted job resumes
with the same command.
"""

import dataclasses
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phi_vision.data.samples import Value
from phi_vision.data.template import Kind, Template, find_template
from phi_vision.inference.batch_catalog import BatchConfig, Catalog, CatalogPart, Failure
from phi_vision.inference.batch_engines import ENGINES, JobSpec, Outcome
from phi_vision.inference.predictor import load_predictor, model_identity, resolve_template
from phi_vision.io.atomic import atomic_file, is_full_disk, write_bytes
from phi_vision.io.formatting import format_bytes
from phi_vision.io.hashing import digest
from phi_vision.model.checkpoint import SMALL

ROWS_PER_GROUP = 10_000  # some megabytes, which are held in memory
PACKAGES = ("phi-vision", "torch", "transformers")  # whose version may change a prediction
# Metadata of the table: the digest of the job, and the columns copied from the catalog.
JOB_KEY, KEPT_KEY = "job", "kept"
CONFIDENCE = "confidence_"

Progress = Callable[[int, int], None]
"""Called with the number of finished rows and of all rows."""


def job_spec(
    model: str, *, template: str | None = None, grammar: str | None = None, batch_size: int = 16
) -> JobSpec:
    """Describe a job with the arguments of `load_predictor`, and a grammar for the texts.

    The model, which may not be a file of predictions, is loaded when the first part is predicted.
    """
    if Path(model).suffix == ".jsonl":
        raise ValueError(
            f"{model} is a file of finished predictions, not a model; give a model or a server"
        )
    # Workers of a cluster have another working directory.
    chosen, place = (
        str(Path(path).absolute()) if path != SMALL and Path(path).exists() else path
        for path in (resolve_template(model, template), model)
    )
    return JobSpec(
        load=partial(load_predictor, place, template=chosen, batch_size=batch_size),
        name=model,
        identity=model_identity(model),
        template=find_template(chosen),
        grammar=grammar,
    )


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """Counts of rows: in all, without a prediction by reason, with a text that does not parse, and
    predicted in this run."""

    rows: int
    errors: Mapping[str, int]
    unparsed: int
    predicted: int
    seconds: float


def predict_catalog(
    source: Path, spec: JobSpec, config: BatchConfig, progress: Progress | None = None
) -> BatchSummary:
    """Predict every row of a prepared folder, Parquet file or folder of images.

    `progress` is called at the start and after each part.

    Raises:
        ValueError: The arguments do not fit together, or every prediction fails; finished parts are
            kept.
        OSError: The disk is full; finished parts are kept.
    """
    job = _Job(source, spec, config)
    start, predicted = time.perf_counter(), 0
    if not job.is_done():
        with _explain_full_disk(job.store):
            predicted = job.predict_missing(progress or (lambda done, total: None))
            job.write_table()
    job.store.remove()
    table = pq.ParquetFile(config.out).read(columns=["error", "readable"])
    return BatchSummary(
        rows=table.num_rows,
        errors={
            str(reason["values"]): reason["counts"]
            for reason in table["error"].drop_null().value_counts().to_pylist()
        },
        unparsed=pc.sum(pc.invert(table["readable"])).as_py() or 0,
        predicted=predicted,
        seconds=time.perf_counter() - start,
    )


class _Job:
    """A batch prediction; whatever can be checked without the model is checked at once."""

    def __init__(self, source: Path, spec: JobSpec, config: BatchConfig) -> None:
        self._spec, self._config = spec, config
        self._catalog = catalog = Catalog(source, config.split)
        if config.out.suffix != ".parquet" or config.out.is_dir():
            found = "it is a folder" if config.out.is_dir() else "its name has another ending"
            raise ValueError(f"--out {config.out} must be a .parquet file: {found}")
        catalog.check_output(config.out)
        schema = prediction_schema(spec.template, has_splits=catalog.has_splits)
        self._kept = _kept_columns(config.keep, catalog.schema.names, schema.names)
        decisive = {
            "model": f"{spec.name} {digest(list(spec.identity))[:16]}",
            "template": json.dumps(dataclasses.asdict(spec.template), ensure_ascii=False),
            "grammar": digest(spec.grammar)[:16] if spec.grammar is not None else "none",
            "data": digest(catalog.identity())[:16],
            "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
        }
        fields = [catalog.schema.field(old).with_name(new) for new, old in self._kept.items()]
        metadata = {**decisive, JOB_KEY: digest(decisive), KEPT_KEY: json.dumps(self._kept)}
        self._table_schema = pa.schema([*schema, *fields], metadata=metadata)
        self._part_schema = schema.with_metadata(decisive)
        self.store = ResumeStore(config.out, decisive, restart=config.restart)

    def is_done(self) -> bool:
        """Whether the table exists; raise a ValueError if the file is another one."""
        out, wanted = self._config.out, self._table_schema
        if self._config.restart or not out.exists():
            return False
        try:
            found = pq.read_schema(out)
        except (OSError, pa.ArrowException):
            found = pa.schema([])
        if (found.metadata, found.names) == (wanted.metadata, wanted.names):
            return True
        is_job = JOB_KEY.encode() in (found.metadata or {})
        what = "other predictions" if is_job else "something else"
        raise ValueError(
            f"{out} exists and holds {what} (another model, template, grammar, data, version or "
            "--keep); choose another --out, or replace it with --restart"
        )

    def predict_missing(self, progress: Progress) -> int:
        """Predict and store the missing rows; return their number."""
        rows, spec, config = self._catalog.rows, self._spec, self._config
        self.store.folder.mkdir(parents=True, exist_ok=True)
        finished = self.store.spans()
        done = before = sum(map(len, finished))
        progress(done, rows)
        missing = (
            part
            for span in gaps(finished, rows)
            for part in self._catalog.parts(span, config.rows_per_part)
        )
        for part, outcomes in ENGINES[config.engine](spec, missing, config):
            self.store.add(part.span, to_table(part, outcomes, spec.template, self._part_schema))
            done += len(part.rows)
            progress(done, rows)
        return done - before

    def write_table(self) -> None:
        """Join the parts to the table, atomically."""
        schema = self._table_schema
        with (
            atomic_file(self._config.out, unfinished=self.store.folder / "joined") as unfinished,
            pq.ParquetWriter(unfinished, schema) as writer,
        ):
            for table in self._row_groups():
                writer.write_table(table.cast(schema), row_group_size=ROWS_PER_GROUP)

    def _row_groups(self) -> Iterator[pa.Table]:
        """Read the parts in order, in groups that do not depend on the size of the parts."""
        waiting, start = self._part_schema.empty_table(), 0
        for span in [*self.store.spans(), None]:
            if span is not None:
                waiting = pa.concat_tables([waiting, self.store.read(span)])
            while waiting.num_rows >= ROWS_PER_GROUP or (span is None and waiting.num_rows):
                table = waiting.slice(0, ROWS_PER_GROUP).combine_chunks()
                waiting = waiting.slice(ROWS_PER_GROUP)
                stop = start + table.num_rows
                if self._kept:
                    source = self._catalog.columns(list(self._kept.values()), range(start, stop))
                    for name, column in self._kept.items():
                        table = table.append_column(name, source.combine_chunks()[column])
                start = stop
                yield table
        assert start == self._catalog.rows, f"{start} of {self._catalog.rows} rows are predicted"


def _kept_columns(
    words: Sequence[str], columns: Sequence[str], taken: Sequence[str]
) -> dict[str, str]:
    """Parse --keep.

    Input:  ["brand", "full_price=true_price"]
    Output: {"brand": "brand", "true_price": "full_price"}
    """
    kept: dict[str, str] = {}
    for word in words:
        column, _, name = word.partition("=")
        name = name or column
        if column not in columns:
            raise ValueError(
                f"cannot keep {column!r}: there is no such column of plain values in all files of "
                f"the source; it has {', '.join(columns) or 'none'}"
            )
        if name in taken or name in kept:
            raise ValueError(
                f"cannot keep {column!r} as {name!r}: the predictions have a column of that name; "
                f"rename it, such as --keep {column}=true_{column}"
            )
        kept[name] = column
    return kept


@contextmanager
def _explain_full_disk(store: "ResumeStore") -> Iterator[None]:
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


class ResumeStore:
    """Finished parts, in a hidden folder beside the output file.

        predictions.parquet                                    only when every row is predicted
        .predictions.parquet.parts/000000000064-000000000128.parquet

    Parts appear atomically, so that an interruption costs only the part in progress. Their metadata
    are the job: what decides the predictions (model, template, data, grammar), each as text.

    Raises:
        ValueError: There are parts of another job, and `restart` does not discard them.
    """

    def __init__(self, out: Path, job: Mapping[str, str], *, restart: bool = False) -> None:
        self.out, self.folder = out, out.with_name(f".{out.name}.parts")
        self._job = job
        if restart:
            self.remove()
        self.spans()

    def spans(self) -> list[range]:
        """List the finished spans in order, without overlaps."""
        chosen: list[range] = []
        for file in sorted(self.folder.glob("[0-9]*-[0-9]*.parquet")):
            span = range(*map(int, file.stem.split("-")))
            try:
                found = pq.read_metadata(file)
            except (OSError, pa.ArrowException):  # A power cut may leave a name without content.
                continue
            self._check_job(found.metadata or {})
            if found.num_rows == len(span) and span.start >= (chosen[-1].stop if chosen else 0):
                chosen.append(span)
        return chosen

    def add(self, span: range, table: pa.Table) -> None:
        """Store a part atomically."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_bytes(self._file(span), buffer.getbuffer())

    def read(self, span: range) -> pa.Table:
        """Read a part."""
        return pq.ParquetFile(self._file(span)).read()

    def remove(self) -> None:
        """Remove the folder with all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, span: range) -> Path:
        return self.folder / f"{span.start:012d}-{span.stop:012d}.parquet"

    def _check_job(self, found: Mapping[bytes, bytes]) -> None:
        others = [
            name for name in self._job if found.get(name.encode()) != self._job[name].encode()
        ]
        if others:
            raise ValueError(
                f"{self.folder} holds predictions of another job: another {' and '.join(others)}; "
                "run the former job again to resume it, choose another --out, or discard them with "
                "--restart"
            )


def gaps(done: Sequence[range], rows: int) -> Iterator[range]:
    """List the missing spans: 64 to 128 and 192 to 200 if 0 to 64 and 128 to 192 are done."""
    start = 0
    for span in [*done, range(rows, rows)]:
        if start < span.start:
            yield range(start, span.start)
        start = span.stop


def prediction_schema(template: Template, *, has_splits: bool) -> pa.Schema:
    """List the columns; raise a ValueError if a field has the name of another column."""
    types = {"text": pa.string(), "category": pa.string(), "number": pa.float64()}
    columns = [("id", pa.string())] + ([("split", pa.string())] if has_splits else [])
    columns += [(field, types[kind]) for field, kind in template.kinds.items()]
    columns += [(CONFIDENCE + field, pa.float64()) for field in template.fields]
    columns += [("readable", pa.bool_()), ("text", pa.string())]
    schema = pa.schema([*columns, ("error", pa.string()), ("error_detail", pa.string())])
    for field in template.fields:
        if schema.names.count(field) > 1:
            raise ValueError(
                f"the template {template.name!r} has a field {field!r}, which is also the name of "
                "another column of the predictions; give --template a copy of the template in "
                f"which the field has another name, such as {field}_read"
            )
    return schema


def to_table(
    part: CatalogPart, outcomes: Sequence[Outcome], template: Template, schema: pa.Schema
) -> pa.Table:
    """Convert the outcomes of a part to a table in the `prediction_schema`."""
    rows = [
        {"id": _storable(row.id), "split": row.split} | _cells(outcome, template)
        for row, outcome in zip(part.rows, outcomes, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _cells(outcome: Outcome, template: Template) -> dict[str, object]:
    if isinstance(outcome, Failure):
        return {"error": outcome.reason, "error_detail": _storable(outcome.detail)}
    record = outcome.record or {}
    return {
        **{field: _cell(record.get(field), kind) for field, kind in template.kinds.items()},
        **{CONFIDENCE + field: float(value) for field, value in outcome.confidence.items()},
        "readable": outcome.record is not None,
        "text": _storable(outcome.text),
    }


def _cell(value: Value, kind: Kind) -> float | str | None:
    """Convert a value; one of another kind than its field remains in the text."""
    if value is None or (kind == "number" and isinstance(value, bool | str)):
        return None
    if kind != "number":
        return _storable(str(value))
    try:
        return float(value)
    except OverflowError:  # An integer of more than 308 digits.
        return None


def _storable(text: str) -> str:
    """Escape undecodable bytes of file names and lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
