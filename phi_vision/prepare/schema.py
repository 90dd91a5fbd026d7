"""Decide from the first rows of a source, and the user's options, how every row is cleaned."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from phi_vision.data.template import TEMPLATES, Template, find_template
from phi_vision.prepare.columns import Columns, choose_columns, image_cells
from phi_vision.prepare.image_references import url_of
from phi_vision.prepare.images import ImageRules
from phi_vision.prepare.prices import DecimalMark, guess_decimal, parse_price
from phi_vision.prepare.sources.rows import Row, Source

FIRST_ROWS = 1000
"""Rows from which the columns are guessed."""

MIN_PRICE_SHARE = 0.9
"""Fraction of the first rows in which a column named like a price must hold one."""

WORDING = {
    "title": ("the product", "Product: {title}"),
    "category3_code": ("its category", "Category: {category3_code}"),
    "full_price": ("its full price", "Full Price: {full_price:number}"),
}
"""Field -> its name in a question, and its part of a completion, where some are missing."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """How every row of a source is cleaned."""

    columns: Columns

    template: Template | None
    """A record must have its fields; None where samples are conversations."""

    images: ImageRules

    decimal: DecimalMark | None
    """The decimal mark of an ambiguous `1.234`."""

    prices: frozenset[str] = frozenset()
    """Fields besides the template's that hold prices; one that is not parsed is left empty."""

    has_urls: bool = False
    """Whether images are given by URLs."""


def find_schema(
    source: Source,
    *,
    mapping: Sequence[str],
    template_name: str | None,
    decimal: DecimalMark | None,
    images: ImageRules,
) -> Schema:
    """Derive the schema from a source's first rows.

    Args:
        source: The catalog.
        mapping: The user's columns, as PART=COLUMN.
        template_name: Name or file of the template; None to choose one that fits.
        decimal: The decimal mark of 1.234; None to guess it from the other prices.
        images: Which images are accepted.
    """
    first = [row for row in itertools.islice(source.rows(), FIRST_ROWS) if isinstance(row, Row)]
    given = _parse_mapping(mapping)
    template: Template | None = find_template(template_name or "product")
    columns = choose_columns(first, template, given, source.folder)
    if not template_name:
        template = None if columns.messages else _template_over(columns)
    elif template:
        _check_fields(template, columns)
    numbers = template.fields_of("number") if template else ()
    prices = (row.values.get(columns.fields.get(field, "")) for field in numbers for row in first)
    return Schema(
        columns=columns,
        template=template,
        images=images,
        decimal=decimal or guess_decimal(prices),
        prices=frozenset(_price_fields(columns, first)),
        has_urls=any(url_of(cell) for row in first for cell in image_cells(row, columns)),
    )


def _price_fields(columns: Columns, first: Sequence[Row]) -> Iterator[str]:
    """Find the fields that are named like a price and mostly hold one."""
    for field, column in columns.fields.items():
        cells = [row.values.get(column) for row in first if row.values.get(column)]
        is_text = bool(cells) and all(isinstance(cell, str) for cell in cells)
        is_named = "price" in field.lower()
        if is_named and is_text and sum(map(_is_price, cells)) >= MIN_PRICE_SHARE * len(cells):
            yield field


def _is_price(cell: object) -> bool:
    try:
        parse_price(cell)
    except ValueError:
        return False
    return True


def _parse_mapping(mapping: Sequence[str]) -> dict[str, str]:
    """Parse ("title=Product Name",) to {"title": "Product Name"}."""
    given: dict[str, str] = {}
    for text in mapping:
        part, _, column = text.partition("=")
        if not (part and column):
            raise ValueError(f"--map {text}: write PART=COLUMN, such as title='Product Name'")
        if part in given:
            raise ValueError(f"--map {text}: {part} is {given[part]!r} already; give it once")
        given[part] = column
    return given


def _check_fields(template: Template, columns: Columns) -> None:
    missing = [field for field in template.fields if field not in columns.fields]
    if missing:
        raise ValueError(
            f"the template {template.name!r} needs {', '.join(missing)}; "
            f"found {', '.join(columns.fields.values()) or 'no columns'}; "
            f"map them with --map, such as --map {missing[0]}=COLUMN"
        )


def _template_over(columns: Columns) -> Template:
    """Return the product template if all its fields were found, else one over those found."""
    product = TEMPLATES["product"]
    found = [field for field in product.fields if field in columns.fields]
    if len(found) == len(product.fields):
        return product
    if not found:
        raise ValueError(
            f"no column was recognised as {', '.join(product.fields)}; "
            f"found {', '.join(columns.fields.values())}; map them with --map, such as "
            "--map title=COLUMN, or give a --template over the columns there are"
        )
    return Template(
        name="found",
        question=f"Name {' and '.join(WORDING[field][0] for field in found)} in this image.",
        answer=", ".join(WORDING[field][1] for field in found),
        layout="chat",
    )
