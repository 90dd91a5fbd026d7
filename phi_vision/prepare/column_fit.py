"""Rate whether the values of a column fit the field that its name suggests."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from phi_vision.prepare.prices import parse_price

MIN_ROWS = 10  # below, shares of the values say little
MAX_REPEATED = 0.2  # distinct share of names, up to which they rather are classes
MAX_CLASSES = 0.5  # distinct share of a `label` or `text`, up to which it is a category
MIN_FREE_TEXT = 0.9  # distinct share of a category that is none
MIN_FILLED = 0.7  # share of the rows in which a field should have a value
MIN_PRICES = 0.5  # share of the values of a price column that must be prices
NUMBERS, ANYTHING = "its values are numbers", "a name that may mean anything"

NAMES: dict[str, list[str]] = yaml.safe_load(
    Path(__file__).with_name("column_names.yaml").read_text(encoding="utf-8")
)


def rate_values(field: str, name: str, cells: Sequence[object], rows: int) -> str | None:
    """Return why the values of a column may not be a field, "" if they fit, None if they do not.

    Input:  "title", 40 rows of a column `label` with 4 different values; of a column `name`
    Output: None; "only 4 different values in 40 rows"

    Args:
        name: The name of the column in lower case and without marks.
        cells: Its values in the first rows, without the empty ones.
        rows: Number of the first rows.
    """
    rate = next((r for kind, r in _RATINGS.items() if NAMES.get(field) is NAMES[kind]), None)
    doubt = rate(name, cells) if cells and rate else None
    if doubt == "" and len(cells) < MIN_FILLED * rows:
        return f"empty in {rows - len(cells)} of the first {rows} rows"
    return doubt


def _rate_title(name: str, cells: Sequence[object]) -> str | None:
    is_weak = name in NAMES["weak_title"]
    distinct, share = _distinct(cells)
    if is_weak and share <= MAX_CLASSES:
        return None
    if share <= MAX_REPEATED:
        return f"only {distinct} different values in {len(cells)} rows"
    if len(cells) >= MIN_ROWS and all(map(_is_number, cells)):
        return None if is_weak else NUMBERS
    return ANYTHING if is_weak else ""


def _rate_category(name: str, cells: Sequence[object]) -> str | None:
    distinct, share = _distinct(cells)
    kinds = [[part.strip() for part in str(cell).lower().split(",")] for cell in cells]
    if all({*parts} <= {*NAMES["no_category"]} for parts in kinds):
        return None
    if distinct == 1 and len(cells) >= MIN_ROWS:
        return "the same value in all rows"
    if name in NAMES["weak_title"]:
        is_class = share <= MAX_CLASSES
        return f"its {distinct} different values repeat like categories" if is_class else None
    if len(cells) >= 2 * MIN_ROWS and share > MIN_FREE_TEXT:
        return f"{distinct} of {len(cells)} values differ"
    if len(cells) >= MIN_ROWS and all(map(_is_number, cells)):
        return NUMBERS
    return ""


def _rate_price(name: str, cells: Sequence[object]) -> str | None:
    amounts, has_currency = [], False
    for cell in cells:
        with suppress(ValueError):
            amount, currency, _ = parse_price(cell)
            amounts += [] if amount is None else [amount]
            has_currency |= currency is not None
    if len(amounts) < MIN_PRICES * len(cells) or not any(amounts):
        return None
    # Whole numbers without a currency are quantities.
    if name in NAMES["weak_price"] and not has_currency and all(map(float.is_integer, amounts)):
        return None
    return ANYTHING if name in NAMES["weak_price"] else ""


def _distinct(cells: Sequence[object]) -> tuple[int, float]:
    """Count distinct values, and their share; few rows are all distinct as far as one can tell."""
    count = len({str(cell).strip().casefold() for cell in cells})
    return count, count / len(cells) if len(cells) >= MIN_ROWS else 1.0


def _is_number(cell: object) -> bool:
    if isinstance(cell, int | float):
        return True
    return str(cell).strip().replace(".", "", 1).lstrip("-").isdigit()


_RATINGS: dict[str, Callable[[str, Sequence[object]], str | None]] = {
    "title": _rate_title,
    "category3_code": _rate_category,
    "full_price": _rate_price,
}
