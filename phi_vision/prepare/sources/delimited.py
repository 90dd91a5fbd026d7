"""Tables in text files: which separator, which header, and the rows with their quotes.

Lines are put together into rows here and not by the `csv` module, which after one quote that is
never closed would take the rest of the file for a single cell.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from phi_vision.prepare.sources.encoding import Encoding, detect_encoding
from phi_vision.prepare.sources.lines import LONGEST_LINE, Line, damage, read_lines
from phi_vision.prepare.sources.parts import Fault, Found, storable

SEPARATORS = {",": ",", ";": ";", "\t": "tab", "|": "|"}
"""Separator -> how it is shown."""

SAMPLE_LINES = 500
MOST_LINES = 1000
"""Lines of one row: a quote that is open for longer was never meant to be one."""

_CLOSED = re.compile(r'(?:[^"]++|"")*+"')
_OPENS = re.compile(r' *"')
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line
_ADDRESS = re.compile(r"\s*(https?://|data:image/)", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?\d[\d.,]*\s*")
_COMMA_DECIMAL = re.compile(r"\D{0,5}(?:\d+|\d{1,3}(?:[. ]\d{3})+),\d{1,2}\D{0,5}")


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a text file holds its table."""

    encoding: Encoding
    """How its bytes become text."""

    separator: str
    """What stands between two cells."""

    names: tuple[str, ...]
    """The columns, each with a name of its own; none for an empty file."""

    first_line: int
    """The line of the first row."""

    told: Mapping[str, str]
    """What else was found, for people: `{"decimal comma in": "price"}`."""

    def described(self) -> dict[str, str]:
        """Say it for people.

        Output: {"encoding": "cp1252", "separator": ";", "decimal comma in": "price"}
        """
        separator = SEPARATORS.get(self.separator, self.separator)
        return {**self.encoding.described(), "separator": separator, **self.told}


def detect_form(file: Path) -> Form:
    """Find encoding, separator and header of a table.

    The header is the first line that has more than one cell; a line with addresses of the web or
    mostly numbers is no header, and the columns are called column_1, column_2, ….

    Raises:
        ValueError: No encoding gives readable text.
    """
    encoding = detect_encoding(file)
    lines = list(islice(read_lines(file, encoding.name), SAMPLE_LINES))
    separator = _separator(lines, encoding.name)
    records = _sample_records(lines, separator, encoding.name, file)
    if not records:
        return Form(encoding=encoding, separator=separator, names=(), first_line=1, told={})
    wide = _usual_width([cells for _, cells in records]) > 1
    place = next((i for i, (_, cells) in enumerate(records) if wide and len(cells) > 1), 0)
    number, header = records[place]
    headless = _is_data(header)
    names, told = _headless_names(header) if headless else _names(header)
    if place:
        told["lines above the header"] = str(place)
    rows = [cells for _, cells in records[place + (not headless) :]]
    told |= _decimal_commas(names, rows)
    return Form(
        encoding=encoding,
        separator=separator,
        names=names,
        first_line=number if headless else number + 1,
        told=told,
    )


def read_table(file: Path, form: Form) -> Iterator[Found]:
    """Yield the rows of a table; one with too few or too many cells is a fault.

    Input:  sku;title   with form.separator ";"
            A;"Coat;
            long"
    Output: (" line 2", {"sku": "A", "title": "Coat;\nlong"})
    """
    if not form.names:
        return
    # The csv module refuses cells of more than 131,072 characters, and a data URI is longer; the
    # limit is one for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    lines = read_lines(file, form.encoding.name)
    for number, found in read_records(lines, form.separator, form.encoding.name):
        if number >= form.first_line:
            cells = found if isinstance(found, Fault) else _row(found, form)
            yield f" line {number}", cells


def read_records(
    lines: Iterator[Line], separator: str, encoding: str
) -> Iterator[tuple[int, list[str] | Fault]]:
    """Put lines together into records: number of the first line, and the cells; blank lines go.

    A quote that is never closed breaks the line where it opens, and no other.
    """
    ahead = _Lines(lines)
    while (line := ahead.take()) is not None:
        number, text = line
        if isinstance(text, Fault):
            yield number, text
        elif text.strip("\n "):
            yield number, _cells(text, ahead, separator, encoding)


class _Lines:
    """Lines that can be given back."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._ahead: deque[Line] = deque()

    def take(self) -> Line | None:
        return self._ahead.popleft() if self._ahead else next(self._lines, None)

    def give_back(self, lines: Sequence[Line]) -> None:
        self._ahead.extendleft(reversed(lines))


def _cells(text: str, ahead: _Lines, separator: str, encoding: str) -> list[str] | Fault:
    """Cut one record into cells, taking the further lines that its quotes span."""
    more: list[Line] = []
    texts = [text]
    is_open = _left_open(text, separator, inside=False)
    while is_open and len(texts) < MOST_LINES and (line := ahead.take()) is not None:
        more.append(line)
        if isinstance(line[1], Fault):
            break
        texts.append(line[1])
        is_open = _left_open(line[1], separator, inside=True)
    # Where text follows the quote that closes a row of many lines, that quote opened a cell of a
    # later row, and the first was never closed.
    if is_open or (more and _split(texts, separator, strict=True) is None):
        ahead.give_back(more)
        return damage(text, encoding) or Fault(reason="a quote is never closed", raw=text)
    raw = "".join(texts)
    cells = _split(texts, separator, strict=False)
    return damage(raw, encoding) or cells or Fault(reason="cannot be cut into cells", raw=raw)


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


def _row(cells: list[str], form: Form) -> dict[str, str] | Fault:
    width = len(form.names)
    # Spreadsheets pad rows with separators up to their widest one.
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    if len(cells) == width:
        if any(cell.strip() for cell in cells):
            return dict(zip(form.names, cells, strict=True))
        return Fault(reason="all cells are empty", raw=form.separator.join(cells))
    more = "more" if len(cells) > width else "fewer"
    raw = form.separator.join(cells)
    return Fault(reason=f"found {more} cells than columns", raw=raw)


def _sample_records(
    lines: Sequence[Line], separator: str, encoding: str, file: Path
) -> list[tuple[int, list[str]]]:
    found = list(read_records(iter(lines), separator, encoding))
    number, fault = found[0] if found else (0, None)
    if isinstance(fault, Fault):
        raise ValueError(
            f"cannot read the header of {file}: line {number} {fault.reason}, found "
            f"{storable(fault.raw[:80])!r}; mend that line, or save the table again as UTF-8"
        )
    return [
        (number, cells)
        for number, cells in found
        if not isinstance(cells, Fault) and not _is_separator_line(cells, separator)
    ]


def _separator(lines: Sequence[Line], encoding: str) -> str:
    """The separator that cuts most lines into equally many cells, and into more than one."""
    first = lines[0][1] if lines else ""
    if isinstance(first, str) and (said := _SEPARATOR_LINE.fullmatch(first.lstrip("\ufeff"))):
        return said[1]

    def fit(separator: str) -> tuple[float, int]:
        found = read_records(iter(lines), separator, encoding)
        rows = [cells for _, cells in found if not isinstance(cells, Fault)]
        width = _usual_width(rows)
        headed = bool(rows) and any(len(row) > 1 for row in rows[:1])
        share = sum(len(row) == width for row in rows) / max(1, len(rows))
        return (share + headed if width > 1 else 0), width

    return max(SEPARATORS, key=fit)


def _usual_width(rows: Sequence[Sequence[str]]) -> int:
    return Counter(map(len, rows)).most_common(1)[0][0] if rows else 0


def _is_separator_line(cells: Sequence[str], separator: str) -> bool:
    return _SEPARATOR_LINE.fullmatch(separator.join(cells).lstrip("\ufeff")) is not None


def _is_data(header: Sequence[str]) -> bool:
    numbers = sum(_NUMBER.fullmatch(cell) is not None for cell in header)
    return any(_ADDRESS.match(cell) for cell in header) or numbers > len(header) / 2


def _headless_names(cells: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    names = tuple(f"column_{place}" for place in range(1, len(cells) + 1))
    return names, {"header": f"none: the first line looks like a row, so columns are {names[0]} …"}


def _names(header: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Give every column a name of its own.

    Input:  "sku", "price", "", "price"
    Output: ("sku", "price", "column_3", "price_2"),
            {"columns renamed": "column 3 -> column_3, price -> price_2"}
    """
    names: list[str] = []
    renamed = []
    for place, cell in enumerate(header, start=1):
        said = " ".join(cell.replace("\ufeff", "").split())
        name = said or f"column_{place}"
        number = 2
        while name in names:
            name, number = f"{said}_{number}", number + 1
        if name != said:
            renamed.append(f"{said or f'column {place}'} -> {name}")
        names.append(name)
    return tuple(names), {"columns renamed": ", ".join(renamed)} if renamed else {}


def _decimal_commas(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """Name the columns most of whose cells read like `1.299,50`."""
    found = []
    for place, name in enumerate(names):
        cells = [row[place].strip() for row in rows if len(row) == len(names)]
        cells = [cell for cell in cells if cell]
        if sum(_COMMA_DECIMAL.fullmatch(cell) is not None for cell in cells) > len(cells) / 2:
            found.append(name)
    return {"decimal comma in": ", ".join(found)} if found else {}
