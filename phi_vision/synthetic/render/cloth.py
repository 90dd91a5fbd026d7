"""Cloth and small parts as SVG: panels, seams, folds, buttons, buckles, fur, embroidery.

Garments are drawn in a box from -100 to 100 in both directions, x to the right and y downwards,
so that a mirror image is a change of sign. Dyed panels carry the word `DYE` for a colour;
`drawing.py` puts the woven cloth of `weave.py` there.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from phi_vision.synthetic.render.garment import Garment, Rgb

Point = tuple[float, float]

_METALS = {"none": ("#8d8d90", "#55565a"), "silver": ("#d4d7dc", "#7c828b")}
_METALS["gold"] = ("#e3b94f", "#93661a")
_FUR = ("#efe6d8", "#b9a588")
DYE = "DYE"
FOLD = "FOLD"
DAYLIGHT = 220  # leaves room for cloth that is brighter than its dye
_ROUND = 'stroke-linecap="round" stroke-linejoin="round"'

# Brightness of the gloss along a panel, by material: position -> share of white.
_GLOSSES: dict[str, list[tuple[float, float]]] = {
    "leather": [(0.0, 0), (0.14, 0), (0.24, 0.36), (0.36, 0), (0.8, 0), (0.92, 0.1), (1.0, 0)],
    "patent": [
        *[(0.0, 0.05), (0.12, 0), (0.16, 0.85), (0.25, 0.65), (0.29, 0), (0.62, 0)],
        *[(0.66, 0.45), (0.7, 0), (1.0, 0)],
    ],
    "silk": [(0.0, 0.3), (0.18, 0), (0.36, 0.4), (0.56, 0), (0.74, 0.34), (1.0, 0)],
    "nylon": [(0.0, 0), (0.1, 0.05), (0.4, 0.38), (0.55, 0.02), (1.0, 0)],
    "acetate": [(0.1, 0.5), (0.3, 0), (0.7, 0), (0.9, 0.3)],
}
_WHITE: Rgb = (255, 255, 255)
_BLACK: Rgb = (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Ink:
    """The colours of one garment, as SVG writes them."""

    base: str
    dark: str
    deep: str
    light: str
    seam: str
    accent: str
    edge: str
    metal: str
    metal_dark: str


Draw = Callable[[Garment, Ink], str]
"""How a kind is drawn: SVG shapes around the middle, in a box from -100 to 100 or a little more."""


def mix_ink(garment: Garment) -> Ink:
    """Choose the colours that show a garment: its dye, shades of it, and its metal."""
    dye = garment.rgb
    bright = _brightness(dye)
    accent = _mix(dye, (40, 24, 30), 0.68) if bright > 0.5 else _mix(dye, (255, 246, 226), 0.8)
    metal, metal_dark = _METALS[garment.hardware]
    return Ink(
        base=_hex(dye),
        dark=_hex(_mix(dye, _BLACK, 0.24)),
        deep=_hex(_mix(dye, _BLACK, 0.48)),
        light=_hex(_mix(dye, _WHITE, 0.3)),
        seam=_hex(_mix(dye, _BLACK, 0.5) if bright > 0.28 else _mix(dye, _WHITE, 0.34)),
        accent=_hex(accent),
        edge=_hex(accent if garment.trim == "contrast" else _mix(dye, _BLACK, 0.1)),
        metal=metal,
        metal_dark=metal_dark,
    )


def definitions(garment: Garment, *, light: float, contrast: float) -> str:
    """Write the gradients that shapes refer to.

    `lit` is the light on a dyed panel. It is not seen but measured: red is the brightness of the
    cloth (`DAYLIGHT` = the dye itself), green the gloss laid over it (255 = white).

    Args:
        garment: whose material decides on the gloss.
        light: where the light comes from, -1 (left) to 1 (right).
        contrast: depth of the shading, about 1.
    """
    bright_at = 0.5 + 0.26 * light
    left, right = (0.2 + 0.12 * light) * contrast, (0.2 - 0.12 * light) * contrast
    shading = [(0.0, 1 - left), (bright_at, 1 + 0.1 * contrast), (1.0, 1 - right)]
    gloss = _GLOSSES.get(garment.material, [(0.0, 0.0), (1.0, 0.0)])
    measured = []
    for at in sorted({at for at, _ in shading + gloss}):
        brightness = min(255, DAYLIGHT * _at(shading, at))
        measured.append((at, f"rgb({brightness:.0f},{255 * _at(gloss, at):.0f},0)", 1.0))
    return (
        _linear("lit", measured, slope=0.3)
        + _linear("shade", [(0, "#000", left), (bright_at, "#fff", 0.12), (1, "#000", right)])
        + _linear("glint", [(0, "#fff", 0.75), (1, "#fff", 0.0)], slope=0.6)
        + _linear("metal", [(0, "#fff", 0.65), (0.5, "#fff", 0), (1, "#000", 0.3)], slope=1)
    )


def cloth(path: str, ink: Ink, *, fill: str | None = None) -> str:
    """Paint one panel and its outline: dyed cloth, or the plain colour `fill` with its shade."""
    panel = f'<path d="{path}" fill="{fill or DYE}"/>'
    shade = f'<path d="{path}" fill="url(#shade)"/>' if fill else ""
    return panel + shade + seam(path, ink)


def symmetric(half: str) -> str:
    """Close a right-hand half outline, from top to bottom, with its mirror image.

    Input:  "0 -10 L 20 0 L 0 10"
    Output: "M0 -10 L 20 0 L 0 10 L0 10 L-20 0 L0 -10 Z"
    """
    runs = [re.findall(r"-?[\d.]+", run) for run in re.split(r"[LC]", half)]
    points = [[(float(x), float(y)) for x, y in zip(*[iter(run)] * 2, strict=True)] for run in runs]
    back = [_step("L", [points[-1][-1]])]
    for before, run in zip(reversed(points[:-1]), reversed(points[1:]), strict=True):
        back.append(_step("L" if len(run) == 1 else "C", [*reversed(run[:-1]), before[-1]]))
    return f"M{half} {' '.join(back)} Z"


def mirrored(shapes: str) -> str:
    """Draw shapes of the right side on both sides."""
    return f'{shapes}<g transform="scale(-1 1)">{shapes}</g>'


def seam(path: str, ink: Ink, *, width: float = 1.1, colour: str | None = None) -> str:
    """Draw a line where two panels meet."""
    stroke = colour or ink.seam
    return f'<path d="{path}" fill="none" stroke="{stroke}" stroke-width="{width}" {_ROUND}/>'


def stitches(path: str, colour: str, *, width: float = 1.2) -> str:
    """Draw a visible row of stitches."""
    dash = f'stroke-width="{width}" stroke-dasharray="3.2 1.8"'
    return f'<path d="{path}" fill="none" stroke="{colour}" {dash}/>'


def folds(*paths: str, depth: float = 0.13) -> str:
    """Lay soft creases into dyed cloth: a wide pale stroke below a narrow one, read as a blur.

    They carry the word `FOLD` for a colour and are drawn in the matte only, where they dim the
    cloth.
    """
    return "".join(
        f'<path d="{path}" fill="none" stroke="{FOLD}" stroke-opacity="{depth * part:.3f}" '
        f'stroke-width="{width}" {_ROUND}/>'
        for path in paths
        for width, part in ((6, 0.55), (2.4, 0.95))
    )


def button(x: float, y: float, ink: Ink, *, radius: float = 2.9, metal: bool = False) -> str:
    """Sew on a button, of horn or of metal."""
    face, rim = (ink.metal, ink.metal_dark) if metal else (ink.accent, ink.seam)
    return (
        f'<circle cx="{x}" cy="{y + 0.8}" r="{radius + 0.5}" fill="#000" fill-opacity="0.28"/>'
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{face}" stroke="{rim}" stroke-width="0.8"/>'
        f'<circle cx="{x}" cy="{y}" r="{radius * 0.35:.2f}" fill="{rim}"/>'
    )


def metal(path: str, ink: Ink) -> str:
    """Draw a piece of polished metal."""
    outline = f'stroke="{ink.metal_dark}" stroke-width="0.9"'
    return f'<path d="{path}" fill="{ink.metal}" {outline}/><path d="{path}" fill="url(#metal)"/>'


def neck(ink: Ink, half: float) -> str:
    """Show the inside of the back below a neckline."""
    return (
        f'<path d="M{-half} -83 C{-half / 2} -87 {half / 2} -87 {half} -83 '
        f'L{half} -60 H{-half} Z" fill="{ink.deep}"/>'
        f'<rect x="-5" y="-82" width="10" height="6" fill="#f6f3ea"/>'
    )


def buckle(x: float, y: float, width: float, height: float, ink: Ink) -> str:
    """Draw a buckle: an open frame with a pin."""
    left, top = x - width / 2, y - height / 2
    box = f'x="{left}" y="{top}" width="{width}" height="{height}" rx="2.2" fill="none"'
    pin = f'<path d="M{left} {y} H{x + width / 2}" stroke-width="2" stroke="{ink.metal}"/>'
    return (
        f'<rect {box} stroke="{ink.metal_dark}" stroke-width="4.4"/>'
        f'<rect {box} stroke="{ink.metal}" stroke-width="2.8"/>{pin}'
    )


def chain(path: str, ink: Ink) -> str:
    """Draw a chain along a path."""
    return (
        f'<path d="{path}" fill="none" stroke="{ink.metal_dark}" stroke-width="4.2" {_ROUND}/>'
        f'<path d="{path}" fill="none" stroke="{ink.metal}" stroke-width="3" '
        'stroke-dasharray="4.2 2.2"/>'
    )


def fur(garment: Garment, points: Sequence[Point], *, radius: float = 9) -> str:
    """Lay tufts of pale fur along a line, where the garment is trimmed with fur."""
    if garment.trim != "fur":
        return ""
    tufts = _along(points, step=radius * 0.62)
    stars = [_tuft(x, y, radius, turn=1.7 * index) for index, (x, y) in enumerate(tufts)]
    style = f'fill="{_FUR[0]}" stroke="{_FUR[1]}" stroke-width="0.7"'
    return "".join(f'<path d="{star}" {style}/>' for star in stars)


def embroidery(garment: Garment, x: float, y: float, *, size: float = 12) -> str:
    """Stitch a spray of flowers, where the garment is embroidered."""
    if garment.trim != "embroidery":
        return ""
    stem = f"M{x - size} {y + size * 0.9} Q{x} {y + size * 0.4} {x + size} {y - size}"
    green = f'<path d="{stem}" fill="none" stroke="#4d8a4c" stroke-width="{size * 0.16:.2f}"/>'
    heads = ((-0.75, 0.45, "#e8b23a"), (0.05, -0.05, "#d8485f"), (0.8, -0.75, "#e8b23a"))
    return green + "".join(flower(x + a * size, y + b * size, size / 2, c) for a, b, c in heads)


def flower(x: float, y: float, size: float, colour: str) -> str:
    """Draw a flower of five petals."""
    petals = "".join(
        f'<circle cx="{x + 0.6 * size * math.cos(turn):.1f}" '
        f'cy="{y + 0.6 * size * math.sin(turn):.1f}" r="{0.46 * size:.1f}" fill="{colour}" '
        'stroke="#fff" stroke-opacity="0.65" stroke-width="0.6"/>'
        for turn in (0.3, 1.56, 2.81, 4.07, 5.33)
    )
    return f'{petals}<circle cx="{x}" cy="{y}" r="{0.34 * size:.1f}" fill="#fff3c4"/>'


def _tuft(x: float, y: float, radius: float, *, turn: float) -> str:
    spikes = []
    for index in range(22):
        reach = radius * (1.0 + 0.12 * math.sin(5.1 * index + turn) if index % 2 else 0.72)
        angle = turn + index * math.pi / 11
        spikes.append(f"{x + reach * math.cos(angle):.1f} {y + reach * math.sin(angle):.1f}")
    return f"M{' L'.join(spikes)} Z"


def _along(points: Sequence[Point], *, step: float) -> list[Point]:
    walked: list[Point] = []
    for (x0, y0), (x1, y1) in pairwise(points):
        count = max(1, round(math.hypot(x1 - x0, y1 - y0) / step))
        walked += [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count)]
    return [*walked, points[-1]]


def _step(command: str, points: Sequence[Point]) -> str:
    return command + " ".join(f"{-x or 0.0:g} {y:g}" for x, y in points)


def _linear(name: str, stops: Sequence[tuple[float, str, float]], *, slope: float = 0.3) -> str:
    body = "".join(
        f'<stop offset="{at}" stop-color="{colour}" stop-opacity="{opacity:.3f}"/>'
        for at, colour, opacity in stops
    )
    return f'<linearGradient id="{name}" x1="0" y1="0" x2="1" y2="{slope}">{body}</linearGradient>'


def _at(curve: Sequence[tuple[float, float]], position: float) -> float:
    for (x0, y0), (x1, y1) in pairwise(curve):
        if position <= x1:
            return y0 + (y1 - y0) * max(0.0, position - x0) / (x1 - x0)
    return curve[-1][1]


def _brightness(colour: Rgb) -> float:
    red, green, blue = colour
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def _mix(colour: Rgb, other: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _hex(colour: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
