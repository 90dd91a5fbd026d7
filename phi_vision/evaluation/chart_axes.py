"""Axes: numbers -> places in a chart, ticks at round numbers, and the frame around a chart.

Charts are drawn 360 wide, as a phone shows them pixel by pixel; on a larger screen they grow a
little and stand beside each other.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

WIDTH = 360
HEIGHT = 250

TICKS = 5
"""How many steps an axis has at most: more labels would touch on a phone."""

FARTHEST = 1e250
"""Numbers beyond are drawn here: with them an axis could not be divided in floats."""

Words = Callable[[float], str]


class Room(NamedTuple):
    """Where in a chart the values are drawn, in pixels from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


ROOM = Room(46, 24, WIDTH - 20, HEIGHT - 38)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range of numbers, its ticks, and how they are spaced."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False
    words: Words
    """Writes a tick."""

    def share(self, value: float) -> float:
        """Say how far along the axis a value lies, from 0 to 1; what lies outside is at its end.

        Input:  10 on a logarithmic axis from 1 to 100
        Output: 0.5
        """
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


class Plane(NamedTuple):
    """Two axes in their room."""

    x: Axis
    y: Axis
    room: Room = ROOM

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Say where in the chart a point lies; 0.1 pixels cannot be seen."""
        room = self.room
        across = room.left + self.x.share(x) * (room.right - room.left)
        down = room.bottom - self.y.share(y) * (room.bottom - room.top)
        return round(across, 1), round(down, 1)

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """Write points as the `points` of a polyline."""
        return " ".join(f"{across:g},{down:g}" for across, down in (self.place(*p) for p in points))


def linear_axis(values: Iterable[float], *, words: Words | None = None, steps: int = TICKS) -> Axis:
    """Span values with ticks at round numbers, about as many steps as wanted or fewer.

    Input:  3.2 11.8
    Output: from 2 to 12, ticks 2 4 6 8 10 12
    """
    known = [min(max(value, -FARTHEST), FARTHEST) for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        reach = abs(low) / 2 or 0.5
        low, high = low - reach, high + reach
    step = _round_step((high - low) / steps)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Axis(low=ticks[0], high=ticks[-1], ticks=ticks, words=words or write_number)


def share_axis() -> Axis:
    """Span shares from 0 to 1, written in percent."""
    return linear_axis([0, 1], words=write_percent)


def log_axis(values: Iterable[float]) -> Axis:
    """Span positive values with equal room for equal ratios, from and to a round number.

    Input:  12 850
    Output: from 10 to 1,000, ticks 10 30 100 300 1,000
    """
    known = [value for value in values if 1 / FARTHEST <= value <= FARTHEST]
    low, high = (min(known), max(known)) if known else (1.0, 10.0)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    round_ones = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    low = max(number for number in round_ones if number <= low * (1 + 1e-9))
    high = min(number for number in round_ones if number >= high * (1 - 1e-9) and number > low)
    ticks: list[float] = []
    for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        grid = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in grid if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) <= TICKS + 1:
            break
    every = math.ceil(len(ticks) / (TICKS + 1))
    return Axis(
        low=low, high=high, ticks=tuple(ticks[::every]), logarithmic=True, words=write_number
    )


def write_number(number: float) -> str:
    """Write a tick as short as it can be read.

    Input:  0.30000000000000004; 1500.0; 2500000.0
    Output: 0.3; 1,500; 2.5M
    """
    size = abs(number)
    if size >= 1e12 or 0 < size < 1e-4:
        return f"{number:.0e}"
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if size >= unit:
            return f"{number / unit:.4g}{name}"
    return f"{number:,.0f}" if size >= 1000 else f"{number:.4g}"


def write_percent(share: float) -> str:
    """Write a share in percent, without decimals that say nothing.

    Input:  0.25
    Output: 25 %
    """
    return f"{100 * share:.4g} %"


def frame(
    plane: Plane, html: str, *, title: str, description: str, x: str, y: str, height: int = HEIGHT
) -> str:
    """Draw axes around what is drawn between them.

    Args:
        plane: The axes.
        html: What is drawn, as SVG.
        title: What the chart shows, for those who cannot see it.
        description: What is to be seen in it, for the same.
        x: What runs to the right, with its unit.
        y: What runs upwards.
        height: Of the whole chart.
    """
    room, parts = plane.room, []
    for tick in plane.x.ticks:
        across, _ = plane.place(tick, plane.y.low)
        parts.append(f'<path class="grid" d="M{across:g} {room.top}V{room.bottom}"/>')
        parts.append(write_text(across, room.bottom + 15, plane.x.words(tick), "middle"))
    for tick in plane.y.ticks:
        _, down = plane.place(plane.x.low, tick)
        parts.append(f'<path class="grid" d="M{room.left} {down:g}H{room.right}"/>')
        parts.append(write_text(room.left - 6, down + 4, plane.y.words(tick), "end"))
    parts.append(f'<path class="axis" d="M{room.left} {room.bottom}H{room.right}"/>')
    parts.append(write_text(room.right, height - 4, shorten(x, 300), "end"))
    # Above the top tick, whose letters reach 5 pixels above the room.
    parts.append(write_text(2, 10, shorten(y, 300)))
    return write_svg(
        "".join(parts) + html, title=title, description=description, size=(WIDTH, height)
    )


def write_svg(
    html: str, *, title: str, description: str, size: tuple[int, int], fixed: bool = False
) -> str:
    """Close a drawing into an image with words for those who cannot see it.

    Args:
        html: The drawing.
        title: What it shows.
        description: What is to be seen in it.
        size: Width and height.
        fixed: Keep the size instead of filling the width, for drawings that scroll.
    """
    width, height = size
    style = f' style="width:{width}px"' if fixed else ""
    return (
        f'<svg role="img" viewBox="0 0 {width} {height}"{style}><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{html}</svg>"
    )


def write_text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """Write words into a drawing; `anchor` is which part of them stands at x."""
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def shorten(words: str, pixels: float) -> str:
    """Cut words that would not fit, as far as that can be told without the font.

    Input:  "Embroidered cotton jersey", 60 pixels
    Output: Embroide…
    """
    words = " ".join(words.split())
    if measure(words) <= pixels:
        return words
    kept, used = "", _width("…")
    for letter in words:
        used += _width(letter)
        if used > pixels:
            break
        kept += letter
    return kept.rstrip() + "…"


def measure(words: str) -> float:
    """Estimate how many pixels words take in a chart, rather too many than too few."""
    return sum(map(_width, words))


def _width(letter: str) -> float:
    """Estimate how wide a letter is at 11 pixels."""
    if unicodedata.east_asian_width(letter) in "WF":
        return 11.5
    if letter in "mwMW@%…—":
        return 10.5
    return 8.0 if letter.isupper() else 4.0 if letter in "ijl.,:;|!' " else 6.7


def _round_step(step: float) -> float:
    """Round up to 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= step * (1 - 1e-9))
