"""Decide from the first rows of a source, and the user's options, how every row is cleaned."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from phi_vision.data.template import CATEGORY_FIRST, CONVERSATION, PRODUCT, Template, find_template
from phi_vision.io.formatting import error_texts
from phi_vision.prepare.cell_kinds import (
    READERS,
    CellContext,
    find_separator,
    find_steps,
    suggest_kind,
)
from phi_vision.prepare.columns import Columns, cell_of, choose_columns, image_cells, is_empty
from phi_vision.prepare.image_references import found_by_name
from phi_vision.prepare.images import ImageRules
from phi_vision.prepare.prepare_config import PrepareConfig
from phi_vision.prepare.prices import DecimalMark, guess_decimal, parse_price
from phi_vision.prepare.sources.rows import Row, Source

failure = error_texts(__file__)
MAX_OTHERS = 30  # columns besides the template's of which kinds are suggested
OTHER = "not in the answer"  # of columns, whose kinds are shown
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
    contexts: Mapping[str, CellContext] = field(default_factory=dict)
    """Field of a kind that `cell_kinds` reads -> what its cells depend on."""
    kinds: Mapping[str, str] = field(default_factory=dict)  # field -> suggested kind, and why

    def describe(self) -> dict[str, str]:
        """Describe the columns, and the kinds of fields that were suggested, for display."""
        kinds = {name if name == OTHER else f"kind of {name}": k for name, k in self.kinds.items()}
        changed = next((name for name in self.kinds if name != OTHER), "")
        hint = {"kinds": f"--fields '{changed}:KIND' … changes them"} if changed else {}
        return self.columns.describe() | kinds | hint


def find_schema(source: Source, config: PrepareConfig) -> Schema:
    """Derive the schema from a source's first rows and the user's mapping, template and mark."""
    readable = (row for row in source.rows() if isinstance(row, Row))
    first = list(itertools.islice(readable, FIRST_ROWS))
    if not first:  # every row is rejected for its own reason
        nothing = Columns(image=(), id=None, group=None, split=None, messages=None, fields={})
        return Schema(columns=nothing, template=None, images=ImageRules(), decimal=None)
    template: Template | None = find_template(config.template or "product")
    slots = _parse_fields(config)
    if slots:
        template = _template_of(dict.fromkeys(slots, ""))
    given = [*config.map, *([f"image={config.images}"] if config.images else [])]
    columns = choose_columns(first, template, _parse_mapping(given), source.folder)
    if source.kind == "folder" and not columns.fields:
        raise failure("no_words", name=source.name)
    if not (config.template or slots) or template == CONVERSATION:
        template = None if columns.messages else _template_over(columns)
    if template and (missing := [f for f in template.fields if f not in columns.fields]):
        names, found = ", ".join(missing), ", ".join(columns.fields.values()) or "no columns"
        raise failure(
            "missing_fields", name=template.name, names=names, found=found, first=missing[0]
        )
    cells = {name: [cell_of(row, at) for row in first] for name, at in columns.fields.items()}
    kinds = dict[str, str]()
    if template:
        others = [name for name in cells if name not in template.fields]
        wanted = [name for name, kind in slots.items() if kind in ("", "?")]
        wanted = wanted if slots or config.template else others * (len(others) <= MAX_OTHERS)
        suggested = {name: _suggest(cells[name], slots.get(name, ""), config) for name in wanted}
        if slots:
            template = _template_of(slots | {name: kind for name, (kind, _) in suggested.items()})
            kinds = {n: f"{kind} (guessed: {why})" for n, (kind, why) in suggested.items()}
        else:
            kinds = _other_kinds(template, suggested)
    numbers = template.fields_of("number") if template else ()
    images = [cell for row in first for cell in image_cells(row, columns)]
    decimal = DECIMAL_MARKS.get(config.decimal) or guess_decimal(
        cell for field in numbers for cell in cells[field]
    )
    if template and config.numbers:
        template = replace(template, numbers=config.numbers)
    read = template.parts[1] if template else ()
    return Schema(
        columns=columns,
        template=template,
        images=ImageRules(longest_side=config.longest_side),
        decimal=decimal,
        prices=frozenset(f for f in cells if "price" in f.lower() and _are_prices(cells[f])),
        by_name=next(filter(None, (found_by_name(each, source.folder) for each in images)), ""),
        contexts={
            slot.field: CellContext(
                separator=find_separator(cells[slot.field]),
                steps=find_steps(cells[slot.field]),
                unit=slot.unit,
                decimal=DECIMAL_MARKS.get(config.decimal) or guess_decimal(cells[slot.field]),
            )
            for slot in read
            if slot.kind in READERS
        },
        kinds=kinds,
    )


def _parse_fields(config: PrepareConfig) -> dict[str, str]:
    """Parse ("title", "weight:quantity kg?") to {"title": "", "weight": "quantity kg?"}."""
    if config.fields and config.template:
        given = " ".join(config.fields)
        raise failure("template_and_fields", template=config.template, fields=given)
    slots = dict[str, str]()
    for text in config.fields:
        name, _, kind = text.partition(":")
        is_optional = text.endswith("?")
        slots[name.strip().rstrip("?")] = kind.strip().rstrip("?") + "?" * is_optional
    return slots


def _suggest(cells: Sequence[object], given: str, config: PrepareConfig) -> tuple[str, str]:
    """Suggest the kind of a column as a template writes it, such as "list?", and say why."""
    known = [cell for cell in cells if not is_empty(cell)]
    kind, reason = suggest_kind(known, DECIMAL_MARKS.get(config.decimal))
    if len(known) < len(cells):
        given, reason = "?", f"{reason}, empty in {len(cells) - len(known)} of {len(cells)}"
    return kind + given, reason


def _other_kinds(template: Template, suggested: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Describe columns besides the template's that the answer could hold, by kinds of their own."""
    kinds = {name: kind for name, (kind, _) in suggested.items()}
    listed = [f"{name}:{k}" for name, k in kinds.items() if re.split("[ ?]", k)[0] in READERS]
    if not listed:
        return {}
    command = " ".join([*template.fields, *(each.partition(":")[0] for each in listed)])
    return {OTHER: f"{', '.join(listed)}; --fields {command} adds them"}


def _template_of(kinds: Mapping[str, str]) -> Template:
    """Build a template over fields, such as {"title": "text", "colours": "list?"}."""
    labels = {name: name.replace("_", " ") for name in kinds}
    listed = [label.lower() for label in labels.values()]
    slots = {
        n: f"{n}:{kind}" if kind.strip("?") not in ("", "text") else f"{n}{kind[4:]}"
        for n, kind in kinds.items()
    }
    return Template(
        name="fields",
        question=f"Name {', '.join(listed[:-1])}{' and ' * (len(listed) > 1)}{listed[-1]} of the "
        "product in this image.",
        answer=", ".join(f"{labels[n].title()}: {{{slot}}}" for n, slot in slots.items()),
        layout="chat",
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
    if template.answer == PRODUCT.answer:
        name, answer = CATEGORY_FIRST.name, CATEGORY_FIRST.answer
        return replace(template, name=name, answer=answer), share
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
