"""Several values in no particular order, such as colours: scored as a set.

A list is a text, its items separated by `; `: "red; blue".
"""

from functools import partial

import numpy as np

from phi_vision.data.kinds import text_kind
from phi_vision.data.kinds.field_kind import (
    FieldKind,
    FieldValues,
    Measure,
    SampleValues,
    as_pattern,
    inside,
    overlap_error,
    overlap_measures,
    overlaps,
)
from phi_vision.data.samples import Value, failure

SEPARATOR = "; "
MAX_CHARACTERS, MAX_ITEMS = 60, 12  # of an item, and of a list, in constrained decoding


def write(value: Value) -> str | None:
    """Return a list as it is; one with an empty item, or written otherwise, is an error."""
    if not isinstance(value, str):
        return None
    items = [item.strip() for item in value.split(SEPARATOR.strip())]
    if not all(items):
        raise failure("empty_item", value=value)
    if value != SEPARATOR.join(items):
        raise failure("no_list", value=value, written=SEPARATOR.join(items))
    return value


def grammar(until: str) -> str:
    """Build the expression of up to so many short texts."""
    item = text_kind.grammar(until, longest=MAX_CHARACTERS, excluded=as_pattern(SEPARATOR[0]))
    return f"({item})({inside(SEPARATOR, until)}({item})){{0,{MAX_ITEMS - 1}}}"


def items_of(value: Value) -> frozenset[str]:
    """Return the items: "red; blue" -> {"red", "blue"}; none of another value."""
    return frozenset(value.split(SEPARATOR)) if isinstance(value, str) else frozenset()


def _equal_sets(column: FieldValues) -> SampleValues:
    pairs = column.pairs()
    return np.array(
        [present and items_of(one) == items_of(two) for present, one, two in pairs], float
    )


LIST = FieldKind(
    write=write,
    read=str,
    grammar=grammar,
    is_correct=lambda predicted, true: items_of(predicted) == items_of(true),
    error=lambda predicted, true: overlap_error(items_of(predicted), items_of(true)),
    measures={
        "exact_set": Measure(_equal_sets),
        **overlap_measures("set_", partial(overlaps, items_of)),
    },
    headline="set_f1",
)
