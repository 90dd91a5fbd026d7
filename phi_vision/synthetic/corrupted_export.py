"""Writes an export like a real shop's, with planted corruptions and a list of them.

`products.csv` (semicolons, decimal commas, line breaks in cells), `images/` beside it, and
`faults.jsonl`, by which a test can check what became of each corrupted row.
"""

import csv
import io
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.data.dataset import GROUP_COLUMNS, ID_COLUMNS, IMAGE_COLUMNS, files_by_split
from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.synthetic.corruptions import CORRUPTIONS, Line
from phi_vision.synthetic.observation import read_rows

Encoding = Literal["cp1252", "utf-8-sig"]
"""The encodings of spreadsheets: Western European, or UTF-8 with a byte order mark."""

ENCODINGS: tuple[Encoding, ...] = ("cp1252", "utf-8-sig")
DESCRIPTION = "description"
IMAGE = "image"

_CARE = ("Hand wash\nDry flat", "Dry clean only", "Wipe clean; keep dry\nMade in Österreich")


@dataclass(frozen=True, kw_only=True)
class PlantedCorruption:
    """One line of `faults.jsonl`."""

    row: int  # place of the corrupted row among the rows of products.csv, from 0
    fault: str  # name of the corruption
    column: str
    before: str  # the clean text
    after: str  # the corrupted text
    outcome: str  # what `prepare` must do
    mended: str | None  # the repaired text, in the notation of the export, where that is known
    partner: int | None = None  # the row it must be grouped with


def write_export(
    dataset: Path, out: Path, *, rate: float, seed: int, encoding: Encoding | None = None
) -> Path:
    """Turn a clean dataset into the export of a shop, with corruptions in some of its rows.

    Each kind of corruption is about as frequent as the others. A row that repeats another is added
    after it. OUT appears atomically; the same dataset and seed give the same bytes.

    Args:
        dataset: a prepared or drawn dataset's folder, with one image a row.
        out: a folder that does not exist yet, or is empty.
        rate: fraction of corrupted rows, 0 to 1.
        seed: of everything.
        encoding: of products.csv; chosen by the seed by default.

    Returns:
        The path of products.csv.

    Raises:
        ValueError: The rate is not a fraction, the dataset is unreadable, or `out` is in use.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate of faults is {rate}; use a fraction from 0 to 1, such as 0.1")
    check_folder_is_free(out)
    files = [file for files in files_by_split(dataset).values() for file in files]
    schema = pq.read_schema(files[0])
    rng = random.Random(f"export {seed}")
    with atomic_folder(out) as folder:
        chosen = rng.choice(ENCODINGS) if encoding is None else encoding
        with (
            (folder / "products.csv").open("wb") as table,
            (folder / "faults.jsonl").open("w", encoding="utf-8") as corruptions,
        ):
            writer = _Writer(folder, table, chosen)
            names = [c.name for c in schema if c.name not in IMAGE_COLUMNS and _is_plain(c.type)]
            columns = _find_columns(names, schema)
            # utf-8-sig would begin every line with a byte order mark.
            table.write(_csv_line([*names, DESCRIPTION, IMAGE]).encode(chosen))
            rows = (row for file in files for row in read_rows(file))
            for planted in _corrupt(_clean_lines(rows, names, columns, rng), rate, rng, writer):
                corruptions.write(json.dumps(asdict(planted), ensure_ascii=False) + "\n")
    return out / "products.csv"


def read_corruptions(export: Path) -> list[PlantedCorruption]:
    """Read the list of an export's corruptions.

    Args:
        export: the folder that `write_export` wrote.
    """
    lines = (export / "faults.jsonl").read_text(encoding="utf-8").splitlines()
    return [PlantedCorruption(**json.loads(line)) for line in lines]


class _Writer:
    """Writes lines and images, counting rows."""

    def __init__(self, folder: Path, table: IO[bytes], encoding: Encoding) -> None:
        self.rows = 0
        self._folder = folder
        self._table = table
        own = "utf-8" if encoding == "utf-8-sig" else encoding
        self._encodings = (own, "cp1252" if own == "utf-8" else "utf-8")
        (folder / "images").mkdir()

    def write(self, line: Line) -> int:
        """Write a line; return its row."""
        text = _csv_line([*line.cells.values(), *line.extra])
        self._table.write(text.encode(self._encodings[line.foreign], errors="replace"))
        if line.image is not None:
            (self._folder / line.cells[IMAGE]).write_bytes(line.image)
        self.rows += 1
        return self.rows - 1


def _clean_lines(
    rows: Iterable[Mapping[str, Any]],
    names: Sequence[str],
    columns: Mapping[str, str],
    rng: random.Random,
) -> Iterator[Line]:
    for number, row in enumerate(rows):
        cells = {name: _format(row[name]) for name in names}
        cells[DESCRIPTION] = rng.choice(_CARE)
        cells[IMAGE] = f"images/{number:06d}.jpg"
        yield Line(cells=cells, columns=columns, image=_image(row))


def _corrupt(
    lines: Iterable[Line], rate: float, rng: random.Random, writer: _Writer
) -> Iterator[PlantedCorruption]:
    kinds: Iterator[str] | None = None
    for clean in lines:
        if rng.random() >= rate:
            writer.write(clean)
            continue
        kinds = kinds or _cycle(clean.columns, rng)
        # A cell that is empty already cannot be corrupted; an image is always there.
        name = next(each for each in kinds if clean.cells[_column_of(each, clean)])
        kind, column = CORRUPTIONS[name], _column_of(name, clean)
        corrupted = kind.apply(clean, rng)
        row, partner = writer.write(corrupted), None
        if corrupted.echo is not None:
            corrupted, partner = corrupted.echo, row
            row = writer.write(corrupted)
        yield PlantedCorruption(
            row=row,
            fault=name,
            column=column,
            before=clean.cells[column],
            after=corrupted.cells[column],
            outcome=kind.outcome,
            mended=kind.mend(clean.cells[column]) if kind.mend else None,
            partner=partner,
        )


def _cycle(columns: Mapping[str, str], rng: random.Random) -> Iterator[str]:
    """Yield corruptions without end, each as often as the others, in a shuffled order."""
    names = [name for name, kind in CORRUPTIONS.items() if kind.part in {"id", *columns}]
    while True:
        rng.shuffle(names)
        yield from names


def _column_of(name: str, line: Line) -> str:
    # Without an id, the first column stands for the whole row.
    return line.columns.get(CORRUPTIONS[name].part) or next(iter(line.cells))


def _find_columns(names: Sequence[str], schema: pa.Schema) -> dict[str, str]:
    """Map the parts of a product to their columns."""
    floats = [name for name in names if pa.types.is_floating(schema.field(name).type)]
    candidates = {
        "id": ID_COLUMNS,
        "group": GROUP_COLUMNS[:1],
        "title": ("title", "name"),
        "category": [name for name in reversed(names) if "categor" in name.lower()],
        "price": [name for name in ("full_price", "price") if name in floats],
        "image": [IMAGE],
    }
    found = {part: [n for n in each if n in {*names, IMAGE}] for part, each in candidates.items()}
    return {part: columns[0] for part, columns in found.items() if columns}


def _is_plain(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(kind) and not pa.types.is_binary(kind)


def _image(row: Mapping[str, Any]) -> bytes:
    cell = next((row[name] for name in IMAGE_COLUMNS if name in row), None)
    cell = cell[0] if isinstance(cell, list) and cell else cell
    encoded = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(encoded, bytes):
        raise ValueError(
            "cannot write an export: a row of the dataset has no image bytes; use a dataset "
            "that `phi-vision sample` or `phi-vision prepare` wrote"
        )
    return encoded


def _format(value: object) -> str:
    """Format a value as a continental spreadsheet does.

    Input:  1234.5, None, "Wool Coat"
    Output: "1234,50", "", "Wool Coat"
    """
    if isinstance(value, float):
        return f"{value:.2f}".replace(".", ",")
    return "" if value is None else str(value)


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=";", lineterminator="\r\n").writerow(cells)
    return text.getvalue()
