"""A number with a unit, such as a weight: 500 g is 0.5 kg, and another dimension is wrong.

A quantity is a text, "0.5 kg", in the unit of the catalog. `pint` converts; as it takes pcs for
parsecs and ML for megalitres, only the units listed here are known.
"""

import re
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

from phi_vision.data.kinds.field_kind import FieldKind
from phi_vision.data.kinds.marked_number import AMOUNT, amount_grammar, marked_kind
from phi_vision.data.samples import Value, failure

UNITS = (
    *("mg", "g", "kg", "t", "oz", "lb", "ct", "µg"),
    *("µm", "mm", "cm", "m", "km", "in", "ft", "yd"),
    *("cm²", "m²", "ft²"),
    *("ml", "cl", "dl", "l", "floz", "pt", "qt", "gal", "cm³", "m³"),
    *("V", "mA", "A", "W", "kW", "mAh", "Ah", "Wh", "kWh", "Hz", "kHz", "MHz", "GHz"),
    *("ms", "s", "min", "h", "d", "°C", "°F", "K", "kPa", "bar", "psi", "J", "kJ", "kcal"),
    *("lm", "dB", "kB", "MB", "GB", "TB", "%"),
    *("g/m²", "den", "dtex"),
)
"""Units by their symbols, as they are written."""

_QUANTITY = re.compile(rf"(-?{AMOUNT}) (\S+)")


class Unit(NamedTuple):
    """How a unit is converted to the base unit of its dimension."""

    dimension: str
    factor: float
    offset: float


@cache
def find_unit(symbol: str) -> Unit:
    """Find a listed unit: "g" -> mass, 0.001 of a kilogram."""
    if symbol not in UNITS:
        raise failure("no_unit", unit=symbol, units=" ".join(UNITS))
    quantity = partial(_registry().Quantity, units=symbol)
    zero, one = (quantity(number).to_base_units().magnitude for number in (0.0, 1.0))
    if (dimension := str(quantity(1.0).dimensionality)) == "dimensionless":  # no 16 GB are 50 %
        dimension = "information" if symbol in ("kB", "MB", "GB", "TB") else symbol
    if symbol == "dB":  # a logarithm
        return Unit(symbol, 1.0, 0.0)
    return Unit(dimension, float(one - zero), float(zero))


@cache
def _registry() -> Any:
    from pint import UnitRegistry  # here, as most templates have no quantity

    return UnitRegistry(cache_folder=None, autoconvert_offset_to_baseunit=True)


def spelled_out(name: str) -> str | None:
    """Find the symbol of a unit by another name: "grams" -> "g"; None if it is not listed."""
    if not re.fullmatch(r"[^\W\d_]{1,20}", name):
        return None
    try:
        symbol = f"{_registry().Unit(name):~}"
    except (AttributeError, ValueError):  # what pint raises for an unknown name
        return None
    return symbol if symbol in UNITS else None


def split(value: Value) -> tuple[float, str] | None:
    """Split a quantity: "0.5 kg" -> 0.5, "kg"; None if it is none."""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    return (float(found[1]), found[2]) if found and found[2] in UNITS else None


def write(value: Value, unit: str = "") -> str | None:
    """Return a quantity as it is; one of another form or dimension is an error."""
    if not isinstance(value, str):
        return None
    found = _QUANTITY.fullmatch(value)
    if found is None:
        raise failure("no_quantity", value=value)
    dimension = find_unit(found[2]).dimension
    if unit and dimension != find_unit(unit).dimension:
        raise failure("other_unit", value=value, unit=unit)
    return value


def grammar(until: str, unit: str = "") -> str:
    """Build the expression of an amount with a unit, of the dimension of one if it is known."""
    wanted = find_unit(unit).dimension if unit else ""
    fitting = [each for each in UNITS if not unit or find_unit(each).dimension == wanted]
    return amount_grammar(until, fitting)


def normalise(value: Value) -> tuple[str, float] | None:
    """Convert to the base unit of the dimension: "500 g" -> mass, 0.5."""
    if (found := split(value)) is None:
        return None
    unit = find_unit(found[1])
    return unit.dimension, found[0] * unit.factor + unit.offset


def in_unit(value: Value, symbol: str) -> float | None:
    """Convert to a unit: "500 g", "kg" -> 0.5; None where that does not fit."""
    found, unit = normalise(value), find_unit(symbol)
    if found is None or found[0] != unit.dimension:
        return None
    return (found[1] - unit.offset) / unit.factor


@cache
def of_unit(unit: str) -> FieldKind:
    """Return the kind of quantities that one unit fits."""
    find_unit(unit)
    return replace(QUANTITY, write=partial(write, unit=unit), grammar=partial(grammar, unit=unit))


QUANTITY = marked_kind(
    "unit",
    write=write,
    grammar=grammar,
    split=split,
    normalise=normalise,
    convert=in_unit,
    of_unit=of_unit,
)
