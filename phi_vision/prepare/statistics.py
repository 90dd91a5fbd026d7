"""What is counted while clean rows pass by: what the data card tells of them.

Memory grows with the numbers (8 bytes each) and with the distinct texts, up to a limit.
"""

import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from phi_vision.data.samples import Value
from phi_vision.data.template import EXACT_INTEGERS
from phi_vision.prepare.cleaning import Clean

MOST_TEXTS = 20_000
"""Distinct texts counted in a field; beyond, new ones are only known to exist."""

SHOWN = 12
"""Values of a field that a card shows: the most frequent ones."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(kw_only=True)
class FieldTally:
    """One field of the record over all rows."""

    filled: int = 0
    """Rows that have a value."""
    kinds: set[str] = field(default_factory=set)
    """Names of the kinds of values seen; `long int` is one that no float holds."""
    numbers: "array.array[float]" = field(default_factory=lambda: array.array("d"))
    texts: Counter[str] = field(default_factory=Counter)
    has_more_texts: bool = False

    def count(self, value: Value) -> None:
        """Count one value."""
        if value is None:
            return
        self.filled += 1
        self.kinds.add(_kind(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers.append(value)
        elif str(value) in self.texts or len(self.texts) < MOST_TEXTS:
            self.texts[str(value)] += 1
        else:
            self.has_more_texts = True

    def described(self, rows: int) -> dict[str, object]:
        """Say what the field holds, over so many rows.

        Output: {"missing": 0, "distinct": 18, "most frequent": {"Pants": 75, …}}
                {"missing": 2, "quantiles": {"0 %": 5.0, "5 %": 9.0, …, "100 %": 148.0}}
        """
        facts: dict[str, object] = {"missing": rows - self.filled}
        numbers = np.frombuffer(self.numbers)
        finite = numbers[np.isfinite(numbers)]
        if finite.size:
            facts["quantiles"] = quantiles(finite)
        if self.texts:
            distinct = len(self.texts)
            facts["distinct"] = f"more than {distinct}" if self.has_more_texts else distinct
            ranked = sorted(self.texts.items(), key=lambda pair: (-pair[1], pair[0]))
            facts["most frequent"] = dict(ranked[:SHOWN])
        return facts


@dataclass(kw_only=True)
class Tally:
    """All clean rows."""

    changes: Counter[str] = field(default_factory=Counter)
    """What was mended -> in how many rows."""
    fields: dict[str, FieldTally] = field(default_factory=dict)
    """In the order of the source."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Width and height in pixels -> images."""
    image_counts: Counter[int] = field(default_factory=Counter)
    """Images of a sample -> samples."""
    image_bytes: int = 0
    has_messages: bool = False

    def count(self, clean: Clean) -> None:
        """Count one clean row."""
        self.changes.update(set(clean.changes))
        self.sizes.update((image.width, image.height) for image in clean.images)
        self.image_bytes += sum(len(image.encoded) for image in clean.images)
        self.image_counts[len(clean.images)] += 1
        self.has_messages |= bool(clean.messages)
        for name, value in clean.record.items():
            self.fields.setdefault(name, FieldTally()).count(value)

    def describe_images(self) -> dict[str, object]:
        """Say how many images there are, and how large.

        Output: {"images": 743, "of a sample": {"1": 743}, "mean size in kB": 20.1,
                 "width": {"0 %": 350, …}, "height": {…}, "width / height": {…}}
        """
        count = self.sizes.total()
        if not count:
            return {"images": 0}
        sizes = np.array(list(self.sizes.elements()), dtype=float)
        return {
            "images": count,
            "of a sample": {str(n): rows for n, rows in sorted(self.image_counts.items())},
            "mean size in kB": round(self.image_bytes / count / 1000, 1),
            "width": quantiles(sizes[:, 0]),
            "height": quantiles(sizes[:, 1]),
            "width / height": quantiles(sizes[:, 0] / sizes[:, 1]),
        }


def _kind(value: Value) -> str:
    """Name the kind of a value.

    Input:  5    5.0    True  "5"  2**60
    Output: int  float  bool  str  long int
    """
    is_long = type(value) is int and abs(value) > EXACT_INTEGERS
    return "long int" if is_long else type(value).__name__


def quantiles(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Mapping[str, float]:
    """Measure how values are spread.

    Output: {"0 %": 5.0, "5 %": 9.0, "25 %": 32.0, "50 %": 57.0, …, "100 %": 148.0}
    """
    found = np.quantile(values, QUANTILES)
    return {
        f"{share:.0%}".replace("%", " %"): round(float(value), 3)
        for share, value in zip(QUANTILES, found, strict=True)
    }
