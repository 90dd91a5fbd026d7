"""CSV and its relatives: separator, header and quoting are detected; text stays text.

The `csv` module and pyarrow take all that follows a quote that is never closed for a single cell.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from phi_vision.prepare.sources import text_files
from phi_vision.prepare.sources.files import check_width, failure
from phi_vision.prepare.sources.rows import Format, Found, UnreadableRow, Values, storable

SEPARATORS = {  # separator -> display name
    **{",": ",", ";": ";", "\t": "tab", "|": "|", "~": "~", "^": "^", "¦": "¦"},
    **{"\x01": "Ctrl-A", "\x1f": "unit separator"},
}
SAMPLE_LINES = 500
MAX_ROW_LINES = 1000  # a quote that stays open for longer was not meant to open one
# A quote inside of a cell, escaped by a backslash; before a separator, `"C:\\"` ends its cell.
_ESCAPED_QUOTE = re.compile(r'\\"(?!\s*(?:[,;\t|~^]|$))')
_SINGLE_QUOTED = re.compile(r"""\s*'[^"]*'\s*""")
_SEPARATOR_LINE = re.compile(r'\ufeff*"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line
_ADDRESS = re.compile(r"\s*(https?://|data:image/)", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?\d[\d.,]*\s*")
_COMMA_DECIMAL = re.compile(r"\s*\D{0,5}(?:\d+|\d{1,3}(?:[. ]\d{3})+),\d{1,2}\D{0,5}\s*")


class Dialect(NamedTuple):
    """How a table separates and quotes its cells."""

    separator: str
    quote: str = '"'
    is_escaped: bool = False  # whether a backslash stands before quotes inside of cells


def inspect_table(file: Path) -> Format:
    """Detect encoding, separator and header of a delimited text file.

    The header is the first line of several cells, unless those are web addresses or numbers.
    Output: {"encoding": "cp1252", "separator": ";", "decimal comma in": "price"}, the reader
    """
    facts = text_files.detect_encoding(file)
    encoding = facts["encoding"]
    lines = list(islice(text_files.read_lines(file, encoding), SAMPLE_LINES))
    dialect = _detect_dialect(lines, encoding)
    separator = dialect.separator
    records = []
    for number, cells in _read_records(iter(lines), dialect, encoding):
        if isinstance(cells, list):
            if not _SEPARATOR_LINE.fullmatch(separator.join(cells)):
                records.append((number, cells))
        elif not records:
            found = f"line {number} {cells.reason}, found {storable(cells.raw[:80])!r}"
            raise failure("unreadable_header", file=file, found=found)
    if not records:
        return {}, tuple  # an empty file has no rows, and its format is not known
    wide = _usual_width([cells for _, cells in records]) > 1
    place = next((i for i, (_, cells) in enumerate(records) if wide and len(cells) > 1), 0)
    start, header = records[place]
    facts["separator"] = SEPARATORS.get(separator, separator)
    facts |= {"quotes": "single"} if dialect.quote == "'" else {}
    facts |= {"quotes": "escaped by a backslash"} if dialect.is_escaped else {}
    check_width(file, header)
    numeric = sum(_NUMBER.fullmatch(cell) is not None for cell in header)
    if any(map(_ADDRESS.match, header)) or numeric > len(header) / 2:
        names = [f"column_{number}" for number in range(1, len(header) + 1)]
        facts["header"] = "none: the first line looks like a row, so columns are column_1 …"
    else:
        names, renamed = _unique_names(header)
        facts |= {"columns renamed": ", ".join(renamed)} if renamed else {}
        start += 1
    if place:
        facts["lines above the header"] = str(place)
    rows = [cells for number, cells in records if number >= start and len(cells) == len(names)]
    commas = [name for name, *cells in zip(names, *rows, strict=True) if _use_commas(cells)]
    facts |= {"decimal comma in": ", ".join(commas)} if commas else {}
    return facts, partial(_read_table, file, encoding, dialect, names, start)


def _read_table(
    file: Path, encoding: str, dialect: Dialect, names: Sequence[str], start: int
) -> Iterator[Found]:
    lines = text_files.read_lines(file, encoding)
    for number, cells in _read_records(lines, dialect, encoding):
        if number >= start:
            named = _named(cells, names, dialect.separator) if isinstance(cells, list) else cells
            yield f" line {number}", named


def _named(cells: list[str], names: Sequence[str], separator: str) -> Values:
    # Spreadsheets pad rows with separators up to their widest one.
    while len(cells) > len(names) and not cells[-1].strip():
        cells.pop()
    if len(cells) != len(names):
        more = "more" if len(cells) > len(names) else "fewer"
        return UnreadableRow(f"found {more} cells than columns", separator.join(cells))
    if not any(cell.strip() for cell in cells):
        return UnreadableRow("all cells are empty", separator.join(cells))
    # ="000016" is how Excel keeps a text of digits.
    plain = (cell[2:-1] if cell[:2] == '="' and cell[-1:] == '"' else cell for cell in cells)
    return dict(zip(names, plain, strict=True))


def _read_records(
    lines: Iterator[text_files.Line], dialect: Dialect, encoding: str
) -> Iterator[tuple[int, list[str] | UnreadableRow]]:
    """Split lines into records; a quote that is never closed breaks no line but its own."""
    # A data URI is longer than the 131,072 characters of csv, whose limit is the whole process's.
    csv.field_size_limit(max(csv.field_size_limit(), text_files.MAX_LINE))
    options: dict[str, Any] = {"delimiter": dialect.separator, "quotechar": dialect.quote}
    options["skipinitialspace"] = True
    ahead: deque[text_files.Line] = deque()
    taken: list[text_files.Line] = []

    def next_line() -> text_files.Line | None:
        return ahead.popleft() if ahead else next(lines, None)

    def take() -> Iterator[str]:
        for line in islice(iter(next_line, None), MAX_ROW_LINES):
            taken.append(line)
            if isinstance(line[1], UnreadableRow):
                return
            yield _ESCAPED_QUOTE.sub('""', line[1]) if dialect.is_escaped else line[1]

    while True:
        taken.clear()
        try:
            cells = next(csv.reader(take(), strict=True, **options), [])
        except csv.Error:
            cells = []
        if not taken:
            return
        number, text = taken[0]
        if isinstance(text, UnreadableRow):
            yield number, text
        elif cells and text.strip("\n "):
            raw = "".join(str(line) for _, line in taken)
            yield number, text_files.damage(raw, encoding) or cells
        elif text.strip("\n "):
            # Its quote is not closed; or text follows the quote that closes it in a later line, so
            # that quote opened a cell there. Or quotes stand in odd places of this line alone.
            ahead.extendleft(reversed(taken[1:]))
            yield number, text_files.damage(text, encoding) or _split_line(text, options)


def _split_line(text: str, options: Mapping[str, Any]) -> list[str] | UnreadableRow:
    try:
        (cells,) = csv.reader([text.rstrip("\n") + "\n"], **options)
    except csv.Error:
        return UnreadableRow("cannot be split into cells", text)
    is_open = cells[-1].endswith("\n")  # a line end inside of quotes belongs to the cell
    return UnreadableRow("a quote is never closed", text) if is_open else cells


def _detect_dialect(lines: Sequence[text_files.Line], encoding: str) -> Dialect:
    """Return the dialect that cuts most lines into equally many cells, and more than one."""
    texts = [text for _, text in lines if isinstance(text, str)]
    stated = _SEPARATOR_LINE.fullmatch(texts[0]) if texts else None
    separators = [stated[1]] if stated else [*SEPARATORS]
    # Other quotes are tried where the lines look like them, and win where they fit as well.
    dialects = [Dialect(separator) for separator in separators]
    if any(map(_ESCAPED_QUOTE.search, texts)):
        dialects = [Dialect(each, is_escaped=True) for each in separators] + dialects
    if sum(map(bool, map(_SINGLE_QUOTED.fullmatch, texts))) > len(texts) / 2:
        dialects = [Dialect(each, quote="'") for each in separators] + dialects

    def fit(dialect: Dialect) -> tuple[float, int]:
        found = _read_records(iter(lines), dialect, encoding)
        rows = [cells for _, cells in found if isinstance(cells, list)]
        width = _usual_width(rows)
        if width < 2:
            return 0, width
        return sum(len(row) == width for row in rows) / len(rows) + (len(rows[0]) > 1), width

    return max(dialects, key=fit)


def _usual_width(rows: Sequence[Sequence[str]]) -> int:
    return Counter(map(len, rows)).most_common(1)[0][0] if rows else 0


def _unique_names(header: Sequence[str]) -> tuple[list[str], list[str]]:
    """Make column names unique: a second "price" becomes "price_2", an empty name "column_3"."""
    names, renamed = dict[str, None](), list[str]()  # a set in order
    for place, cell in enumerate(header, start=1):
        given = " ".join(cell.replace("\ufeff", "").split())
        name, number = given or f"column_{place}", 2
        while name in names:
            name, number = f"{given}_{number}", number + 1
        if name != given:
            renamed.append(f"{given or f'column {place}'} -> {name}")
        names[name] = None
    return [*names], renamed


def _use_commas(column: Sequence[str]) -> bool:
    cells = [cell for cell in column if cell.strip()]
    return sum(_COMMA_DECIMAL.fullmatch(cell) is not None for cell in cells) > len(cells) / 2
