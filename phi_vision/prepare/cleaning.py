"""One row with its images -> a clean sample, or the reason why not.

Pure functions of what they are given: the same in this process, in a worker and on a cluster.
"""

import base64
import datetime
import decimal
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from phi_vision.data.samples import IMAGE_MARK, Message, Value
from phi_vision.prepare.columns import Columns
from phi_vision.prepare.images import CleanImage, clean_image
from phi_vision.prepare.prices import read_price
from phi_vision.prepare.schema import Rules
from phi_vision.prepare.sources.rows import Row, UnreadableRow, canonical_split, storable
from phi_vision.prepare.text import neutralise, tidy

LARGEST_INTEGER = 2**63 - 1
"""What a whole number of a Parquet column can hold; larger ones are codes, kept as text."""
SPEAKERS: Mapping[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """A row with its images at hand, not yet looked at."""

    row: Row

    encoded: tuple[bytes, ...]
    """The images as they came."""

    problem: str | None = None
    """Why one of them is not at hand: a short reason, or one with `: ` and a detail."""


@dataclass(frozen=True, kw_only=True)
class Clean:
    """What is left of a row when all that is wrong with it has been mended."""

    row: Row
    id: str | None
    group: str | None
    split: str | None
    record: Mapping[str, Value]
    messages: tuple[Message, ...]
    images: tuple[CleanImage, ...]

    changes: tuple[str, ...]
    """What was mended, each in a few words that are the same for all of its kind."""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A row that cannot become a sample; nothing of it is lost."""

    number: int
    origin: str

    reason: str
    """Short, and the same for all of its kind."""

    detail: str
    """What exactly was found; may be empty."""

    values: str
    """The original values, as JSON."""


def clean_chunk(chunk: Sequence[RawRow | UnreadableRow], rules: Rules) -> list[Clean | Rejected]:
    """Clean rows, one after the other."""
    return [
        reject(piece, piece.reason) if isinstance(piece, UnreadableRow) else clean(piece, rules)
        for piece in chunk
    ]


def clean(found: RawRow, rules: Rules) -> Clean | Rejected:
    """Turn a row into a clean sample, or say why that cannot be done.

    Input:  {"photo": …, "name": "Gobi&trade;  Tee ", "price": "£1,234.50"}
    Output: record {"title": "Gobi™ Tee", "full_price": 1234.5}, changes ("entities", …)
    """
    row, columns = found.row, rules.columns
    try:
        if found.problem:
            raise ValueError(found.problem)
        images = tuple(clean_image(encoded, rules.images) for encoded in found.encoded)
        record, changes = _clean_record(row, rules)
        messages, neutralised = _clean_messages(row, columns, len(images))
        if not images and not messages:
            raise ValueError("no image")
    except ValueError as error:
        return reject(row, str(error))
    of_images = [change for image in images for change in image.changes]
    return Clean(
        row=row,
        id=_words(row, columns.id),
        group=_words(row, columns.group),
        split=canonical_split(_words(row, columns.split) or row.split or "") or None,
        record=record,
        messages=messages,
        images=images,
        changes=(*of_images, *changes, *neutralised),
    )


def reject(piece: Row | UnreadableRow, complaint: str) -> Rejected:
    """Set a row aside.

    Input:  "unreadable image: image file is truncated (3 bytes not processed)"
    Output: reason "unreadable image", the rest as detail
    """
    reason, _, detail = complaint.partition(": ")
    values = {"raw": piece.raw} if isinstance(piece, UnreadableRow) else piece.values
    return Rejected(
        number=piece.number,
        origin=storable(piece.origin),
        reason=storable(reason),
        detail=storable(detail),
        values=values_as_json(values),
    )


def values_as_json(values: Mapping[str, object]) -> str:
    r"""Write original values so that nothing of them is lost.

    Input:  {"photo": b"\xff\xd8", "price": nan, "sold": date(2026, 1, 1), "half": "\ud83d"}
    Output: {"photo": {"base64": "/9g="}, "price": "nan", "sold": "2026-01-01", "half": "\ud83d"}
    """
    text = json.dumps(_as_plain(values), ensure_ascii=False)
    # Halves of characters do not exist in UTF-8; `\ud83d` is also how JSON itself writes them.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _as_plain(value: object) -> object:
    """Turn a value into what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(name): _as_plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_plain(each) for each in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode()}
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_number or isinstance(value, str | None) else str(value)


def _clean_record(row: Row, rules: Rules) -> tuple[dict[str, Value], list[str]]:
    record: dict[str, Value] = {}
    changes: list[str] = []
    fields = rules.template.fields if rules.template else ()
    numbers = rules.template.fields_of("number") if rules.template else ()
    for field, column in rules.columns.fields_of(row).items():
        value, changed = _clean_value(row.values.get(column))
        if field in numbers:
            value, form = _read_number(field, value, rules)
            changed = [*changed, form]
        elif field in rules.prices:
            value, form = _try_price(field, value, rules)
            changed = [*changed, form]
        record[field] = value
        changes += changed
    for field in fields:
        if record.get(field) is None:
            raise ValueError(f"{field} is empty")
    return record, changes


def _clean_value(value: object) -> tuple[Value, list[str]]:
    """Bring a value to a kind a record can hold; only text is tidied."""
    if isinstance(value, str):
        text, changes = tidy(value)
        return text or None, list(changes)
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float) and math.isnan(value):
        return None, []
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return str(value), []
    if value is None or isinstance(value, int | float):
        return value, []
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat(), []
    if isinstance(value, bytes) or (isinstance(value, Mapping) and "bytes" in value):
        return None, ["bytes left out of the record"]
    if isinstance(value, Mapping | list | tuple):
        text, changes = neutralise(json.dumps(value, ensure_ascii=False, default=str))
        return text, ["lists written as JSON", *changes]
    return storable(str(value)), []


def _read_number(field: str, value: Value, rules: Rules) -> tuple[float, str]:
    if value is None:
        raise ValueError(f"{field} is empty")
    try:
        price = read_price(value, decimal=rules.decimal)
    except ValueError as error:
        raise ValueError(f"{field} is no number: {error}") from error
    if price.amount is None:
        raise ValueError(f"{field} says there is none: {value!r}")
    return price.amount, f"{field} as {price.form}"


def _try_price(field: str, value: Value, rules: Rules) -> tuple[float | None, str]:
    try:
        price = read_price(value, decimal=rules.decimal)
    except ValueError:
        return None, f"{field} not understood, left empty"
    return price.amount, f"{field} as {price.form}"


def _clean_messages(
    row: Row, columns: Columns, images: int
) -> tuple[tuple[Message, ...], list[str]]:
    if columns.messages is None:
        return (), []
    messages: list[Message] = []
    changes: list[str] = []
    for role, content in _turns(row.values.get(columns.messages)):
        words, changed = neutralise(content)
        messages.append(Message(role, words))
        changes += changed
    marks = sum(message.content.count(IMAGE_MARK) for message in messages)
    if marks not in (0, images):
        raise ValueError(f"marks and images differ: {marks} {IMAGE_MARK}, {images} images")
    if not messages or messages[-1].role != "assistant":
        raise ValueError("the conversation does not end with an answer")
    return tuple(messages), changes


def _turns(
    value: object,
) -> Iterator[tuple[Literal["system", "user", "assistant"], str]]:
    for turn in value if isinstance(value, list) else []:
        known = turn if isinstance(turn, Mapping) else {}
        role, content = SPEAKERS.get(str(known.get("role"))), known.get("content")
        if role is None or not isinstance(content, str):
            raise ValueError(f"no conversation: a turn is {turn!r:.80}")
        yield role, content


def _words(row: Row, column: str | None) -> str | None:
    """Read the text of a cell; None where it says nothing."""
    value = row.values.get(column) if column else None
    is_nothing = value is None or (isinstance(value, float) and math.isnan(value))
    return None if is_nothing else storable(str(value).strip()) or None
