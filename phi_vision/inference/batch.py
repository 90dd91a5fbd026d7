"""Batch prediction: a catalog becomes a Parquet table with one row for each of its rows, in order.

catalog -> parts -> predicted (by an engine) -> stored -> joined into one Parquet file
"""

import io
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phi_vision.data.acceptance import Acceptance
from phi_vision.data.samples import Value
from phi_vision.data.template import Kind, Template, find_template
from phi_vision.inference.batch_catalog import BatchConfig, Catalog, CatalogRow, Failure, failure
from phi_vision.inference.batch_engines import ENGINES, JobSpec, Outcome
from phi_vision.inference.local import resolve_template
from phi_vision.inference.predictor import load_predictor, model_identity
from phi_vision.io.atomic import atomic_file, check_kind, is_full_disk, lock, write_bytes
from phi_vision.io.formatting import format_bytes
from phi_vision.io.hashing import digest
from phi_vision.model.checkpoint import SMALL
from phi_vision.runs import package_versions

logger = logging.getLogger(__name__)

ROWS_PER_GROUP = 10_000  # some megabytes, which are held in memory
PACKAGES = ("phi-vision", "torch", "transformers")  # whose version may change a prediction
KEPT_KEY = "kept"  # Metadata of the table, beside its job's: the columns copied from the catalog.
ACCEPTANCE_KEY = "acceptance"  # The same for the rules that its calibrated columns come from.
CONFIDENCE, CALIBRATED, ACCEPT = "confidence_", "calibrated_", "accept_"
ACCEPTED = "accepted_"  # the accepted part of a path
Progress = Callable[[int, int], None]  # Called with the number of finished rows and of all rows.


def job_spec(
    model: str,
    *,
    template: str | None = None,
    grammar: str | None = None,
    batch_size: int = 16,
    acceptance: Acceptance | None = None,
) -> JobSpec:
    """Describe a job with the arguments of `load_predictor` (no file), a grammar of texts, and what
    `load_acceptance` returns for the model."""
    if Path(model).suffix == ".jsonl":
        raise failure("no_model", model=model)
    # Workers of a cluster have another working directory.
    chosen, place = (
        str(Path(path).absolute()) if path != SMALL and Path(path).exists() else path
        for path in (resolve_template(model, template), model)
    )
    return JobSpec(
        load=partial(load_predictor, place, template=chosen, batch_size=batch_size),
        model=f"{model} {digest(model_identity(model))[:16]}",
        template=find_template(chosen),
        grammar=grammar,
        acceptance=acceptance,
    )


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """Counts of rows: all, errors by reason, unparsed texts, and those predicted in this run; for
    each field, and for the whole record, the share of all rows that is accepted."""

    rows: int
    errors: Mapping[str, int]
    unparsed: int
    predicted: int
    seconds: float
    coverage: Mapping[str, float]


def predict_catalog(
    source: Path, spec: JobSpec, config: BatchConfig, progress: Progress | None = None
) -> BatchSummary:
    """Predict every row of a prepared folder, Parquet file or folder of images.

    `progress` is called at the start and after each part. Finished parts outlive any error: a
    ValueError where arguments do not fit or every prediction fails, an OSError of a full disk.
    """
    job = _Job(source, spec, config)
    start, predicted = time.perf_counter(), 0
    with lock(config.out):
        if config.restart:
            shutil.rmtree(job.folder, ignore_errors=True)
        job.finished_parts()  # Those of another job are an error, even beside a finished table.
        if not job.is_done():
            try:
                predicted = job.predict_missing(progress or (lambda done, total: None))
                job.write_table()
            except OSError as error:
                if not is_full_disk(error):
                    raise
                free = format_bytes(shutil.disk_usage(config.out.parent).free)
                raise OSError(
                    f"the disk is full ({free} are free): {error.strerror} while writing "
                    f"{config.out}; finished parts are kept in {job.folder}: free some space, and "
                    "the same command resumes"
                ) from error
        shutil.rmtree(job.folder, ignore_errors=True)
    names = _names(spec.acceptance, ACCEPT) if spec.acceptance and spec.acceptance.target else {}
    table = pq.ParquetFile(config.out).read(columns=["error", "readable", *names.values()])
    return BatchSummary(
        rows=table.num_rows,
        errors=Counter(table["error"].drop_null().to_pylist()),
        unparsed=pc.sum(pc.invert(table["readable"])).as_py() or 0,
        predicted=predicted,
        seconds=time.perf_counter() - start,
        coverage={name: pc.mean(table[column]).as_py() for name, column in names.items()},
    )


class _Job:
    """A batch prediction; finished parts are kept in a hidden folder beside the output file.

        predictions.parquet                                    only when every row is predicted
        .predictions.parquet.parts/000000000064-000000000128.parquet

    Parts appear atomically, so that an interruption costs only the part in progress. Their metadata
    are what decides the predictions: model, template, grammar, data and versions. What is accepted
    is decided when they are joined, by one rule for all rows: a finished table to which another
    applies is a part of all rows.
    """

    def __init__(self, source: Path, spec: JobSpec, config: BatchConfig) -> None:
        """Check whatever can be checked without the model."""
        self._spec, self._config, out = spec, config, config.out
        self._catalog = catalog = Catalog(source, config.split)
        if out.suffix != ".parquet" or out.is_dir():
            found = "it is a folder" if out.is_dir() else "its name has another ending"
            raise failure("not_parquet", out=out, found=found)
        check_kind(out, is_folder=False)
        catalog.check_output(out)
        if catalog.has_conversations and not spec.template.is_conversation:
            logger.warning(
                "%s holds conversations: the model gets their prompts, but its texts are parsed by "
                "the template %r; for texts alone add --template conversation",
                source,
                spec.template.name,
            )
        describe = partial(prediction_schema, spec.template, has_splits=catalog.has_splits)
        schema = describe(acceptance=spec.acceptance)
        self._kept = _kept_columns(config.keep, catalog.schema.names, schema.names)
        versions = package_versions()
        decisive = {
            "model": spec.model,
            "template": json.dumps(spec.template.as_dict(), ensure_ascii=False),
            "grammar": digest(spec.grammar)[:16] if spec.grammar is not None else "none",
            "data": digest(catalog.identity())[:16],
            "versions": ", ".join(f"{package} {versions[package]}" for package in PACKAGES),
        }
        fields = [catalog.schema.field(old).with_name(new) for new, old in self._kept.items()]
        metadata = decisive | {KEPT_KEY: json.dumps(self._kept)}
        if spec.acceptance is not None:
            metadata[ACCEPTANCE_KEY] = json.dumps(asdict(spec.acceptance))
        self._table_schema = pa.schema([*schema, *fields], metadata=metadata)
        self._part_schema = describe().with_metadata(decisive)
        self.folder = out.with_name(f".{out.name}.parts")

    def is_done(self) -> bool:
        """Whether the table exists; raise a ValueError if the file is another one."""
        out, wanted = self._config.out, self._table_schema
        if self._config.restart or not out.exists():
            return False
        found = self._found_schema()
        if (found.metadata, found.names) == (wanted.metadata, wanted.names):
            return True
        if self._has_predictions():
            return False
        is_job = KEPT_KEY.encode() in (found.metadata or {})
        what = "other predictions" if is_job else "something else"
        raise failure("other_table", out=out, what=what)

    def _found_schema(self) -> pa.Schema:
        try:
            return pq.read_schema(self._config.out)
        except (OSError, pa.ArrowException):
            return pa.schema([])

    def _has_predictions(self) -> bool:
        """Whether the table exists and is of this job, but perhaps for what is accepted."""
        if self._config.restart:
            return False
        found, wanted = map(_without_acceptance, (self._found_schema(), self._table_schema))
        return found == wanted

    def predict_missing(self, progress: Progress) -> int:
        """Predict and store the missing rows; return their number."""
        rows, spec, config = self._catalog.rows, self._spec, self._config
        finished = self.finished_parts()
        done = before = sum(map(len, finished))
        progress(done, rows)
        spans = gaps(list(finished), rows)
        parts = (part for s in spans for part in self._catalog.parts(s, config.rows_per_part))
        for part, outcomes in ENGINES[config.engine](spec, parts, config):
            pairs = zip(part, outcomes, strict=True)
            cells = [_cells(row, outcome, spec.template) for row, outcome in pairs]
            buffer = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(cells, schema=self._part_schema), buffer)
            name = f"{part[0].position:012d}-{part[-1].position + 1:012d}.parquet"
            self.folder.mkdir(parents=True, exist_ok=True)  # nothing predicted leaves nothing
            write_bytes(self.folder / name, buffer.getbuffer())
            done += len(part)
            progress(done, rows)
        return done - before

    def write_table(self) -> None:
        """Join the parts to the table, atomically, in groups that do not depend on their size."""
        schema, start = self._table_schema, 0
        waiting = self._part_schema.empty_table()
        self.folder.mkdir(parents=True, exist_ok=True)  # a finished table has no parts
        with (
            atomic_file(self._config.out, unfinished=self.folder / "joined") as unfinished,
            pq.ParquetWriter(unfinished, schema) as writer,
        ):
            for file in [*self.finished_parts().values(), None]:
                if file is not None:
                    part = pq.ParquetFile(file).read(columns=waiting.schema.names)
                    waiting = pa.concat_tables([waiting, part.cast(waiting.schema)])
                while waiting.num_rows >= ROWS_PER_GROUP or (file is None and waiting.num_rows):
                    table = waiting.slice(0, ROWS_PER_GROUP).combine_chunks()
                    waiting = waiting.slice(ROWS_PER_GROUP)
                    span = range(start, start + table.num_rows)
                    start = span.stop
                    if self._kept:
                        source = self._catalog.columns(list(self._kept.values()), span)
                        for name, column in self._kept.items():
                            table = table.append_column(name, source[column].combine_chunks())
                    if self._spec.acceptance is not None:
                        table = _append_acceptance(table, self._spec.acceptance)
                    ordered = table.select(schema.names).cast(schema)
                    writer.write_table(ordered, row_group_size=ROWS_PER_GROUP)
        assert start == self._catalog.rows, f"{start} of {self._catalog.rows} rows are predicted"

    def finished_parts(self) -> dict[range, Path]:
        """Find the finished spans in order, without overlaps, and the file of each."""
        finished, stop = dict[range, Path](), 0
        for file in sorted(self.folder.glob("[0-9]*-[0-9]*.parquet")):
            span = range(*map(int, file.stem.split("-")))
            try:
                found = pq.read_metadata(file)
            except (OSError, pa.ArrowException):  # A power cut may leave a name without content.
                continue
            held, wanted = found.metadata or {}, self._part_schema.metadata
            if others := [key.decode() for key in wanted if held.get(key) != wanted[key]]:
                raise failure("other_parts", folder=self.folder, others=" and ".join(others))
            if found.num_rows == len(span) and span.start >= stop:
                finished[span], stop = file, span.stop
        whole = {range(self._catalog.rows): self._config.out}
        return whole if self._has_predictions() else finished


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
            raise failure("not_to_keep", column=column, columns=", ".join(columns) or "none")
        if name in taken or name in kept:
            raise failure("name_taken", column=column, name=name)
        kept[name] = column
    return kept


def gaps(done: Sequence[range], rows: int) -> Iterator[range]:
    """List the missing spans: 64 to 128 and 192 to 200 if 0 to 64 and 128 to 192 are done."""
    start = 0
    for span in [*done, range(rows, rows)]:
        if start < span.start:
            yield range(start, span.start)
        start = span.stop


def prediction_schema(
    template: Template, *, has_splits: bool, acceptance: Acceptance | None = None
) -> pa.Schema:
    """List the columns; raise a ValueError if a field has the name of another column."""
    types = {"number": pa.float64(), "boolean": pa.bool_()}
    columns = [("id", pa.string())] + ([("split", pa.string())] if has_splits else [])
    columns += [(field, types.get(kind, pa.string())) for field, kind in template.kinds.items()]
    known = (*template.fields, *chain(*template.levels.values()))
    columns += [(_column(CONFIDENCE, name), pa.float64()) for name in known]
    if acceptance is not None:
        columns += [(name, pa.float64()) for name in _names(acceptance, CALIBRATED).values()]
        if acceptance.target is not None:
            columns += [(name, pa.bool_()) for name in _names(acceptance, ACCEPT).values()]
            columns += [(ACCEPTED + path, pa.string()) for path in acceptance.levels]
    columns += [("readable", pa.bool_()), ("text", pa.string())]
    schema = pa.schema([*columns, ("error", pa.string()), ("error_detail", pa.string())])
    for field in template.fields:
        if any(schema.names.count(name) > 1 for name in (field, CALIBRATED + field)):
            raise failure("field_taken", template=template.name, field=field)
    return schema


def _names(acceptance: Acceptance, start: str) -> dict[str, str]:
    """List the column of each rule: {"whole record": "accept_whole_record", ...}."""
    return {name: _column(start, name) for name in acceptance.rules}


def _column(start: str, name: str) -> str:
    return start + name.replace(" ", "_")


def _append_acceptance(table: pa.Table, acceptance: Acceptance) -> pa.Table:
    """Append the calibrated confidence, null where it is unknown, and whether it is accepted."""
    is_readable = table["readable"].combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
    raw = {name: table[_column(CONFIDENCE, name)].to_numpy() for name in acceptance.known}
    known = {name: np.where(is_readable, values, np.nan) for name, values in raw.items()}
    calibrated = acceptance.calibrate(known)
    accepted = acceptance.accept(calibrated)
    for name, column in _names(acceptance, CALIBRATED).items():
        table = table.append_column(column, pa.array(calibrated[name], from_pandas=True))
    for name, column in _names(acceptance, ACCEPT).items():
        if name in accepted:
            table = table.append_column(column, pa.array(accepted[name]))
    for path in acceptance.levels if accepted else ():
        cut = acceptance.back_off(path, table[path].to_pylist(), accepted)
        table = table.append_column(ACCEPTED + path, pa.array(cut, pa.string()))
    return table


def _without_acceptance(schema: pa.Schema) -> dict[bytes, bytes] | None:
    """Return what decides a table but for its rules; None of another file."""
    metadata = dict(schema.metadata or {})
    metadata.pop(ACCEPTANCE_KEY.encode(), None)
    return metadata if KEPT_KEY.encode() in metadata else None


def _cells(row: CatalogRow, outcome: Outcome, template: Template) -> dict[str, object]:
    """Convert a row and its outcome to cells of the `prediction_schema`."""
    cells: dict[str, object] = {"id": _storable(row.id), "split": row.split}
    if isinstance(outcome, Failure):
        return cells | {"error": outcome.reason, "error_detail": _storable(outcome.detail)}
    record = outcome.record or {}
    cells |= {field: _cell(record.get(field), kind) for field, kind in template.kinds.items()}
    held = outcome.confidence.items()
    cells |= {_column(CONFIDENCE, name): float(value) for name, value in held}
    return cells | {"readable": outcome.record is not None, "text": _storable(outcome.text)}


def _cell(value: Value, kind: Kind) -> float | str | None:
    """Convert a value; one of another kind than its field remains in the text."""
    if kind == "boolean":
        return value if isinstance(value, bool) else None
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
