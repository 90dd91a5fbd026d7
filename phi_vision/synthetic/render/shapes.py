"""Garments as SVG: the drawing of a kind from `shapes/`, with the macros of `templates/pen.svg.j2`.

Garments are drawn from back to front in a box from -100 to 100 in both directions, x to the right
and y downwards, so that a mirror image is a change of sign.
"""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from phi_vision.synthetic.render.garment import VOCABULARY, Garment, Rgb

Point = tuple[float, float]

DAYLIGHT = 220  # leaves levels for cloth that is brighter than its dye
_FOLDER = Path(__file__).parents[1]
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
SHAPES = {
    file.name.removesuffix(".svg.j2").replace("_", " "): file.name
    for file in sorted((_FOLDER / "shapes").iterdir())
}
"""Kind of garment -> its drawing; another kind is one file there."""


def mix_palette(garment: Garment) -> dict[str, str]:
    """Choose the colours that show a garment: its dye, shades of it, and its metal."""
    dye = garment.rgb
    bright = sum(w * level for w, level in zip((0.299, 0.587, 0.114), dye, strict=True)) / 255
    accent = _mix(dye, (40, 24, 30), 0.68) if bright > 0.5 else _mix(dye, (255, 246, 226), 0.8)
    return {
        "base": _mix(dye, dye, 0),
        "dark": _mix(dye, _BLACK, 0.24),
        "deep": _mix(dye, _BLACK, 0.48),
        "light": _mix(dye, _WHITE, 0.3),
        "seam": _mix(dye, _BLACK, 0.5) if bright > 0.28 else _mix(dye, _WHITE, 0.34),
        "accent": accent,
        "edge": accent if garment.trim == "contrast" else _mix(dye, _BLACK, 0.1),
        **dict(zip(("metal", "metal_dark"), VOCABULARY["metals"][garment.hardware], strict=True)),
    }


def load_pen(garment: Garment) -> Any:
    """Return the macros that draw the parts of a garment, in its colours."""
    values = {"garment": garment, "palette": mix_palette(garment)}
    return _TEMPLATES.get_template("pen.svg.j2").make_module(values)


def draw_shapes(garment: Garment, pen: Any, *, hanger: bool) -> str:
    """Draw a garment as SVG shapes, on a hanger if wanted."""
    drawing = _TEMPLATES.get_template(SHAPES[garment.kind])
    shapes = drawing.render(pen=pen, garment=garment, palette=mix_palette(garment))
    return (pen.hanger() if hanger else "") + shapes


def gradients(pen: Any, garment: Garment, *, light: float, contrast: float) -> str:
    """Return the gradients that shapes refer to.

    `lit` is the light on a dyed panel. It is a measurement and not a colour: red is the brightness
    of the cloth (`DAYLIGHT` = the dye itself), green the gloss on it (255 = white). The `light`
    comes from -1 (left) to 1 (right); `contrast`, the depth of the shading, is about 1.
    """
    middle = 0.5 + 0.26 * light
    left, right = (0.2 + 0.12 * light) * contrast, (0.2 - 0.12 * light) * contrast
    shading = ((0.0, 1 - left), (middle, 1 + 0.1 * contrast), (1.0, 1 - right))
    gloss = VOCABULARY["glosses"].get(garment.material, ((0.0, 0.0), (1.0, 0.0)))
    lit = []
    for at in sorted({at for at, _ in (*shading, *gloss)}):
        brightness = min(255, DAYLIGHT * _at(shading, at))
        lit.append((at, f"rgb({brightness:.0f},{255 * _at(gloss, at):.0f},0)", 1.0))
    return str(pen.gradients(lit, left, middle, right))


def mirror(half: str) -> str:
    """Close a right-hand half outline, from top to bottom, with its mirror image.

    Input:  "0 -10 L 20 0 L 0 10"
    Output: "M0 -10 L 20 0 L 0 10 L0 10 L-20 0 L0 -10 Z"
    """
    runs = [re.findall(r"-?[\d.]+", run) for run in re.split(r"[LC]", half)]
    points = [[(float(x), float(y)) for x, y in zip(*[iter(run)] * 2, strict=True)] for run in runs]
    back = [("L", [points[-1][-1]])]
    for before, run in zip(reversed(points[:-1]), reversed(points[1:]), strict=True):
        back.append(("L" if len(run) == 1 else "C", [*reversed(run[:-1]), before[-1]]))
    steps = (step + " ".join(f"{-x or 0.0:g} {y:g}" for x, y in run) for step, run in back)
    return f"M{half} {' '.join(steps)} Z"


def _tufts(points: Sequence[Point], radius: float) -> Iterator[str]:
    """Yield the outlines of tufts of fur along a line."""
    places = []
    for (x0, y0), (x1, y1) in pairwise(points):
        count = max(1, round(math.hypot(x1 - x0, y1 - y0) / (radius * 0.62)))
        places += [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count)]
    for number, (x, y) in enumerate([*places, points[-1]]):
        spikes, turn = [], 1.7 * number
        for index in range(22):
            reach = radius * (1.0 + 0.12 * math.sin(5.1 * index + turn) if index % 2 else 0.72)
            angle = turn + index * math.pi / 11
            spikes.append(f"{x + reach * math.cos(angle):.1f} {y + reach * math.sin(angle):.1f}")
        yield f"M{' L'.join(spikes)} Z"


def _at(curve: Sequence[Point], position: float) -> float:
    for (x0, y0), (x1, y1) in pairwise(curve):
        if position <= x1:
            return y0 + (y1 - y0) * max(0.0, position - x0) / (x1 - x0)
    return curve[-1][1]


def _mix(colour: Rgb, other: Rgb, fraction: float) -> str:
    levels = (round(a + (b - a) * fraction) for a, b in zip(colour, other, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*levels)


_TEMPLATES = Environment(
    loader=FileSystemLoader([_FOLDER / "shapes", _FOLDER / "templates"]),
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_PETALS = [(math.cos(turn), math.sin(turn)) for turn in (0.3, 1.56, 2.81, 4.07, 5.33)]
_TEMPLATES.globals |= {"mirror": mirror, "tufts": _tufts, "petals": _PETALS}
