"""Coats, jackets and tops as SVG: one function per kind, from facts to shapes in a box from -100 to 100.

A new garment is one function and one line in `TOPS`.
"""

# An outline reads best unbroken.
# ruff: noqa: E501

from phi_vision.synthetic.render.cloth import (
    Draw,
    Ink,
    buckle,
    button,
    cloth,
    embroidery,
    folds,
    fur,
    metal,
    mirrored,
    neck,
    seam,
    stitches,
    symmetric,
)
from phi_vision.synthetic.render.garment import Garment

_LONG_SLEEVE = (
    "M44 -74 C66 -70 74 -40 80 -8 L88 58 C82 63 76 64 70 63 L58 4 C54 -16 50 -28 44 -36 Z"
)

_SHORT_SLEEVE = "M42 -75 C58 -72 70 -58 86 -34 C80 -24 73 -18 64 -14 L46 -34 Z"

_CUFF = "M88 58 C82 63 76 64 70 63 L71.5 72 C78 73 84 72 89.5 67 Z"


def _trench_coat(garment: Garment, ink: Ink) -> str:
    hem = {"short": 70, "regular": 80, "long": 96}[garment.length]
    body = symmetric(
        f"0 -74 L 20 -82 L 48 -73 C 50 -40 42 -16 41 4 C 46 34 54 60 60 {hem} L 0 {hem + 3}"
    )
    sleeve = cloth(_LONG_SLEEVE, ink) + folds("M62 -40 C66 -10 72 20 76 54")
    strap = cloth("M69 44 L86 40 L87 48 L70 52 Z", ink, fill=ink.edge)
    lapel = cloth("M2 -48 L18 -84 C26 -86 32 -80 34 -74 L38 -54 L29 -55 L22 -38 L4 -6 Z", ink)
    flap = seam("M44 -38 C34 -26 22 -24 12 -28", ink) + seam("M26 20 L42 28 L40 33 L24 25 Z", ink)
    collar = cloth("M20 -83 C12 -92 6 -91 0 -91 L0 -80 L4 -66 Z", ink, fill=ink.edge)
    columns = [-44 + 90 * i / (garment.buttons // 2) for i in range(garment.buttons // 2)]
    buttons = "".join(button(x, 8 + y, ink, radius=3.4) for y in columns for x in (-13, 13))
    belt = cloth("M-43 -2 H43 V9 H-43 Z", ink, fill=ink.edge) + buckle(0, 3.5, 18, 15, ink)
    opening = seam(f"M4 -6 L7 {hem + 2}", ink, width=1.6)
    drape = mirrored(folds(f"M30 16 C34 40 38 60 42 {hem}", "M18 16 L20 70"))
    return (
        mirrored(sleeve + strap)
        + neck(ink, 16)
        + cloth(body, ink)
        + drape
        + opening
        + buttons
        + mirrored(lapel + flap + collar)
        + belt
        + fur(garment, [(-26, -40), (-30, -66), (-16, -82), (16, -82), (30, -66), (26, -40)])
    )


def _puffer_jacket(garment: Garment, ink: Ink) -> str:
    bands, top = (5 if garment.length == "short" else 6), -70.0
    quilts = "".join(_quilt(54 + (i > 0), top + 23 * i, ink) for i in range(bands))
    arm = "".join(
        f'<g transform="translate({60 + 4.4 * i} {-58 + 23 * i}) rotate(-14)">{_quilt(16, 0, ink)}</g>'
        for i in range(5)
    )
    bottom = top + 23 * bands
    hem = cloth(f"M-52 {bottom - 2} H52 V{bottom + 7} H-52 Z", ink, fill=ink.edge)
    zip_line = seam(f"M0 -80 V{bottom + 6}", ink, width=4.4, colour=ink.deep)
    teeth = stitches(f"M0 -80 V{bottom + 6}", ink.metal, width=2.6)
    puller = metal("M-2.4 -62 H2.4 L3.2 -50 H-3.2 Z", ink)
    if garment.hood:
        hood = symmetric("0 -100 C 26 -100 38 -88 36 -66 L 0 -58")
        neck = cloth(hood, ink) + cloth(
            symmetric("0 -91 C 16 -91 24 -84 22 -70 L 0 -62"), ink, fill=ink.deep
        )
    else:
        neck = cloth(symmetric("0 -90 C 14 -92 24 -90 26 -86 L 30 -66 L 0 -62"), ink, fill=ink.edge)
    ruff = [(-34, -62), (-34, -82), (-20, -95), (0, -98), (20, -95), (34, -82), (34, -62)]
    ruff = ruff if garment.hood else [(-30, -70), (-22, -84), (0, -88), (22, -84), (30, -70)]
    return (
        mirrored(arm)
        + neck
        + quilts
        + hem
        + zip_line
        + teeth
        + puller
        + embroidery(garment, 28, -36)
        + fur(garment, ruff, radius=10)
    )


def _blazer(garment: Garment, ink: Ink) -> str:
    shirt = cloth(symmetric("0 -80 L 18 -80 L 22 -40 L 0 0"), ink, fill="#f3f1ec")
    front = "M18 -83 L47 -74 C50 -40 42 -14 42 6 C44 26 48 42 50 60 C44 66 30 66 16 60 C6 52 2 40 2 12 L2 -2 Z"
    lapel = "M18 -84 C24 -82 29 -78 31 -70 L35 -50 L28 -51 L29 -44 L4 6 C4 -6 10 -50 15 -76 Z"
    collar = cloth("M18 -84 C12 -91 4 -90 0 -90 L0 -83 L13 -72 Z", ink)
    pocket = cloth("M17 22 L43 20 L43.6 27 L17.6 29 Z", ink, fill=ink.edge)
    creases = folds("M38 -30 C34 -6 36 20 40 56", "M12 20 C14 40 18 52 22 58")
    sleeve = cloth(_LONG_SLEEVE + _CUFF, ink) + folds("M62 -40 C66 -10 72 20 76 54")
    cuffs = "".join(button(84 - i * 0.6, 52 + 6 * i, ink, radius=1.7) for i in range(3))
    half = cloth(front, ink) + creases + pocket + cloth(lapel, ink) + collar
    gold = garment.hardware == "gold"
    rows = [10] if garment.buttons == 1 else [8, 25]
    columns = (-11, 11) if garment.buttons == 4 else (0,)
    buttons = "".join(button(x, y, ink, radius=3.6, metal=gold) for x in columns for y in rows)
    chest = seam("M21 -34 L38 -37", ink, width=2.4) + embroidery(garment, 33, -22, size=9)
    return mirrored(sleeve + cuffs) + shirt + mirrored(half) + chest + buttons


def _cardigan(garment: Garment, ink: Ink) -> str:
    hem = {"short": 50, "regular": 58, "long": 88}[garment.length]
    inside = cloth(symmetric("0 -80 L 20 -82 L 18 -50 L 0 -2"), ink, fill=ink.deep)
    half = cloth(f"M19 -82 L46 -75 C50 -40 46 0 50 {hem} L4 {hem} L4 0 Z", ink)
    rib = cloth(f"M50 {hem} L51 {hem + 10} H4 V{hem} Z", ink, fill=ink.edge)
    band = cloth(f"M19 -83 L26 -80 L9 0 V{hem + 10} H0 V0 Z", ink, fill=ink.edge)
    pocket = seam(f"M18 {hem - 22} H40 V{hem - 2} H18 Z", ink) + seam(
        f"M18 {hem - 19} H40", ink, width=3, colour=ink.edge
    )
    sleeve = cloth(_LONG_SLEEVE, ink) + cloth(_CUFF, ink, fill=ink.edge)
    creases = folds("M40 -40 C36 -10 40 20 44 50") + folds("M62 -40 C66 -10 72 20 76 54")
    gaps = (hem + 4) / (garment.buttons - 1)
    buttons = "".join(button(0, 3 + gaps * i, ink, radius=3.4) for i in range(garment.buttons))
    collar = [(-10, -6), (-20, -50), (-23, -80), (0, -84), (23, -80), (20, -50), (10, -6)]
    return (
        mirrored(sleeve)
        + inside
        + mirrored(half + rib + creases + pocket + band)
        + buttons
        + embroidery(garment, 32, -28)
        + fur(garment, collar, radius=8)
    )


def _sweater(garment: Garment, ink: Ink) -> str:
    body = symmetric("0 -68 C 12 -68 20 -74 22 -83 L 46 -75 C 50 -40 47 10 50 58 L 0 60")
    rib = symmetric("0 60 L 50 58 L 48 70 L 0 72")
    collar = symmetric("0 -62 C 16 -62 26 -72 28 -84 C 22 -90 16 -88 16 -84 C 16 -76 8 -70 0 -70")
    sleeve = cloth(_LONG_SLEEVE, ink) + cloth(_CUFF, ink, fill=ink.edge)
    creases = folds("M40 -30 C36 0 40 30 44 56") + folds("M62 -40 C66 -10 72 20 76 54")
    ribs = "".join(seam(f"M{x} 60 V71", ink, width=0.7) for x in range(-44, 45, 8))
    return (
        mirrored(sleeve)
        + neck(ink, 22)
        + cloth(body, ink)
        + mirrored(creases)
        + cloth(rib, ink, fill=ink.edge)
        + ribs
        + cloth(collar, ink, fill=ink.edge)
        + embroidery(garment, 0, -20, size=20)
    )


def _hoodie(garment: Garment, ink: Ink) -> str:
    hood = symmetric("0 -100 C 24 -100 38 -88 37 -68 C 34 -58 14 -50 0 -48")
    hole = symmetric("0 -88 C 16 -88 22 -80 20 -70 C 16 -60 6 -56 0 -55")
    body = symmetric("0 -66 L 24 -76 L 47 -73 C 52 -40 49 10 51 58 L 0 60")
    rib = symmetric("0 60 L 51 58 L 48 70 L 0 72")
    pocket = symmetric("0 14 L 20 14 L 34 32 L 34 54 L 0 54")
    sleeve = cloth(_LONG_SLEEVE, ink) + cloth(_CUFF, ink, fill=ink.edge)
    creases = folds("M42 -30 C38 0 42 30 46 56") + folds("M62 -40 C66 -10 72 20 76 54")
    cords = mirrored(seam("M9 -57 C11 -44 10 -36 11 -22", ink, width=2.4, colour=ink.accent))
    tips = mirrored(metal("M9.4 -24 h3.4 v8 h-3.4 Z", ink)) if garment.hardware != "none" else ""
    zipped = garment.hardware == "gold"
    zip_line = stitches("M0 -48 V71", ink.metal, width=3.2) if zipped else ""
    return (
        mirrored(sleeve)
        + cloth(body, ink)
        + mirrored(creases)
        + cloth(pocket, ink)
        + cloth(rib, ink, fill=ink.edge)
        + zip_line
        + cloth(hood, ink)
        + cloth(hole, ink, fill=ink.deep)
        + cords
        + tips
        + embroidery(garment, 0, -14, size=16)
    )


def _t_shirt(garment: Garment, ink: Ink) -> str:
    body = symmetric(
        "0 -66 C 14 -66 22 -74 24 -83 L 46 -74 C 50 -40 47 20 50 70 C 30 74 10 74 0 74"
    )
    collar = symmetric("0 -61 C 18 -61 27 -72 29 -84 L 23 -86 C 21 -75 12 -68 0 -68")
    sleeve = cloth(_SHORT_SLEEVE, ink)
    cuff = cloth(
        "M86 -34 C80 -24 73 -18 64 -14 L61.5 -18 C70 -22 77 -28 83 -38 Z", ink, fill=ink.edge
    )
    creases = folds("M42 -20 C38 10 42 40 44 66", "M20 20 C24 40 24 52 26 66")
    return (
        mirrored(sleeve + cuff)
        + neck(ink, 22)
        + cloth(body, ink)
        + mirrored(creases)
        + stitches("M-48 68 C-20 71 20 71 48 68", ink.seam, width=0.8)
        + cloth(collar, ink, fill=ink.edge)
        + embroidery(garment, 0, -16, size=20)
    )


def _polo_shirt(garment: Garment, ink: Ink) -> str:
    body = symmetric("0 -62 L 22 -82 L 46 -74 C 50 -40 47 20 50 68 C 30 71 10 71 0 71")
    placket = cloth("M-6 -68 H6 V-18 H-6 Z", ink, fill=ink.edge)
    collar = cloth(
        "M0 -70 C6 -74 12 -82 14 -90 C22 -90 28 -86 30 -82 C30 -70 24 -58 17 -50 Z",
        ink,
        fill=ink.edge,
    )
    sleeve = cloth(_SHORT_SLEEVE, ink)
    cuff = cloth(
        "M86 -34 C80 -24 73 -18 64 -14 L60 -20 C68 -24 76 -31 81 -41 Z", ink, fill=ink.edge
    )
    buttons = "".join(button(0, -60 + 14 * i, ink, radius=2.6) for i in range(garment.buttons))
    creases = folds("M42 -20 C38 10 42 40 44 66", "M20 20 C24 40 24 52 26 66")
    return (
        mirrored(sleeve + cuff)
        + neck(ink, 18)
        + cloth(body, ink)
        + mirrored(creases)
        + placket
        + buttons
        + mirrored(collar)
        + embroidery(garment, 28, -30, size=10)
    )


def _shirt(garment: Garment, ink: Ink) -> str:
    body = symmetric("0 -66 L 18 -84 L 46 -75 C 50 -40 46 10 48 46 C 48 62 30 78 0 74")
    placket = cloth("M-5 -66 H5 V74.5 H-5 Z", ink)
    collar = cloth("M0 -70 L13 -92 C22 -92 27 -87 28 -82 L22 -52 Z", ink, fill=ink.edge)
    stand = cloth(symmetric("0 -90 L 13 -93 L 16 -80 L 0 -70"), ink, fill=ink.deep)
    sleeve = (
        cloth(_LONG_SLEEVE, ink)
        + cloth(_CUFF, ink, fill=ink.edge)
        + button(86, 66, ink, radius=1.8)
    )
    gap = 122 / (garment.buttons - 1)
    buttons = "".join(button(0, -58 + gap * i, ink, radius=2.5) for i in range(garment.buttons))
    pocket = cloth("M16 -36 H38 V-14 L27 -8 L16 -14 Z", ink)
    creases = folds("M42 -20 C38 10 42 40 42 60", "M20 20 C24 40 24 52 26 66")
    return (
        mirrored(sleeve + folds("M62 -40 C66 -10 72 20 76 54"))
        + cloth(body, ink)
        + mirrored(creases)
        + pocket
        + placket
        + buttons
        + stand
        + mirrored(collar)
        + embroidery(garment, -26, -26, size=11)
    )


def _tank_top(garment: Garment, ink: Ink) -> str:
    half = "0 -36 C 16 -36 24 -52 24 -82 L 36 -82 C 36 -56 40 -42 50 -34 C 46 0 48 40 54 70 C 34 75 12 75 0 75"
    back = cloth(
        symmetric("0 -58 C 14 -58 22 -68 24 -82 L 30 -82 L 30 -30 L 0 -30"), ink, fill=ink.deep
    )
    binding = seam("M0 -36 C16 -36 24 -52 24 -82", ink, width=4, colour=ink.edge)
    binding += seam("M36 -82 C36 -56 40 -42 50 -34", ink, width=4, colour=ink.edge)
    creases = folds("M40 -10 C36 20 40 50 46 70", "M16 10 C20 34 20 52 22 70")
    return (
        back
        + cloth(symmetric(half), ink)
        + mirrored(creases + binding)
        + embroidery(garment, 0, -4, size=18)
    )


def _quilt(half: float, top: float, ink: Ink) -> str:
    left, right, bottom = -half, half, top + 24
    band = (
        f"M{left + 4} {top} H{right - 4} C{right + 5} {top + 3} {right + 5} {bottom - 3} "
        f"{right - 4} {bottom} H{left + 4} C{left - 5} {bottom - 3} {left - 5} {top + 3} {left + 4} {top} Z"
    )
    creases = folds(f"M{left + 4} {bottom - 2} H{right - 4}", depth=0.22)
    return cloth(band, ink) + creases


TOPS: dict[str, Draw] = {
    "trench coat": _trench_coat,
    "puffer jacket": _puffer_jacket,
    "blazer": _blazer,
    "cardigan": _cardigan,
    "sweater": _sweater,
    "hoodie": _hoodie,
    "t-shirt": _t_shirt,
    "polo shirt": _polo_shirt,
    "shirt": _shirt,
    "tank top": _tank_top,
}
