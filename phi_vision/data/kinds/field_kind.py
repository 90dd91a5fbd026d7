"""FieldKind: everything that depends on the kind of a field, and nothing that does not.

A kind is one module beside this one, and one entry in `data.template.KINDS`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.samples import Record, Value

Predicted = Sequence[Record | None]  # of each sample; None where it does not parse
SampleValues = NDArray[np.float64]  # one entry per sample, of shape (samples,) or (samples, ...)
Better = Literal["higher", "lower", "zero"]
Aggregate = Literal[
    "mean",
    "median",
    "root_mean",
    "macro_f1",
    "rank_correlation",
    "overlap_precision",
    "overlap_recall",
    "overlap_f1",
]
Limits = tuple[float, float]  # the least and the largest value that a metric can have
Ancestors = Callable[[Value], frozenset[Any]]  # a category -> itself and those above it


class FieldValues(NamedTuple):
    """One field of all samples: predicted and true values."""

    field: str
    predicted: Predicted
    true: Sequence[Record]
    path: Ancestors | None = None  # of a field with levels above it

    def pairs(self) -> Iterator[tuple[bool, Value, Value]]:
        """Yield for each sample whether a value was predicted, that value, and the true one."""
        for record, truth in zip(self.predicted, self.true, strict=True):
            present = record is not None and self.field in record
            yield present, (record or {}).get(self.field), truth[self.field]


class Measure(NamedTuple):
    """A metric of one kind in two steps, so that the bootstrap repeats only the second."""

    per_sample: Callable[[FieldValues], SampleValues]  # value of each, by the first axis
    aggregate: Aggregate = "mean"  # of these, one value per resample
    better: Better = "higher"  # the good direction; `zero`: neither too much nor too little
    decimals: int = 3
    limits: Limits = (0.0, 1.0)
    is_approximate: bool = False  # whether its exact interval (see `estimate`) is approximate
    needs_hierarchy: bool = False  # applies only to fields with levels above them


class Scale(NamedTuple):
    """Values of a field as numbers that can be compared, and back."""

    numbers: list[float | None]  # None for a value that is no number, or of another unit
    value: Callable[[float], Value]


@dataclass(frozen=True, kw_only=True)
class FieldKind:
    """How the values of a kind of field are written, parsed, constrained, scored and guessed."""

    write: Callable[[Value], str | None]
    """Format a value; None for one of another kind, a ValueError for one that is malformed."""
    read: Callable[[str], Value]  # the inverse; a ValueError for other texts
    grammar: Callable[[str], str]  # the literal after the field -> regular expression of its value
    is_correct: Callable[[Value, Value], bool]  # predicted and true, neither of them missing
    error: Callable[[Value, Value], float]  # of the same, from 0; NaN where that is unknown
    measures: Mapping[str, Measure]  # suffix of the metric's name -> metric
    headline: str  # the suffix of the most important one
    scale: Callable[[Sequence[Value]], Scale] | None = None
    """Values that baselines predict by their median; others are guessed by their frequency."""
    of_unit: Callable[[str], "FieldKind"] | None = None  # the kind of values that a unit fits


def has_value(value: Value) -> bool:
    """Whether a value is there; an empty text and NaN, as tables mark an empty number, are none."""
    return value is not None and value != "" and value == value


def equal(
    column: FieldValues, *, parts_of: Callable[[Value], object] = lambda value: value
) -> SampleValues:
    """Return 1 where the value is predicted exactly, or all of its parts, else 0."""
    found = [present and parts_of(one) == parts_of(two) for present, one, two in column.pairs()]
    return np.array(found, float)


def overlap_error(one: frozenset[Any], other: frozenset[Any]) -> float:
    """Compute 1 − the F1 of two sets: 1/3 for {red, blue} and {red}, as 2 · 1 / (2 + 1) = 2/3."""
    return 1 - 2 * len(one & other) / (len(one) + len(other)) if one or other else 0.0


def overlaps(parts_of: Callable[[Value], frozenset[Any]], column: FieldValues) -> SampleValues:
    """Rows of the number of (shared, predicted, true) parts of a value; none is predicted where
    there is no prediction."""
    rows = []
    for present, value, truth in column.pairs():
        predicted, true = parts_of(value) if present else frozenset(), parts_of(truth)
        rows.append((len(predicted & true), len(predicted), len(true)))
    return np.array(rows, float).reshape(-1, 3)


def overlap_measures(
    prefix: str, per_sample: Callable[[FieldValues], SampleValues]
) -> dict[str, Measure]:
    """Build precision, recall and F1 of rows of (shared, predicted, true)."""
    return {
        f"{prefix}precision": Measure(per_sample, "overlap_precision", is_approximate=True),
        f"{prefix}recall": Measure(per_sample, "overlap_recall", is_approximate=True),
        f"{prefix}f1": Measure(per_sample, "overlap_f1", is_approximate=True),
    }


def escape(text: str, until: str) -> str:
    """Escape a value so that it can be parsed before the literal `until`; see `data.template`."""
    last = len(text) - 1
    # A `<` that could open a control token: `<|end|>`, `<s>`, `</s>`, also across the value's end.
    misread = {match.start() for match in re.finditer(r"<(?=[|/A-Za-z]|\Z)", text)}
    misread |= {place for place in {0, last} if text[place].isspace()}
    if until:
        # Including the literal itself: "aa" before "aaa" would be found one place early.
        misread |= {at for at in range(len(text)) if (text + until).startswith(until, at)}
    plain = {"\\": r"\\", "\n": r"\n"}
    return "".join(
        plain.get(character) or (f"\\u{{{ord(character):x}}}" if place in misread else character)
        for place, character in enumerate(text)
    )


def unescape(text: str) -> str:
    """Invert `escape`."""

    def character(match: re.Match[str]) -> str:
        code, letter = match.groups()
        return chr(int(code, 16)) if code else {"n": "\n", "\\": "\\"}.get(letter, match.group())

    return re.sub(r"\\(?:u\{([0-9a-f]{1,6})\}|(.))", character, text, flags=re.DOTALL)


def as_pattern(literal: str) -> str:
    r"""Escape a literal as a regular expression: "Price: " as `Price\x{3a}\x{20}`."""
    return "".join(
        character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):x}}}"
        for character in literal
    )


def inside(text: str, until: str) -> str:
    """Build the expression of a literal inside a value that ends before `until`."""
    return as_pattern(escape(f"\0{text}\0", until)[1:-1])
