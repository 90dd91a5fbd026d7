"""JSON and JSON Lines: lists parsed element by element, and objects with a list inside.

A broken element or line is unreadable and the others are read; ijson stops at the first error.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path

from phi_vision.prepare.sources import text_files
from phi_vision.prepare.sources.files import failure, suffix_of
from phi_vision.prepare.sources.rows import Format, Found, UnreadableRow, Values

LINES_SUFFIXES = (".jsonl", ".ndjson")
CHUNK = 2**20
MAX_ELEMENT = 200 * 2**20  # characters; parsed, they take about five times as much memory
MAX_DEPTH = 64  # of lists and objects; hundreds are no data, and would exhaust the recursion limit
# JSON strings hold no line ends, so one that is never closed ends with its line. A quote alone
# opens a string whose end has not been read yet.
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*+(?:"|(?=\n))|"|[{}\[\]]')
_SIGN = re.compile(r"[^\ufeff \t\r\n]")
_SCALAR_END = re.compile(r"[,\n\]]")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
# NaN and Infinity, which JSON does not have and pandas writes, are missing values.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def inspect_json(file: Path) -> Format:
    """Detect how JSON holds its rows: in a list, an object with a list, columns, or lines."""
    facts, read_lines = inspect_json_lines(file)
    first = [found for _, found in islice(read_lines(), 2)]
    if len(first) == 2 and all(isinstance(found, dict) for found in first):
        return facts, read_lines
    encoding = facts["encoding"]
    return {**facts, "rows": _find_rows(file, encoding)[1]}, partial(_read_records, file, encoding)


def inspect_json_lines(file: Path) -> Format:
    """Detect the encoding of JSON Lines: one object per line."""
    facts = text_files.detect_encoding(file)
    return facts, partial(_read_lines, file, facts["encoding"])


def inspect_conversations(file: Path) -> Format:
    """Inspect conversations in the LLaVA or ShareGPT format, as JSON or JSON Lines."""
    return inspect_json_lines(file) if suffix_of(file) in LINES_SUFFIXES else inspect_json(file)


def parse_object(text: str) -> Values:
    """Parse one JSON object; anything else is unreadable."""
    try:
        value = _DECODER.decode(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return UnreadableRow("broken JSON", text)
    return _as_row(_checked(value, text))


def _read_lines(file: Path, encoding: str) -> Iterator[Found]:
    for number, line in text_files.read_lines(file, encoding):
        if isinstance(line, UnreadableRow):
            yield f" line {number}", line
        elif line.strip():
            yield f" line {number}", text_files.damage(line, encoding) or parse_object(line)


def _read_records(file: Path, encoding: str) -> Iterator[Found]:
    for number, value in enumerate(_find_rows(file, encoding)[0], start=1):
        yield f" record {number}", _as_row(value)


def _find_rows(file: Path, encoding: str) -> tuple[Iterator[object], str]:
    """Locate the rows of a JSON file, also inside a single object, and describe where they are."""
    values = _elements(file, encoding)
    if next(values):
        return values, "a list"
    first = list(islice(values, 2))
    if len(first) != 1 or not isinstance(first[0], dict):
        return chain(first, values), "concatenated objects"
    content: dict[str, object] = first[0]
    if lists := list(_lists(content, "")):
        name, longest = max(lists, key=lambda found: len(found[1]))
        return iter(longest), f"the list {name!r}"
    if columns := _columns(content):
        return columns, "columns"
    named = [{"key": key, **value} for key, value in content.items() if isinstance(value, dict)]
    if len(named) == len(content) > 1:
        return iter(named), "named objects, the names kept as 'key'"
    return iter([content]), "one record"


def _elements(file: Path, encoding: str) -> Iterator[object]:
    """Yield whether a file begins with a list, then its values, none read before it is needed."""
    text, place, more = "", 0, " "
    begun, listed, closed, truncated = False, False, False, False
    with text_files.open_text(file, encoding) as stream:
        while True:
            mark = _SIGN.search(text, place)
            place = mark.start() if mark else len(text)
            if mark and not begun:
                begun, listed = True, mark[0] == "["
                place += listed
                yield listed
            elif mark and closed:
                yield UnreadableRow("text after the end of the list", text[place:])
                return
            elif mark and mark[0] in (",]" if listed else ","):
                closed, place = mark[0] == "]", place + 1
            elif mark and (parsed := _parse_at(text, place, encoding, is_last=not more)):
                value, place = parsed
                yield value
            elif more:
                text, place = text[place:], 0
                if len(text) > MAX_ELEMENT:
                    raise failure("too_large", file=file, megabytes=MAX_ELEMENT // 2**20)
                try:
                    # As much as there is already, so that a long element is not retried too often.
                    more = stream.read(max(CHUNK, len(text)))
                except text_files.COMPRESSION_ERRORS:
                    more, truncated = "", True
                text += more
            else:
                break
    if not begun:
        yield False
    if truncated:
        yield UnreadableRow("the compressed file is truncated", "")
    elif listed and not closed:
        yield UnreadableRow("the list is never closed", "")


def _parse_at(text: str, place: int, encoding: str, *, is_last: bool) -> tuple[object, int] | None:
    """Parse the value that begins at a place, also return its end; None if more must be read."""
    try:
        value, end = _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError):
        found = _end_of(text, place)
        if found is None and not is_last:
            return None
        end = found or len(text)
        reason = "broken JSON" if found else "JSON that ends in the middle"
        value = UnreadableRow(reason, text[place:end])
    raw = text[place:end]
    return text_files.damage(raw, encoding) or _checked(value, raw), end


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


def _as_row(value: object) -> Values:
    if isinstance(value, dict) and isinstance(value.get("node"), dict):
        return dict(value["node"])  # GraphQL wraps each row, beside its cursor
    if isinstance(value, dict | UnreadableRow):
        return value
    return UnreadableRow("not an object", json.dumps(value, ensure_ascii=False))


def _checked(value: object, raw: str) -> object:
    """Reject a value nested too deep; half a surrogate pair, left by a cut title, is U+FFFD."""
    level = [value]
    for _ in range(MAX_DEPTH):
        lists = (each for each in level if isinstance(each, dict | list))
        level = [v for e in lists for v in (e.values() if isinstance(e, dict) else e)]
    if level:
        return UnreadableRow("nested too deep", raw)
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
