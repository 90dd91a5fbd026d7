"""Charts as inline SVG: lines, points on logarithmic axes, intervals, reliability, a heat map.

Colours are variables of `look.py`, so that a chart is light or dark as its page is. Every function
gives HTML; names and titles are escaped here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phi_vision.evaluation.chart_axes import (
    ROOM,
    WIDTH,
    Plane,
    Room,
    frame,
    linear_axis,
    log_axis,
    measure,
    share_axis,
    shorten,
    write_svg,
    write_text,
)
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.field_metrics import is_correct

COLORS = 6
"""How many series have a colour of their own; then they start again, dashed."""

CELL = 27
"""Side of a heat map's cell, in pixels: room for three digits."""

LABELS = 150
"""Room for names beside intervals, in pixels: for some twenty letters."""

NEAR = 0.1
"""Numbers this near count as right: the band around the diagonal of a scatter."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y) by rising x."""

    marked: bool = False
    """Show each point, where there are few."""

    faint: bool = False
    """Draw it thin, behind the others, and leave it out of the legend."""

    color: int | None = None
    """Which colour, from 1; unless given, by its place among the series."""


class Row(NamedTuple):
    """A figure in a chart of intervals."""

    name: str
    estimate: Estimate
    strong: bool = False
    """The row that the others are held against."""


class Bar(NamedTuple):
    """How often answers of some confidence were right, with its interval."""

    confidence: float
    right: float
    low: float
    high: float


def draw_lines(
    series: Sequence[Series],
    *,
    title: str,
    x: str,
    y: str,
    shares: bool = False,
    mark: tuple[float, float] | None = None,
) -> str:
    """Draw lines over each other, with a legend where there are several.

    Args:
        series: The lines; a series without points is only named.
        title: What they show.
        x: What runs to the right.
        y: What runs upwards.
        shares: Whether both axes are shares; then they are in percent, the right one from 0 to 1.
        mark: A point to be seen at once.
    """
    points = [point for each in series for point in each.points if all(map(math.isfinite, point))]
    across = linear_axis(point[0] for point in points)
    upwards = linear_axis(point[1] for point in points)
    if shares:
        across = share_axis()
        # At least a tenth high: where nothing is wrong, the line runs along the bottom.
        upwards = linear_axis([0, 0.1, *(point[1] for point in points)], words=across.words)
    plane = Plane(across, upwards)
    drawn = "".join(_line(each, plane, at) for at, each in enumerate(series))
    if mark is not None:
        left, down = plane.place(*mark)
        drawn += (
            f'<circle cx="{left:g}" cy="{down:g}" r="5" fill="var(--ground)" '
            'stroke="var(--series-2)" stroke-width="2.5"/>'
        )
    legend = [(each.name, _color(each, at)) for at, each in enumerate(series) if not each.faint]
    chart = frame(plane, drawn, title=title, description=_tell_lines(series, x, y), x=x, y=y)
    return chart + (write_legend(legend) if len(legend) > 1 else "")


def draw_intervals(rows: Sequence[Row], *, title: str, decimals: int, zero: bool = False) -> str:
    """Draw figures below each other with their intervals, against a line through the strong one.

    Args:
        rows: From top to bottom; what has no value is left out.
        title: What the figures are.
        decimals: How many are written.
        zero: Whether 0 must be on the axis.
    """
    rows = [row for row in rows if math.isfinite(row.estimate.value)]
    known = [number for row in rows for number in row.estimate if math.isfinite(number)]
    axis = linear_axis([0.0, *known] if zero else known, steps=3)
    height = 40 + 26 * len(rows)
    plane = Plane(axis, linear_axis([0, 1]), Room(LABELS, 8, WIDTH - 58, height - 28))
    parts = [_tick_below(plane, tick) for tick in axis.ticks]
    for row in rows:
        if row.strong:
            across, _ = plane.place(row.estimate.value, 0)
            parts.append(
                f'<path d="M{across:g} {plane.room.top}V{plane.room.bottom}" stroke-width="1" '
                'stroke="var(--series-1)" stroke-dasharray="3 3"/>'
            )
    parts += [_interval(row, plane, 24 + 26 * at, decimals) for at, row in enumerate(rows)]
    told = "; ".join(f"{row.name} {_tell(row.estimate, decimals)}" for row in rows)
    return write_svg("".join(parts), title=title, description=told, size=(WIDTH, height))


def draw_numbers(points: Sequence[tuple[float, float]], *, title: str, x: str, y: str) -> str:
    """Draw said numbers over true ones, on logarithmic axes with the diagonal and ±10 % around it.

    Args:
        points: (true, said), all above 0.
        title: What they are.
        x: What is true, with its unit.
        y: What was said.
    """
    axis = log_axis(number for point in points for number in point)
    plane = Plane(axis, axis, Room(ROOM.left, ROOM.top, ROOM.right, 320 - 38))
    low, high = axis.low, axis.high
    band = [(low, low * (1 + NEAR)), (high, high * (1 + NEAR))]
    band += [(high, high * (1 - NEAR)), (low, low * (1 - NEAR))]
    drawn = (
        f'<polygon points="{plane.path(band)}" fill="var(--series-1)" fill-opacity="0.25"/>'
        f'<polyline points="{plane.path([(low, low), (high, high)])}" fill="none" '
        'stroke="var(--series-1)" stroke-width="1"/>'
    )
    dots = ""
    for point in points:
        left, down = plane.place(*point)
        dots += f'<circle cx="{left:g}" cy="{down:g}" r="2.4"/>'
    near = sum(is_correct("number", predicted, true) for true, predicted in points)
    told = f"{len(points)} points, of which {near} are within {NEAR:.0%} of the diagonal."
    drawn += f'<g fill="var(--series-2)" fill-opacity="0.6">{dots}</g>'
    return frame(plane, drawn, title=title, description=told, x=x, y=y, height=320)


def draw_reliability(bars: Sequence[Bar], later: Sequence[Bar], *, title: str) -> str:
    """Draw how often answers were right over how sure the model was; calibrated is the diagonal.

    Args:
        bars: As the model said it.
        later: After recalibration.
        title: What it is of.
    """
    plane = Plane(share_axis(), share_axis())
    diagonal = (
        f'<polyline points="{plane.path([(0, 0), (1, 1)])}" class="axis" fill="none" '
        'stroke-dasharray="3 3"/>'
    )
    drawn = diagonal + _reliability(bars, plane, "var(--series-2)", faint=bool(later))
    drawn += _reliability(later, plane, "var(--series-1)", faint=False)
    told = "; ".join(f"sure {bar.confidence:.0%}, right {bar.right:.0%}" for bar in later or bars)
    chart = frame(plane, drawn, title=title, description=told, x="how sure", y="how often right")
    legend = [("as the model said it", "var(--series-2)"), ("recalibrated", "var(--series-1)")]
    return chart + write_legend(legend[: 2 if later else 1])


def draw_counts(
    rows: Sequence[str],
    columns: Sequence[str],
    counts: NDArray[np.int64],
    *,
    title: str,
    pooled: str = "",
) -> str:
    """Draw a table of counts as a heat map: right ones in one colour, wrong ones in another.

    Args:
        rows: What is true, a name each.
        columns: What was said; those that are also rows come first, in the same order.
        counts: Of shape (rows, columns).
        title: What it is.
        pooled: A name that stands for several: said for itself it is neither right nor wrong.
    """
    cell = CELL
    left, top = (
        int(min(max(map(measure, names), default=0) + 14, most_room))
        for names, most_room in (((*rows, "true ↓   said →"), 150), (columns, 120))
    )
    most = max(int(counts.max(initial=0)), 1)
    parts = [write_text(left - 8, top - 8, "true ↓   said →", "end", "strong")]
    for at, name in enumerate(columns):
        across = left + cell * at + cell / 2 + 4
        turned = write_text(0, 0, shorten(name, top - 8))
        parts.append(f'<g transform="translate({across:g} {top - 7}) rotate(-90)">{turned}</g>')
    for at, name in enumerate(rows):
        down = top + cell * at
        parts.append(write_text(left - 8, down + 18, shorten(name, left - 12), "end"))
        parts += [
            _cell(int(count), most, left + cell * to, down, _color_of(name, columns[to], pooled))
            for to, count in enumerate(counts[at])
        ]
    right = sum(int(counts[at, at]) for at in range(min(counts.shape)) if rows[at] == columns[at])
    size = (left + cell * len(columns) + 2, top + cell * len(rows) + 2)
    told = f"{right} of {int(counts.sum())} samples lie on the diagonal, where said is true."
    return write_svg("".join(parts), title=title, description=told, size=size, fixed=True)


def write_legend(systems: Sequence[tuple[str, str]]) -> str:
    """Write names with their colours."""
    items = "".join(
        f'<li><i style="background:{color}"></i>{escape(name)}</li>' for name, color in systems
    )
    return f'<ul class="legend">{items}</ul>'


def _color(series: Series, at: int) -> str:
    return f"var(--series-{series.color or at % COLORS + 1})"


def _line(series: Series, plane: Plane, at: int) -> str:
    color = _color(series, at)
    points = [point for point in series.points if all(map(math.isfinite, point))]
    width, opacity = (1, 0.35) if series.faint else (2, 1)
    dashes = ' stroke-dasharray="6 3"' if at >= COLORS and series.color is None else ""
    drawn = (
        f'<polyline points="{plane.path(points)}" fill="none" stroke="{color}" '
        f'stroke-width="{width}" stroke-opacity="{opacity}" stroke-linejoin="round"{dashes}/>'
    )
    if series.marked or len(points) == 1:
        places = (plane.place(*point) for point in points)
        drawn += "".join(
            f'<circle cx="{across:g}" cy="{down:g}" r="3" fill="{color}"/>'
            for across, down in places
        )
    return drawn


def _tell_lines(series: Sequence[Series], x: str, y: str) -> str:
    """Say where each line begins and ends."""
    told = [
        f"{each.name}: {y} {each.points[0][1]:.3g} at {x} {each.points[0][0]:.3g}, "
        f"{each.points[-1][1]:.3g} at {each.points[-1][0]:.3g}"
        for each in series
        if each.points and not each.faint
    ]
    return "; ".join(told)


def _tell(estimate: Estimate, decimals: int) -> str:
    value, low, high = (f"{number:.{decimals}f}" for number in estimate)
    return value if math.isnan(estimate.low) else f"{value} (95 %: {low} to {high})"


def _tick_below(plane: Plane, tick: float) -> str:
    room = plane.room
    across, _ = plane.place(tick, 0)
    line = f'<path class="grid" d="M{across:g} {room.top}V{room.bottom}"/>'
    return line + write_text(across, room.bottom + 16, plane.x.words(tick), "middle")


def _interval(row: Row, plane: Plane, down: float, decimals: int) -> str:
    color = "var(--series-1)" if row.strong else "var(--series-6)"
    kind = "strong" if row.strong else ""
    across, _ = plane.place(row.estimate.value, 0)
    drawn = write_text(plane.room.left - 10, down + 4, shorten(row.name, LABELS - 10), "end", kind)
    if math.isfinite(row.estimate.low):
        low, high = (plane.place(number, 0)[0] for number in row.estimate[1:])
        drawn += f'<path d="M{low:g} {down:g}H{high:g}" stroke="{color}" stroke-width="3"/>'
    drawn += f'<circle cx="{across:g}" cy="{down:g}" r="4.5" fill="{color}"/>'
    value = f"{row.estimate.value:,.{decimals}f}"
    return drawn + write_text(WIDTH - 2, down + 4, value, "end", kind)


def _reliability(bars: Sequence[Bar], plane: Plane, color: str, *, faint: bool) -> str:
    drawn = "".join(
        f'<path d="M{plane.place(bar.confidence, bar.low)[0]:g} '
        f'{plane.place(bar.confidence, bar.low)[1]:g}V{plane.place(bar.confidence, bar.high)[1]:g}"'
        f' stroke="{color}" stroke-width="1.5" stroke-opacity="0.5"/>'
        for bar in bars
        if not faint and math.isfinite(bar.low)
    )
    for bar in bars:
        across, down = plane.place(bar.confidence, bar.right)
        drawn += f'<circle cx="{across:g}" cy="{down:g}" r="3.2" fill="{color}"/>'
    return drawn


def _color_of(true: str, predicted: str, pooled: str) -> str:
    right, neither = true == predicted, true == predicted == pooled
    return f"var(--series-{6 if neither else 1 if right else 2})"


def _cell(count: int, most: int, left: float, top: float, color: str) -> str:
    """Fill a cell the more the greater its count; words stay readable on the fullest."""
    box = f'x="{left + 1:g}" y="{top + 1:g}" width="{CELL - 2}" height="{CELL - 2}" rx="3"'
    if not count:
        return f'<rect {box} fill="var(--line)" fill-opacity="0.4"/>'
    # The root: one mistake among many right answers can still be seen.
    full = 0.1 + 0.4 * math.sqrt(count / most)
    words = write_text(
        left + CELL / 2, top + 18, f"{count}" if count < 1000 else "…", "middle", "ink"
    )
    return f'<rect {box} fill="{color}" fill-opacity="{full:.2f}"/>{words}'
