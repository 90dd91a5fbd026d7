"""One of a few repeating texts, such as a product type: right or wrong."""

from functools import partial

import numpy as np

from phi_vision.data.kinds import text_kind
from phi_vision.data.kinds.field_kind import (
    FieldKind,
    FieldValues,
    Measure,
    SampleValues,
    equal,
    overlaps,
)

MAX_CHARACTERS = 60  # of a constrained category: more than any code


def _numbered(column: FieldValues) -> SampleValues:
    """Number the categories; rows of (true, predicted), −1 for one that is never true."""
    pairs = list(column.pairs())
    places = {value: place for place, value in enumerate(dict.fromkeys(true for *_, true in pairs))}
    rows = [
        (places[true], places.get(predicted, -1) if present else -1)
        for present, predicted, true in pairs
    ]
    return np.array(rows, float).reshape(-1, 2)


def _paths(column: FieldValues) -> SampleValues:
    """Compare paths in the hierarchy; rows of (number of shared, predicted, true nodes): (2, 3, 3)
    for BOOTS instead of SANDALS, both below SHOES below WOMEN."""
    assert column.path is not None, "a hierarchical metric without a hierarchy"
    return overlaps(column.path, column)


CATEGORY = FieldKind(
    write=text_kind.write,
    read=str,
    grammar=partial(text_kind.grammar, longest=MAX_CHARACTERS),
    is_correct=lambda predicted, true: predicted == true,
    error=lambda predicted, true: float(predicted != true),
    measures={
        "accuracy": Measure(equal),
        "macro_f1": Measure(_numbered, "macro_f1", is_approximate=True),
        "hierarchical_f1": Measure(_paths, "overlap_f1", is_approximate=True, needs_hierarchy=True),
    },
    headline="accuracy",
)
