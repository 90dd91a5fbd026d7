"""Numbers with a mark, which has to be right as well: a unit, or a currency.

Where the mark is wrong, the number counts as 0: a relative error of 1.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from phi_vision.data.kinds.field_kind import FieldKind, FieldValues, Measure, Scale, inside
from phi_vision.data.kinds.number_kind import (
    MAX_NUMBER,
    Numbers,
    is_near,
    measure_error,
    measure_within,
    relative,
    relative_error,
)
from phi_vision.data.samples import Value

AMOUNT = r"(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?"  # without needless digits: 0.5, not 0.50

Normalise = Callable[[Value], tuple[str, float] | None]


def format_amount(number: float) -> str:
    """Format a number without an exponent or needless digits: 0.5, 1250."""
    return str(np.format_float_positional(number, trim="-"))


def amount_grammar(until: str, marks: Iterable[str], pattern: str = "") -> str:
    """Build the expression of a plain amount, a blank and one of the marks, or their pattern."""
    marks = pattern or "|".join(inside(mark, until) for mark in marks)
    fraction = rf"({inside('.', until)}[0-9]{{0,3}}[1-9])?"
    return f"(0|[1-9][0-9]{{0,8}}){fraction}{inside(' ', until)}({marks})"


def marked_kind(
    mark: str,
    *,
    write: Callable[[Value], str | None],
    grammar: Callable[[str], str],
    split: Callable[[Value], tuple[float, str] | None],
    normalise: Normalise,
    convert: Callable[[Value, str], float | None],
    of_unit: Callable[[str], FieldKind] | None = None,
) -> FieldKind:
    """Build the kind of numbers with a mark.

    Args:
        split: Value -> number and mark, None where it is none: "500 g" -> 500, "g".
        normalise: Value -> what can be compared, and the number in it: "500 g" -> mass, 0.5.
        convert: Value, mark -> the number in it, None where that is not possible.
    """

    def paired(column: FieldValues) -> Numbers:
        """Rows of (predicted, true): 0 where the mark is wrong, NaN where the true one is ≤ 0."""
        rows = []
        for _, *pair in column.pairs():
            (one, number), (two, truth) = (normalise(each) or ("", 0.0) for each in pair)
            rows.append((number * (one == two), truth if truth > 0 else math.nan))
        return np.array(rows, float).reshape(-1, 2).clip(-MAX_NUMBER, MAX_NUMBER)

    def has_mark(column: FieldValues) -> Numbers:
        return np.array([numbers(*pair) is not None for _, *pair in column.pairs()], float)

    def numbers(predicted: Value, true: Value) -> tuple[float, float] | None:
        one, two = normalise(predicted), normalise(true)
        return (one[1], two[1]) if one and two and one[0] == two[0] else None

    def is_correct(predicted: Value, true: Value) -> bool:
        pair = numbers(predicted, true)
        return is_near(*pair) if pair else predicted == true

    def error(predicted: Value, true: Value) -> float:
        pair = numbers(predicted, true)
        return relative_error(*pair) if pair else 1.0

    def scale(values: Sequence[Value]) -> Scale:
        marks = Counter(found[1] for value in values if (found := split(value)))
        most = marks.most_common(1)[0][0] if marks else ""
        known = [convert(value, most) if most else None for value in values]
        return Scale(known, lambda number: f"{format_amount(float(f'{number:.4g}'))} {most}")

    return FieldKind(
        write=write,
        read=str,
        grammar=grammar,
        is_correct=is_correct,
        error=error,
        measures={
            "median_ape": measure_error(relative, "median", numbers=paired),
            "mape": measure_error(relative, numbers=paired),
            "within_5": measure_within(0.05, paired),
            "within_10": measure_within(0.1, paired),
            "within_25": measure_within(0.25, paired),
            f"{mark}_accuracy": Measure(has_mark),
        },
        headline="median_ape",
        scale=scale,
        of_unit=of_unit,
    )
