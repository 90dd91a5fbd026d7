"""What is answered already: parts in a hidden folder beside the file that they become.

    predictions.parquet                                    only when all is answered
    .predictions.parquet.parts/asked.json                  what is asked, of whom, about what
    .predictions.parquet.parts/000000000064-000000000128.parquet

A part is there whole or not at all, so that a kill or a full disk costs what was under way.
"""

import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.inference.batches import Span
from phi_vision.io.atomic import write_bytes, write_text
from phi_vision.io.hashing import digest

ASKED_FILE = "asked.json"

Asked = Mapping[str, str]
"""What decides the predictions (model, template, data, grammar) -> words that change with it."""


def fingerprint(asked: Asked) -> str:
    """Name a question to a catalog in 64 letters."""
    return digest(dict(asked))


class ResumeStore:
    """Keeps parts of one output file.

    Args:
        out: The file that they become.
        asked: What decides the predictions.
        restart: Whether to forget what was answered before.

    Raises:
        ValueError: Answers to another question are kept there.
    """

    def __init__(self, out: Path, asked: Asked, *, restart: bool = False) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.parts")
        self._asked = dict(asked)
        if restart:
            self.remove()
        held = self._held()
        if held is not None and held != self._asked:
            raise ValueError(
                f"{self.folder} keeps answers to another question: another "
                f"{' and '.join(_differences(held, self._asked))}; give the former again to go on, "
                "another --out, or --restart to remove them"
            )

    def open(self) -> None:
        """Make the folder, with what is asked in it.

        Parts without it are what a removal that was killed left: to which question is not known.
        """
        if self._held() is None:
            self.remove()
            self.folder.mkdir(parents=True)
            text = json.dumps(self._asked, indent=2, ensure_ascii=False)
            write_text(self.folder / ASKED_FILE, text + "\n")

    def spans(self) -> list[Span]:
        """List what is answered, in order; no place twice."""
        found = []
        for file in sorted(self.folder.glob("[0-9]*-[0-9]*.parquet")):
            start, stop = map(int, file.stem.split("-"))
            if _is_whole(file, stop - start):
                found.append((start, stop))
        chosen: list[Span] = []
        for start, stop in sorted(found):
            if start >= (chosen[-1].stop if chosen else 0):
                chosen.append(Span(start=start, stop=stop))
        return chosen

    def add(self, span: Span, table: pa.Table) -> None:
        """Keep a part.

        Raises:
            OSError: The disk is full; what was kept before stays.
        """
        written = io.BytesIO()
        pq.write_table(table, written)
        file = self._file(span)
        write_bytes(file, written.getbuffer())

    def read(self, span: Span) -> pa.Table:
        """Read a part."""
        return pq.ParquetFile(self._file(span)).read()

    def remove(self) -> None:
        """Remove the folder with all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, span: Span) -> Path:
        return self.folder / f"{span.start:012d}-{span.stop:012d}.parquet"

    def _held(self) -> dict[str, str] | None:
        """Read what the parts answer; None where there are none."""
        try:
            held: dict[str, str] = json.loads((self.folder / ASKED_FILE).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(
                f"cannot read {self.folder / ASKED_FILE}: {error}; give --restart to remove what "
                "is kept there"
            ) from error
        return held


def gaps(done: Sequence[Span], rows: int) -> Iterator[Span]:
    """List what is still to be answered.

    Input:  0 to 64 and 128 to 192 are done, of 200 rows
    Output: 64 to 128, 192 to 200
    """
    start = 0
    for span in [*done, Span(start=rows, stop=rows)]:
        if start < span.start:
            yield Span(start=start, stop=span.start)
        start = span.stop


def _is_whole(file: Path, rows: int) -> bool:
    """Whether a part can be read: a power cut may leave one that has a name but no content."""
    try:
        return bool(pq.read_metadata(file).num_rows == rows)
    except (OSError, pa.ArrowException):
        return False


def _differences(held: Asked, asked: Asked) -> list[str]:
    return [name for name in asked if held.get(name) != asked[name]] or ["version of phi-vision"]
