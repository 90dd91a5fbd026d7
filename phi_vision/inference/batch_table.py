"""Outcomes as a table: one typed column for each field, and what is said about them.

id, split              which row of the catalog; `split` where it has splits
title, full_price, …   what was predicted: number fields as float64, others as text
confidence_title, …    the model's probability of what it wrote there
readable               whether the answer has the template's form; null where there is none
text                   the answer as it was written; null where there is none
error, error_detail    why there is no answer: in short, and in a sentence; null where there is
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from phi_vision.data.samples import Value
from phi_vision.data.template import Kind, Template
from phi_vision.inference.batch_sources import Catalog
from phi_vision.inference.batches import Failure, Outcome, Portion

CONFIDENCE = "confidence_"
"""What the name of a column with a field's confidence begins with."""

ENDING = ".parquet"


def columns_of(template: Template, *, has_splits: bool) -> pa.Schema:
    """List the columns of a template's predictions.

    Raises:
        ValueError: A field bears the name of a column that says something else.
    """
    own = [("id", pa.string())] + ([("split", pa.string())] if has_splits else [])
    fields = [(field, ARROW_TYPES[kind]) for field, kind in template.kinds.items()]
    sure = [(CONFIDENCE + field, pa.float64()) for field in template.fields]
    said = [("readable", pa.bool_()), ("text", pa.string())]
    said += [("error", pa.string()), ("error_detail", pa.string())]
    schema = pa.schema([*own, *fields, *sure, *said])
    for field in template.fields:
        if schema.names.count(field) > 1:
            raise ValueError(
                f"the template {template.name!r} has a field {field!r}, and so is a column called "
                "that says something else about each row; give --template a copy of the template "
                f"in which the field is called otherwise, such as {field}_read"
            )
    return schema


def as_table(
    portion: Portion, outcomes: Sequence[Outcome], template: Template, schema: pa.Schema
) -> pa.Table:
    """Write what became of a portion, one row for each entry.

    Args:
        portion: What was asked about.
        outcomes: One for each entry.
        template: Reads the answers.
        schema: From `columns_of`.
    """
    rows = []
    for entry, outcome in zip(portion.entries, outcomes, strict=True):
        named = {"id": _storable(entry.id), "split": entry.split}
        rows.append(named | _said(outcome, template))
    return pa.Table.from_pylist(rows, schema=schema)


def kept_columns(words: Sequence[str], catalog: Catalog, schema: pa.Schema) -> dict[str, str]:
    """Read which columns of the source go into the table, and under which names.

    Input:  ["brand", "full_price=true_price"]
    Output: {"brand": "brand", "true_price": "full_price"}

    Raises:
        ValueError: The source has no such column of plain values, or the name is taken.
    """
    kept: dict[str, str] = {}
    for word in words:
        column, _, name = word.partition("=")
        name = name or column
        if column not in catalog.schema.names:
            held = ", ".join(catalog.schema.names) or "none"
            raise ValueError(
                f"cannot keep {column!r}: the source has no such column of plain values in all its "
                f"files; it has {held}"
            )
        if name in schema.names or name in kept:
            raise ValueError(
                f"cannot keep {column!r} as {name!r}: the predictions have a column of that name; "
                f"give it another one, such as --keep {column}=true_{column}"
            )
        kept[name] = column
    return kept


def refuse_place(out: Path, catalog: Catalog) -> None:
    """Refuse a file that cannot be written, or that would become part of the source.

    Raises:
        ValueError: Says which of both.
    """
    if out.suffix != ENDING or out.is_dir():
        found = "it is a folder" if out.is_dir() else "its name does not end so"
        raise ValueError(f"--out {out} is to be a {ENDING} file: {found}; give one")
    catalog.refuse_output(out)


def _said(outcome: Outcome, template: Template) -> dict[str, object]:
    if isinstance(outcome, Failure):
        return {"error": outcome.reason, "error_detail": _storable(outcome.detail)}
    record = template.parse(outcome.text)
    sure = {CONFIDENCE + field: float(value) for field, value in outcome.confidence.items()}
    said = {"readable": record is not None, "text": _storable(outcome.text)}
    values = {
        field: CELLS[kind]((record or {}).get(field)) for field, kind in template.kinds.items()
    }
    return values | sure | said


def _number_cell(value: Value) -> float | None:
    """Keep numbers; what else an answer holds in a number field stands in its text."""
    if isinstance(value, bool | str | None):
        return None
    try:
        return float(value)
    except OverflowError:  # A whole number with more than 308 digits.
        return None


def _text_cell(value: Value) -> str | None:
    return None if value is None else _storable(str(value))


def _storable(text: str) -> str:
    """Make bytes of file names that are no text visible, and halves of surrogate pairs.

    Parquet holds UTF-8, which has neither.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


ARROW_TYPES: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "category": pa.string(),
    "number": pa.float64(),
}
"""Kind of a field -> type of its column."""

CELLS = {"text": _text_cell, "category": _text_cell, "number": _number_cell}
"""Kind of a field -> makes a cell of a value, which may be of another kind."""
