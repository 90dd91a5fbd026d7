"""Rows out of JSON: lists read an element at a time, JSON Lines, and objects with a list inside.

One broken element or line is a fault, and the others are read; only an object that holds all rows
is parsed whole, up to `LARGEST_ELEMENT`.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from phi_vision.prepare.sources.lines import PACKING_ERRORS, damage, open_text, read_lines
from phi_vision.prepare.sources.parts import Fault, Found

CHUNK = 2**20
LARGEST_ELEMENT = 200 * 2**20
"""Characters; parsed, they take about five times as much memory."""

# Strings of JSON hold no line ends, so one that is never closed ends with its line. A quote alone
# opens a string whose end has not been read yet.
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*+(?:"|(?=\n))|"|[{}\[\]]')
_BLANK = re.compile(r"[\ufeff \t\r\n]*")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(file: Path, encoding: str) -> Iterator[Found]:
    """Yield the rows of a JSON file.

    Input:  [{"sku": "A"}, {"sku": }, {"sku": "C"}]   or   {"products": [{"sku": "A"}, …]}
    Output: (" record 1", {"sku": "A"}), (" record 2", Fault("broken JSON", …)), …
    """
    for number, value in enumerate(json_rows(file, encoding)[0], start=1):
        yield f" record {number}", _row(value)


def read_json_lines(file: Path, encoding: str) -> Iterator[Found]:
    """Yield the rows of a JSON Lines file; a broken line is a fault, blank ones go."""
    for number, line in read_lines(file, encoding):
        if isinstance(line, Fault):
            yield f" line {number}", line
        elif line.strip():
            yield f" line {number}", damage(line, encoding) or _row(_parse(line))


def holds_lines(file: Path, encoding: str) -> bool:
    """Whether a file is JSON Lines by what it holds: its first two lines are an object each."""
    first = [found for _, found in islice(read_json_lines(file, encoding), 2)]
    return len(first) == 2 and not any(isinstance(found, Fault) for found in first)


def json_rows(file: Path, encoding: str) -> tuple[Iterator[object], str]:
    """Find the rows of a JSON file, and say where they are.

    The elements of a list are rows, and so are several values in a row; of a single object, the
    rows are, in this order: its longest list of objects; its columns, as pandas writes them; its
    objects under their names; itself.

    Input:  {"shop": "X", "products": [{"sku": "A"}, {"sku": "B"}]}
    Output: {"sku": "A"}, {"sku": "B"};   "the list 'products'"
    """
    values = elements(file, encoding)
    if _begins_with_list(file, encoding):
        return values, "a list"
    first = list(islice(values, 2))
    if len(first) != 1 or not isinstance(first[0], dict):
        return chain(first, values), "objects in a row"
    return _rows_inside(first[0])


def _rows_inside(content: Mapping[str, object]) -> tuple[Iterator[object], str]:
    lists = sorted(_lists(content, ""), key=lambda found: -len(found[1]))
    if lists:
        return iter(lists[0][1]), f"the list {lists[0][0]!r}"
    if columns := _columns(content):
        return columns, "columns"
    objects = {name: value for name, value in content.items() if isinstance(value, dict)}
    if len(content) > 1 and len(objects) == len(content):
        named = ({"key": name, **value} for name, value in objects.items())
        return named, "objects under their names, kept as 'key'"
    return iter([content]), "one record"


def elements(file: Path, encoding: str) -> Iterator[object]:
    """Yield the elements of a JSON list, or values that follow each other, one at a time.

    Raises:
        ValueError: One object is larger than `LARGEST_ELEMENT`.
    """
    with open_text(file, encoding) as stream:
        window = _Window(stream, file, encoding)
        listed = window.peek() == "["
        window.place += listed
        while mark := window.peek():
            if mark == "]" and listed:
                window.place += 1
                if window.peek():
                    yield Fault(reason="text after the end of the list", raw=window.rest())
                return
            if mark == ",":
                window.place += 1
            else:
                yield window.element()
        if window.cut:
            yield Fault(reason="the packed file is cut off", raw="")
        elif listed:
            yield Fault(reason="the list is never closed", raw="")


class _Window:
    """The part of a JSON file that is in memory."""

    def __init__(self, stream: io.TextIOWrapper, file: Path, encoding: str) -> None:
        self.place = 0
        self.cut = False
        self._text = ""
        self._stream = stream
        self._file = file
        self._encoding = encoding

    def peek(self) -> str:
        """The next character that is not blank; none at the end."""
        while True:
            blank = _BLANK.match(self._text, self.place)
            self.place = blank.end() if blank else self.place
            if self.place < len(self._text):
                return self._text[self.place]
            if not self._read_more():
                return ""

    def rest(self) -> str:
        """What is in memory and has not been read."""
        return self._text[self.place :]

    def element(self) -> object:
        """Parse the value that begins here, and step behind it; a Fault where it is broken."""
        while True:
            start = self.place
            try:
                value, end = _DECODER.raw_decode(self._text, start)
            except (ValueError, RecursionError):
                ending = _end_of(self._text, start)
                if ending is None and self._read_more():
                    continue
                end = len(self._text) if ending is None else ending
                reason = "JSON that ends in the middle" if ending is None else "broken JSON"
                value = Fault(reason=reason, raw=self._text[self.place : end])
            raw = self._text[self.place : end]
            self.place = end
            return damage(raw, self._encoding) or checked(value, raw)

    def _read_more(self) -> bool:
        """Drop what has been read and read further; False at the end of the file."""
        kept = self._text[self.place :]
        if len(kept) > LARGEST_ELEMENT:
            raise ValueError(
                f"cannot read {self._file}: one object in it is larger than "
                f"{LARGEST_ELEMENT // 2**20} MB; convert the file to JSON Lines, one row a line"
            )
        try:
            # As much as there is already, so that a long element is not tried too often.
            more = self._stream.read(max(CHUNK, len(kept)))
        except PACKING_ERRORS:
            more, self.cut = "", True
        self._text, self.place = kept + more, 0
        return bool(more)


def _end_of(text: str, place: int) -> int | None:
    """Where a broken element ends by its brackets; None if that has not been read yet."""
    if text[place] not in "[{":
        end = re.compile(r"[,\n\]]").search(text, place + 1)
        return end.start() if end else None
    depth = 0
    for token in _TOKEN.finditer(text, place):
        sign = token[0]
        if sign == '"':
            return None
        depth += (sign in "[{") - (sign in "]}")
        if depth == 0:
            return token.end()
    return None


def _nothing(_: str) -> None:
    """Read NaN and Infinity, which JSON does not have and pandas writes, as missing."""


DEEPEST = 64
"""Lists and objects in each other. Rows have a handful; hundreds are no data, and would end the run
where they are gone through by recursion."""

_DECODER = json.JSONDecoder(parse_constant=_nothing)


def _parse(line: str) -> object:
    try:
        value = _DECODER.decode(line.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return Fault(reason="broken JSON", raw=line)
    return checked(value, line)


def checked(value: object, raw: str) -> object:
    """Take a value as it was parsed; half characters are replaced, towers of brackets a Fault."""
    level, depth = [value], 0
    while level:
        if depth == DEEPEST:
            return Fault(reason="nested too deep", raw=raw)
        level = [inner for outer in level for inner in _inside(outer)]
        depth += 1
    return _mended(value) if _cut_pair(raw) else value


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _row(value: object) -> Mapping[str, object] | Fault:
    if isinstance(value, dict | Fault):
        return value
    return Fault(reason="not an object", raw=json.dumps(value, ensure_ascii=False))


def _cut_pair(raw: str) -> bool:
    """Whether JSON may hold half a surrogate pair, which no file of text can."""
    return _HALF_PAIR.search(raw) is not None


def _mended(value: object) -> object:
    r"""Replace halves of surrogate pairs, which titles cut after N characters end in, by U+FFFD.

    Input:  "Coat \ud83e"
    Output: "Coat �"
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(each) for name, each in value.items()}
    return value


def _begins_with_list(file: Path, encoding: str) -> bool:
    with open_text(file, encoding) as stream:
        return _Window(stream, file, encoding).peek() == "["


def _lists(value: Mapping[str, object], path: str) -> Iterator[tuple[str, list[object]]]:
    """All lists of objects in an object: name with dots, and the list."""
    for name, each in value.items():
        inner = f"{path}{name}"
        if isinstance(each, list) and any(isinstance(element, dict) for element in each):
            yield inner, each
        elif isinstance(each, dict):
            yield from _lists(each, f"{inner}.")


def _columns(value: Mapping[str, object]) -> Iterator[object] | None:
    """Turn `{"sku": ["A", "B"]}` or pandas' `{"sku": {"0": "A", "1": "B"}}` into rows."""
    columns = list(value.values())
    if columns and all(isinstance(column, list) for column in columns):
        lists = [column for column in columns if isinstance(column, list)]
        if len({len(column) for column in lists}) == 1 and len(lists[0]) > 0:
            return (dict(zip(value, cells, strict=True)) for cells in zip(*lists, strict=True))
    dicts = [column for column in columns if isinstance(column, dict)]
    if not dicts or len(dicts) < len(columns) or len({tuple(each) for each in dicts}) > 1:
        return None
    if not dicts[0] or not all(key.isdigit() for key in dicts[0]):
        return None
    named = list(zip(value, dicts, strict=True))
    return ({name: cells[key] for name, cells in named} for key in dicts[0])
