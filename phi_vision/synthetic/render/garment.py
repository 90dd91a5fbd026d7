"""The visible facts of a drawn product, whose values are in `vocabulary.yaml`, and its SVG.

Titles and prices follow from the facts in `catalog.py`; `drawing.py` turns the SVG into an image.
Garments are drawn with the shapes of their kind from `shapes/` and the macros of
`templates/pen.svg.j2`, from back to front in a box from -100 to 100 in both directions, x to the
right and y downwards, so that a mirror image is a change of sign.
"""

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

Rgb = tuple[int, int, int]
Point = tuple[float, float]

_FOLDER = Path(__file__).parents[1]
VOCABULARY: dict[str, Any] = yaml.safe_load(
    (_FOLDER / "vocabulary.yaml").read_text(encoding="utf-8")
)
COLOURS: dict[str, Rgb] = {name: tuple(rgb) for name, rgb in VOCABULARY["colours"].items()}
PATTERNS, MATERIALS = tuple(VOCABULARY["patterns"]), tuple(VOCABULARY["materials"])

# These have a surface of their own that a woven or printed pattern would hide.
_UNPATTERNED = {"denim", "tweed", "nylon", "leather", "patent", "acetate", "metal"}
_PLAIN_FRACTION = 0.45
_UNTRIMMED_FRACTION = 0.5
_COLOUR_JITTER = 9

DAYLIGHT = 220  # leaves levels for cloth that is brighter than its dye
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
SHAPES = {
    file.name.removesuffix(".svg.j2").replace("_", " "): file.name
    for file in sorted((_FOLDER / "shapes").iterdir())
}
"""Kind of garment -> its drawing; another kind is one file there."""


@dataclass(frozen=True, kw_only=True)
class Garment:
    """The visible facts of one product in one colour."""

    kind: str  # such as "trench coat"
    colour: str
    rgb: Rgb  # the dye, near the colour's own value; no two batches are alike
    pattern: str
    material: str  # visible as texture and sheen
    trim: str  # "none", "contrast", "monogram", "embroidery" or "fur"
    length: str  # of the hem, the shaft or the brim: "short", "regular" or "long"
    hardware: str  # buckles, chains, zips and watch cases: "none", "silver" or "gold"
    buttons: int  # how many are visible; 0 where the kind has none
    hood: bool
    fit: float  # width over height relative to the kind's own, 0.93 to 1.07


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The values a kind comes in; by default a fact does not vary."""

    materials: tuple[str, ...]
    patterns: tuple[str, ...] = ("plain",)
    trims: tuple[str, ...] = ("none",)
    lengths: tuple[str, ...] = ("regular",)
    hardware: tuple[str, ...] = ("none",)
    buttons: tuple[int, ...] = (0,)
    hoods: tuple[bool, ...] = (False,)
    colours: tuple[str, ...] = tuple(COLOURS)


def _values(words: Any) -> Any:
    return tuple(words.split() if isinstance(words, str) else words)


CHOICES = {
    kind: Choices(**{fact: _values(words) for fact, words in entry["choices"].items()})
    for kind, entry in VOCABULARY["kinds"].items()
}
KINDS = tuple(CHOICES)


def random_garment(rng: random.Random, kind: str | None = None) -> Garment:
    """Choose a garment of any kind, or of the given one, among the values it comes in."""
    kind = kind or rng.choice(KINDS)
    choices = CHOICES[kind]
    material = rng.choice(choices.materials)
    patterns: Sequence[str] = choices.patterns
    if material in _UNPATTERNED:
        patterns = [each for each in patterns if each in ("plain", "quilted")] or ["plain"]
    pattern = _choose(rng, patterns, "plain", _PLAIN_FRACTION)
    trims = [trim for trim in choices.trims if pattern == "plain" or trim != "monogram"]
    colour = rng.choice(choices.colours)
    return Garment(
        kind=kind,
        colour=colour,
        rgb=random_dye(rng, colour),
        pattern=pattern,
        material=material,
        trim=_choose(rng, trims, "none", _UNTRIMMED_FRACTION),
        length=rng.choice(choices.lengths),
        hardware=rng.choice(choices.hardware),
        buttons=rng.choice(choices.buttons),
        hood=rng.choice(choices.hoods),
        fit=round(rng.uniform(0.93, 1.07), 3),
    )


def random_dye(rng: random.Random, colour: str) -> Rgb:
    """Return a value near that of a named colour."""
    jitter = (-_COLOUR_JITTER, _COLOUR_JITTER)
    red, green, blue = (min(255, max(0, v + rng.randint(*jitter))) for v in COLOURS[colour])
    return red, green, blue


def _choose(rng: random.Random, choices: Sequence[str], usual: str, fraction: float) -> str:
    return usual if usual in choices and rng.random() < fraction else rng.choice(choices)


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
