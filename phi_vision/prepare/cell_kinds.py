"""Read cells of exports as lists, quantities, money and booleans, and suggest a column's kind.

Messages are a reason that is the same for all of its kind, a colon and a detail.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import NamedTuple

from phi_vision.data.kinds import path_kind
from phi_vision.data.kinds.list_kind import SEPARATOR
from phi_vision.data.kinds.marked_number import format_amount
from phi_vision.data.kinds.quantity_kind import UNITS, in_unit, spelled_out, split
from phi_vision.data.samples import Value
from phi_vision.data.template import Kind
from phi_vision.io.formatting import error_texts, read_yaml
from phi_vision.prepare.prices import DecimalMark, amount_of, parse_price
from phi_vision.prepare.text import clean_text, is_placeholder, object_name, parse_literal

_failure = error_texts(__file__)
_WORDS = read_yaml(__file__, "cell_words.yaml")
# Between the levels of a path, the surest first: the first separates nothing but levels.
STEPS = (r"\s*(?:[-=]*>+|[»›→]|::)\s*", r"\s*\|\s*", r"\s+/\s+", "/", r"\\")
# Of the items of a list, the surest first; some from Chinese and Japanese exports.
SEPARATORS = (";", "；", "|", "\n", "、", "，", ",", "/")
UNSURE = ("/", r"\\")  # which separate only where nothing surer does
MAX_CELLS = 300  # of a column, from which its kind is suggested
MIN_FITTING = 0.9  # share of a column's values that must be of a kind to suggest it
MIN_MARKED = 0.5  # share of amounts with a currency; the others may have a column of currencies
MIN_SEPARATED = 0.1  # share of its values with a separator
MAX_DISTINCT = 0.5  # distinct share of the items of a list, and of categories
_FRACTION = r"(?:(?P<whole>\d+)[ -]+)?(?P<above>\d+) ?[/⁄] ?(?P<below>[2-68]|16|32|64)(?![\d.,])"
_DIGITS = r"(?:\d[\d.,' ]*(?<=\d)|\d)(?:[eE][+-]?\d+)?"
_AMOUNT = re.compile(
    rf"(?P<sign>[-−]?)\s*(?P<number>{_FRACTION}|{_DIGITS})\s*(?P<name>.*)", re.DOTALL
)
_SYMBOLS = {unit.casefold(): unit for unit in UNITS}


@dataclass(frozen=True, kw_only=True)
class CellContext:
    """What a cell means depends on."""

    separator: str = ""  # characters, each of which separates a list's items
    steps: Sequence[str] = STEPS  # what separates a path's levels, the surest first
    unit: str = ""  # of a number without one
    currency: str = ""  # of an amount without one, by its code, sign or name
    decimal: DecimalMark | None = None
    note: Callable[[str], object] = str  # takes the form in which a cell was read; ignores it


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
    is_empty = cell in (None, [], (), {}) or (isinstance(cell, float) and math.isnan(cell))
    is_empty = is_empty or (isinstance(cell, str) and is_placeholder(cell))
    return None if is_empty else READERS[kind](cell, context)


def find_separator(cells: Sequence[object]) -> str:
    """Find what separates the items of a column's lists: "," of "red, blue" and "red".

    Of "a; b" and "c, d" it is ";,"; of "a; b, c" and "c, d" only ";", as the comma is in an item.
    """
    return "".join(each[-1] for each in _find_common(map(re.escape, SEPARATORS), cells))


def find_steps(cells: Sequence[object]) -> list[str]:
    """Find what separates the levels of a column's paths: ">" of "Tops > Tees" and "Men/Women"."""
    found = _find_common(STEPS, cells)
    return found if STEPS[0] in found else [STEPS[0], *(found or STEPS[1:])]


def _find_common(patterns: Iterable[str], cells: Sequence[object]) -> list[str]:
    """Find the patterns that are in many texts, and never beside a surer one, which come first."""
    texts = [cell for cell in cells if isinstance(cell, str) and parse_literal(cell) is None]
    found = list[str]()
    for pattern in patterns:
        holding = [text for text in texts if re.search(pattern, text)]
        is_beside = any(re.search(surer, text) for surer in found for text in holding)
        if len(holding) >= max(1.0, MIN_SEPARATED * len(texts)) and not (
            found and (pattern in UNSURE or is_beside)
        ):
            found.append(pattern)
    return found


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
    found = _content(cell)
    if isinstance(found, Mapping):
        found = list(found.values())
    elif not isinstance(found, list | tuple):
        # Also [red, blue] and {red,blue}, as programs and databases print them.
        text = re.sub(r"^[\[{](.*)[\]}]$", r"\1", str(found), flags=re.DOTALL)
        found = re.split(f"[{re.escape(context.separator)}]", text) if context.separator else [text]
    texts = [_part(item).replace(SEPARATOR[0], ",") for item in found]
    if not all(texts):
        raise _failure("empty_item", found=str(cell)[:80])
    first = dict[str, str]()  # spelling of items that differ in case
    for text in texts:
        first.setdefault(text.casefold(), text)
    return SEPARATOR.join(first.values())


def _content(cell: object) -> object:
    """Return what a cell in JSON or Python holds, by its name if it has one."""
    found = (parse_literal(cell) or cell) if isinstance(cell, str) else cell
    return object_name(found) if isinstance(found, Mapping) else found


def _part(value: object) -> str:
    """Return an item or a level as clean text; "" where it stands for nothing."""
    text = clean_text(str(object_name(value)))[0].strip()
    return "" if value is None or is_placeholder(text) else text


def _read_path(cell: object, context: CellContext) -> Value:
    found = _content(cell)
    if isinstance(found, list | tuple):
        paths = _split_all(found, STEPS[0])
        if sum(len(path) > 1 for path in paths) >= min(2, len(paths)):  # a list of paths
            found = _deepest(paths, context)
    else:
        found = _levels(clean_text(str(found))[0], context)
    texts = [_part(level).replace(">", "/") for level in found]
    while len(texts) > 1 and not texts[-1]:  # a separator or N/A at the end
        texts.pop()
    if not all(texts):
        raise _failure("missing_parent", found=str(cell)[:80])
    return path_kind.SEPARATOR.join(texts)


def _levels(text: str, context: CellContext) -> list[str]:
    """Split a path at the surest of its separators; of several paths, the first of the deepest."""
    step = next((each for each in context.steps if re.search(each, text)), "")
    if not step:
        return [text]
    for mark in (";" if step == STEPS[1] else "[;|]", ","):
        paths = _split_all(re.split(rf"\s*{mark}\s*", text), step)
        # "Tops, Tops > Tees" are two; "Clothing, Shoes > Tops, Tees > Polos" is one.
        is_several = mark != "," and sum(len(path) > 1 for path in paths) > 1
        if is_several or len({first for first, *_ in paths}) < len(paths):
            return _deepest(paths, context)
    return re.split(step, text.removeprefix("/") if step in UNSURE else text)


def _split_all(texts: Iterable[object], step: str) -> list[list[str]]:
    return [re.split(step, str(object_name(text))) for text in texts]


def _deepest(paths: Sequence[list[str]], context: CellContext) -> list[str]:
    if len(paths) > 1:
        context.note("one of several paths")
    return max(paths, key=len)


def _read_quantity(cell: object, context: CellContext) -> Value:
    inner = _content(cell)
    inner = amount_of(inner) if isinstance(inner, Mapping) else inner
    is_number = isinstance(inner, int | float | Decimal) and not isinstance(inner, bool)
    text = format_amount(float(str(inner))) if is_number else clean_text(str(inner))[0]
    # "1½" as "1 1⁄2"; an amount in another unit may follow in parentheses.
    plain = re.sub("[¼-¾⅓-⅞]", lambda sign: f" {unicodedata.normalize('NFKC', sign[0])}", text)
    found = _AMOUNT.fullmatch(re.sub(r"\s*\([^()]*\)$", "", plain).strip())
    if isinstance(inner, bool) or found is None:
        raise _failure("no_quantity", found=text[:80])
    name = found["name"].strip().rstrip(".")
    symbol = _find_unit(name) if name else context.unit
    if not symbol:
        raise _failure("several_numbers" if re.search(r"\d", name) else "no_unit", found=text[:80])
    amount = _read_amount(
        found, symbol, replace(context, decimal="." if is_number else context.decimal)
    )
    if amount is None:
        raise _failure("no_quantity", found=text[:80])
    value = f"{'-' * bool(found['sign'] and amount)}{format_amount(amount)} {symbol}"
    if context.unit and symbol != context.unit and in_unit(value, context.unit) is None:
        raise _failure("other_unit", found=text[:80], unit=context.unit)
    return value


def _read_amount(found: re.Match[str], symbol: str, context: CellContext) -> float | None:
    """Read a number, also a fraction of an inch: "1 1/2" -> 1.5; None if it is none."""
    number = found["number"]
    if found["below"]:
        above, below = int(found["above"]), int(found["below"])
        return round(int(found["whole"] or 0) + above / below, 5) if above < below else None
    try:
        amount, _, form = parse_price(number, decimal=context.decimal)
    except ValueError:
        return None
    if form == "ambiguous":
        context.note(form)
        if symbol in _WORDS["three_decimals"]:
            return float(number.replace(",", "."))
    return amount


def _find_unit(name: str) -> str:
    """Find the symbol of a listed unit: "KG", "Grams", "fl. oz" -> kg, g, floz; "" if unknown."""
    plain = unicodedata.normalize("NFKC", name)
    for each in (name, plain, name.casefold(), plain.casefold()):
        if each in UNITS:
            return each
        if each in _WORDS["units"]:
            return str(_WORDS["units"][each])
        if each in _SYMBOLS:
            return _SYMBOLS[each]
    return spelled_out(name) or spelled_out(name.casefold()) or ""


def _read_money(cell: object, context: CellContext) -> Value:
    price, code = parse_price(cell, decimal=context.decimal), find_currency(context.currency)
    if price.amount is None:
        return None
    if code and isinstance(cell, str):  # `$` of a row in CAD, `1.234` of one in KWD
        with suppress(ValueError):  # the cell has another currency, which is kept
            price = parse_price(f"{cell} {code}", decimal=context.decimal)
    if not (code := price.currency or code):
        raise _failure("no_currency", found=f"{cell} {context.currency}".strip()[:80])
    context.note(price.form)
    return f"{format_amount(price.amount or 0.0)} {code}"


@cache
def find_currency(name: str) -> str:
    """Find the code of a currency by its code, sign or name: "£" -> "GBP"; "" if unknown."""
    with suppress(ValueError):
        return parse_price(f"1 {name}").currency or ""
    return ""


def _read_boolean(cell: object, context: CellContext) -> Value:
    text = clean_text(str(cell))[0].casefold().strip(".! \ufe0f")
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
    if not all(isinstance(cell, str | Mapping) for cell in cells):
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
    by = ", separated by " * bool(context.separator) + " or ".join(map(repr, context.separator))
    return Suggestion("list", f"{several} of {len(values)} values have several items{by}")


def _suggest_path(cells: Sequence[object], context: CellContext) -> Suggestion | None:
    paths = [cell for cell in cells if isinstance(cell, str) and re.search(STEPS[0], cell)]
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
