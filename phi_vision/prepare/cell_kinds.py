"""Read cells of exports as lists, quantities, money and booleans, and suggest a column's kind.

Messages are a reason that is the same for all of its kind, a colon and a detail.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from phi_vision.data.kinds import path_kind
from phi_vision.data.kinds.list_kind import SEPARATOR
from phi_vision.data.kinds.marked_number import format_amount
from phi_vision.data.kinds.quantity_kind import UNITS, in_unit, spelled_out, split
from phi_vision.data.samples import Value
from phi_vision.data.template import Kind
from phi_vision.io.formatting import error_texts, read_yaml
from phi_vision.prepare.prices import DecimalMark, parse_price
from phi_vision.prepare.text import clean_text, is_placeholder, parse_literal

_failure = error_texts(__file__)
_WORDS = read_yaml(__file__, "cell_words.yaml")
STEPS = re.compile(r"\s*(?:>|»|›|→|::|/|\||\\)\s*")  # between the levels of a path
SURE_STEPS = re.compile(r".>.|[»›→]|::")  # which separate nothing but levels
SEPARATORS = (";", "|", "\n", ",", "/")  # of the items of a list, the surest first
MAX_CELLS = 300  # of a column, from which its kind is suggested
MIN_FITTING = 0.9  # share of a column's values that must be of a kind to suggest it
MIN_MARKED = 0.5  # share of amounts with a currency; the others may have a column of currencies
MIN_SEPARATED = 0.1  # share of its values with a separator
MAX_DISTINCT = 0.5  # distinct share of the items of a list, and of categories
_AMOUNT = re.compile(r"([-−]?)\s*(\d[\d.,' ]*(?<=\d)|\d)\s*(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class CellContext:
    """What a cell means depends on."""

    separator: str = ""  # of a list's items
    unit: str = ""  # of a number without one
    currency: str = ""  # of an amount without one
    decimal: DecimalMark | None = None


class Suggestion(NamedTuple):
    """The kind of a column as a template writes it, and why."""

    kind: str  # "list", "quantity kg"
    reason: str


def read_cell(kind: Kind, cell: object, context: CellContext) -> Value:
    """Read a cell as a value of a kind in READERS; None where it holds nothing.

    Input:  list "red, blue"    quantity "1,250.0 Grams"    money "£ 12.50"    boolean "Ja"
    Output: "red; blue"         "1250 g"                    "12.5 GBP"         True
    """
    if isinstance(cell, str):
        cell = cell.strip()
    is_empty = cell is None or cell == [] or (isinstance(cell, float) and math.isnan(cell))
    is_empty = is_empty or (isinstance(cell, str) and is_placeholder(cell))
    return None if is_empty else READERS[kind](cell, context)


def find_separator(cells: Sequence[object]) -> str:
    """Find what separates the items of a column's lists: "," of "red, blue" and "red"."""
    texts = [cell for cell in cells if isinstance(cell, str) and parse_literal(cell) is None]
    needed = max(1.0, MIN_SEPARATED * len(texts))
    return next((each for each in SEPARATORS if sum(each in t for t in texts) >= needed), "")


def suggest_kind(cells: Sequence[object], decimal: DecimalMark | None = None) -> Suggestion:
    """Suggest the kind of a column from its values, without empty ones.

    Input:  "red, blue", "red", "blue, green", ...
    Output: list, "3 of 10 values have several items, separated by ','"
    """
    cells = cells[:MAX_CELLS]
    context = CellContext(separator=find_separator(cells), decimal=decimal)
    for suggest in SUGGESTIONS if cells else ():
        if suggestion := suggest(cells, context):
            return suggestion
    distinct = len({str(cell).casefold() for cell in cells})
    is_class = distinct <= MAX_DISTINCT * len(cells)
    return Suggestion("category" if is_class else "text", f"{distinct} different values")


def _read_list(cell: object, context: CellContext) -> Value:
    found = parse_literal(cell) if isinstance(cell, str) else cell
    if isinstance(found, Mapping):
        found = list(found.values())
    elif not isinstance(found, list | tuple):
        found = str(cell).split(context.separator) if context.separator else [cell]
    texts = [clean_text(str(item))[0].replace(SEPARATOR[0], ",").strip() for item in found]
    if not all(texts):
        raise _failure("empty_item", found=str(cell)[:80])
    first = dict[str, str]()  # spelling of items that differ in case
    for text in texts:
        first.setdefault(text.casefold(), text)
    return SEPARATOR.join(first.values())


def _read_path(cell: object, context: CellContext) -> Value:
    found = parse_literal(cell) if isinstance(cell, str) else cell
    levels = found if isinstance(found, list | tuple) else STEPS.split(clean_text(str(cell))[0])
    texts = [clean_text(str(level))[0].replace(">", "/").strip() for level in levels]
    if not all(texts):
        raise _failure("missing_parent", found=str(cell)[:80])
    return path_kind.SEPARATOR.join(texts)


def _read_quantity(cell: object, context: CellContext) -> Value:
    text = clean_text(str(cell))[0]
    found = _AMOUNT.fullmatch(re.sub(r"\s*\([^()]*\)$", "", text))
    if isinstance(cell, bool) or found is None:
        raise _failure("no_quantity", found=text[:80])
    sign, number, name = found.groups()
    symbol = _find_unit(name.strip().rstrip(".")) if name.strip() else context.unit
    if not symbol:
        raise _failure("no_unit", found=text[:80])
    amount = parse_price(number, decimal=context.decimal).amount or 0.0
    value = f"{'-' * bool(sign and amount)}{format_amount(amount)} {symbol}"
    if context.unit and symbol != context.unit and in_unit(value, context.unit) is None:
        raise _failure("other_unit", found=text[:80], unit=context.unit)
    return value


def _find_unit(name: str) -> str:
    """Find the symbol of a listed unit: "KG", "Grams", "fl. oz" -> kg, g, floz; "" if unknown."""
    for each in (name, name.casefold()):
        if each in UNITS:
            return each
        if each in _WORDS["units"]:
            return str(_WORDS["units"][each])
    return spelled_out(name) or spelled_out(name.casefold()) or ""


def _read_money(cell: object, context: CellContext) -> Value:
    price = parse_price(cell, decimal=context.decimal)
    if price.amount is None:
        return None
    code = price.currency or context.currency
    if not code:
        raise _failure("no_currency", found=str(cell)[:80])
    return f"{format_amount(price.amount)} {code}"


def _read_boolean(cell: object, context: CellContext) -> Value:
    text = str(cell).strip().casefold()
    for meant, words in ((True, _WORDS["meaning_yes"]), (False, _WORDS["meaning_no"])):
        if text in words:
            return meant
    raise _failure("no_boolean", found=text[:80])


def _fits(kind: Kind, cells: Sequence[object], context: CellContext) -> list[Value]:
    """Return the values of a kind if nearly all cells hold one, else none."""
    values = []
    for cell in cells:
        with suppress(ValueError):
            values += [read_cell(kind, cell, context)]
    return values if len(values) >= MIN_FITTING * len(cells) else []


def _suggest_boolean(cells: Sequence[object], context: CellContext) -> Suggestion | None:
    values = _fits("boolean", cells, context)
    if len({*values} - {None}) < 2:
        return None
    return Suggestion("boolean", f"{values.count(True)} of {len(values)} values are yes")


def _suggest_quantity(cells: Sequence[object], context: CellContext) -> Suggestion | None:
    if not all(isinstance(cell, str) for cell in cells):
        return None
    pairs = [pair for value in _fits("quantity", cells, context) if (pair := split(value))]
    counts = Counter(unit for _, unit in pairs)
    most = counts.most_common(1)[0][0] if counts else ""
    if not most:
        return None
    fitting = [unit for unit in counts if unit == most or in_unit(f"1 {unit}", most) is not None]
    if sum(counts[unit] for unit in fitting) < MIN_FITTING * len(cells):
        return None
    return Suggestion(f"quantity {most}", f"numbers in {', '.join(fitting)}")


def _suggest_amount(cells: Sequence[object], context: CellContext) -> Suggestion | None:
    """Suggest money where most amounts have a currency, else a number."""
    prices = []
    for cell in cells:
        with suppress(ValueError):
            prices += [parse_price(cell, decimal=context.decimal)]
    known = [price for price in prices if price.amount is not None]
    codes = Counter(price.currency for price in known if price.currency)
    if not known or len(prices) < MIN_FITTING * len(cells):
        return None
    if codes.total() >= MIN_MARKED * len(known):
        return Suggestion("money", f"amounts in {', '.join(codes)}")
    return Suggestion("number", f"{len(known)} of {len(cells)} values are numbers")


def _suggest_list(cells: Sequence[object], context: CellContext) -> Suggestion | None:
    values = [value for value in _fits("list", cells, context) if isinstance(value, str)]
    items = [item for value in values for item in value.split(SEPARATOR)]
    several = sum(SEPARATOR in value for value in values)
    repeats = len({*items}) <= MAX_DISTINCT * len(items)
    if not repeats or several < max(1.0, MIN_SEPARATED * len(values)):
        return None
    by = f", separated by {context.separator!r}" if context.separator else ""
    return Suggestion("list", f"{several} of {len(values)} values have several items{by}")


def _suggest_path(cells: Sequence[object], context: CellContext) -> Suggestion | None:
    paths = [cell for cell in cells if isinstance(cell, str) and SURE_STEPS.search(cell)]
    values = [value for value in _fits("path", paths, context) if isinstance(value, str)]
    levels = [path_kind.levels_of(value) for value in values]
    if len(paths) < MIN_MARKED * len(cells) or not levels:
        return None
    roots = {first for first, *_ in levels}
    if len(roots) > MAX_DISTINCT * len(levels):
        return None
    return Suggestion("path", f"up to {max(map(len, levels))} levels below {len(roots)} roots")


READERS: dict[Kind, Callable[[object, CellContext], Value]] = {
    "list": _read_list,
    "quantity": _read_quantity,
    "money": _read_money,
    "boolean": _read_boolean,
    "path": _read_path,
}
"""Kinds whose cells are read here; texts are cleaned, and numbers are parsed as prices."""

SUGGESTIONS = (_suggest_boolean, _suggest_quantity, _suggest_amount, _suggest_path, _suggest_list)
"""In this order: what can be two of them is the first."""
