"""ResumeStore: finished parts of a batch prediction, in a hidden folder beside the output file.

    predictions.parquet                                    only when every row is predicted
    .predictions.parquet.parts/job.json                    what decides the predictions
    .predictions.parquet.parts/000000000064-000000000128.parquet

Parts appear atomically, so that an interruption costs only the part in progress.
"""

import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.inference.batch_sources import Span
from phi_vision.io.atomic import write_bytes, write_text

JOB_FILE = "job.json"

Job = Mapping[str, str]
"""What decides the predictions (model, template, data, grammar), each as text."""


class ResumeStore:
    """The parts of one output file.

    Args:
        out: The output file.
        job: What decides the predictions.
        restart: Whether to discard earlier parts.

    Raises:
        ValueError: There are parts of another job.
    """

    def __init__(self, out: Path, job: Job, *, restart: bool = False) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.parts")
        self._job = dict(job)
        if restart:
            self.remove()
        found = self._read_job()
        if found is not None and found != self._job:
            others = [name for name in job if found.get(name) != job[name]]
            raise ValueError(
                f"{self.folder} holds predictions of another job: another "
                f"{' and '.join(others or ['version of phi-vision'])}; run the former job again to "
                "resume it, choose another --out, or discard them with --restart"
            )

    def open(self) -> None:
        """Create the folder; parts without a job file are left from an interrupted removal."""
        if self._read_job() is None:
            self.remove()
            self.folder.mkdir(parents=True)
            text = json.dumps(self._job, indent=2, ensure_ascii=False)
            write_text(self.folder / JOB_FILE, text + "\n")

    def spans(self) -> list[Span]:
        """List the finished spans in order, without overlaps."""
        chosen: list[Span] = []
        for file in sorted(self.folder.glob("[0-9]*-[0-9]*.parquet")):
            span = Span(*map(int, file.stem.split("-")))
            if span.start >= (chosen[-1].stop if chosen else 0) and _is_complete(file, span):
                chosen.append(span)
        return chosen

    def add(self, span: Span, table: pa.Table) -> None:
        """Store a part atomically."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_bytes(self._file(span), buffer.getbuffer())

    def read(self, span: Span) -> pa.Table:
        """Read a part."""
        return pq.ParquetFile(self._file(span)).read()

    def remove(self) -> None:
        """Remove the folder with all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, span: Span) -> Path:
        return self.folder / f"{span.start:012d}-{span.stop:012d}.parquet"

    def _read_job(self) -> dict[str, str] | None:
        file = self.folder / JOB_FILE
        try:
            job: dict[str, str] = json.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(
                f"cannot read {file}: {error}; discard the parts there with --restart"
            ) from error
        return job


def gaps(done: Sequence[Span], rows: int) -> Iterator[Span]:
    """List the spans that are still missing.

    Input:  0 to 64 and 128 to 192 are done, of 200 rows
    Output: 64 to 128, 192 to 200
    """
    start = 0
    for span in [*done, Span(rows, rows)]:
        if start < span.start:
            yield Span(start, span.start)
        start = span.stop


def _is_complete(file: Path, span: Span) -> bool:
    """Whether a part can be read: a power cut may leave a name without content."""
    try:
        return bool(pq.read_metadata(file).num_rows == span.stop - span.start)
    except (OSError, pa.ArrowException):
        return False
