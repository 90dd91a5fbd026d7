"""An amount with its currency, such as a price: of another currency it is wrong, none is converted.

Money is a text, "19.99 EUR": the amount, and a code of ISO 4217.
"""

import re

from phi_vision.data.kinds.marked_number import AMOUNT, amount_grammar, marked_kind
from phi_vision.data.samples import Value, failure

_MONEY = re.compile(rf"({AMOUNT}) ([A-Z]{{3}})")


def split(value: Value) -> tuple[float, str] | None:
    """Split money: "19.99 EUR" -> 19.99, "EUR"; None if it is none."""
    found = _MONEY.fullmatch(value) if isinstance(value, str) else None
    return (float(found[1]), found[2]) if found else None


def write(value: Value) -> str | None:
    """Return money as it is; a text of another form is an error."""
    if not isinstance(value, str):
        return None
    if split(value) is None:
        raise failure("no_money", value=value)
    return value


def grammar(until: str) -> str:
    """Build the expression of an amount and three capital letters."""
    return amount_grammar(until, (), pattern="[A-Z]{3}")


def normalise(value: Value) -> tuple[str, float] | None:
    """Return the currency and the amount: "19.99 EUR" -> EUR, 19.99."""
    found = split(value)
    return (found[1], found[0]) if found else None


def in_currency(value: Value, code: str) -> float | None:
    """Return the amount if it is in a currency; nothing is converted."""
    found = split(value)
    return found[0] if found and found[1] == code else None


MONEY = marked_kind(
    "currency", write=write, grammar=grammar, split=split, normalise=normalise, convert=in_currency
)
