"""Writes an export like a real shop's, with its faults, and an account of every fault.

`products.csv` (semicolons, decimal commas, line breaks in cells), `images/` beside it, and
`faults.jsonl`, by which a test can tell what became of each faulty row.
"""

import csv
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.data.dataset import GROUP_COLUMNS, ID_COLUMNS, IMAGE_COLUMNS, files_by_split
from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.synthetic.corruptions import FAULTS, Fault, Line, Parts

Encoding = Literal["cp1252", "utf-8-sig"]
"""What spreadsheets write: Western European, or UTF-8 with a byte order mark."""

ENCODINGS: tuple[Encoding, ...] = ("cp1252", "utf-8-sig")
DESCRIPTION = "description"
IMAGE = "image"

_SEPARATOR = ";"
_CARE = ("Hand wash\nDry flat", "Dry clean only", "Wipe clean; keep dry\nMade in Österreich")
_TITLES = ("title", "name")
_PRICES = ("full_price", "price")


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One line of `faults.jsonl`.

    Attributes:
        row: place of the faulty row among the rows of products.csv, from 0.
        fault: name of the fault.
        column: where it is.
        before: the text that stood there.
        after: the text that stands there now.
        outcome: what `prepare` has to do.
        mended: the text that mending gives, in the notation of the export; None where the fault
            is not in the text, or what becomes of it is left open.
        partner: the row it is to be grouped with; None where it is not about two rows.
    """

    row: int
    fault: str
    column: str
    before: str
    after: str
    outcome: str
    mended: str | None
    partner: int | None = None


def write_export(
    dataset: Path, out: Path, *, rate: float, seed: int, encoding: Encoding | None = None
) -> Path:
    """Turn a clean dataset into the export of a shop, with faults in some of its rows.

    Each kind of fault comes about as often as the others. A row that repeats another is added
    after it. OUT appears complete or not at all; the same dataset and seed give the same bytes.

    Args:
        dataset: a prepared or drawn dataset's folder, with one image a row.
        out: a folder that does not exist yet, or is empty.
        rate: share of rows that get a fault, 0 to 1.
        seed: of everything.
        encoding: of products.csv; chosen by the seed by default.

    Returns:
        The path of products.csv.

    Raises:
        ValueError: The rate is no share, the dataset cannot be read, or `out` is in use.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate of faults is {rate}; give a share from 0 to 1, such as 0.1")
    check_folder_is_free(out)
    files = [file for files in files_by_split(dataset).values() for file in files]
    with atomic_folder(out) as unfinished:
        rng = random.Random(f"export {seed}")
        chosen = rng.choice(ENCODINGS) if encoding is None else encoding
        writer = _Writer(unfinished, files[0], chosen)
        with writer.file, writer.account:
            writer.write(_rows(files), rate, rng)
    return out / "products.csv"


class _Writer:
    """Writes lines, images and the account of faults, counting rows."""

    def __init__(self, folder: Path, example: Path, encoding: Encoding) -> None:
        with pq.ParquetFile(example) as parquet:
            schema = parquet.schema_arrow
        self.columns = [c.name for c in schema if c.name not in IMAGE_COLUMNS and _is_plain(c)]
        self.parts = _find_parts(self.columns, schema)
        self.file: IO[bytes] = (folder / "products.csv").open("wb")
        self.account: IO[str] = (folder / "faults.jsonl").open("w", encoding="utf-8")
        self._folder = folder
        self._encoding = encoding
        self._rows = 0
        (folder / "images").mkdir()

    def write(self, rows: Iterator[Mapping[str, Any]], rate: float, rng: random.Random) -> None:
        """Write everything."""
        kinds = _in_turn(self.parts, rng)
        head = [*self.columns, DESCRIPTION, IMAGE]
        # utf-8-sig would begin every line with a byte order mark.
        self.file.write(_csv_line(head).encode(self._encoding))
        for number, row in enumerate(rows):
            line = self._clean_line(row, number, rng)
            if rng.random() < rate:
                self._write_faulty(line, self._next_fitting(kinds, line), rng)
            else:
                self._write_line(line)

    def _next_fitting(self, kinds: Iterator[str], line: Line) -> str:
        """Pass over faults of a cell that is empty already; an image is always there."""
        columns = ((name, _column_of(FAULTS[name], self.parts, self.columns)) for name in kinds)
        return next(name for name, column in columns if line.cells[column])

    def _clean_line(self, row: Mapping[str, Any], number: int, rng: random.Random) -> Line:
        cells = {column: _written(row[column]) for column in self.columns}
        cells[DESCRIPTION] = rng.choice(_CARE)
        cells[IMAGE] = f"images/{number:06d}.jpg"
        return Line(cells=cells, image=_image(row))

    def _write_faulty(self, clean: Line, name: str, rng: random.Random) -> None:
        fault = FAULTS[name]
        spoilt = fault.plant(clean, self.parts, rng)
        row = self._rows
        self._write_line(spoilt)
        if spoilt.echo is None:
            self._tell(clean, spoilt, row, name)
        else:
            self._write_line(spoilt.echo)
            self._tell(clean, spoilt.echo, row + 1, name, partner=row)

    def _tell(
        self, clean: Line, spoilt: Line, row: int, name: str, partner: int | None = None
    ) -> None:
        fault: Fault = FAULTS[name]
        column = _column_of(fault, self.parts, self.columns)
        planted = {
            "row": row,
            "fault": name,
            "column": column,
            "before": clean.cells[column],
            "after": spoilt.cells[column],
            "outcome": fault.outcome,
            "mended": fault.mend(clean.cells[column]) if fault.mend else None,
            "partner": partner,
        }
        self.account.write(json.dumps(planted, ensure_ascii=False) + "\n")

    def _write_line(self, line: Line) -> None:
        text = _csv_line([*line.cells.values(), *line.extra])
        own = "utf-8" if self._encoding == "utf-8-sig" else self._encoding
        other = "cp1252" if own == "utf-8" else "utf-8"
        self.file.write(text.encode(other if line.foreign else own, errors="replace"))
        self._rows += 1
        if line.image is not None:
            (self._folder / line.cells[IMAGE]).write_bytes(line.image)


def read_faults(export: Path) -> list[Planted]:
    """Read the account of an export's faults.

    Args:
        export: the folder that `write_export` wrote.
    """
    lines = (export / "faults.jsonl").read_text(encoding="utf-8").splitlines()
    return [Planted(**json.loads(line)) for line in lines]


def _rows(files: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=64):
                yield from batch.to_pylist()


def _in_turn(parts: Parts, rng: random.Random) -> Iterator[str]:
    """Name faults without end, each as often as the others, in a shuffled order."""
    names = [name for name, fault in FAULTS.items() if _is_possible(fault, parts)]
    while True:
        rng.shuffle(names)
        yield from names


def _is_possible(fault: Fault, parts: Parts) -> bool:
    columns = {"title": parts.title, "category": parts.category, "price": parts.price}
    return fault.part not in columns or columns[fault.part] is not None


def _column_of(fault: Fault, parts: Parts, columns: Sequence[str]) -> str:
    named = {
        "id": parts.id or columns[0],
        "title": parts.title,
        "category": parts.category,
        "price": parts.price,
        "image": parts.image,
    }
    column = named[fault.part]
    assert column is not None, "only possible faults are planted"
    return column


def _find_parts(columns: Sequence[str], schema: pa.Schema) -> Parts:
    categories = [column for column in columns if "categor" in column.lower()]
    prices = [c for c in _PRICES if c in columns and pa.types.is_floating(schema.field(c).type)]
    return Parts(
        id=next((column for column in ID_COLUMNS if column in columns), None),
        group=next((column for column in GROUP_COLUMNS[:1] if column in columns), None),
        title=next((column for column in _TITLES if column in columns), None),
        category=categories[-1] if categories else None,
        price=prices[0] if prices else None,
        image=IMAGE,
    )


def _is_plain(column: pa.Field) -> bool:
    return not pa.types.is_nested(column.type) and not pa.types.is_binary(column.type)


def _image(row: Mapping[str, Any]) -> bytes:
    cell = next((row[name] for name in IMAGE_COLUMNS if name in row), None)
    cell = cell[0] if isinstance(cell, list) and cell else cell
    encoded = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(encoded, bytes):
        raise ValueError(
            "cannot write an export: a row of the dataset has no image bytes; give a dataset "
            "that `phi-vision sample` or `phi-vision prepare` wrote"
        )
    return encoded


def _written(value: object) -> str:
    """Write a value as a continental spreadsheet does.

    Input:  1234.5, None, "Wool Coat"
    Output: "1234,50", "", "Wool Coat"
    """
    if isinstance(value, float):
        return f"{value:.2f}".replace(".", ",")
    return "" if value is None else str(value)


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=_SEPARATOR, lineterminator="\r\n").writerow(cells)
    return text.getvalue()
