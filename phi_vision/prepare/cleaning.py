"""Clean one row with its images, or reject it with a reason.

Pure functions: the same in this process, in a worker and on a cluster.
"""

import base64
import datetime
import decimal
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from phi_vision.data.samples import IMAGE_MARK, Message, Value
from phi_vision.prepare.images import CleanImage, clean_image
from phi_vision.prepare.prices import parse_price
from phi_vision.prepare.schema import Schema
from phi_vision.prepare.sources.files import canonical_split
from phi_vision.prepare.sources.rows import Row, UnreadableRow, storable
from phi_vision.prepare.text import clean_text, neutralise

MAX_INTEGER = 2**63 - 1
"""Largest integer of a Parquet column; larger ones are codes, kept as text."""

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class LoadedRow:
    """A raw row with its images loaded."""

    row: Row
    images: tuple[bytes, ...]

    problem: str | None = None
    """Why an image could not be loaded: a short reason, or one with `: ` and a detail."""


@dataclass(frozen=True, kw_only=True)
class CleanRow:
    """A row that can become a sample."""

    raw: Row
    id: str | None
    group: str | None
    split: str | None
    record: Mapping[str, Value]
    messages: tuple[Message, ...]
    images: tuple[CleanImage, ...]

    changes: tuple[str, ...]
    """What was changed, each in a few words that are the same for all of its kind."""


@dataclass(frozen=True, kw_only=True)
class RejectedRow:
    """A row that cannot become a sample; nothing of it is lost."""

    number: int
    origin: str

    reason: str
    """Short, and the same for all of its kind."""

    detail: str
    """What exactly was found; may be empty."""

    values: str
    """The original values, as JSON."""


def clean_chunk(
    chunk: Sequence[LoadedRow | UnreadableRow], schema: Schema
) -> list[CleanRow | RejectedRow]:
    """Clean rows, in order."""
    return [
        reject(row, row.reason) if isinstance(row, UnreadableRow) else clean(row, schema)
        for row in chunk
    ]


def clean(loaded: LoadedRow, schema: Schema) -> CleanRow | RejectedRow:
    """Clean a row, or reject it.

    Input:  {"photo": …, "name": "Gobi&trade;  Tee ", "price": "£1,234.50"}
    Output: record {"title": "Gobi™ Tee", "full_price": 1234.5}, changes ("entities", …)
    """
    row, columns = loaded.row, schema.columns
    try:
        if loaded.problem:
            raise ValueError(loaded.problem)
        images = tuple(clean_image(encoded, schema.images) for encoded in loaded.images)
        record, changes = _clean_record(row, schema)
        messages, neutralised = _clean_messages(row, columns.messages, len(images))
        if not images and not messages:
            raise ValueError("no image")
    except ValueError as error:
        return reject(row, str(error))
    of_images = [change for image in images for change in image.changes]
    return CleanRow(
        raw=row,
        id=_cell_text(row, columns.id),
        group=_cell_text(row, columns.group),
        split=canonical_split(_cell_text(row, columns.split) or row.split or "") or None,
        record=record,
        messages=messages,
        images=images,
        changes=(*of_images, *changes, *neutralised),
    )


def reject(row: Row | UnreadableRow, message: str) -> RejectedRow:
    """Return a row as rejected.

    Input:  "unreadable image: image file is truncated (3 bytes not processed)"
    Output: reason "unreadable image", the rest as detail
    """
    reason, _, detail = message.partition(": ")
    values = {"raw": row.raw} if isinstance(row, UnreadableRow) else row.values
    return RejectedRow(
        number=row.number,
        origin=storable(row.origin),
        reason=storable(reason),
        detail=storable(detail),
        values=values_as_json(values),
    )


def values_as_json(values: Mapping[str, object]) -> str:
    r"""Serialise original values so that nothing of them is lost.

    Input:  {"photo": b"\xff\xd8", "price": nan, "sold": date(2026, 1, 1), "half": "\ud83d"}
    Output: {"photo": {"base64": "/9g="}, "price": "nan", "sold": "2026-01-01", "half": "\ud83d"}
    """
    text = json.dumps(_as_json_value(values), ensure_ascii=False)
    # Lone surrogates do not exist in UTF-8; `\ud83d` is also how JSON itself writes them.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _as_json_value(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _as_json_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json_value(each) for each in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode()}
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_number or isinstance(value, str | None) else str(value)


def _clean_record(row: Row, schema: Schema) -> tuple[dict[str, Value], list[str]]:
    record: dict[str, Value] = {}
    changes: list[str] = []
    template = schema.template
    numbers = template.fields_of("number") if template else ()
    for field, column in schema.columns.fields_of(row).items():
        value, changed = _clean_value(row.values.get(column))
        if field in numbers or field in schema.prices:
            value, form = _clean_price(field, value, schema, required=field in numbers)
            changed = [*changed, form]
        record[field] = value
        changes += changed
    for field in template.fields if template else ():
        if record.get(field) is None:
            raise ValueError(f"{field} is empty")
    return record, changes


def _clean_value(value: object) -> tuple[Value, list[str]]:
    """Convert a value to a type that a record can hold."""
    if isinstance(value, str):
        text, changes = clean_text(value)
        return text or None, list(changes)
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float) and math.isnan(value):
        return None, []
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
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


def _clean_price(
    field: str, value: Value, schema: Schema, *, required: bool
) -> tuple[float | None, str]:
    if required and value is None:
        raise ValueError(f"{field} is empty")
    try:
        price = parse_price(value, decimal=schema.decimal)
    except ValueError as error:
        if required:
            raise ValueError(f"{field} is not a number: {error}") from error
        return None, f"{field} not parsed, left empty"
    if required and price.amount is None:
        raise ValueError(f"{field} has no value: {value!r}")
    return price.amount, f"{field} as {price.form}"


def _clean_messages(
    row: Row, column: str | None, images: int
) -> tuple[tuple[Message, ...], list[str]]:
    if column is None:
        return (), []
    messages: list[Message] = []
    changes: list[str] = []
    for role, content in _turns(row.values.get(column)):
        text, changed = neutralise(content)
        messages.append(Message(role, text))
        changes += changed
    marks = sum(message.content.count(IMAGE_MARK) for message in messages)
    if marks not in (0, images):
        raise ValueError(f"image marks do not match images: {marks} {IMAGE_MARK}, {images} images")
    if not messages or messages[-1].role != "assistant":
        raise ValueError("the conversation does not end with an assistant message")
    return tuple(messages), changes


def _turns(value: object) -> Iterator[tuple[Role, str]]:
    roles: dict[str, Role] = {role: role for role in get_args(Role)}
    for turn in value if isinstance(value, list) else []:
        known = turn if isinstance(turn, Mapping) else {}
        role, content = roles.get(str(known.get("role"))), known.get("content")
        if role is None or not isinstance(content, str):
            raise ValueError(f"not a conversation: a turn is {turn!r:.80}")
        yield role, content


def _cell_text(row: Row, column: str | None) -> str | None:
    value = row.values.get(column) if column else None
    is_empty = value is None or (isinstance(value, float) and math.isnan(value))
    return None if is_empty else storable(str(value).strip()) or None
