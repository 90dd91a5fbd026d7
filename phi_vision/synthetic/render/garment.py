"""The visible facts of a drawn product, and their vocabulary.

`drawing.py` turns these facts into an image; titles and prices follow from them in `products.py`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

Rgb = tuple[int, int, int]

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
    *("cotton", "denim", "wool", "knit", "tweed", "canvas"),
    *("nylon", "silk", "leather", "patent", "acetate", "metal"),
)

# These have a surface of their own that a woven or printed pattern would hide.
_UNPATTERNED = {"denim", "tweed", "nylon", "leather", "patent", "acetate", "metal"}
_PLAIN_FRACTION = 0.45
_UNTRIMMED_FRACTION = 0.5
_COLOUR_JITTER = 9


@dataclass(frozen=True, kw_only=True)
class Garment:
    """The visible facts of one product in one colour.

    Attributes:
        kind: one of `KINDS`, such as "trench coat".
        colour: one of `COLOURS`.
        rgb: the dye, near the colour's own value; no two batches are alike.
        pattern: one of `PATTERNS`.
        material: one of `MATERIALS`, visible as texture and sheen.
        trim: "none", "contrast", "monogram", "embroidery" or "fur".
        length: of the hem, the shaft or the brim: "short", "regular" or "long".
        hardware: buckles, chains, zips and watch cases: "none", "silver" or "gold".
        buttons: how many are visible; 0 where the kind has none.
        hood: whether there is one.
        fit: width over height relative to the kind's own, 0.93 to 1.07.
    """

    kind: str
    colour: str
    rgb: Rgb
    pattern: str
    material: str
    trim: str
    length: str
    hardware: str
    buttons: int
    hood: bool
    fit: float


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The values a kind comes in; single-valued where it does not vary."""

    materials: tuple[str, ...]
    patterns: tuple[str, ...]
    trims: tuple[str, ...]
    lengths: tuple[str, ...]
    hardware: tuple[str, ...]
    buttons: tuple[int, ...]
    hoods: tuple[bool, ...]
    colours: tuple[str, ...]


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
    red, green, blue = (
        min(255, max(0, value + rng.randint(-_COLOUR_JITTER, _COLOUR_JITTER)))
        for value in COLOURS[colour]
    )
    return red, green, blue


def _choose(rng: random.Random, choices: Sequence[str], usual: str, fraction: float) -> str:
    if usual in choices and rng.random() < fraction:
        return usual
    return rng.choice(choices)


def _choices(row: str) -> Choices:
    """Parse a row of the table below; an empty cell is the value of a kind that does not vary."""
    cells = [cell.split() for cell in f"{row}{7 * '|'}".split("|")[1:9]]
    materials, patterns, trims, lengths, hardware, buttons, hoods, colours = cells
    return Choices(
        materials=tuple(materials),
        patterns=tuple(patterns or ["plain"]),
        trims=tuple(trims or ["none"]),
        lengths=tuple(lengths or ["regular"]),
        hardware=tuple(hardware or ["none"]),
        buttons=tuple(map(int, buttons or ["0"])),
        hoods=tuple(hood == "yes" for hood in hoods or ["no"]),
        colours=tuple(colours or COLOURS),
    )


# kind | materials | patterns | trims | lengths | hardware | buttons | hoods | colours
_TABLE = """
trench coat | cotton wool leather | plain checked herringbone | none contrast fur | regular long | silver gold | 4 6 8
puffer jacket | nylon leather | | none contrast fur | short regular | silver gold | | no yes
blazer | cotton wool tweed silk | plain pinstriped checked herringbone | none contrast embroidery | | none gold | 1 2 4
cardigan | knit wool | plain striped checked dotted | none contrast embroidery fur | regular long | | 4 6
sweater | knit wool | plain striped checked dotted | none contrast embroidery
hoodie | cotton knit | plain striped checked | none contrast embroidery monogram | | none silver gold | | yes
t-shirt | cotton silk | plain striped checked dotted floral | none contrast embroidery monogram
polo shirt | cotton knit | plain striped checked | none contrast embroidery | | | 2 3
shirt | cotton silk denim | plain striped pinstriped checked dotted floral | none contrast embroidery | | | 5 7
tank top | cotton silk knit | plain striped checked dotted floral | none contrast embroidery monogram
dress | cotton silk wool leather | plain striped checked dotted floral | none contrast embroidery | short regular | none gold
evening gown | silk tweed patent | plain dotted floral | none embroidery fur | | none gold
skirt | cotton wool tweed leather denim | plain checked herringbone floral | none contrast embroidery | short regular | none silver gold
pleated skirt | cotton wool silk | plain checked striped floral | none contrast | short long
jeans | denim | | none embroidery | | | | | blue navy black white grey
trousers | cotton wool silk leather | plain pinstriped checked herringbone | none contrast | regular long
shorts | cotton denim silk wool | plain striped checked floral | none contrast monogram
scarf | knit wool silk | plain striped checked herringbone dotted | none contrast monogram fur
tie | silk knit wool | plain striped checked dotted herringbone | none monogram
tote bag | leather patent canvas | plain quilted striped checked | none contrast monogram embroidery | | silver gold
crossbody bag | leather patent canvas | plain quilted checked | none contrast monogram embroidery fur | | silver gold
backpack | canvas leather nylon | plain quilted checked | none contrast monogram embroidery | | silver gold
sneaker | leather canvas knit | plain checked striped | none contrast monogram embroidery | regular long
boot | leather patent nylon | plain quilted | none contrast fur | short long | none silver gold
loafer | leather patent wool | plain checked | none contrast monogram fur | | none silver gold
heel | leather patent silk | plain dotted floral | none contrast embroidery | | none gold
cap | cotton canvas wool | plain checked striped | none contrast monogram embroidery
hat | wool canvas tweed | plain herringbone | none contrast embroidery | regular long | none gold
sunglasses | acetate metal | | | regular long | silver gold
watch | leather metal | | | regular long | silver gold | 1 3
belt | leather patent canvas | plain checked | none contrast monogram | | silver gold
wallet | leather patent canvas | plain quilted checked | none contrast monogram | regular long | none silver gold
gloves | leather knit wool | plain checked | none contrast fur | short long
socks | cotton knit | plain striped checked dotted | none contrast monogram | short long
"""  # noqa: E501

CHOICES = {row.split("|")[0].strip(): _choices(row) for row in _TABLE.strip().splitlines()}
KINDS = tuple(CHOICES)
