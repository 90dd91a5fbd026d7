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

from phi_vision.prepare.sources.rows import (
    Found,
    Source,
    UnreadableRow,
    file_source,
    find_parts,
    storable,
)
from phi_vision.prepare.sources.text_files import (
    MAX_LINE,
    Encoding,
    Line,
    damage,
    detect_encoding,
    read_lines,
)

CSV_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
SEPARATORS = {",": ",", ";": ";", "\t": "tab", "|": "|"}
"""Separator -> display name."""

SAMPLE_LINES = 500
MAX_ROW_LINES = 1000
"""A quote that stays open for longer was not meant to open one."""

_CLOSED = re.compile(r'(?:[^"]++|"")*+"')
_OPENS = re.compile(r' *"')
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line
_ADDRESS = re.compile(r"\s*(https?://|data:image/)", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?\d[\d.,]*\s*")
_COMMA_DECIMAL = re.compile(r"\D{0,5}(?:\d+|\d{1,3}(?:[. ]\d{3})+),\d{1,2}\D{0,5}")


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """How a text file encodes its table."""

    encoding: Encoding
    separator: str
    names: tuple[str, ...]
    """Unique column names; none for an empty file."""

    first_line: int
    """Line of the first row."""

    remarks: Mapping[str, str]
    """Further findings for display: `{"decimal comma in": "price"}`."""

    def described(self) -> dict[str, str]:
        """Describe it: {"encoding": "cp1252", "separator": ";", "decimal comma in": "price"}."""
        separator = SEPARATORS.get(self.separator, self.separator)
        return {**self.encoding.described(), "separator": separator, **self.remarks}


def open_csv(name: str, *, split: str | None = None) -> Source:
    """Open a delimited text file, or a folder of them.

    Input:  "products.csv" with "sku;price" and "A;1.299,50" in cp1252
    Output: Source(kind="csv", rows=… Row(values={"sku": "A", "price": "1.299,50"}),
                   detected={"encoding": "cp1252", "separator": ";", "decimal comma in": "price"})

    Raises:
        ValueError: There is no such file or split, it is empty, or its encoding or header cannot be
            determined.
    """
    # In a folder, a .txt file is a licence or a list rather than a table.
    suffixes = CSV_SUFFIXES if Path(name).is_file() else CSV_SUFFIXES[:-1]
    parts = find_parts(Path(name), suffixes, split)
    formats = {part.file: detect_format(part.file) for part in parts}
    if not any(form.names for form in formats.values()):
        raise ValueError(f"{name} is empty: found no header and no row; give a file with both")
    detected = join_remarks([form.described() for form in formats.values() if form.names])
    return file_source(name, "csv", parts, partial(read_table, formats), detected)


def join_remarks(remarks: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Merge the remarks of several files: equal ones once, different ones with commas."""
    names = dict.fromkeys(name for each in remarks for name in each)
    return {
        name: ", ".join(dict.fromkeys(each[name] for each in remarks if name in each))
        for name in names
    }


def detect_format(file: Path) -> TableFormat:
    """Detect encoding, separator and header of a table.

    The header is the first line with more than one cell. A line of web addresses or mostly numbers
    is no header; the columns are then column_1, column_2, ….

    Raises:
        ValueError: No encoding gives readable text, or the first line cannot be read.
    """
    encoding = detect_encoding(file)
    lines = list(islice(read_lines(file, encoding.name), SAMPLE_LINES))
    separator = _detect_separator(lines, encoding.name)
    records = _sample_records(lines, separator, encoding.name, file)
    if not records:
        return TableFormat(
            encoding=encoding, separator=separator, names=(), first_line=1, remarks={}
        )
    wide = _usual_width([cells for _, cells in records]) > 1
    place = next((i for i, (_, cells) in enumerate(records) if wide and len(cells) > 1), 0)
    number, header = records[place]
    numeric = sum(_NUMBER.fullmatch(cell) is not None for cell in header)
    headless = any(_ADDRESS.match(cell) for cell in header) or numeric > len(header) / 2
    names, remarks = _numbered_names(header) if headless else _unique_names(header)
    if place:
        remarks["lines above the header"] = str(place)
    remarks |= _decimal_commas(names, [c for _, c in records[place + (not headless) :]])
    first_line = number if headless else number + 1
    return TableFormat(
        encoding=encoding,
        separator=separator,
        names=names,
        first_line=first_line,
        remarks=remarks,
    )


def read_table(formats: Mapping[Path, TableFormat], file: Path) -> Iterator[Found]:
    """Yield the rows of a table; one with too few or too many cells is unreadable.

    Input:  sku;title   in the format with separator ";"
            A;"Coat;
            long"
    Output: (" line 2", {"sku": "A", "title": "Coat;\nlong"})
    """
    form = formats[file]
    if not form.names:
        return
    # The csv module refuses cells of more than 131,072 characters, and a data URI is longer; the
    # limit is one for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    lines = read_lines(file, form.encoding.name)
    for number, found in _read_records(lines, form.separator, form.encoding.name):
        if number >= form.first_line:
            row = found if isinstance(found, UnreadableRow) else _name_cells(found, form)
            yield f" line {number}", row


def _read_records(
    lines: Iterator[Line], separator: str, encoding: str
) -> Iterator[tuple[int, list[str] | UnreadableRow]]:
    """Assemble lines into records, skipping blank lines.

    A quote that is never closed breaks the line in which it opens, and no other.
    """
    ahead = _LineBuffer(lines)
    while (line := ahead.pop()) is not None:
        number, text = line
        if isinstance(text, UnreadableRow):
            yield number, text
        elif text.strip("\n "):
            yield number, _read_record(text, ahead, separator, encoding)


class _LineBuffer:
    """Lines that can be pushed back."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._ahead: deque[Line] = deque()

    def pop(self) -> Line | None:
        return self._ahead.popleft() if self._ahead else next(self._lines, None)

    def push(self, lines: Sequence[Line]) -> None:
        self._ahead.extendleft(reversed(lines))


def _read_record(
    text: str, ahead: _LineBuffer, separator: str, encoding: str
) -> list[str] | UnreadableRow:
    """Split one record into cells, consuming the further lines that its quotes span."""
    more: list[Line] = []
    texts = [text]
    is_open = _left_open(text, separator, inside=False)
    while is_open and len(texts) < MAX_ROW_LINES and (line := ahead.pop()) is not None:
        more.append(line)
        if isinstance(line[1], UnreadableRow):
            break
        texts.append(line[1])
        is_open = _left_open(line[1], separator, inside=True)
    # If text follows the quote that closes a row of many lines, that quote opened a cell of a
    # later row, and the first was never closed.
    if is_open or (more and _split(texts, separator, strict=True) is None):
        ahead.push(more)
        unclosed = UnreadableRow(reason="a quote is never closed", raw=text)
        return damage(text, encoding) or unclosed
    raw = "".join(texts)
    cells = _split(texts, separator, strict=False)
    uncut = UnreadableRow(reason="cannot be split into cells", raw=raw)
    return damage(raw, encoding) or cells or uncut


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


def _split(texts: Sequence[str], separator: str, *, strict: bool) -> list[str] | None:
    try:
        rows = csv.reader(texts, delimiter=separator, skipinitialspace=True, strict=strict)
        return next(rows, None)
    except csv.Error:
        return None


def _name_cells(cells: list[str], form: TableFormat) -> dict[str, str] | UnreadableRow:
    width = len(form.names)
    # Spreadsheets pad rows with separators up to their widest one.
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    if len(cells) == width and any(cell.strip() for cell in cells):
        return dict(zip(form.names, cells, strict=True))
    more = "more" if len(cells) > width else "fewer"
    reason = f"found {more} cells than columns" if len(cells) != width else "all cells are empty"
    return UnreadableRow(reason=reason, raw=form.separator.join(cells))


def _sample_records(
    lines: Sequence[Line], separator: str, encoding: str, file: Path
) -> list[tuple[int, list[str]]]:
    found = list(_read_records(iter(lines), separator, encoding))
    number, first = found[0] if found else (0, None)
    if isinstance(first, UnreadableRow):
        raise ValueError(
            f"cannot read the header of {file}: line {number} {first.reason}, found "
            f"{storable(first.raw[:80])!r}; mend that line, or save the table again as UTF-8"
        )
    return [
        (number, cells)
        for number, cells in found
        if not isinstance(cells, UnreadableRow)
        and not _SEPARATOR_LINE.fullmatch(separator.join(cells).lstrip("\ufeff"))
    ]


def _detect_separator(lines: Sequence[Line], encoding: str) -> str:
    """Return the separator that cuts most lines into equally many cells, and more than one."""
    first = lines[0][1] if lines else ""
    if isinstance(first, str) and (stated := _SEPARATOR_LINE.fullmatch(first.lstrip("\ufeff"))):
        return stated[1]

    def fit(separator: str) -> tuple[float, int]:
        found = _read_records(iter(lines), separator, encoding)
        rows = [cells for _, cells in found if not isinstance(cells, UnreadableRow)]
        width = _usual_width(rows)
        headed = bool(rows) and len(rows[0]) > 1
        share = sum(len(row) == width for row in rows) / max(1, len(rows))
        return (share + headed if width > 1 else 0), width

    return max(SEPARATORS, key=fit)


def _usual_width(rows: Sequence[Sequence[str]]) -> int:
    return Counter(map(len, rows)).most_common(1)[0][0] if rows else 0


def _numbered_names(cells: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    names = tuple(f"column_{place}" for place in range(1, len(cells) + 1))
    return names, {"header": f"none: the first line looks like a row, so columns are {names[0]} …"}


def _unique_names(header: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Make column names unique.

    Input:  "sku", "price", "", "price"
    Output: ("sku", "price", "column_3", "price_2"),
            {"columns renamed": "column 3 -> column_3, price -> price_2"}
    """
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
    return tuple(names), {"columns renamed": ", ".join(renamed)} if renamed else {}


def _decimal_commas(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """List the columns most of whose cells read like `1.299,50`."""
    found = []
    for place, name in enumerate(names):
        cells = [row[place].strip() for row in rows if len(row) == len(names)]
        cells = [cell for cell in cells if cell]
        if sum(_COMMA_DECIMAL.fullmatch(cell) is not None for cell in cells) > len(cells) / 2:
            found.append(name)
    return {"decimal comma in": ", ".join(found)} if found else {}
