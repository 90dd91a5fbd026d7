"""JSON and JSON Lines: lists parsed element by element, and objects with a list inside.

One broken element or line is unreadable and the others are read, which streaming parsers such as
ijson cannot do: they stop at the first error. Only an object that holds all rows is parsed whole,
up to `MAX_ELEMENT`.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from phi_vision.prepare.sources import files, text_files
from phi_vision.prepare.sources.rows import Found, Source, UnreadableRow, storable

JSON_SUFFIXES = (".json",)
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
CHUNK = 2**20
MAX_ELEMENT = 200 * 2**20  # characters; parsed, they take about five times as much memory
# Nesting of lists and objects; hundreds are no data, and would exhaust the recursion limit.
MAX_DEPTH = 64
# JSON strings hold no line ends, so one that is never closed ends with its line. A quote alone
# opens a string whose end has not been read yet.
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*+(?:"|(?=\n))|"|[{}\[\]]')
_SIGN = re.compile(r"[^\ufeff \t\r\n]")
_SCALAR_END = re.compile(r"[,\n\]]")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
# NaN and Infinity, which JSON does not have and pandas writes, are missing values.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def open_json(name: str, *, split: str | None = None) -> Source:
    """Open JSON: a list of objects, an object with such a list inside, or concatenated objects."""
    parts = files.find_parts(Path(name), JSON_SUFFIXES, split)
    encodings = {part.file: text_files.detect_encoding(part.file) for part in parts}
    detected = []
    for file, encoding in encodings.items():
        rows, place = json_rows(file, encoding.name)
        first = list(islice(rows, 2))
        if len(first) == 1 and isinstance(first[0], UnreadableRow):
            raise ValueError(
                f"cannot read {file} as JSON: found {first[0].reason}, "
                f"{storable(first[0].raw[:80])!r}; mend or export it again"
            )
        detected.append({**encoding.described(), "rows": place})
    return files.file_source(name, "json", parts, partial(_read_list, encodings), detected)


def open_json_lines(name: str, *, split: str | None = None) -> Source:
    """Open JSON Lines: one object per line."""
    # A single file may have any suffix; in a folder only the usual ones are meant.
    parts = files.find_parts(Path(name), JSON_LINES_SUFFIXES, split)
    encodings = {part.file: text_files.detect_encoding(part.file) for part in parts}
    detected = [encoding.described() for encoding in encodings.values()]
    return files.file_source(name, "jsonl", parts, partial(_read_lines, encodings), detected)


def open_llava(name: str, *, split: str | None = None) -> Source:
    """Open conversations in JSON or JSON Lines, in the LLaVA or ShareGPT format."""
    file = files.find_parts(Path(name), (*JSON_SUFFIXES, *JSON_LINES_SUFFIXES), None)[0].file
    lines = files.suffix_of(file) in JSON_LINES_SUFFIXES
    lines = lines or holds_lines(file, text_files.detect_encoding(file).name)
    source = open_json_lines(name, split=split) if lines else open_json(name, split=split)
    return replace(source, kind="llava")


def read_json_lines(file: Path, encoding: str) -> Iterator[Found]:
    """Yield the rows of a JSON Lines file; a broken line is unreadable, blank ones are skipped."""
    for number, line in text_files.read_lines(file, encoding):
        if isinstance(line, UnreadableRow):
            yield f" line {number}", line
        elif line.strip():
            yield f" line {number}", text_files.damage(line, encoding) or parse_object(line)


def holds_lines(file: Path, encoding: str) -> bool:
    """Whether a file is JSON Lines by content: each of its first two lines is an object."""
    first = [found for _, found in islice(read_json_lines(file, encoding), 2)]
    return len(first) == 2 and not any(isinstance(found, UnreadableRow) for found in first)


def parse_object(text: str) -> dict[str, object] | UnreadableRow:
    """Parse one JSON object; anything else is unreadable."""
    try:
        value = _DECODER.decode(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return UnreadableRow(reason="broken JSON", raw=text)
    return _as_row(_checked(value, text))


def json_rows(file: Path, encoding: str) -> tuple[Iterator[object], str]:
    """Locate the rows of a JSON file.

    The elements of a list are rows, and so are concatenated values; of a single object, the rows
    are, in this order: its longest list of objects; its columns, as pandas writes them; its named
    objects; itself.

    Input:  {"shop": "X", "products": [{"sku": "A"}, {"sku": "B"}]}
    Output: {"sku": "A"}, {"sku": "B"};   "the list 'products'"
    """
    values = _elements(file, encoding)
    with text_files.open_text(file, encoding) as stream:
        if _Window(stream, file, encoding).peek() == "[":
            return values, "a list"
    first = list(islice(values, 2))
    if len(first) != 1 or not isinstance(first[0], dict):
        return chain(first, values), "concatenated objects"
    content: dict[str, object] = first[0]
    if lists := sorted(_lists(content, ""), key=lambda found: -len(found[1])):
        return iter(lists[0][1]), f"the list {lists[0][0]!r}"
    if columns := _columns(content):
        return columns, "columns"
    objects = {name: value for name, value in content.items() if isinstance(value, dict)}
    if len(content) > 1 and len(objects) == len(content):
        named = ({"key": name, **value} for name, value in objects.items())
        return named, "named objects, the names kept as 'key'"
    return iter([content]), "one record"


def _elements(file: Path, encoding: str) -> Iterator[object]:
    """Yield the elements of a JSON list, or concatenated values, one at a time."""
    with text_files.open_text(file, encoding) as stream:
        window = _Window(stream, file, encoding)
        listed = window.peek() == "["
        window.place += listed
        while mark := window.peek():
            if mark == "]" and listed:
                window.place += 1
                if window.peek():
                    rest = window.text[window.place :]
                    yield UnreadableRow(reason="text after the end of the list", raw=rest)
                return
            if mark == ",":
                window.place += 1
            else:
                yield window.element()
        if window.truncated:
            yield UnreadableRow(reason="the compressed file is truncated", raw="")
        elif listed:
            yield UnreadableRow(reason="the list is never closed", raw="")


class _Window:
    """The part of a JSON file that is in memory."""

    def __init__(self, stream: io.TextIOWrapper, file: Path, encoding: str) -> None:
        self.text, self.place, self.truncated = "", 0, False
        self._stream, self._file, self._encoding = stream, file, encoding

    def peek(self) -> str:
        """Return the next non-blank character; "" at the end."""
        while True:
            if found := _SIGN.search(self.text, self.place):
                self.place = found.start()
                return found[0]
            self.place = len(self.text)
            if not self._read_more():
                return ""

    def element(self) -> object:
        """Parse the value that begins here and step past it."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.place)
            except (ValueError, RecursionError):
                ending = _end_of(self.text, self.place)
                if ending is None and self._read_more():
                    continue
                end = len(self.text) if ending is None else ending
                reason = "JSON that ends in the middle" if ending is None else "broken JSON"
                value = UnreadableRow(reason=reason, raw=self.text[self.place : end])
            raw = self.text[self.place : end]
            self.place = end
            return text_files.damage(raw, self._encoding) or _checked(value, raw)

    def _read_more(self) -> bool:
        """Drop parsed text and read on; False at the end of the file."""
        kept = self.text[self.place :]
        if len(kept) > MAX_ELEMENT:
            raise ValueError(
                f"cannot read {self._file}: one object in it is larger than "
                f"{MAX_ELEMENT // 2**20} MB; convert the file to JSON Lines, one row a line"
            )
        try:
            # As much as there is already, so that a long element is not retried too often.
            more = self._stream.read(max(CHUNK, len(kept)))
        except text_files.COMPRESSION_ERRORS:
            more, self.truncated = "", True
        self.text, self.place = kept + more, 0
        return bool(more)


def _end_of(text: str, place: int) -> int | None:
    """Return where a broken element ends by its brackets; None if not read yet."""
    if text[place] not in "[{":
        end = _SCALAR_END.search(text, place + 1)
        return end.start() if end else None
    depth = 0
    for token in _TOKEN.finditer(text, place):
        if token[0] == '"':
            return None
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth == 0:
            return token.end()
    return None


def _read_list(encodings: Mapping[Path, text_files.Encoding], file: Path) -> Iterator[Found]:
    for number, value in enumerate(json_rows(file, encodings[file].name)[0], start=1):
        yield f" record {number}", _as_row(value)


def _read_lines(encodings: Mapping[Path, text_files.Encoding], file: Path) -> Iterator[Found]:
    return read_json_lines(file, encodings[file].name)


def _as_row(value: object) -> dict[str, object] | UnreadableRow:
    if isinstance(value, dict | UnreadableRow):
        return value
    return UnreadableRow(reason="not an object", raw=json.dumps(value, ensure_ascii=False))


def _checked(value: object, raw: str) -> object:
    r"""Reject a value nested too deep, and replace halves of surrogate pairs with U+FFFD.

    Titles cut after N characters leave such halves: "Coat \ud83e" becomes "Coat �".
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        lists = [each for each in level if isinstance(each, dict | list)]
        inner = (each.values() if isinstance(each, dict) else each for each in lists)
        level = list(chain.from_iterable(inner))
    if level:
        return UnreadableRow(reason="nested too deep", raw=raw)
    if isinstance(value, UnreadableRow) or not _HALF_PAIR.search(raw):
        return value
    text = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
    return json.loads(text.decode("utf-16-le", "replace"))


def _lists(value: Mapping[str, object], path: str) -> Iterator[tuple[str, list[object]]]:
    """Yield all lists of objects inside an object, with their dotted names."""
    for name, each in value.items():
        if isinstance(each, list) and any(isinstance(element, dict) for element in each):
            yield f"{path}{name}", each
        elif isinstance(each, dict):
            yield from _lists(each, f"{path}{name}.")


def _columns(value: Mapping[str, object]) -> Iterator[object] | None:
    """Turn `{"sku": ["A", "B"]}` or pandas' `{"sku": {"0": "A", "1": "B"}}` into rows."""
    columns = [column for column in value.values() if isinstance(column, list)]
    named = [column for column in value.values() if isinstance(column, dict)]
    if len({tuple(column) for column in named}) == 1 and all(map(str.isdigit, named[0])):
        columns = [list(column.values()) for column in named]
    if len({len(column) for column in columns}) != 1 or len(columns) < len(value):
        return None
    rows = zip(*columns, strict=True)
    return (dict(zip(value, cells, strict=True)) for cells in rows) if columns[0] else None
