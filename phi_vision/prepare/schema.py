"""Rules: what every row of a source is measured by, decided from its first rows and the user."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from phi_vision.data.template import TEMPLATES, Template, find_template
from phi_vision.prepare.columns import Columns, cells_of, choose_columns
from phi_vision.prepare.image_references import is_url
from phi_vision.prepare.images import ImageRules
from phi_vision.prepare.prices import DecimalMark, guess_decimal, read_price
from phi_vision.prepare.sources.rows import Row, Source

FIRST_ROWS = 1000
"""Rows looked at to find out what each column is."""

MOSTLY = 0.9
"""Share of the first rows in which a column named like a price must hold one."""

WORDS = {
    "title": ("the product", "Product: {title}"),
    "category3_code": ("its category", "Category: {category3_code}"),
    "full_price": ("its full price", "Full Price: {full_price:number}"),
}
"""Field -> what a question calls it, and how an answer writes it, where not all are there."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a row is measured by; the same for every row of a source."""

    columns: Columns

    template: Template | None
    """Whose fields a record must have; None where samples are conversations."""

    images: ImageRules

    decimal: DecimalMark | None
    """What an ambiguous `1.234` means in this source."""

    prices: frozenset[str] = frozenset()
    """Fields besides the template's that hold prices; one that is not understood is left empty."""

    has_links: bool = False
    """Whether images are named by URLs."""


def find_rules(
    source: Source,
    *,
    mapping: Sequence[str],
    template_name: str | None,
    decimal: DecimalMark | None,
    images: ImageRules,
) -> Rules:
    """Decide from a source's first rows.

    Args:
        source: The catalog.
        mapping: What the user says of its columns, as PART=COLUMN.
        template_name: Name or file of the template; None to take one that fits.
        decimal: What 1.234 means; None to tell by the other prices.
        images: What images are measured by.

    Raises:
        ValueError: A column is missing, or there is no such template.
    """
    first = [row for row in itertools.islice(source.rows(), FIRST_ROWS) if isinstance(row, Row)]
    given = _read_mappings(mapping)
    asked = find_template(template_name) if template_name else TEMPLATES["product"]
    columns = choose_columns(first, asked, given, source.folder)
    if template_name:
        template: Template | None = _check_fields(asked, columns)
    else:
        template = None if columns.messages else _template_over(columns)
    numbers = template.fields_of("number") if template else ()
    prices = (row.values.get(columns.fields.get(field, "")) for field in numbers for row in first)
    return Rules(
        columns=columns,
        template=template,
        images=images,
        decimal=decimal or guess_decimal(prices),
        prices=frozenset(_price_fields(columns, first)),
        has_links=any(is_url(cell) for row in first for cell in cells_of(row, columns)),
    )


def _price_fields(columns: Columns, first: Sequence[Row]) -> Iterator[str]:
    """Find the fields that go by the name of a price and mostly hold some."""
    for field, column in columns.fields.items():
        cells = [row.values.get(column) for row in first if row.values.get(column)]
        if "price" in field.lower() and cells and all(isinstance(cell, str) for cell in cells):
            understood = sum(map(_is_price, cells))
            if understood >= MOSTLY * len(cells):
                yield field


def _is_price(cell: object) -> bool:
    try:
        read_price(cell)
    except ValueError:
        return False
    return True


def _read_mappings(mapping: Sequence[str]) -> dict[str, str]:
    """Read what the user says of the columns.

    Input:  ("title=Product Name", "image=front,back")
    Output: {"title": "Product Name", "image": "front,back"}
    """
    given: dict[str, str] = {}
    for words in mapping:
        part, _, column = words.partition("=")
        if not (part and column):
            raise ValueError(f"--map {words}: write PART=COLUMN, such as title='Product Name'")
        if part in given:
            raise ValueError(f"--map {words}: {part} is {given[part]!r} already; give it once")
        given[part] = column
    return given


def _check_fields(template: Template, columns: Columns) -> Template:
    missing = [field for field in template.fields if field not in columns.fields]
    if missing:
        raise ValueError(
            f"the template {template.name!r} needs {', '.join(missing)}; "
            f"found {', '.join(columns.fields.values()) or 'no columns'}; "
            f"name them with --map, such as --map {missing[0]}=COLUMN"
        )
    return template


def _template_over(columns: Columns) -> Template:
    """Word what was found: the product's own wording where all of it is there, else a plain one.

    Raises:
        ValueError: None of its fields was found.
    """
    product = TEMPLATES["product"]
    found = [field for field in product.fields if field in columns.fields]
    if len(found) == len(product.fields):
        return product
    if not found:
        raise ValueError(
            f"no column was recognised as {', '.join(product.fields)}; "
            f"found {', '.join(columns.fields.values())}; name them with --map, such as "
            "--map title=COLUMN, or give a --template over the columns there are"
        )
    return Template(
        name="found",
        question=f"Name {' and '.join(WORDS[field][0] for field in found)} in this image.",
        answer=", ".join(WORDS[field][1] for field in found),
        layout="chat",
    )
