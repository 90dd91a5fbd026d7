"""Several values in no particular order, such as colours: scored as a set.

A list is a text, its items separated by `; `: "red; blue".
"""

from functools import partial

from phi_vision.data.kinds import text_kind
from phi_vision.data.kinds.field_kind import (
    FieldKind,
    Measure,
    as_pattern,
    equal,
    inside,
    overlap_error,
    overlap_measures,
    overlaps,
)
from phi_vision.data.samples import Value, failure

SEPARATOR = "; "
MAX_ITEMS = 12  # of a list, in constrained decoding
MAX_PART = 60  # characters of an item there, and of a level of a path


def write_joined(value: Value, separator: str, *, empty: str, other: str) -> str | None:
    """Return a text of several parts as it is; the error is `empty` where a part is, and `other`
    where its parts are written otherwise."""
    if not isinstance(value, str):
        return None
    parts = [part.strip() for part in value.split(separator.strip())]
    if not all(parts):
        raise failure(empty, value=value)
    if value != separator.join(parts):
        raise failure(other, value=value, written=separator.join(parts))
    return value


def joined_grammar(until: str, *, separator: str, most: int) -> str:
    """Build the expression of up to so many short texts, none of which has the separator."""
    excluded = as_pattern(separator.strip())
    part = text_kind.grammar(until, longest=MAX_PART, excluded=excluded)
    return f"({part})({inside(separator, until)}({part})){{0,{most - 1}}}"


def items_of(value: Value) -> frozenset[str]:
    """Return the items: "red; blue" -> {"red", "blue"}; none of another value."""
    return frozenset(value.split(SEPARATOR)) if isinstance(value, str) else frozenset()


LIST = FieldKind(
    write=partial(write_joined, separator=SEPARATOR, empty="empty_item", other="no_list"),
    read=str,
    grammar=partial(joined_grammar, separator=SEPARATOR, most=MAX_ITEMS),
    is_correct=lambda predicted, true: items_of(predicted) == items_of(true),
    error=lambda predicted, true: overlap_error(items_of(predicted), items_of(true)),
    measures={
        "exact_set": Measure(partial(equal, parts_of=items_of)),
        **overlap_measures("set_", partial(overlaps, items_of)),
    },
    headline="set_f1",
)
