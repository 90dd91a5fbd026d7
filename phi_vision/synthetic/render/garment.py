"""What a drawn product is: the few facts that can be seen in its image, and their vocabulary.

Nothing here draws; `drawing.draw` turns these facts into an image. A shop's words and prices are
none of this file's business either: they follow from these facts in `catalog.py`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")
Rgb = tuple[int, int, int]
Trim = Literal["none", "contrast", "monogram", "embroidery", "fur"]
Length = Literal["short", "regular", "long"]
Hardware = Literal["none", "silver", "gold"]

COLOURS: dict[str, Rgb] = {
    "black": (34, 34, 37),
    "white": (240, 238, 233),
    "grey": (143, 146, 150),
    "beige": (219, 202, 173),
    "camel": (190, 143, 92),
    "brown": (100, 65, 45),
    "red": (198, 38, 46),
    "burgundy": (108, 26, 44),
    "pink": (233, 166, 184),
    "orange": (224, 119, 46),
    "yellow": (234, 193, 66),
    "green": (40, 104, 72),
    "olive": (116, 115, 66),
    "blue": (64, 112, 186),
    "navy": (32, 43, 88),
    "purple": (124, 90, 165),
}
PATTERNS = (
    "plain",
    "striped",
    "pinstriped",
    "checked",
    "dotted",
    "herringbone",
    "floral",
    "quilted",
)
MATERIALS = (
    "cotton",
    "denim",
    "wool",
    "knit",
    "tweed",
    "canvas",
    "nylon",
    "silk",
    "leather",
    "patent",
    "acetate",
    "metal",
)

# These have a surface of their own that a woven or printed pattern would hide.
_UNPATTERNED = {"denim", "tweed", "nylon", "leather", "patent", "acetate", "metal"}
_PLAIN_SHARE = 0.45
_UNTRIMMED_SHARE = 0.5
_COLOUR_JITTER = 9


@dataclass(frozen=True, kw_only=True)
class Garment:
    """The visible facts of one product in one colour.

    Attributes:
        kind: one of `KINDS`, what the thing is ("trench coat").
        colour: one of `COLOURS`.
        rgb: the dye, near the colour's own value; no two batches are alike.
        pattern: one of `PATTERNS`.
        material: one of `MATERIALS`, seen as texture and sheen.
        trim: how the product is finished.
        length: of the hem, the shaft or the brim.
        hardware: buckles, chains, zips and watch cases.
        buttons: how many are visible; 0 where the kind has none.
        hood: whether there is one.
        fit: width over height against the kind's own, 0.93 to 1.07.
    """

    kind: str
    colour: str
    rgb: Rgb
    pattern: str
    material: str
    trim: Trim
    length: Length
    hardware: Hardware
    buttons: int
    hood: bool
    fit: float


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a kind can be had in; single-valued where it cannot vary."""

    materials: tuple[str, ...]
    patterns: tuple[str, ...] = ("plain",)
    trims: tuple[Trim, ...] = ("none",)
    lengths: tuple[Length, ...] = ("regular",)
    hardware: tuple[Hardware, ...] = ("none",)
    buttons: tuple[int, ...] = (0,)
    hoods: tuple[bool, ...] = (False,)
    colours: tuple[str, ...] = tuple(COLOURS)


def random_garment(rng: random.Random, kind: str | None = None) -> Garment:
    """Choose a garment: any kind (or the one given) in anything it can be had in."""
    kind = kind or rng.choice(KINDS)
    choices = CHOICES[kind]
    material = rng.choice(choices.materials)
    pattern = _pattern(rng, choices.patterns, material)
    trims = [trim for trim in choices.trims if pattern == "plain" or trim != "monogram"]
    colour = rng.choice(choices.colours)
    return Garment(
        kind=kind,
        colour=colour,
        rgb=random_dye(rng, colour),
        pattern=pattern,
        material=material,
        trim=_rarely(rng, "none", trims, _UNTRIMMED_SHARE),
        length=rng.choice(choices.lengths),
        hardware=rng.choice(choices.hardware),
        buttons=rng.choice(choices.buttons),
        hood=rng.choice(choices.hoods),
        fit=round(rng.uniform(0.93, 1.07), 3),
    )


def random_dye(rng: random.Random, colour: str) -> Rgb:
    """Return a value near that of a named colour."""
    red, green, blue = (
        min(255, max(0, value + rng.randint(-_COLOUR_JITTER, _COLOUR_JITTER)))
        for value in COLOURS[colour]
    )
    return red, green, blue


def _pattern(rng: random.Random, patterns: Sequence[str], material: str) -> str:
    if material in _UNPATTERNED:
        patterns = [pattern for pattern in patterns if pattern in ("plain", "quilted")]
    return _rarely(rng, "plain", patterns or ("plain",), _PLAIN_SHARE)


def _rarely(rng: random.Random, usual: T, choices: Sequence[T], usual_share: float) -> T:
    if usual in choices and rng.random() < usual_share:
        return usual
    return rng.choice(choices)


_TRIMMED: tuple[Trim, ...] = ("none", "contrast", "embroidery")
_METALS: tuple[Hardware, ...] = ("silver", "gold")
_LENGTHS: tuple[Length, ...] = ("short", "regular", "long")
_PRINTS = ("plain", "striped", "checked", "dotted", "floral")
_SUITINGS = ("plain", "pinstriped", "checked", "herringbone")
_KNITS = ("plain", "striped", "checked", "dotted")
_BAG_TRIMS: tuple[Trim, ...] = ("none", "contrast", "monogram", "embroidery")
_HIDES = ("leather", "patent", "canvas")

CHOICES: dict[str, Choices] = {
    "trench coat": Choices(
        materials=("cotton", "wool", "leather"),
        patterns=("plain", "checked", "herringbone"),
        trims=("none", "contrast", "fur"),
        lengths=("regular", "long"),
        hardware=("silver", "gold"),
        buttons=(4, 6, 8),
    ),
    "puffer jacket": Choices(
        materials=("nylon", "leather"),
        trims=("none", "contrast", "fur"),
        lengths=("short", "regular"),
        hardware=_METALS,
        hoods=(False, True),
    ),
    "blazer": Choices(
        materials=("cotton", "wool", "tweed", "silk"),
        patterns=_SUITINGS,
        trims=_TRIMMED,
        hardware=("none", "gold"),
        buttons=(1, 2, 4),
    ),
    "cardigan": Choices(
        materials=("knit", "wool"),
        patterns=_KNITS,
        trims=(*_TRIMMED, "fur"),
        lengths=("regular", "long"),
        buttons=(4, 6),
    ),
    "sweater": Choices(materials=("knit", "wool"), patterns=_KNITS, trims=_TRIMMED),
    "hoodie": Choices(
        materials=("cotton", "knit"),
        patterns=("plain", "striped", "checked"),
        trims=(*_TRIMMED, "monogram"),
        hoods=(True,),
        hardware=("none", "silver", "gold"),
    ),
    "t-shirt": Choices(
        materials=("cotton", "silk"), patterns=_PRINTS, trims=(*_TRIMMED, "monogram")
    ),
    "polo shirt": Choices(
        materials=("cotton", "knit"),
        patterns=("plain", "striped", "checked"),
        trims=_TRIMMED,
        buttons=(2, 3),
    ),
    "shirt": Choices(
        materials=("cotton", "silk", "denim"),
        patterns=("plain", "striped", "pinstriped", "checked", "dotted", "floral"),
        trims=_TRIMMED,
        buttons=(5, 7),
    ),
    "tank top": Choices(
        materials=("cotton", "silk", "knit"), patterns=_PRINTS, trims=(*_TRIMMED, "monogram")
    ),
    "dress": Choices(
        materials=("cotton", "silk", "wool", "leather"),
        patterns=_PRINTS,
        trims=_TRIMMED,
        lengths=("short", "regular"),
        hardware=("none", "gold"),
    ),
    "evening gown": Choices(
        materials=("silk", "tweed", "patent"),
        patterns=("plain", "dotted", "floral"),
        trims=("none", "embroidery", "fur"),
        hardware=("none", "gold"),
    ),
    "skirt": Choices(
        materials=("cotton", "wool", "tweed", "leather", "denim"),
        patterns=("plain", "checked", "herringbone", "floral"),
        trims=_TRIMMED,
        lengths=("short", "regular"),
        hardware=("none", "silver", "gold"),
    ),
    "pleated skirt": Choices(
        materials=("cotton", "wool", "silk"),
        patterns=("plain", "checked", "striped", "floral"),
        trims=("none", "contrast"),
        lengths=("short", "long"),
    ),
    "jeans": Choices(
        materials=("denim",),
        trims=("none", "embroidery"),
        colours=("blue", "navy", "black", "white", "grey"),
    ),
    "trousers": Choices(
        materials=("cotton", "wool", "silk", "leather"),
        patterns=_SUITINGS,
        trims=("none", "contrast"),
        lengths=("regular", "long"),
    ),
    "shorts": Choices(
        materials=("cotton", "denim", "silk", "wool"),
        patterns=("plain", "striped", "checked", "floral"),
        trims=("none", "contrast", "monogram"),
    ),
    "scarf": Choices(
        materials=("knit", "wool", "silk"),
        patterns=("plain", "striped", "checked", "herringbone", "dotted"),
        trims=("none", "contrast", "monogram", "fur"),
    ),
    "tie": Choices(
        materials=("silk", "knit", "wool"),
        patterns=("plain", "striped", "checked", "dotted", "herringbone"),
        trims=("none", "monogram"),
    ),
    "tote bag": Choices(
        materials=_HIDES,
        patterns=("plain", "quilted", "striped", "checked"),
        trims=_BAG_TRIMS,
        hardware=_METALS,
    ),
    "crossbody bag": Choices(
        materials=_HIDES,
        patterns=("plain", "quilted", "checked"),
        trims=(*_BAG_TRIMS, "fur"),
        hardware=_METALS,
    ),
    "backpack": Choices(
        materials=("canvas", "leather", "nylon"),
        patterns=("plain", "quilted", "checked"),
        trims=_BAG_TRIMS,
        hardware=_METALS,
    ),
    "sneaker": Choices(
        materials=("leather", "canvas", "knit"),
        patterns=("plain", "checked", "striped"),
        trims=("none", "contrast", "monogram", "embroidery"),
        lengths=("regular", "long"),
    ),
    "boot": Choices(
        materials=("leather", "patent", "nylon"),
        patterns=("plain", "quilted"),
        trims=("none", "contrast", "fur"),
        lengths=("short", "long"),
        hardware=("none", "silver", "gold"),
    ),
    "loafer": Choices(
        materials=("leather", "patent", "wool"),
        patterns=("plain", "checked"),
        trims=("none", "contrast", "monogram", "fur"),
        hardware=("none", "silver", "gold"),
    ),
    "heel": Choices(
        materials=("leather", "patent", "silk"),
        patterns=("plain", "dotted", "floral"),
        trims=("none", "contrast", "embroidery"),
        hardware=("none", "gold"),
    ),
    "cap": Choices(
        materials=("cotton", "canvas", "wool"),
        patterns=("plain", "checked", "striped"),
        trims=("none", "contrast", "monogram", "embroidery"),
    ),
    "hat": Choices(
        materials=("wool", "canvas", "tweed"),
        patterns=("plain", "herringbone"),
        trims=("none", "contrast", "embroidery"),
        lengths=("regular", "long"),
        hardware=("none", "gold"),
    ),
    "sunglasses": Choices(
        materials=("acetate", "metal"),
        hardware=_METALS,
        lengths=("regular", "long"),
    ),
    "watch": Choices(
        materials=("leather", "metal"),
        hardware=_METALS,
        lengths=("regular", "long"),
        buttons=(1, 3),
    ),
    "belt": Choices(
        materials=_HIDES,
        patterns=("plain", "checked"),
        trims=("none", "contrast", "monogram"),
        hardware=_METALS,
    ),
    "wallet": Choices(
        materials=_HIDES,
        patterns=("plain", "quilted", "checked"),
        trims=("none", "contrast", "monogram"),
        hardware=("none", "silver", "gold"),
        lengths=("regular", "long"),
    ),
    "gloves": Choices(
        materials=("leather", "knit", "wool"),
        patterns=("plain", "checked"),
        trims=("none", "contrast", "fur"),
        lengths=("short", "long"),
    ),
    "socks": Choices(
        materials=("cotton", "knit"),
        patterns=("plain", "striped", "checked", "dotted"),
        trims=("none", "contrast", "monogram"),
        lengths=("short", "long"),
    ),
}

KINDS = tuple(CHOICES)
