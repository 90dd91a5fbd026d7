"""The charts of the report pages, drawn by matplotlib."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from phi_vision.evaluation.svg import (
    COLORS,
    DPI,
    MARGINS,
    WIDTH,
    Chart,
    canvas,
    fit,
    text_width,
    to_chart,
)
from phi_vision.io.formatting import format_number
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.calibration import Bin
from phi_vision.metrics.field_metrics import is_correct

CELL = 27
"""Side of a heat map's cell, in pixels: wide enough for three digits."""

NAME_WIDTH, VALUE_WIDTH = 150, 58
"""Widths of the names left of intervals and of the values right of them, in pixels."""

MAX_MAGNITUDE = 1e100
"""Numbers beyond are drawn here: axes cannot be divided in floats far above."""

LOG_TICKS = ((0.8, tuple(range(1, 10))), (1.8, (1, 2, 5)), (3, (1, 3)), (math.inf, (1,)))
"""Decades of a logarithmic axis, at most -> digits of its ticks."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart."""

    name: str
    points: Points
    """(x, y) by rising x."""

    markers: bool = False
    faint: bool = False
    """Draw it thin, behind the others, and leave it out of the legend."""

    color: int | None = None
    """Number of its colour, from 1; by default its place among the series."""


class Interval(NamedTuple):
    """A row in a chart of intervals."""

    name: str
    estimate: Estimate
    is_reference: bool = False


def draw_lines(
    series: Sequence[Series],
    *,
    title: str,
    x: str,
    y: str,
    percent: bool = False,
    mark: tuple[float, float] | None = None,
) -> Chart:
    """Draw lines over each other, with a legend where there are several.

    Args:
        series: A series without points is only listed in the legend.
        title: Title of the chart.
        x: Label of the x axis.
        y: Label of the y axis.
        percent: Whether both axes are fractions, shown in percent; x from 0 to 1.
        mark: A point to emphasise.
    """
    colors = [f"series-{each.color or place % 6 + 1}" for place, each in enumerate(series)]
    with canvas() as (figure, axes):
        for place, (each, color) in enumerate(zip(series, colors, strict=True)):
            axes.plot(
                *_columns(each.points),
                color=COLORS[color],
                linestyle="--" if place >= 6 and each.color is None else "-",
                linewidth=1 if each.faint else 2,
                alpha=0.35 if each.faint else 1,
                marker="o" if each.markers or len(each.points) == 1 else "",
                markersize=5.5,
                clip_on=False,
            )
        if percent:
            # At least a tenth high: without errors the line runs along the bottom.
            highest = max([0.1, *(y for each in series for y in _columns(each.points)[1])])
            axes.set(xlim=(0, 1), ylim=(0, math.ceil(round(highest * 20, 6)) / 20))
        if mark is not None:
            (ring,) = axes.plot(*mark, "o", markersize=9, clip_on=False, zorder=5)
            ring.set(color=COLORS["ground"], mec=COLORS["series-2"], mew=2.5)
        _label(figure, axes, x, y, _percent if percent else _number)
        legend = [
            (each.name, color) for each, color in zip(series, colors, strict=True) if not each.faint
        ]
        description = "; ".join(
            f"{each.name}: {y} {each.points[0][1]:.3g} at {x} {each.points[0][0]:.3g}, "
            f"{each.points[-1][1]:.3g} at {each.points[-1][0]:.3g}"
            for each in series
            if each.points and not each.faint
        )
        return to_chart(figure, title, description, legend if len(legend) > 1 else ())


def draw_intervals(
    rows: Sequence[Interval], *, title: str, decimals: int, zero: bool = False
) -> Chart:
    """Draw estimates below each other with their intervals, and a line through the reference.

    Args:
        rows: From top to bottom; a row without a value is left out.
        title: Title of the chart.
        decimals: Decimals of the values.
        zero: Whether 0 must be on the axis.
    """
    rows = [row for row in rows if math.isfinite(row.estimate.value)]
    height = 40 + 26 * len(rows)
    with canvas(height, (NAME_WIDTH, 8, VALUE_WIDTH, 28)) as (figure, axes):
        axes.grid(visible=False, axis="y")
        axes.spines["bottom"].set_visible(False)
        axes.set(ylim=(height - 28, 8), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
        if zero:
            axes.plot([0], [8], alpha=0)
        for place, (name, estimate, is_reference) in enumerate(rows):
            down = 24 + 26 * place
            color = COLORS["series-1" if is_reference else "series-6"]
            value, low, high = np.clip(estimate, -MAX_MAGNITUDE, MAX_MAGNITUDE)
            if is_reference:
                axes.axvline(value, color=color, linewidth=1, dashes=(3, 3))
            if math.isfinite(low):
                axes.plot([low, high], [down, down], color=color, linewidth=3, clip_on=False)
            axes.plot([value], [down], "o", color=color, markersize=9, clip_on=False)
            for across, words in (
                (NAME_WIDTH - 10, fit(name, NAME_WIDTH - 10)),
                (WIDTH - 2, format_number(estimate.value, decimals)),
            ):
                text = _text(figure, across, down + 4, words, ha="right")
                if is_reference:
                    text.set(color=COLORS["ink"], weight="bold")
        values = [f"{each.name} {_with_interval(each.estimate, decimals)}" for each in rows]
        return to_chart(figure, title, "; ".join(values))


def draw_scatter(points: Points, *, title: str, x: str, y: str) -> Chart:
    """Draw predicted over true numbers, on logarithmic axes with the diagonal and ±10 % around it.

    Args:
        points: (true, predicted), all above 0.
        title: Title of the chart.
        x: Label of the true numbers, with their unit.
        y: Label of the predicted numbers.
    """
    within = sum(is_correct("number", predicted, true) for true, predicted in points)
    with canvas(320) as (figure, axes):
        shown = np.clip(np.reshape(points, (-1, 2)), 1 / MAX_MAGNITUDE, MAX_MAGNITUDE)
        ends = _log_limits(shown)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        band = [*ends * 0.9, *ends[::-1] * 1.1]
        axes.fill([*ends, *ends[::-1]], band, color=COLORS["series-1"], alpha=0.25, linewidth=0)
        axes.plot(ends, ends, color=COLORS["series-1"], linewidth=1)
        (dots,) = axes.plot(*shown.T, "o", markersize=4.6, clip_on=False)
        dots.set(color=COLORS["series-2"], alpha=0.6)
        decades = math.log10(ends[1] / ends[0])
        digits = next(digits for most, digits in LOG_TICKS if decades < most)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=digits, numticks=7))
            axis.set_minor_locator(NullLocator())
        _label(figure, axes, x, y, _number)
        description = f"{len(points)} points, {within} of them within 10% of the diagonal."
        return to_chart(figure, title, description)


def draw_reliability(raw: Sequence[Bin], recalibrated: Sequence[Bin], *, title: str) -> Chart:
    """Draw accuracy over confidence by bin; a calibrated model lies on the diagonal.

    Args:
        raw: Bins of the model's own confidence.
        recalibrated: Bins after recalibration; empty where it was not measured.
        title: Title of the chart.
    """
    legend = [("raw confidence", "series-2"), ("recalibrated", "series-1")]
    with canvas() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=COLORS["soft"], linewidth=1, dashes=(3, 3))
        for bins, (_, color) in zip((raw, recalibrated), legend, strict=True):
            for each in bins if bins is recalibrated or not recalibrated else ():
                if math.isfinite(each.low):
                    ends = ([each.confidence] * 2, [each.low, each.high])
                    axes.plot(*ends, color=COLORS[color], linewidth=1.5, alpha=0.5)
            places = [(each.confidence, each.accuracy) for each in bins]
            axes.plot(*_columns(places), "o", color=COLORS[color], markersize=6.4, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        _label(figure, axes, "confidence", "accuracy", _percent)
        description = "; ".join(
            f"confidence {each.confidence:.0%}, accuracy {each.accuracy:.0%}"
            for each in recalibrated or raw
        )
        return to_chart(figure, title, description, legend[: 2 if recalibrated else 1])


def draw_confusion(
    rows: Sequence[str],
    columns: Sequence[str],
    counts: NDArray[np.int64],
    *,
    title: str,
    pooled: str = "",
) -> Chart:
    """Draw a confusion matrix: correct counts in one colour, errors in another.

    Args:
        rows: True classes.
        columns: Predicted classes; those that are also rows come first, in the same order.
        counts: Shape (rows, columns).
        title: Title of the chart.
        pooled: A name that stands for several classes: on the diagonal neither right nor wrong.
    """
    corner = "true ↓   predicted →"
    left = min(max(map(text_width, (*rows, corner))) + 14, 150)
    top = min(max(map(text_width, columns), default=0) + 14, 120)
    width, height = round(left + CELL * len(columns) + 2), round(top + CELL * len(rows) + 2)
    with canvas(height, (0, 0, 0, 0), width) as (figure, axes):
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(left - 8, top - 8, corner, ha="right", color=COLORS["ink"], weight="bold")
        for place, name in enumerate(columns):
            across = left + CELL * (place + 0.5) + 4
            axes.text(across, top - 7, fit(name, top - 10), rotation=90, rotation_mode="anchor")
        for place, name in enumerate(rows):
            down = top + CELL * place
            axes.text(left - 8, down + 18, fit(name, left - 12), ha="right")
            for to, (predicted, count) in enumerate(zip(columns, counts[place], strict=True)):
                right, is_pooled = name == predicted, name == predicted == pooled
                color = f"series-{6 if is_pooled else 1 if right else 2}" if count else "line"
                # The root: one error among many correct predictions can still be seen.
                alpha = 0.1 + 0.4 * math.sqrt(count / counts.max()) if count else 0.4
                corner_of = (left + CELL * to + 1, down + 1)
                box = Rectangle(corner_of, CELL - 2, CELL - 2, color=COLORS[color], alpha=alpha)
                box.set_linewidth(0)
                axes.add_patch(box)
                if count:
                    middle = left + CELL * (to + 0.5)
                    number = str(count) if count < 1000 else "…"
                    axes.text(middle, down + 18, number, ha="center", color=COLORS["ink"])
        same = [at for at in range(min(counts.shape)) if rows[at] == columns[at]]
        correct, total = counts[same, same].sum(), counts.sum()
        description = f"{correct} of {total} samples lie on the diagonal: predicted correctly."
        return to_chart(figure, title, description, fixed=True)


def _label(
    figure: Figure, axes: Axes, x: str, y: str, ticks: Callable[[float, int | None], str]
) -> None:
    """Format the ticks, and put the labels outside of the plotting area."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear":
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(ticks))
    width, height = figure.get_size_inches() * DPI
    _text(figure, width - MARGINS[2], height - 4, fit(x, 300), ha="right")
    _text(figure, 2, 10, fit(y, 300))


def _text(figure: Figure, x: float, y: float, words: str, **style: Any) -> Text:
    """Write at a place in pixels from the upper left corner."""
    width, height = figure.get_size_inches() * DPI
    return figure.text(x / width, 1 - y / height, words, **style)


def _columns(points: Points) -> NDArray[np.float64]:
    """Split points into their finite x and y."""
    shown = [point for point in points if all(map(math.isfinite, point))]
    columns = np.array(shown, dtype=np.float64).reshape(-1, 2).T
    return columns.clip(-MAX_MAGNITUDE, MAX_MAGNITUDE)


def _log_limits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round the range of values outwards to 1, 2 or 5 times a power of ten.

    Input:  12 ... 850
    Output: 10, 1000
    """
    low, high = (values.min(), values.max()) if values.size else (1.0, 10.0)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = np.array([digit * 10.0**decade for decade in decades for digit in (1, 2, 5)])
    low = steps[steps <= low * (1 + 1e-9)].max()
    return np.array([low, steps[(steps >= high * (1 - 1e-9)) & (steps > low)].min()])


def _number(value: float, _: int | None = None) -> str:
    return f"{value:,.6g}".replace("-", "−")


def _percent(value: float, _: int | None = None) -> str:
    return f"{100 * value:.4g} %"


def _with_interval(estimate: Estimate, decimals: int) -> str:
    value, low, high = (format_number(number, decimals) for number in estimate)
    return f"{value} (95 %: {low} to {high})" if math.isfinite(estimate.low) else value
