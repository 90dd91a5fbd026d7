"""Yes or no, such as whether a coat has a hood."""

from functools import partial

from phi_vision.data.kinds.field_kind import (
    FieldKind,
    Measure,
    equal,
    inside,
    overlap_measures,
    overlaps,
)
from phi_vision.data.samples import Value

WORDS = {"yes": True, "no": False}


def write(value: Value) -> str | None:
    """Format a boolean: True -> "yes"."""
    return next((word for word, meant in WORDS.items() if value is meant), None)


def read(text: str) -> Value:
    """Invert `write`."""
    if text not in WORDS:
        raise ValueError(text)
    return WORDS[text]


def grammar(until: str) -> str:
    """Build the expression of the two words."""
    return "|".join(inside(word, until) for word in WORDS)


def _positive(value: Value) -> frozenset[bool]:
    return frozenset({True} if value is True else ())


BOOLEAN = FieldKind(
    write=write,
    read=read,
    grammar=grammar,
    is_correct=lambda predicted, true: predicted is true,
    error=lambda predicted, true: float(predicted is not true),
    measures={"accuracy": Measure(equal), **overlap_measures("", partial(overlaps, _positive))},
    headline="accuracy",
)
