"""Draws product images: a garment, of visible facts, in a scene in which it is photographed.

`random_garment` and `random_scene` choose, `draw` paints, `encode` writes the JPEG. The values of
the facts are in `vocabulary.yaml`; titles and prices follow from them in `catalog.py`. Garments are
SVG: the shapes of their kind from `shapes/` with the macros of `templates/pen.svg.j2`, from back to
front in a box from -100 to 100 in both directions, x to the right and y downwards, so that a mirror
image is a change of sign.
"""

import functools
import io
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import resvg
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageChops, ImageFilter

from phi_vision.io.image_decoding import encode_image

Rgb = tuple[int, int, int]
Point = tuple[float, float]
Size = tuple[int, int]

_FOLDER = Path(__file__).parent
VOCABULARY: dict[str, Any] = yaml.safe_load((_FOLDER / "vocabulary.yaml").read_text("utf-8"))
COLOURS: dict[str, Rgb] = {name: tuple(rgb) for name, rgb in VOCABULARY["colours"].items()}
PATTERNS, MATERIALS = tuple(VOCABULARY["patterns"]), tuple(VOCABULARY["materials"])

# These have a surface of their own that a woven or printed pattern would hide.
_UNPATTERNED = {"denim", "tweed", "nylon", "leather", "patent", "acetate", "metal"}
_PLAIN_FRACTION = 0.45
_UNTRIMMED_FRACTION = 0.5
_COLOUR_JITTER = 9

DAYLIGHT = 220  # leaves levels for cloth that is brighter than its dye
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
SHAPES = {  # kind of garment -> its drawing; another kind is one file there
    file.name.removesuffix(".svg.j2").replace("_", " "): file.name
    for file in sorted((_FOLDER / "shapes").iterdir())
}
_HANGABLE = {"trench coat", "blazer", "cardigan", "shirt", "dress", "t-shirt", "polo shirt"}
_STANDING = {"tote bag", "crossbody bag", "backpack", "cap", "hat"}
_STANDING |= {"sneaker", "boot", "loafer", "heel"}
_ASPECTS = (1.0, 1.0, 4 / 5, 3 / 4, 2 / 3, 4 / 3)
_NOISE_SIDE = 1024
_REACH = 130  # units from the middle that no turned product, hanger and all, goes beyond
_COLOUR = re.compile(r'"(#[0-9a-f]{3,6}|url\(#\w+\)|FOLD)"')
_FOLDS = re.compile(r'<path[^>]*"FOLD"[^>]*/>')
_TINTS: tuple[Rgb, ...] = (
    *((236, 226, 214), (222, 229, 236), (226, 234, 224)),
    *((240, 222, 220), (214, 208, 200), (233, 230, 240)),
)


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
    accent: str = ""  # colour of patterns and contrasting edges; one that stands out by default
    lining: str = ""  # its colour, where the garment is shown open; "" where it is closed


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
    if garment.accent:
        accent = _mix(COLOURS[garment.accent], _BLACK, 0)
    return {
        "base": _mix(dye, dye, 0),
        "dark": _mix(dye, _BLACK, 0.24),
        "deep": _mix(dye, _BLACK, 0.48),
        "light": _mix(dye, _WHITE, 0.3),
        "seam": _mix(dye, _BLACK, 0.5) if bright > 0.28 else _mix(dye, _WHITE, 0.34),
        "accent": accent,
        "edge": accent if garment.trim == "contrast" else _mix(dye, _BLACK, 0.1),
        "lining": _mix(COLOURS[garment.lining], _BLACK, 0) if garment.lining else "",
        **dict(zip(("metal", "metal_dark"), VOCABULARY["metals"][garment.hardware], strict=True)),
    }


def draw_shapes(garment: Garment, *, hanger: bool) -> tuple[str, Any]:
    """Draw a garment as SVG shapes, on a hanger if wanted, and return the macros of its parts."""
    values = {"garment": garment, "palette": mix_palette(garment)}
    pen: Any = _TEMPLATES.get_template("pen.svg.j2").make_module(values)
    shapes = _TEMPLATES.get_template(SHAPES[garment.kind]).render(values, pen=pen)
    if garment.lining:
        shapes += pen.inside(VOCABULARY["kinds"][garment.kind]["inside"])
    return (pen.hanger() if hanger else "") + shapes, pen


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


@dataclass(frozen=True, kw_only=True)
class Scene:
    """How a product is photographed: everything in the image but the product."""

    width: int  # in pixels
    height: int
    background: str  # "white", "grey" (falling off), "tinted" or "textured" (paper, plaster)
    tint: Rgb  # of a tinted or textured background
    light: float  # where the light comes from, -1 (left) to 1 (right)
    contrast: float  # depth of shadows on the cloth, about 1
    exposure: float  # brightness of the whole image, about 1
    warmth: float  # colour cast, -1 (blue) to 1 (yellow)
    rotation: float  # of the product, in degrees
    scale: float  # size of the product relative to the largest that fits the image
    offset: tuple[float, float]  # from the centre, as fractions of the shorter side
    flip: bool  # whether the product faces left
    shadow: float  # strength of the shadow it throws, 0 to 1
    hanger: bool  # whether clothes that can hang do
    quality: int  # of the JPEG file, 1 to 95
    noise: float  # of the sensor, as a standard deviation in grey levels
    seed: int  # of the noise and of the background's texture


def random_scene(rng: random.Random) -> Scene:
    """Choose a scene as varied as the images of a real shop: sizes, light, compression."""
    aspect, longest = rng.choice(_ASPECTS), round(rng.triangular(320, 640, 380))
    width, height = (longest, longest / aspect) if aspect > 1 else (longest * aspect, longest)
    return Scene(
        width=max(260, round(width)),
        height=max(260, round(height)),
        background=rng.choices(("white", "grey", "tinted", "textured"), (35, 30, 20, 15))[0],
        tint=rng.choice(_TINTS),
        light=round(rng.uniform(-1, 1), 2),
        contrast=round(rng.uniform(0.7, 1.3), 2),
        exposure=round(rng.uniform(0.9, 1.06), 3),
        warmth=round(rng.uniform(-1, 1), 2),
        rotation=round(rng.gauss(0, 4), 1),
        scale=round(rng.uniform(0.74, 0.92), 3),
        offset=(round(rng.uniform(-0.03, 0.03), 3), round(rng.uniform(-0.02, 0.02), 3)),
        flip=rng.random() < 0.5,
        shadow=round(rng.uniform(0.25, 0.8), 2),
        hanger=rng.random() < 0.3,
        quality=rng.randint(58, 94),
        noise=round(rng.uniform(0, 3.2), 2),
        seed=rng.getrandbits(32),
    )


def draw(garment: Garment, scene: Scene, *, longest_side: int | None = None) -> Image.Image:
    """Paint a garment in a scene, in RGB and in the scene's size, or scaled to `longest_side`."""
    zoom = 1.0 if longest_side is None else longest_side / max(scene.width, scene.height)
    size = (max(1, round(scene.width * zoom)), max(1, round(scene.height * zoom)))
    product = _product(garment, scene, size)
    x, y = ((size[i] - product.size[i]) / 2 + scene.offset[i] * min(size) for i in (0, 1))
    corner = (round(x), round(y))
    image = _background(scene, size)
    _cast_shadow(image, product, corner, scene)
    if garment.kind in _STANDING:
        _darken_ground(image, product, corner, scene)
    image.paste(product, corner, product)
    gains = [scene.exposure * (1 + 0.03 * cast * scene.warmth) for cast in (1, 0, -1)]
    curves = [min(255, round(level * gain)) for gain in gains for level in range(256)]
    return _add_noise(image.point(curves), scene.seed, scene.noise)


def encode(image: Image.Image, scene: Scene) -> bytes:
    """Write an image as a JPEG file of the scene's quality: the same bytes for the same pixels."""
    return encode_image(image, "JPEG", quality=scene.quality)


def _product(garment: Garment, scene: Scene, size: Size) -> Image.Image:
    """Paint the product alone, on nothing, as large as the image holds at the scene's scale.

    The shapes are rendered twice: once in colour with black panels in place of the dyed cloth,
    once as a matte that measures how much of that cloth is visible there and in what light. Their
    sum is the image; every fold and button that lies over the cloth dims the matte by itself.
    """
    turn = scene.rotation * (0.3 if garment.kind in _STANDING else 1.0)
    face = -1 if scene.flip else 1
    shapes, pen = draw_shapes(garment, hanger=scene.hanger and garment.kind in _HANGABLE)
    light = gradients(pen, garment, light=scene.light * face, contrast=scene.contrast)
    head = f'<defs>{light}</defs><g transform="rotate({turn}) scale({garment.fit * face:.4f} 1)">'
    # The bounding box, in units of the drawing, from a rough rendering.
    reach = f"{-_REACH} {-_REACH} {2 * _REACH} {2 * _REACH}"
    rough = _render(f"{head}{shapes.replace('DYE', '#000')}</g>", (_REACH, _REACH), reach)
    left, top, right, bottom = (2 * side - _REACH for side in _bounding_box(rough))
    scale = scene.scale * min(size[0] / (right - left), size[1] / (bottom - top))
    width, height = math.ceil(scale * (right - left)), math.ceil(scale * (bottom - top))
    painted = _FOLDS.sub("", shapes).replace("DYE", "#000")
    visible = _COLOUR.sub('"#000"', shapes).replace("DYE", "url(#lit)")
    box = f"{left} {top} {width / scale} {height / scale}"
    coloured, matte = (
        _render(f"{head}{layer}</g>", (width, height), box) for layer in (painted, visible)
    )
    return _dye(coloured, matte, _weave(garment, pen, (width, height), scale, turn))


def _render(shapes: str, size: Size, box: str) -> Image.Image:
    frame = f'width="{size[0]}" height="{size[1]}" viewBox="{box}"'
    return _rasterize(f'<svg xmlns="http://www.w3.org/2000/svg" {frame}>{shapes}</svg>')


def _rasterize(svg: str) -> Image.Image:
    tree = resvg.usvg.Tree.from_str(svg, resvg.usvg.Options.default())
    return Image.open(io.BytesIO(resvg.render(tree, (1, 0, 0, 0, 1, 0))))


def _bounding_box(product: Image.Image) -> tuple[int, int, int, int]:
    box = product.getchannel("A").getbbox()
    assert box is not None, "a drawn product has pixels"
    return box


def _weave(garment: Garment, pen: Any, size: Size, scale: float, turn: float) -> Image.Image:
    """Weave an evenly lit sheet of the garment's cloth, from which all its panels are cut.

    Each weave is one small tile, drawn once and repeated: a hundred times faster than asking the
    SVG renderer to fill every panel with a pattern.
    """
    wide, high = (side + max(size) // 4 for side in size)  # reserve for turning by up to 15 degrees
    sheet = Image.new("RGB", (wide, high), garment.rgb)
    monogram = "monogram" if garment.trim == "monogram" else ""
    for name in (garment.pattern, monogram, garment.material):
        if (tile := VOCABULARY["tiles"].get(name)) is None:
            continue
        # Whole pixels, so that repeats join without a seam; a thread may be a pixel off its width.
        width, height = (max(3, round(side * scale)) for side in tile["box"])
        pixels = np.asarray(_rasterize(pen.tile(tile, width, height)).convert("RGBA"))
        layer = np.tile(pixels, (-(-high // height), -(-wide // width), 1))[:high, :wide]
        sheet.paste(Image.fromarray(layer), (0, 0), Image.fromarray(layer))
    if turn and sheet.getextrema() != tuple((value, value) for value in garment.rgb):
        sheet = sheet.rotate(-turn, Image.Resampling.BILINEAR)
    left, top = (wide - size[0]) // 2, (high - size[1]) // 2
    return sheet.crop((left, top, left + size[0], top + size[1]))


def _dye(coloured: Image.Image, matte: Image.Image, sheet: Image.Image) -> Image.Image:
    light, gloss, _, _ = matte.split()
    bright = sheet.point([min(255, round(value * 255 / DAYLIGHT)) for value in range(256)] * 3)
    cloth = ImageChops.multiply(bright, Image.merge("RGB", (light, light, light)))
    product = ImageChops.add(coloured.convert("RGB"), cloth)
    product.paste((255, 255, 255), (0, 0), gloss)
    product.putalpha(coloured.getchannel("A"))
    return product


def _background(scene: Scene, size: Size) -> Image.Image:
    if scene.background == "white":
        return Image.new("RGB", size, (252, 252, 252))
    # Smooth, so a quarter of the size will do.
    width, height = size[0] // 4 + 1, size[1] // 4 + 1
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    tint = np.array((226, 227, 229) if scene.background == "grey" else scene.tint, np.float32)
    lit = 1.03 - 0.065 * (columns - scene.light) ** 2 - 0.10 * (rows - 0.4) ** 2
    if scene.background == "grey":
        lit = lit - 0.09 / (1 + np.exp(-(rows - 0.74) * 28))
    pixels = np.clip(lit[..., None] * tint, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    if scene.background == "textured":
        small = (max(1, size[0] // 3), max(1, size[1] // 3))
        image = _add_noise(image, scene.seed + 1, 3.0)
        coarse = _add_noise(Image.new("RGB", small, (128, 128, 128)), scene.seed + 2, 3.5)
        image = ImageChops.add(image, coarse.resize(size, Image.Resampling.BICUBIC), 1, -128)
    return image


def _add_noise(image: Image.Image, seed: int, deviation: float) -> Image.Image:
    """Add grey noise of a standard deviation in grey levels."""
    width, height = image.size
    left, top = seed % (_NOISE_SIDE - width), (seed >> 12) % (_NOISE_SIDE - height)
    grains = _noise().crop((left, top, left + width, top + height))
    grains = grains.point([round(128 + (level - 128) * deviation / 32) for level in range(256)])
    return ImageChops.add(image, Image.merge("RGB", (grains, grains, grains)), 1, -128)


@functools.lru_cache(maxsize=1)
def _noise() -> Image.Image:
    # Drawn once: a standard deviation of 32 levels around 128, from which scenes cut a window.
    grains = np.random.default_rng(0).normal(128, 32, (_NOISE_SIDE, _NOISE_SIDE))
    return Image.fromarray(grains.clip(0, 255).astype(np.uint8))


def _cast_shadow(image: Image.Image, product: Image.Image, corner: Size, scene: Scene) -> None:
    # Blurred at a quarter of the size: as soft, and a tenth of the time.
    width, height = image.size
    unit = min(image.size) / 100
    shape = Image.new("L", (width // 4 + 1, height // 4 + 1))
    small = product.getchannel("A").reduce(4)
    shape.paste(small, (round(corner[0] / 4), round(corner[1] / 4)))
    soft = shape.filter(ImageFilter.GaussianBlur(0.55 * unit))
    soft = soft.point([round(0.5 * scene.shadow * level) for level in range(256)])
    shadow = soft.resize((4 * soft.width, 4 * soft.height), Image.Resampling.BILINEAR)
    image.paste((38, 34, 34), (round(-scene.light * 2.2 * unit), round(1.8 * unit)), shadow)


def _darken_ground(image: Image.Image, product: Image.Image, corner: Size, scene: Scene) -> None:
    box = _bounding_box(product)
    left, right, bottom = box[0] + corner[0], box[2] + corner[0], box[3] + corner[1]
    half, thick = (right - left) / 2, max(4, (right - left) // 14)
    pool = Image.radial_gradient("L").resize((round(2.3 * half), 2 * thick))
    pool = pool.point([round(0.8 * scene.shadow * max(0, 190 - level)) for level in range(256)])
    image.paste((30, 27, 27), (round((left + right) / 2 - 1.15 * half), bottom - thick), pool)


_TEMPLATES = Environment(
    loader=FileSystemLoader([_FOLDER / "shapes", _FOLDER / "templates"]),
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_PETALS = [(math.cos(turn), math.sin(turn)) for turn in (0.3, 1.56, 2.81, 4.07, 5.33)]
_TEMPLATES.globals |= {"mirror": mirror, "tufts": _tufts, "petals": _PETALS}
