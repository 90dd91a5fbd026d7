"""A category with all categories above it: "Apparel > Tops > T-Shirts", scored level by level."""

import re
from functools import partial

import numpy as np

from phi_vision.data.kinds import text_kind
from phi_vision.data.kinds.field_kind import (
    FieldKind,
    FieldValues,
    Measure,
    SampleValues,
    as_pattern,
    equal,
    escape,
    inside,
    overlap_error,
    overlap_measures,
    overlaps,
)
from phi_vision.data.samples import Value, failure

SEPARATOR = " > "
MAX_CHARACTERS, MAX_LEVELS = 60, 8  # of a level, and of a path, in constrained decoding
MEASURED_LEVELS = 3


def write(value: Value) -> str | None:
    """Return a path as it is; one with an empty level, or written otherwise, is an error."""
    if not isinstance(value, str):
        return None
    levels = [level.strip() for level in value.split(SEPARATOR.strip())]
    if not all(levels):
        raise failure("missing_parent", value=value)
    if value != SEPARATOR.join(levels):
        raise failure("no_path", value=value, written=SEPARATOR.join(levels))
    return value


def grammar(until: str) -> str:
    """Build the expression of up to so many levels, of any names."""
    excluded = as_pattern(SEPARATOR.strip())
    level = text_kind.grammar(until, longest=MAX_CHARACTERS, excluded=excluded)
    return f"({level})({inside(SEPARATOR, until)}({level})){{0,{MAX_LEVELS - 1}}}"


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


def _level(depth: int, column: FieldValues) -> SampleValues:
    """Return 1 where a path is right down to a level, NaN where the true one ends above it."""
    pairs = [(levels_of(one), levels_of(two)) for _, one, two in column.pairs()]
    return np.array(
        [np.nan if len(two) < depth else one[:depth] == two[:depth] for one, two in pairs], float
    )


def _depth(depth: int, column: FieldValues) -> SampleValues:
    """Return 1 where a prediction has a level, NaN where the true path ends above it."""
    pairs = [(levels_of(one), levels_of(two)) for _, one, two in column.pairs()]
    return np.array(
        [np.nan if len(two) < depth else len(one) >= depth for one, two in pairs], float
    )


PATH = FieldKind(
    write=write,
    read=str,
    grammar=grammar,
    is_correct=lambda predicted, true: predicted == true,
    error=lambda predicted, true: overlap_error(nodes_of(predicted), nodes_of(true)),
    measures={
        "accuracy": Measure(equal),
        **{
            f"level_{depth}_{name}": Measure(partial(measure, depth))
            for depth in range(1, MEASURED_LEVELS + 1)
            for name, measure in (("accuracy", _level), ("coverage", _depth))
        },
        **overlap_measures("path_", partial(overlaps, nodes_of)),
    },
    headline="path_f1",
)
