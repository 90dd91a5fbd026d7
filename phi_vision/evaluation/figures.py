"""The charts of the report pages: matplotlib figures as SVG, in the CSS variables of the page.

A chart is then light or dark as its page is. Charts are 360 units wide: a phone shows them pixel by
pixel, a larger screen side by side. All sizes are in pixels, which are points of matplotlib.
"""

import io
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from phi_vision.io.formatting import format_number
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.calibration import Bin
from phi_vision.metrics.field_metrics import is_correct

WIDTH, HEIGHT, DPI = 360, 250, 72
MARGINS = (46, 24, 20, 38)  # left, top, right and bottom of the plotting area

NAME_WIDTH, VALUE_WIDTH = 150, 58  # of the names left of intervals and the values right of them
MAX_MAGNITUDE = 1e100  # numbers beyond are drawn here: axes cannot be divided in floats far above

LOG_TICKS = ((0.8, tuple(range(1, 10))), (1.8, (1, 2, 5)), (3, (1, 3)), (math.inf, (1,)))
"""Decades of a logarithmic axis, at most -> digits of its ticks."""

VARIABLES = (*(f"series-{number}" for number in range(1, 7)), "ink", "soft", "line", "ground")
COLORS = {name: f"#{number:06x}" for number, name in enumerate(VARIABLES, start=1)}
"""CSS variable -> the colour that stands for it while matplotlib draws."""

STYLE_FILE = Path(__file__).parent / "templates" / "chart.mplstyle"

WIDE = {"W": 11.5, "F": 11.5}
LETTER_WIDTHS = dict.fromkeys("mwMW@%…—", 10.5) | dict.fromkeys("ijl.,:;|!' ", 4.0)
"""East Asian width, or letter -> its width at 11 pixels, rather too large than too small."""

NUMBER = "{x:,.6g}"  # format of a tick

Points = Sequence[tuple[float, float]]
Legend = Sequence[tuple[str, str]]  # (name, CSS variable) of each series; empty for only one


class Chart(NamedTuple):
    """A drawing for a page, with its text alternative."""

    title: str
    description: str
    width: int
    height: int
    svg: Markup  # the content of the svg element
    legend: Legend


class Series(NamedTuple):
    """A line of a chart."""

    name: str
    points: Points  # (x, y) by rising x; a line without any is only listed in the legend
    markers: bool = False
    faint: bool = False  # whether it is thin, and left out of the legend
    color: int | None = None  # number of its colour, from 1; by default its place among the series


def draw_lines(
    series: Sequence[Series],
    title: str,
    x: str,
    y: str,
    percent: bool = False,
    mark: tuple[float, float] | None = None,
) -> Chart:
    """Draw lines over each other, with a legend where there are several, and emphasise a point;
    with `percent` both axes are fractions, x from 0 to 1."""
    legend, described = [], []
    with _canvas() as (figure, axes):
        for place, each in enumerate(series):
            color = f"series-{each.color or place % 6 + 1}"
            line = "--" if place >= 6 and each.color is None else "-"
            line += "o" if each.markers or len(each.points) == 1 else ""
            (drawn,) = axes.plot(*_columns(each.points), line, color=COLORS[color], clip_on=False)
            if each.faint:
                drawn.set(linewidth=1, alpha=0.35)
                continue
            legend.append((each.name, color))
            if each.points:
                (x1, y1), (x2, y2) = each.points[0], each.points[-1]
                described.append(f"{each.name}: {y} {y1:.3g} at {x} {x1:.3g}, {y2:.3g} at {x2:.3g}")
        if percent:
            # At least a tenth high: without errors the line runs along the bottom.
            highest = max([0.1, *(y for each in series for y in _columns(each.points)[1])])
            axes.set(xlim=(0, 1), ylim=(0, math.ceil(round(highest * 20, 6)) / 20))
        if mark is not None:
            (ring,) = axes.plot(*mark, "o", markersize=9, clip_on=False, zorder=5)
            ring.set(color=COLORS["ground"], mec=COLORS["series-2"], mew=2.5)
        _label(figure, axes, x, y, percent)
        return _to_chart(figure, title, "; ".join(described), legend if len(legend) > 1 else ())


def draw_intervals(
    rows: Mapping[str, Estimate], *, title: str, decimals: int, zero: bool = False
) -> Chart:
    """Draw estimates below each other with their intervals, and a line through the first; without
    rows that have no value. `zero` puts 0 on the axis."""
    reference = next(iter(rows))
    rows = {name: each for name, each in rows.items() if math.isfinite(each.value)}
    height, described = 40 + 26 * len(rows), []
    with _canvas(height, (NAME_WIDTH, 8, VALUE_WIDTH, 28)) as (figure, axes):
        axes.grid(visible=False, axis="y")
        axes.spines["bottom"].set_visible(False)
        axes.set(ylim=(height - 28, 8), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(NUMBER)
        if zero:
            axes.plot([0], [8], alpha=0)
        for down, (name, estimate) in zip(range(24, height, 26), rows.items(), strict=False):
            color, bold = COLORS["series-6"], {}
            value, low, high = np.clip(estimate, -MAX_MAGNITUDE, MAX_MAGNITUDE)
            texts = [format_number(number, decimals) for number in estimate]
            described.append(f"{name} {texts[0]}")
            if name == reference:
                color, bold = COLORS["series-1"], {"color": COLORS["ink"], "weight": "bold"}
                axes.axvline(value, color=color, linewidth=1, dashes=(3, 3))
            if math.isfinite(estimate.low):
                axes.plot([low, high], [down, down], color=color, linewidth=3, clip_on=False)
                described[-1] += f" (95 %: {texts[1]} to {texts[2]})"
            axes.plot([value], [down], "o", color=color, markersize=9, clip_on=False)
            for across, words in ((NAME_WIDTH - 10, fit(name, NAME_WIDTH - 10)), (358, texts[0])):
                _text(figure, across, down + 4, words, ha="right", **bold)
        return _to_chart(figure, title, "; ".join(described))


def draw_scatter(points: Points, *, title: str, x: str, y: str) -> Chart:
    """Draw (true, predicted) numbers above 0, on logarithmic axes with a band of ±10 %."""
    within = sum(is_correct("number", predicted, true) for true, predicted in points)
    with _canvas(320) as (figure, axes):
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
        _label(figure, axes, x, y)
        description = f"{len(points)} points, {within} of them within 10% of the diagonal."
        return _to_chart(figure, title, description)


def draw_reliability(raw: Sequence[Bin], recalibrated: Sequence[Bin], *, title: str) -> Chart:
    """Draw accuracy over confidence by bin; a calibrated model lies on the diagonal. Recalibration
    that was not measured has no bins."""
    legend = [("raw confidence", "series-2"), ("recalibrated", "series-1")]
    shown = recalibrated or raw
    with _canvas() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=COLORS["soft"], linewidth=1, dashes=(3, 3))
        for bins, (_, variable) in zip((raw, recalibrated), legend, strict=True):
            color = COLORS[variable]
            for each in bins if bins is shown else ():
                if math.isfinite(each.low):
                    ends = ([each.confidence] * 2, [each.low, each.high])
                    axes.plot(*ends, color=color, linewidth=1.5, alpha=0.5)
            places = [(each.confidence, each.accuracy) for each in bins]
            axes.plot(*_columns(places), "o", color=color, markersize=6.4, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        _label(figure, axes, "confidence", "accuracy", percent=True)
        words = [f"confidence {e.confidence:.0%}, accuracy {e.accuracy:.0%}" for e in shown]
        return _to_chart(figure, title, "; ".join(words), legend[: 2 if recalibrated else 1])


def fit(words: str, pixels: float) -> str:
    """Shorten words to a width: "Embroidered cotton jersey", 60 -> "Embroide…"."""
    printable = "".join(letter if letter.isprintable() else " " for letter in words)
    words = shown = " ".join(printable.split())
    while words and text_width(shown) > pixels:
        words = words[:-1]
        shown = f"{words.rstrip()}…"
    return shown


def text_width(words: str) -> float:
    """Estimate the width of words in a chart."""
    return sum(
        WIDE.get(unicodedata.east_asian_width(letter))
        or LETTER_WIDTHS.get(letter, 8.0 if letter.isupper() else 6.7)
        for letter in words
    )


@contextmanager
def _canvas(
    height: int = HEIGHT, margins: tuple[int, int, int, int] = MARGINS, width: int = WIDTH
) -> Iterator[tuple[Figure, Axes]]:
    """Open a figure with one pair of axes, in the style of the pages."""
    left, top, right, bottom = margins
    with matplotlib.rc_context(fname=STYLE_FILE), warnings.catch_warnings():
        # Matplotlib only measures the text; the reader's browser has the glyphs.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        size = (1 - (left + right) / width, 1 - (top + bottom) / height)
        axes = figure.add_axes((left / width, bottom / height, *size))
        for patch in (figure.patch, axes.patch):
            patch.set_visible(False)
        axes.grid(clip_on=False)
        yield figure, axes


def _label(figure: Figure, axes: Axes, x: str, y: str, percent: bool = False) -> None:
    """Format the ticks, and put the labels outside of the plotting area."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear":
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter((lambda share, _: f"{100 * share:.4g} %") if percent else NUMBER)
    width, height = figure.get_size_inches() * DPI
    _text(figure, width - MARGINS[2], height - 4, fit(x, 300), ha="right")
    _text(figure, 2, 10, fit(y, 300))


def _text(figure: Figure, x: float, y: float, words: str, **style: Any) -> None:
    """Write at a place in pixels from the upper left corner."""
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, 1 - y / height, words, **style)


def _columns(points: Points) -> NDArray[np.float64]:
    """Split points into their finite x and y."""
    columns = np.array([*points], dtype=np.float64).reshape(-1, 2)
    return columns[np.isfinite(columns).all(axis=1)].T.clip(-MAX_MAGNITUDE, MAX_MAGNITUDE)


def _log_limits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round the range of values outwards to 1, 2 or 5 times a power of ten: 12, 850 -> 10, 1000."""
    low, high = (values.min(), values.max()) if values.size else (1.0, 10.0)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = np.array([digit * 10.0**decade for decade in decades for digit in (1, 2, 5)])
    low = steps[steps <= low * (1 + 1e-9)].max()
    return np.array([low, steps[(steps >= high * (1 - 1e-9)) & (steps > low)].min()])


def _to_chart(figure: Figure, title: str, description: str, legend: Legend = ()) -> Chart:
    """Reduce matplotlib's file to what a page needs: a third of it."""
    file = io.StringIO()
    # Ids are hashes: with the description in them they differ between the charts of a page.
    with matplotlib.rc_context({"svg.hashsalt": f"{title} {description}"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    # Without metadata and the default style before the first figure, and the last closing tag.
    drawn = file.getvalue().partition("</defs>")[2].rpartition("<")[0]
    tags = re.sub(r"\s*(<[^>]+>)\s*", lambda tag: _shorten(" ".join(tag[1].split())), drawn)
    svg = ALIKE.sub(lambda uses: f"<g{uses[1]}>{uses[0].replace(uses[1], '')}</g>", tags)
    width, height = (round(side * DPI) for side in figure.get_size_inches())
    return Chart(title, description, width, height, Markup(svg), tuple(legend))


def _shorten(tag: str) -> str:
    """Shorten a tag of matplotlib, and replace its colours by the variables of the page."""
    tag = NEEDLESS.sub("", tag.replace(": ", ":").replace("; ", ";"))
    tag = tag.replace("font-weight:700", "font-weight:600")
    tag = re.sub(r"#0000(\w\w)", lambda color: f"var(--{VARIABLES[int(color[1], 16) - 1]})", tag)
    # Coordinates to 0.1 pixels, which cannot be seen; not the numbers of a style, after a colon.
    tenths = r"(?<![\d.:-])-?\d+\.\d+"
    return re.sub(tenths, lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), tag)


NEEDLESS = re.compile(
    r'</?g\b.*|(?<=[";])(font-size|font-family|stroke-line\w+):[^;"]*;?'
    r'| transform="rotate\(-0 .*?"|xlink:| (?=")'
)
"""Groups, fonts of the page, and what has no effect."""

ALIKE = re.compile(r'<use [^>]*?( style="[^"]*")/>(?:<use [^>]*\1/>)*')  # markers of one style
