"""Clean one row with its images, or reject it with a reason, here or in a worker."""

import base64
import datetime
import decimal
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from phi_vision.data.samples import IMAGE_MARK, Message, Value
from phi_vision.prepare.cell_kinds import read_cell
from phi_vision.prepare.columns import cell_of
from phi_vision.prepare.images import CleanImage, clean_image
from phi_vision.prepare.prices import parse_price
from phi_vision.prepare.schema import Schema
from phi_vision.prepare.sources.files import canonical_split, flagged_split
from phi_vision.prepare.sources.rows import Row, UnreadableRow, storable
from phi_vision.prepare.text import clean_text, is_placeholder, neutralise, object_name

# Characters of a template's field: more may exceed the model's 4,096 tokens (2,509 an image).
MAX_TEXT = 2000
MAX_INTEGER = 2**63 - 1  # of a Parquet column; larger ones are codes, kept as text
CURRENCY_COLUMNS = ("currency", "currency_code", "currencycode", "price_currency")
ROLES = get_args(Message.__annotations__["role"])


@dataclass(frozen=True, kw_only=True)
class LoadedRow:
    """A raw row with its images loaded."""

    row: Row
    images: tuple[bytes, ...]
    problem: str | None = None  # why an image could not be loaded: a reason, or `reason: detail`


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
    changes: tuple[str, ...]  # each in a few words that are the same for all of its kind


@dataclass(frozen=True, kw_only=True)
class RejectedRow:
    """A row that cannot become a sample; nothing of it is lost."""

    number: int
    origin: str
    reason: str  # short, and the same for all of its kind
    detail: str  # what exactly was found; may be empty
    values: str  # the original ones, as JSON


def clean_chunk(
    chunk: Sequence[LoadedRow | UnreadableRow], schema: Schema
) -> list[CleanRow | RejectedRow]:
    """Clean rows, in order."""
    return [
        reject(row, row.reason) if isinstance(row, UnreadableRow) else clean(row, schema)
        for row in chunk
    ]


def clean(loaded: LoadedRow, schema: Schema) -> CleanRow | RejectedRow:
    """Clean a row, or reject it."""
    row, columns = loaded.row, schema.columns
    try:
        if loaded.problem:
            raise ValueError(loaded.problem)
        images = tuple(clean_image(encoded, schema.images) for encoded in loaded.images)
        changes = [change for image in images for change in image.changes]
        record = _clean_record(row, schema, changes)
        turns = row.values.get(columns.messages) if columns.messages else None
        messages = _clean_messages(turns, len(images), changes) if columns.messages else ()
        if not images and not messages:
            raise ValueError("no image")
    except ValueError as error:
        return reject(row, str(error))
    own = flagged_split(columns.split or "", _cell_text(row, columns.split) or "")
    return CleanRow(
        raw=row,
        id=_cell_text(row, columns.id),
        group=_cell_text(row, columns.group),
        split=canonical_split(own or row.split or "") or None,
        record=record,
        messages=messages,
        images=images,
        changes=tuple(changes),
    )


def reject(row: Row | UnreadableRow, message: str) -> RejectedRow:
    """Return a row as rejected; what follows a colon in the message is the detail."""
    reason, _, detail = message.partition(": ")
    origin, reason, detail = map(storable, (row.origin, reason, detail))
    values = values_as_json({"raw": row.raw} if isinstance(row, UnreadableRow) else row.values)
    texts = {"origin": origin, "reason": reason, "detail": detail, "values": values}
    return RejectedRow(number=row.number, **texts)


def values_as_json(values: Mapping[str, object]) -> str:
    """Serialise original values so that nothing is lost: bytes as base64, NaN and dates as text."""
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


def _clean_record(row: Row, schema: Schema, changes: list[str]) -> dict[str, Value]:
    record: dict[str, Value] = {}
    template = schema.template
    numbers = template.fields_of("number") if template else ()
    required = {*template.fields} - {*template.optional} if template else set[str]()
    needed = required.intersection(numbers)
    for field, column in schema.columns.fields_of(row).items():
        cell = cell_of(row, column)
        if field in schema.contexts:
            record[field] = _read(field, cell, row, schema, field in required, changes)
            continue
        if template and field in template.fields and field not in numbers:
            cell = object_name(cell)
        value = _clean_value(cell, changes)
        if field in needed and value is None:
            raise ValueError(f"{field} is empty")
        if field in numbers or field in schema.prices:
            try:
                price = parse_price(value, decimal=schema.decimal)
            except ValueError as error:
                if field in needed:
                    raise ValueError(f"{field} is not a number: {error}") from error
                value = None
                changes.append(f"{field} not parsed, left empty")
            else:
                if field in needed and price.amount is None:
                    raise ValueError(f"{field} has no value: {value!r}")
                value = price.amount
                changes.append(f"{field} as {price.form}")
                changes += [f"{field} in {price.currency}"] if price.currency else []
        elif isinstance(cell, str) and value is not None and is_placeholder(str(value)):
            value = None
            changes.append("placeholder left empty")
        record[field] = value
    for field in template.fields if template else ():
        value = record.get(field)
        if value is None and field in required:
            raise ValueError(f"{field} is empty")
        if isinstance(value, str) and len(value) > MAX_TEXT:
            size = f"{len(value):,} characters, more than {MAX_TEXT:,}"
            raise ValueError(f"{field} is too long: {size}")
    return record


def _read(
    field: str, cell: object, row: Row, schema: Schema, is_required: bool, changes: list[str]
) -> Value:
    """Read a list, a quantity, money or a boolean; of an optional field also as nothing."""
    assert schema.template
    kind, context = schema.template.kinds[field], schema.contexts[field]
    if kind == "money":
        code = next((row.values[c] for c in row.values if c.lower() in CURRENCY_COLUMNS), None)
        context = replace(context, currency=str(code or "").strip())
    note = replace(context, note=lambda form: changes.append(f"{field} as {form}"))
    try:
        return read_cell(kind, cell, note)
    except ValueError as error:
        if is_required:
            raise ValueError(f"{field} {error}") from error
        changes.append(f"{field} not parsed, left empty")
        return None


def _clean_value(value: object, changes: list[str]) -> Value:
    if isinstance(value, str):
        text, changed = clean_text(value)
        changes += changed
        return text or None
    if isinstance(value, decimal.Decimal | float):
        return None if math.isnan(value) else float(value)
    if value is None or isinstance(value, int):
        return value if value is None or abs(value) <= MAX_INTEGER else str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes) or (isinstance(value, Mapping) and "bytes" in value):
        changes.append("bytes left out of the record")
        return None
    if isinstance(value, Mapping | list | tuple):
        text, changed = neutralise(json.dumps(value, ensure_ascii=False, default=str))
        changes += ("lists written as JSON", *changed)
        return text
    return storable(str(value))


def _clean_messages(turns: object, images: int, changes: list[str]) -> tuple[Message, ...]:
    messages: list[Message] = []
    for turn in turns if isinstance(turns, list) else []:
        role, content = (isinstance(turn, Mapping) and turn.get(key) for key in Message._fields)
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(f"not a conversation: a turn is {turn!r:.80}")
        text, changed = neutralise(content)
        changes += changed
        messages.append(Message(role, text))  # type: ignore[arg-type]
    marks = sum(message.content.count(IMAGE_MARK) for message in messages)
    if marks not in (0, images):
        raise ValueError(f"image marks do not match images: {marks} {IMAGE_MARK}, {images} images")
    if not messages or messages[-1].role != "assistant":
        raise ValueError("the conversation does not end with an assistant message")
    return tuple(messages)


def _cell_text(row: Row, column: str | None) -> str | None:
    value = row.values.get(column) if column else None
    is_empty = value is None or (isinstance(value, float) and math.isnan(value))
    return None if is_empty else storable(str(value).strip()) or None
