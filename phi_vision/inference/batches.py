"""Portions: entries of a catalog that are asked about, and kept, together.

    Portion(start=64, entries=(Entry(id="A-red", asked=Sample(...)),
                               Entry(id="B-blue", asked=Failure(reason="no image", ...))))

Every entry of a portion gets an outcome: a reply, or why there is none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample

Reason = Literal["no image", "unreadable image", "impossible shape", "no answer"]


class Failure(NamedTuple):
    """Why there is no reply."""

    reason: Reason
    """In short, to count by."""

    detail: str
    """In a sentence, to act on."""


Outcome = Prediction | Failure


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a catalog."""

    id: str
    """As the source has it; may repeat."""

    split: str | None
    """Part of the dataset that it belongs to, where it has several."""

    asked: Sample | Failure
    """Its images under its id, or why it cannot be asked about."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Places in the catalog, counted from 0 over all that is read of it."""

    start: int
    stop: int
    """The first place behind it."""


@dataclass(frozen=True, kw_only=True)
class Portion:
    """Entries that follow each other."""

    start: int
    """Place of the first."""

    entries: tuple[Entry, ...]

    @property
    def span(self) -> Span:
        """The places that it covers."""
        return Span(start=self.start, stop=self.start + len(self.entries))


MOST_BYTES = 128_000_000
"""Bytes of images at which a portion ends early: it is held in memory, also on its way."""


def portions(entries: Iterator[Entry], span: Span, size: int) -> Iterator[Portion]:
    """Cut the entries of a span into portions, always at the same places.

    Input:  300 entries, Span(start=0, stop=300), 128
    Output: portions of 128, 128, 44 entries

    Args:
        entries: Those of the span, in order.
        span: Where they are.
        size: Most entries of a portion.

    Raises:
        ValueError: There are fewer entries than the span has places, or more.
    """
    start, held, size_held = span.start, list[Entry](), 0
    for entry in entries:
        held.append(entry)
        if isinstance(entry.asked, Sample):
            size_held += sum(map(len, entry.asked.images))
        if len(held) == size or size_held >= MOST_BYTES:
            yield Portion(start=start, entries=tuple(held))
            start, held, size_held = start + len(held), [], 0
    if held:
        yield Portion(start=start, entries=tuple(held))
        start += len(held)
    if start != span.stop:
        raise ValueError(
            f"the catalog ended at row {start}, though it should have {span.stop}: it was "
            "changed while it was read; ask again with --restart"
        )
