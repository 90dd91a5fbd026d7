"""Decide from the first rows of a source, and the user's options, how every row is cleaned."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from phi_vision.data.template import (
    CATEGORY_FIRST,
    CONVERSATION,
    PRODUCT,
    Template,
    find_template,
)
from phi_vision.io.formatting import error_texts
from phi_vision.prepare.columns import Columns, choose_columns, image_cells
from phi_vision.prepare.image_references import found_by_name
from phi_vision.prepare.images import ImageRules
from phi_vision.prepare.prepare_config import PrepareConfig
from phi_vision.prepare.prices import DecimalMark, guess_decimal, parse_price
from phi_vision.prepare.sources.rows import Row, Source

failure = error_texts(__file__)
FIRST_ROWS = 1000  # from which the columns are guessed
MIN_PRICE_SHARE = 0.9  # of the first rows, in which a column named like a price must hold one
NAMES_SHARE = 0.5  # of the titles with a word that no other product's has: they are names
MIN_TITLES = 50  # of fewer most have a word of their own by chance
DECIMAL_MARKS: dict[str | None, DecimalMark] = {"point": ".", "comma": ","}
WORDING = {  # field -> its name in a question, and its part of a completion, where some are missing
    "title": ("the product", "Product: {title}"),
    "category3_code": ("its category", "Category: {category3_code:category}"),
    "full_price": ("its full price", "Full Price: {full_price:number}"),
}


@dataclass(frozen=True, kw_only=True)
class Schema:
    """How every row of a source is cleaned."""

    columns: Columns
    template: Template | None  # its fields must be there; None where samples are conversations
    images: ImageRules
    decimal: DecimalMark | None  # of an ambiguous `1.234`
    prices: frozenset[str] = frozenset()
    """Fields besides the template's that hold prices; one that is not parsed is left empty."""

    by_name: str = ""  # the first image that is not where its cell says


def find_schema(source: Source, config: PrepareConfig) -> Schema:
    """Derive the schema from a source's first rows and the user's mapping, template and mark."""
    readable = (row for row in source.rows() if isinstance(row, Row))
    first = list(itertools.islice(readable, FIRST_ROWS))
    if not first:  # every row is rejected for its own reason
        nothing = Columns(image=(), id=None, group=None, split=None, messages=None, fields={})
        return Schema(columns=nothing, template=None, images=ImageRules(), decimal=None)
    template: Template | None = find_template(config.template or "product")
    given = [*config.map, *([f"image={config.images}"] if config.images else [])]
    columns = choose_columns(first, template, _parse_mapping(given), source.folder)
    if not config.template or template == CONVERSATION:
        template = None if columns.messages else _template_over(columns)
    if template and (missing := [f for f in template.fields if f not in columns.fields]):
        names, found = ", ".join(missing), ", ".join(columns.fields.values()) or "no columns"
        raise failure(
            "missing_fields", name=template.name, names=names, found=found, first=missing[0]
        )
    cells = {
        field: [row.values.get(column) for row in first] for field, column in columns.fields.items()
    }
    numbers = template.fields_of("number") if template else ()
    images = [cell for row in first for cell in image_cells(row, columns)]
    return Schema(
        columns=columns,
        template=template,
        images=ImageRules(longest_side=config.longest_side),
        decimal=DECIMAL_MARKS.get(config.decimal)
        or guess_decimal(cell for field in numbers for cell in cells[field]),
        prices=frozenset(f for f in cells if "price" in f.lower() and _are_prices(cells[f])),
        by_name=next(filter(None, (found_by_name(each, source.folder) for each in images)), ""),
    )


def order_answer(template: Template, titles: Iterable[tuple[str, str]]) -> tuple[Template, float]:
    """Put the title last if most titles are invented names; return the share of these, too.

    A model that begins with a name it cannot see bets on one that it remembers, and then writes the
    category of that one. `titles` come with their group: colours of a product share its name.

    Input:  PRODUCT, [("Chaz Hoodie", "1"), ("Chaz Hoodie", "1"), ("Gobi Tee", "2"), …]
    Output: CATEGORY_FIRST, 1.0; with "Wool Coat", "Red Coat", "Red Wool Hat", …: PRODUCT, 0.0
    """
    groups, words_of = defaultdict[str, set[str]](set), dict[str, list[str]]()
    for title, group in titles:
        words_of[title] = re.findall(r"[^\W\d]+", title.casefold())
        for word in words_of[title]:
            groups[word].add(group)
    names = [any(len(groups[word]) == 1 for word in words) for words in words_of.values()]
    share = sum(names) / len(names) if len(names) >= MIN_TITLES else 0.0
    if share < NAMES_SHARE or template.fields[0] != "title" or len(template.fields) == 1:
        return template, share
    if template == PRODUCT:
        return CATEGORY_FIRST, share
    answer = ", ".join(WORDING[field][1] for field in (*template.fields[1:], "title"))
    return replace(template, answer=answer), share


def _are_prices(cells: Sequence[object]) -> bool:
    """Whether the texts of a column mostly hold a price."""
    texts = [cell for cell in cells if cell]
    parsed = 0
    for text in texts:
        with suppress(ValueError):
            parsed += parse_price(text) is not None
    is_text = all(isinstance(text, str) for text in texts)
    return bool(texts) and is_text and parsed >= MIN_PRICE_SHARE * len(texts)


def _parse_mapping(mapping: Sequence[str]) -> dict[str, str]:
    """Parse ("title=Product Name",) to {"title": "Product Name"}."""
    given: dict[str, str] = {}
    for text in mapping:
        part, _, column = text.partition("=")
        if not (part and column):
            raise failure("no_column", text=text)
        if part in given:
            raise failure("given_twice", text=text, part=part, column=given[part])
        given[part] = column
    return given


def _template_over(columns: Columns) -> Template:
    """Return the product template if all its fields were found, else one over those found."""
    found = [field for field in PRODUCT.fields if field not in columns.missing]
    if len(found) == len(PRODUCT.fields):
        return PRODUCT
    if not found:
        held = ", ".join(columns.fields.values())
        held = held or f"only {columns.image[0]!r}; if it is a whole line, save the table as CSV"
        raise failure("no_field", wanted=", ".join(PRODUCT.fields), found=held)
    return Template(
        name="found",
        question=f"Name {' and '.join(WORDING[field][0] for field in found)} in this image.",
        answer=", ".join(WORDING[field][1] for field in found),
        layout="chat",
    )
