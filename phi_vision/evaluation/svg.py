"""Matplotlib figures as SVG for a page, in the CSS variables of the page.

A chart is then light or dark as its page is. Charts are 360 units wide: a phone shows them pixel by
pixel, a larger screen side by side.
"""

import io
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH, HEIGHT = 360, 250
MARGINS = (46, 24, 20, 38)
"""Left, top, right and bottom of the plotting area, in pixels."""

DPI = 72
"""One point is one pixel."""

VARIABLES = (*(f"series-{number}" for number in range(1, 7)), "ink", "soft", "line", "ground")
COLORS = {name: f"#{number:06x}" for number, name in enumerate(VARIABLES, start=1)}
"""CSS variable -> the colour that stands for it while matplotlib draws."""

STYLE_FILE = Path(__file__).parent / "templates" / "chart.mplstyle"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing for a page, with its text alternative."""

    title: str
    description: str
    width: int
    height: int
    svg: Markup
    """The content of the svg element."""

    legend: tuple[tuple[str, str], ...]
    """(name, CSS variable) of each series; empty where there is only one."""

    fixed: bool
    """Keep the size and scroll, instead of filling the width."""


@contextmanager
def canvas(
    height: int = HEIGHT, margins: tuple[int, int, int, int] = MARGINS, width: int = WIDTH
) -> Iterator[tuple[Figure, Axes]]:
    """Open a figure with one pair of axes, in the style of the pages; all sizes are in pixels."""
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


def to_chart(
    figure: Figure,
    title: str,
    description: str,
    legend: Iterable[tuple[str, str]] = (),
    *,
    fixed: bool = False,
) -> Chart:
    """Convert a figure of `canvas`; the arguments are those of `Chart`."""
    file = io.BytesIO()
    # Ids are hashes: with the description in them they differ between the charts of a page.
    with matplotlib.rc_context({"svg.hashsalt": f"{title} {description}"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    width, height = (round(side * DPI) for side in figure.get_size_inches())
    return Chart(
        title=title,
        description=description,
        width=width,
        height=height,
        svg=_embeddable(file.getvalue()),
        legend=tuple(legend),
        fixed=fixed,
    )


def fit(words: str, pixels: float) -> str:
    """Shorten words to a width.

    Input:  "Embroidered cotton jersey", 60
    Output: Embroide…
    """
    printable = "".join(letter if letter.isprintable() else " " for letter in words)
    words = " ".join(printable.split())
    if text_width(words) <= pixels:
        return words
    while words and text_width(f"{words}…") > pixels:
        words = words[:-1]
    return f"{words.rstrip()}…"


def text_width(words: str) -> float:
    """Estimate the width of words at 11 pixels, rather too large than too small."""
    return sum(map(_letter_width, words))


def _letter_width(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF":
        return 11.5
    if letter in "mwMW@%…—":
        return 10.5
    return 8.0 if letter.isupper() else 4.0 if letter in "ijl.,:;|!' " else 6.7


def _embeddable(svg: bytes) -> Markup:
    """Reduce a file of matplotlib to what a page needs: a third of it."""
    used = set(re.findall(r"#(\w+)[\")]", svg.decode()))
    drawn = ElementTree.Element("g")
    elements = _flatten(ElementTree.fromstring(svg), used)
    for style, alike in groupby(elements, lambda each: each.tag == "use" and each.get("style")):
        group = ElementTree.SubElement(drawn, "g", {"style": style}) if style else drawn
        for element in alike:
            if style:
                del element.attrib["style"]
            group.append(element)
    return Markup("".join(ElementTree.tostring(each, encoding="unicode") for each in drawn))


def _flatten(element: ElementTree.Element, used: Set[str]) -> list[ElementTree.Element]:
    """Return the elements that draw, without namespaces, groups, and ids that nothing refers to."""
    tag = element.tag.rpartition("}")[2]
    if tag in ("metadata", "style"):
        return []
    children = [each for child in element for each in _flatten(child, used)]
    if tag in ("svg", "g") or (tag == "defs" and not children):
        return children
    flat = ElementTree.Element(tag)
    flat.text = element.text if tag == "text" else None
    flat.extend(children)
    for name, value in element.attrib.items():
        kept = _themed(value) if name == "style" else _rounded(value)
        if kept and (name != "id" or value in used) and not kept.startswith("rotate(-0"):
            flat.set(name.rpartition("}")[2], kept)
    return [flat]


def _themed(style: str) -> str:
    """Leave the font to the page, and replace colours by its variables."""
    rules = style.replace(": ", ":").split("; ")
    kept = [rule for rule in rules if not rule.startswith(("font", "stroke-line"))]
    kept += ["font-weight:600"] if re.search(r"font.*\b(bold|700)\b", style) else []
    text = ";".join(kept)
    for name, color in COLORS.items():
        text = text.replace(color, f"var(--{name})")
    return text


def _rounded(value: str) -> str:
    """Round to 0.1 pixels, which cannot be seen."""
    numbers = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.1f}", value)
    return " ".join(re.sub(r"\.0\b", "", numbers).split())
