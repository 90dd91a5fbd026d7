"""A category with all categories above it: "Apparel > Tops > T-Shirts", scored level by level."""

import re
from functools import partial

import numpy as np

from phi_vision.data.kinds.field_kind import (
    FieldKind,
    FieldValues,
    Measure,
    SampleValues,
    equal,
    escape,
    overlap_error,
    overlap_measures,
    overlaps,
)
from phi_vision.data.kinds.list_kind import joined_grammar, write_joined
from phi_vision.data.samples import Value

SEPARATOR = " > "
MAX_LEVELS = 8  # of a path, in constrained decoding
MEASURED_LEVELS = 3


def level_ends(shown: str, until: str) -> list[int]:
    """List where the levels of a written path end.

    Input:  "Apparel > Tops", before ", Price: "
    Output: [7, 14]
    """
    separator = re.escape(escape(f"\0{SEPARATOR}\0", until)[1:-1])
    return [*(match.start() for match in re.finditer(separator, shown)), len(shown)]


def levels_of(value: Value) -> tuple[str, ...]:
    """Split a path: "Apparel > Tops" -> "Apparel", "Tops"; nothing of another value."""
    return tuple(value.split(SEPARATOR)) if isinstance(value, str) and value else ()


def nodes_of(value: Value) -> frozenset[tuple[str, ...]]:
    """Return a category and those above it, each as the path to it."""
    levels = levels_of(value)
    return frozenset(levels[:depth] for depth in range(1, len(levels) + 1))


def _level(depth: int, column: FieldValues, *, is_any: bool = False) -> SampleValues:
    """Return 1 where a path is right down to a level, or with `is_any` has one there; NaN where the
    true path ends above it."""
    values = []
    for _, *pair in column.pairs():
        one, two = (levels_of(value)[:depth] for value in pair)
        right = len(one) == depth if is_any else one == two
        values.append(right if len(two) == depth else np.nan)
    return np.array(values, float)


PATH = FieldKind(
    write=partial(write_joined, separator=SEPARATOR, empty="missing_parent", other="no_path"),
    read=str,
    grammar=partial(joined_grammar, separator=SEPARATOR, most=MAX_LEVELS),
    is_correct=lambda predicted, true: predicted == true,
    error=lambda predicted, true: overlap_error(nodes_of(predicted), nodes_of(true)),
    measures={
        "accuracy": Measure(equal),
        **{
            f"level_{depth}_{name}": Measure(partial(_level, depth, is_any=is_any))
            for depth in range(1, MEASURED_LEVELS + 1)
            for name, is_any in (("accuracy", False), ("coverage", True))
        },
        **overlap_measures("path_", partial(overlaps, nodes_of)),
    },
    headline="path_f1",
)
