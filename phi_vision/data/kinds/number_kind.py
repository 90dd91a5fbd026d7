"""A number, such as a price in one currency: scored by its distance to the true one.

Where no number was predicted it counts as 0 (relative error 1, symmetric error 2): an empty
prediction is worth no more than predicting 0. Samples whose true number is missing, zero or
negative do not count.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.kinds.field_kind import (
    Aggregate,
    Better,
    FieldKind,
    FieldValues,
    Limits,
    Measure,
    SampleValues,
    Scale,
    as_pattern,
)
from phi_vision.data.samples import Value

Numbers = NDArray[np.float64]  # per sample; a true one is NaN where it does not count

EXACT_INTEGERS = 2**53  # up to here integers are exact floats (IEEE 754 double)
MAX_NUMBER = 1e300  # numbers and errors are clipped to this: sums over absurd ones stay finite
TOLERANCE = 1e-9  # so 10 % off is within 10 %, also where floats compute 0.10000000000000009
# `repr(float)` of amounts below a thousand million, to four decimals: up to 15 digits are exact,
# and exponents occur only below 0.0001 and from 1e16.
DIGITS = r"(0|[1-9][0-9]{0,8})\.([0-9]|[0-9]{1,3}[1-9])"


def write(value: Value) -> str | None:
    """Format a number: 390 -> "390.0"."""
    if isinstance(value, float) or (type(value) is int and abs(value) <= EXACT_INTEGERS):
        return repr(float(value))
    return None


def grammar(until: str) -> str:
    """Build the expression of a plain amount."""
    # "390.0" before "." is written `390\u{2e}0`; no other literal can begin in a number.
    return DIGITS.replace(r"\.", as_pattern(r"\u{2e}")) if until == "." else DIGITS


def as_number(value: Value) -> float | None:
    """Return a value as a finite number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of more than 308 digits
        return None


def is_near(predicted: Value, true: Value) -> bool:
    """Whether a number is at most 10 % off; whether other values are equal."""
    number, truth = as_number(predicted), as_number(true)
    if number is None or truth is None:
        return predicted == true
    return abs(number - truth) <= (0.1 + TOLERANCE) * abs(truth)


def relative_error(predicted: Value, true: Value) -> float:
    """Compute |predicted − true| / true; NaN where the true number is not positive."""
    column = FieldValues("number", [{"number": predicted}], [{"number": true}])
    return float(relative(*paired(column).T)[0])


def absolute(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute |predicted − true|."""
    return np.abs(predicted - true)


def signed(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute (predicted − true) / true."""
    with np.errstate(over="ignore"):
        return np.asarray(((predicted - true) / true).clip(-MAX_NUMBER, MAX_NUMBER))


def relative(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute |predicted − true| / true."""
    return np.abs(signed(predicted, true))


def symmetric(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute 2 · |predicted − true| / (|predicted| + true), as the Amazon ML Challenge's SMAPE."""
    return 2 * np.abs(predicted - true) / (np.abs(predicted) + true)


def squared_log(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute (ln(1 + predicted) − ln(1 + true))²; a negative prediction counts as 0."""
    return np.asarray(np.square(np.log1p(np.maximum(predicted, 0)) - np.log1p(true)))


def within(predicted: Numbers, true: Numbers, *, tolerance: float) -> Numbers:
    """Return 1 where the relative error is at most the tolerance, else 0."""
    is_within = relative(predicted, true) <= tolerance + TOLERANCE
    return np.where(np.isnan(true), np.nan, is_within)


def paired(column: FieldValues) -> SampleValues:
    """Rows of (predicted, true): 0 where no number was predicted, NaN where the true one is ≤ 0."""
    rows = []
    for _, predicted, true in column.pairs():
        number = as_number(true) or 0.0
        rows.append((as_number(predicted) or 0.0, number if number > 0 else math.nan))
    return np.array(rows, float).reshape(-1, 2).clip(-MAX_NUMBER, MAX_NUMBER)


def measure_error(
    error: Callable[[Numbers, Numbers], Numbers],
    aggregate: Aggregate = "mean",
    better: Better = "lower",
    decimals: int = 3,
    limits: Limits = (-math.inf, math.inf),
    numbers: Callable[[FieldValues], SampleValues] = paired,
) -> Measure:
    """Build the metric of an error of numbers."""
    return Measure(lambda each: error(*numbers(each).T), aggregate, better, decimals, limits)


def measure_within(
    tolerance: float, numbers: Callable[[FieldValues], SampleValues] = paired
) -> Measure:
    """Build the metric of the share of numbers within a relative error."""
    found = partial(within, tolerance=tolerance)
    return measure_error(found, better="higher", limits=(0.0, 1.0), numbers=numbers)


NUMBER = FieldKind(
    write=write,
    read=float,
    grammar=grammar,
    is_correct=is_near,
    error=relative_error,
    measures={
        "mae": measure_error(absolute, decimals=2),
        "median_ape": measure_error(relative, "median"),
        "mape": measure_error(relative),
        "smape": measure_error(symmetric, limits=(0.0, 2.0)),
        "rmsle": measure_error(squared_log, "root_mean"),
        "within_5": measure_within(0.05),
        "within_10": measure_within(0.1),
        "within_25": measure_within(0.25),
        "spearman": Measure(paired, "rank_correlation", limits=(-1.0, 1.0), is_approximate=True),
        "bias": measure_error(signed, better="zero"),
    },
    headline="median_ape",
    scale=lambda values: Scale([as_number(value) for value in values], float),
)
