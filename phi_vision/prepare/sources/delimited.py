"""CSV and its relatives: separator, header and quoting are detected; text stays text.

Lines are assembled into rows here and not by the `csv` module or pyarrow: after one quote that is
never closed those would take the rest of the file for a single cell.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from phi_vision.prepare.sources import files, text_files
from phi_vision.prepare.sources.rows import Found, Source, UnreadableRow, storable

CSV_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
SEPARATORS = {",": ",", ";": ";", "\t": "tab", "|": "|"}  # separator -> display name
SAMPLE_LINES = 500
MAX_ROW_LINES = 1000  # a quote that stays open for longer was not meant to open one
_CLOSED = re.compile(r'(?:[^"]++|"")*+"')
_OPENS = re.compile(r' *"')
_SEPARATOR_LINE = re.compile(r'\ufeff*"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line
_ADDRESS = re.compile(r"\s*(https?://|data:image/)", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?\d[\d.,]*\s*")
_COMMA_DECIMAL = re.compile(r"\s*\D{0,5}(?:\d+|\d{1,3}(?:[. ]\d{3})+),\d{1,2}\D{0,5}\s*")


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """How a text file encodes its table."""

    encoding: str
    separator: str
    names: Sequence[str]  # unique column names; none for an empty file
    start: int  # line of the first row
    detected: Mapping[str, str]  # `{"encoding": "cp1252", "separator": ";"}`


def open_csv(name: str, *, split: str | None = None) -> Source:
    """Open a delimited text file, or a folder of them.

    Input:  "products.csv" with "sku;price" and "A;1.299,50" in cp1252
    Output: Source(kind="csv", rows=… Row(values={"sku": "A", "price": "1.299,50"}),
                   detected={"encoding": "cp1252", "separator": ";", "decimal comma in": "price"})
    """
    # In a folder, a .txt file is a licence or a list rather than a table.
    suffixes = CSV_SUFFIXES if Path(name).is_file() else CSV_SUFFIXES[:-1]
    parts = files.find_parts(Path(name), suffixes, split)
    formats = {part.file: detect_format(part.file) for part in parts}
    detected = [form.detected for form in formats.values() if form.names]
    if not detected:
        raise ValueError(f"{name} is empty: found no header and no row; give a file with both")
    return files.file_source(name, "csv", parts, partial(read_table, formats), detected)


def detect_format(file: Path) -> TableFormat:
    """Detect encoding, separator and header of a table.

    The header is the first line with more than one cell. A line of web addresses or mostly numbers
    is no header; the columns are then column_1, column_2, ….
    """
    encoding = text_files.detect_encoding(file)
    lines = list(islice(text_files.read_lines(file, encoding.name), SAMPLE_LINES))
    separator = _detect_separator(lines, encoding.name)
    records = []
    for number, cells in _read_records(iter(lines), separator, encoding.name):
        if isinstance(cells, list):
            if not _SEPARATOR_LINE.fullmatch(separator.join(cells)):
                records.append((number, cells))
        elif not records:
            raise ValueError(
                f"cannot read the header of {file}: line {number} {cells.reason}, found "
                f"{storable(cells.raw[:80])!r}; mend that line, or save the table again as UTF-8"
            )
    wide = _usual_width([cells for _, cells in records]) > 1
    place = next((i for i, (_, cells) in enumerate(records) if wide and len(cells) > 1), 0)
    start, header = records[place] if records else (1, [])
    numeric = sum(_NUMBER.fullmatch(cell) is not None for cell in header)
    headless = any(_ADDRESS.match(cell) for cell in header) or numeric > len(header) / 2
    detected = encoding.described() | {"separator": SEPARATORS.get(separator, separator)}
    if headless:
        names = [f"column_{place}" for place in range(1, len(header) + 1)]
        detected["header"] = f"none: the first line looks like a row, so columns are {names[0]} …"
    else:
        names, renamed = _unique_names(header)
        detected |= {"columns renamed": ", ".join(renamed)} if renamed else {}
        start += bool(records)
    if place:
        detected["lines above the header"] = str(place)
    rows = [cells for number, cells in records if number >= start]
    commas = [name for i, name in enumerate(names) if _has_commas(rows, i, len(names))]
    detected |= {"decimal comma in": ", ".join(commas)} if commas else {}
    return TableFormat(
        encoding=encoding.name, separator=separator, names=names, start=start, detected=detected
    )


def read_table(formats: Mapping[Path, TableFormat], file: Path) -> Iterator[Found]:
    """Yield the rows of a table; one with too few or too many cells is unreadable.

    Input:  sku;title   in the format with separator ";"
            A;"Coat;
            long"
    Output: (" line 2", {"sku": "A", "title": "Coat;\nlong"})
    """
    form = formats[file]
    # The csv module refuses cells of more than 131,072 characters, and a data URI is longer; the
    # limit is one for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), text_files.MAX_LINE))
    lines = text_files.read_lines(file, form.encoding) if form.names else iter(())
    for number, cells in _read_records(lines, form.separator, form.encoding):
        if number >= form.start:
            yield (
                f" line {number}",
                _cells_by_name(cells, form) if isinstance(cells, list) else cells,
            )


def _read_records(
    lines: Iterator[text_files.Line], separator: str, encoding: str
) -> Iterator[tuple[int, list[str] | UnreadableRow]]:
    """Assemble lines into the cells of records, skipping blank lines.

    A quote that is never closed breaks the line in which it opens, and no other.
    """
    ahead: deque[text_files.Line] = deque()

    def next_line() -> text_files.Line | None:
        return ahead.popleft() if ahead else next(lines, None)

    while (line := next_line()) is not None:
        number, text = line
        if isinstance(text, UnreadableRow):
            yield number, text
            continue
        if not text.strip("\n "):
            continue
        texts, more = [text], list[text_files.Line]()
        is_open = _left_open(text, separator, inside=False)
        while is_open and len(texts) < MAX_ROW_LINES and (line := next_line()) is not None:
            more.append(line)
            if isinstance(line[1], UnreadableRow):
                break
            texts.append(line[1])
            is_open = _left_open(line[1], separator, inside=True)
        # If text follows the quote that closes a row of many lines, that quote opened a cell of a
        # later row, and the first was never closed.
        if is_open or (more and not _split(texts, separator, strict=True)):
            ahead.extendleft(reversed(more))
            unclosed = UnreadableRow(reason="a quote is never closed", raw=text)
            yield number, text_files.damage(text, encoding) or unclosed
        else:
            raw = "".join(texts)
            uncut = UnreadableRow(reason="cannot be split into cells", raw=raw)
            cells = text_files.damage(raw, encoding) or _split(texts, separator, strict=False)
            yield number, cells or uncut


def _left_open(text: str, separator: str, *, inside: bool) -> bool:
    """Whether a line ends inside quotes, given whether it began inside."""
    if '"' not in text:
        return inside
    place = 0
    if not inside and (opening := _OPENS.match(text)):
        place, inside = opening.end(), True
    while True:
        if inside:
            closed = _CLOSED.match(text, place)
            if closed is None:
                return True
            place = closed.end()
        place = text.find(separator, place) + 1
        if place == 0:
            return False
        opening = _OPENS.match(text, place)
        inside = opening is not None
        place = opening.end() if opening else place


def _split(texts: Sequence[str], separator: str, *, strict: bool) -> list[str]:
    try:
        rows = csv.reader(texts, delimiter=separator, skipinitialspace=True, strict=strict)
        return next(rows, [])
    except csv.Error:
        return []


def _cells_by_name(cells: list[str], form: TableFormat) -> dict[str, str] | UnreadableRow:
    width = len(form.names)
    # Spreadsheets pad rows with separators up to their widest one.
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    if len(cells) == width and any(cell.strip() for cell in cells):
        return dict(zip(form.names, cells, strict=True))
    more = "more" if len(cells) > width else "fewer"
    reason = f"found {more} cells than columns" if len(cells) != width else "all cells are empty"
    return UnreadableRow(reason=reason, raw=form.separator.join(cells))


def _detect_separator(lines: Sequence[text_files.Line], encoding: str) -> str:
    """Return the separator that cuts most lines into equally many cells, and more than one."""
    first = lines[0][1] if lines else ""
    if isinstance(first, str) and (stated := _SEPARATOR_LINE.fullmatch(first)):
        return stated[1]

    def fit(separator: str) -> tuple[float, int]:
        found = _read_records(iter(lines), separator, encoding)
        rows = [cells for _, cells in found if isinstance(cells, list)]
        width = _usual_width(rows)
        if width < 2:
            return 0, width
        return sum(len(row) == width for row in rows) / len(rows) + (len(rows[0]) > 1), width

    return max(SEPARATORS, key=fit)


def _usual_width(rows: Sequence[Sequence[str]]) -> int:
    return Counter(map(len, rows)).most_common(1)[0][0] if rows else 0


def _unique_names(header: Sequence[str]) -> tuple[list[str], list[str]]:
    """Make column names unique: a second "price" becomes "price_2", an empty name "column_3"."""
    names: list[str] = []
    renamed = []
    for place, cell in enumerate(header, start=1):
        given = " ".join(cell.replace("\ufeff", "").split())
        name, number = given or f"column_{place}", 2
        while name in names:
            name, number = f"{given}_{number}", number + 1
        if name != given:
            renamed.append(f"{given or f'column {place}'} -> {name}")
        names.append(name)
    return names, renamed


def _has_commas(rows: Sequence[Sequence[str]], place: int, width: int) -> bool:
    """Whether most cells of a column read like `1.299,50`."""
    cells = [row[place] for row in rows if len(row) == width and row[place].strip()]
    return sum(_COMMA_DECIMAL.fullmatch(cell) is not None for cell in cells) > len(cells) / 2
