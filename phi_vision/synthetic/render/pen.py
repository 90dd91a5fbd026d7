"""A pen that draws cloth and small parts as SVG: panels, seams, folds, buttons, fur, embroidery.

Garments are drawn from back to front in a box from -100 to 100 in both directions, x to the right
and y downwards, so that a mirror image is a change of sign. Dyed panels carry the word `DYE` for
a colour, where `drawing.py` puts the woven cloth of `weave.py`.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from phi_vision.synthetic.render.garment import VOCABULARY, Garment, Rgb

Point = tuple[float, float]
Curve = Sequence[tuple[float, float]]

DYE = "DYE"
FOLD = "FOLD"
DAYLIGHT = 220  # leaves levels for cloth that is brighter than its dye
_ROUND = 'stroke-linecap="round" stroke-linejoin="round"'
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Palette:
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


def mix_palette(garment: Garment) -> Palette:
    """Choose the colours that show a garment: its dye, shades of it, and its metal."""
    dye = garment.rgb
    bright = sum(w * level for w, level in zip((0.299, 0.587, 0.114), dye, strict=True)) / 255
    accent = _mix(dye, (40, 24, 30), 0.68) if bright > 0.5 else _mix(dye, (255, 246, 226), 0.8)
    metal, metal_dark = VOCABULARY["metals"][garment.hardware]
    return Palette(
        base=_mix(dye, dye, 0),
        dark=_mix(dye, _BLACK, 0.24),
        deep=_mix(dye, _BLACK, 0.48),
        light=_mix(dye, _WHITE, 0.3),
        seam=_mix(dye, _BLACK, 0.5) if bright > 0.28 else _mix(dye, _WHITE, 0.34),
        accent=accent,
        edge=accent if garment.trim == "contrast" else _mix(dye, _BLACK, 0.1),
        metal=metal,
        metal_dark=metal_dark,
    )


class Pen:
    """Draws one garment; each method adds a part in front of those drawn before."""

    def __init__(self, garment: Garment) -> None:
        self.garment = garment
        self.palette = mix_palette(garment)
        self._parts: list[str] = []

    def svg(self) -> str:
        """Return everything drawn so far."""
        return "".join(self._parts)

    def add(self, shapes: str) -> None:
        """Add SVG shapes as they are."""
        self._parts.append(shapes)

    @contextmanager
    def collected(self, *transforms: str) -> Iterator[None]:
        """Repeat what is drawn inside the block once for each transform, in place of it."""
        start = len(self._parts)
        yield
        shapes = "".join(self._parts[start:])
        self._parts[start:] = [f'<g transform="{each}">{shapes}</g>' for each in transforms]

    @contextmanager
    def both_sides(self) -> Iterator[None]:
        """Draw what is drawn inside the block on the left side, too."""
        start = len(self._parts)
        yield
        self.add(f'<g transform="scale(-1 1)">{"".join(self._parts[start:])}</g>')

    def cloth(self, *paths: str, fill: str | None = None) -> None:
        """Draw panels and their outlines: dyed cloth, or the colour `fill` with its shade."""
        for path in paths:
            self.add(f'<path d="{path}" fill="{fill or DYE}"/>')
            if fill:
                self.add(f'<path d="{path}" fill="url(#shade)"/>')
            self.seam(path)

    def symmetric(self, half: str, fill: str | None = None) -> None:
        """Draw a panel from its right-hand half."""
        self.cloth(symmetric(half), fill=fill)

    def edge(self, *paths: str) -> None:
        """Draw panels in the colour of the garment's edges."""
        self.cloth(*paths, fill=self.palette.edge)

    def seam(self, *paths: str, width: float = 1.1, colour: str | None = None) -> None:
        """Draw lines where two panels meet."""
        style = f'stroke="{colour or self.palette.seam}" stroke-width="{width}" {_ROUND}'
        self._parts += [f'<path d="{path}" fill="none" {style}/>' for path in paths]

    def hem(self, *paths: str, width: float = 4) -> None:
        """Draw broad lines in the colour of the garment's edges."""
        self.seam(*paths, width=width, colour=self.palette.edge)

    def stitches(self, *paths: str, colour: str | None = None, width: float = 1.2) -> None:
        """Draw visible rows of stitches."""
        style = f'stroke-width="{width}" stroke-dasharray="3.2 1.8"'
        stroke = colour or self.palette.seam
        self._parts += [f'<path d="{p}" fill="none" stroke="{stroke}" {style}/>' for p in paths]

    def folds(self, *paths: str, depth: float = 0.13) -> None:
        """Draw soft creases in dyed cloth: a wide pale stroke below a narrow one, read as a blur.

        They carry the word `FOLD` for a colour and appear in the matte only, where they dim the
        cloth.
        """
        for path in paths:
            for width, strength in ((6, 0.55), (2.4, 0.95)):
                self.add(
                    f'<path d="{path}" fill="none" stroke="{FOLD}" '
                    f'stroke-opacity="{depth * strength:.3f}" stroke-width="{width}" {_ROUND}/>'
                )

    def button(self, x: float, y: float, radius: float = 2.9, metal: bool = False) -> None:
        """Draw a button, of horn or of metal."""
        colours = self.palette
        face, rim = (colours.metal, colours.metal_dark) if metal else (colours.accent, colours.seam)
        self.add(
            f'<circle cx="{x}" cy="{y + 0.8}" r="{radius + 0.5}" fill="#000" fill-opacity="0.28"/>'
            f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{face}" stroke="{rim}" '
            f'stroke-width="0.8"/><circle cx="{x}" cy="{y}" r="{radius * 0.35:.2f}" fill="{rim}"/>'
        )

    def metal(self, *paths: str) -> None:
        """Draw pieces of polished metal."""
        style = f'fill="{self.palette.metal}" stroke="{self.palette.metal_dark}" stroke-width="0.9"'
        for path in paths:
            self.add(f'<path d="{path}" {style}/><path d="{path}" fill="url(#metal)"/>')

    def neck(self, half: float) -> None:
        """Draw the inside of the back below a neckline."""
        self.add(
            f'<path d="M{-half} -83 C{-half / 2} -87 {half / 2} -87 {half} -83 '
            f'L{half} -60 H{-half} Z" fill="{self.palette.deep}"/>'
            f'<rect x="-5" y="-82" width="10" height="6" fill="#f6f3ea"/>'
        )

    def buckle(self, x: float, y: float, width: float, height: float) -> None:
        """Draw a buckle: an open frame with a pin."""
        left, top, metal = x - width / 2, y - height / 2, self.palette.metal
        box = f'x="{left}" y="{top}" width="{width}" height="{height}" rx="2.2" fill="none"'
        self.add(
            f'<rect {box} stroke="{self.palette.metal_dark}" stroke-width="4.4"/>'
            f'<rect {box} stroke="{metal}" stroke-width="2.8"/>'
            f'<path d="M{left} {y} H{x + width / 2}" stroke-width="2" stroke="{metal}"/>'
        )

    def chain(self, path: str) -> None:
        """Draw a chain along a path."""
        dark, metal = self.palette.metal_dark, self.palette.metal
        self.add(
            f'<path d="{path}" fill="none" stroke="{dark}" stroke-width="4.2" {_ROUND}/>'
            f'<path d="{path}" fill="none" stroke="{metal}" stroke-width="3" '
            'stroke-dasharray="4.2 2.2"/>'
        )

    def fur(self, *points: Point, radius: float = 9) -> None:
        """Draw tufts of pale fur along a line, where the garment is trimmed with fur."""
        if self.garment.trim == "fur":
            style = 'fill="#efe6d8" stroke="#b9a588" stroke-width="0.7"'
            for index, (x, y) in enumerate(_along(points, step=radius * 0.62)):
                self.add(f'<path d="{_tuft(x, y, radius, turn=1.7 * index)}" {style}/>')

    def embroidery(self, x: float, y: float, size: float = 12) -> None:
        """Draw a spray of flowers, where the garment is embroidered."""
        if self.garment.trim == "embroidery":
            stem = f"M{x - size} {y + size * 0.9} Q{x} {y + size * 0.4} {x + size} {y - size}"
            stroke = f'stroke="#4d8a4c" stroke-width="{size * 0.16:.2f}"'
            self.add(f'<path d="{stem}" fill="none" {stroke}/>')
            heads = ((-0.75, 0.45, "#e8b23a"), (0.05, -0.05, "#d8485f"), (0.8, -0.75, "#e8b23a"))
            for a, b, colour in heads:
                self.add(flower(x + a * size, y + b * size, size / 2, colour))


Shape = Callable[[Pen], None]
"""Draws one kind of garment around the middle, in a box from -100 to 100 or a little more."""


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


def flower(x: float, y: float, size: float, colour: str) -> str:
    """Return a flower of five petals."""
    petals = "".join(
        f'<circle cx="{x + 0.6 * size * math.cos(turn):.1f}" '
        f'cy="{y + 0.6 * size * math.sin(turn):.1f}" r="{0.46 * size:.1f}" fill="{colour}" '
        'stroke="#fff" stroke-opacity="0.65" stroke-width="0.6"/>'
        for turn in (0.3, 1.56, 2.81, 4.07, 5.33)
    )
    return f'{petals}<circle cx="{x}" cy="{y}" r="{0.34 * size:.1f}" fill="#fff3c4"/>'


def gradients(garment: Garment, *, light: float, contrast: float) -> str:
    """Return the gradients that shapes refer to.

    `lit` is the light on a dyed panel. It is a measurement and not a colour: red is the brightness
    of the cloth (`DAYLIGHT` = the dye itself), green the gloss on it (255 = white).

    Args:
        garment: its material decides on the gloss.
        light: where the light comes from, -1 (left) to 1 (right).
        contrast: depth of the shading, about 1.
    """
    middle = 0.5 + 0.26 * light
    left, right = (0.2 + 0.12 * light) * contrast, (0.2 - 0.12 * light) * contrast
    shading = ((0.0, 1 - left), (middle, 1 + 0.1 * contrast), (1.0, 1 - right))
    gloss: Curve = VOCABULARY["glosses"].get(garment.material, ((0.0, 0.0), (1.0, 0.0)))
    lit = []
    for at in sorted({at for at, _ in (*shading, *gloss)}):
        brightness = min(255, DAYLIGHT * _at(shading, at))
        lit.append((at, f"rgb({brightness:.0f},{255 * _at(gloss, at):.0f},0)", 1.0))
    return (
        _linear("lit", lit, slope=0.3)
        + _linear("shade", [(0, "#000", left), (middle, "#fff", 0.12), (1, "#000", right)])
        + _linear("glint", [(0, "#fff", 0.75), (1, "#fff", 0.0)], slope=0.6)
        + _linear("metal", [(0, "#fff", 0.65), (0.5, "#fff", 0), (1, "#000", 0.3)], slope=1)
    )


def _linear(name: str, stops: Sequence[tuple[float, str, float]], *, slope: float = 0.3) -> str:
    body = "".join(
        f'<stop offset="{at}" stop-color="{colour}" stop-opacity="{opacity:.3f}"/>'
        for at, colour, opacity in stops
    )
    return f'<linearGradient id="{name}" x1="0" y1="0" x2="1" y2="{slope}">{body}</linearGradient>'


def _at(curve: Curve, position: float) -> float:
    for (x0, y0), (x1, y1) in pairwise(curve):
        if position <= x1:
            return y0 + (y1 - y0) * max(0.0, position - x0) / (x1 - x0)
    return curve[-1][1]


def _step(command: str, points: Sequence[Point]) -> str:
    return command + " ".join(f"{-x or 0.0:g} {y:g}" for x, y in points)


def _along(points: Sequence[Point], *, step: float) -> Iterator[Point]:
    for (x0, y0), (x1, y1) in pairwise(points):
        count = max(1, round(math.hypot(x1 - x0, y1 - y0) / step))
        yield from ((x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count))
    yield points[-1]


def _tuft(x: float, y: float, radius: float, *, turn: float) -> str:
    spikes = []
    for index in range(22):
        reach = radius * (1.0 + 0.12 * math.sin(5.1 * index + turn) if index % 2 else 0.72)
        angle = turn + index * math.pi / 11
        spikes.append(f"{x + reach * math.cos(angle):.1f} {y + reach * math.sin(angle):.1f}")
    return f"M{' L'.join(spikes)} Z"


def _mix(colour: Rgb, other: Rgb, fraction: float) -> str:
    levels = (round(a + (b - a) * fraction) for a, b in zip(colour, other, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*levels)
