"""Dresses, skirts and trousers as SVG: one function per kind, from facts to shapes in a box from -100 to 100.

A new garment is one function and one line in `BOTTOMS`.
"""

# An outline reads best unbroken.
# ruff: noqa: E501

from phi_vision.synthetic.render.cloth import (
    FOLD,
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


def _dress(garment: Garment, ink: Ink) -> str:
    hem = {"short": 58, "regular": 90}[garment.length]
    bodice = symmetric(
        "0 -62 C 14 -62 20 -72 22 -84 L 40 -76 C 38 -60 40 -46 40 -40 C 36 -24 30 -14 29 -4 L 0 -2"
    )
    skirt = symmetric(
        f"0 -4 L 29 -4 C 42 20 60 52 66 {hem - 8} C 44 {hem + 2} 20 {hem + 4} 0 {hem + 4}"
    )
    sleeve = cloth("M38 -77 C52 -74 62 -62 66 -46 C58 -40 50 -38 42 -40 Z", ink)
    drape = folds(
        f"M22 0 C32 26 42 {hem - 30} 48 {hem - 6}",
        f"M12 0 C16 26 24 {hem - 30} 26 {hem}",
        f"M3 0 C4 26 6 {hem - 30} 6 {hem}",
        depth=0.2,
    )
    belt = cloth("M-30 -10 H30 V0 H-30 Z", ink, fill=ink.edge)
    gold = buckle(0, -5, 13, 12, ink) if garment.hardware == "gold" else ""
    trim = seam(
        f"M-66 {hem - 9} C-44 {hem + 1} 44 {hem + 1} 66 {hem - 9}", ink, width=4, colour=ink.edge
    )
    return (
        mirrored(sleeve)
        + neck(ink, 20)
        + cloth(skirt, ink)
        + mirrored(drape)
        + trim
        + cloth(bodice, ink)
        + mirrored(folds("M32 -44 C26 -34 24 -22 24 -8"))
        + belt
        + gold
        + embroidery(garment, 0, -36, size=14)
        + embroidery(garment, 30, hem - 26, size=13)
    )


def _evening_gown(garment: Garment, ink: Ink) -> str:
    bodice = symmetric("0 -62 C 8 -76 24 -80 32 -68 C 32 -50 26 -38 23 -26 L 0 -24")
    skirt = symmetric("0 -28 L 23 -26 C 32 -8 34 8 30 30 C 30 56 52 78 78 92 C 50 102 20 100 0 100")
    straps = mirrored(seam("M26 -74 C24 -86 18 -92 14 -98", ink, width=2.6, colour=ink.dark))
    drape = folds(
        "M18 -20 C24 10 20 40 26 60 C34 80 46 90 56 96",
        "M8 -20 C12 20 10 50 14 96",
        "M26 20 C22 50 34 74 66 92",
        depth=0.2,
    )
    sash = cloth(symmetric("0 -32 L 25 -33 L 24 -22 L 0 -22"), ink, fill=ink.edge)
    brooch = metal("M0 -35 L8 -27 L0 -19 L-8 -27 Z", ink) if garment.hardware == "gold" else ""
    shoulders = [(-36, -66), (-22, -76), (0, -66), (22, -76), (36, -66)]
    return (
        straps
        + cloth(skirt, ink)
        + mirrored(drape)
        + cloth(bodice, ink)
        + mirrored(folds("M14 -66 C16 -50 14 -40 14 -30"))
        + sash
        + brooch
        + embroidery(garment, 0, -48, size=11)
        + embroidery(garment, -26, 66, size=16)
        + embroidery(garment, 20, 76, size=16)
        + fur(garment, shoulders, radius=11)
    )


def _skirt(garment: Garment, ink: Ink) -> str:
    hem = {"short": 34, "regular": 78}[garment.length]
    body = symmetric(
        f"0 -64 L 34 -64 C 50 -40 54 -20 54 0 C 54 20 52 {hem - 20} 50 {hem} L 0 {hem + 2}"
    )
    band = cloth("M-35 -76 H35 V-63 H-35 Z", ink, fill=ink.edge)
    slit = seam(f"M22 {hem + 1} L24 {hem - 34}", ink, width=2) + folds(f"M24 {hem - 34} L14 {hem}")
    creases = mirrored(folds("M20 -60 L24 -30", f"M44 -20 C48 0 46 20 44 {hem}"))
    hem_line = seam(
        f"M-50 {hem - 2} C-20 {hem + 1} 20 {hem + 1} 50 {hem - 2}", ink, width=4, colour=ink.edge
    )
    clasp = "" if garment.hardware == "none" else buckle(0, -69.5, 17, 15, ink)
    return (
        cloth(body, ink)
        + creases
        + slit
        + hem_line
        + band
        + clasp
        + embroidery(garment, -22, hem - 24, size=17)
    )


def _pleated_skirt(garment: Garment, ink: Ink) -> str:
    hem, flare = {"short": (38, 84), "long": (86, 78)}[garment.length]
    count = 12
    pleats = ""
    for i in range(count):
        top, next_top = -34 + 68 * i / count, -34 + 68 * (i + 1) / count
        foot, next_foot = (-flare + 2 * flare * (i + k) / count for k in (0, 1))
        drop = hem + 8 - 8 * abs(2 * (i + 0.5) / count - 1)
        pleat = f"M{top:.1f} -60 L{foot:.1f} {drop:.1f} L{next_foot:.1f} {drop - 6:.1f} L{next_top:.1f} -60 Z"
        fold = f"M{next_top:.1f} -60 L{next_foot:.1f} {drop - 6:.1f} L{next_foot - 6:.1f} {drop - 4:.1f} Z"
        edge = seam(
            f"M{foot:.1f} {drop:.1f} L{next_foot:.1f} {drop - 6:.1f}",
            ink,
            width=3.5,
            colour=ink.edge,
        )
        pleats += cloth(pleat, ink) + f'<path d="{fold}" fill="{FOLD}" fill-opacity="0.26"/>' + edge
    return pleats + cloth("M-36 -74 H36 V-58 H-36 Z", ink, fill=ink.edge)


def _jeans(garment: Garment, ink: Ink) -> str:
    leg = "M0 -82 L38 -84 C44 -50 44 -20 43 10 L40 94 L12 94 L8 10 C7 -10 4 -24 0 -30 Z"
    thread = "#d99a45"
    pocket = stitches("M20 -72 C22 -60 30 -56 41 -58", thread)
    sides = stitches("M36 -54 L37 86", thread) + stitches("M12 88 H40", thread)
    knees = folds(
        "M14 6 C22 10 32 8 40 2", "M14 14 C24 18 32 14 38 12", "M6 -30 C16 -34 22 -34 30 -40"
    )
    half = cloth(leg, ink) + knees + pocket + sides + folds("M14 30 L18 90")
    band = cloth("M-39 -94 H39 V-82 H-39 Z", ink, fill=ink.dark) + stitches("M-37 -85 H37", thread)
    fly = stitches("M8 -80 C10 -60 8 -48 1 -42", thread) + seam("M0 -82 V-30", ink)
    loops = "".join(cloth(f"M{x} -96 h5 v15 h-5 Z", ink) for x in (-30, -14, 10, 26))
    knob = button(0, -88, ink, radius=3.4)
    return mirrored(half) + fly + band + loops + knob + embroidery(garment, 26, 50, size=14)


def _trousers(garment: Garment, ink: Ink) -> str:
    wide = 20 if garment.length == "long" else 0
    leg = f"M0 -84 L32 -84 C42 -60 {46 + wide * 0.3} -20 {45 + wide * 0.6} 10 L{42 + wide} 96 L{14 - wide * 0.2} 96 L4 -8 L0 -24 Z"
    press = seam(f"M20 -80 C25 -30 26 10 {28 + wide * 0.4} 95", ink, width=1.3)
    crease = folds(f"M20 -80 C25 -30 26 10 {28 + wide * 0.4} 95", "M38 -60 L42 60", depth=0.2)
    pocket = seam("M34 -78 L42 -50", ink, width=1.6)
    stripe = f"M36 -76 C{46 + wide * 0.3} -30 {44 + wide * 0.6} 10 {40 + wide} 95"
    side = seam(stripe, ink, width=4, colour=ink.edge) if garment.trim == "contrast" else ""
    hem = cloth(
        f"M{42 + wide} 96 L{14 - wide * 0.2} 96 L{14 - wide * 0.2} 89 L{42 + wide} 89 Z",
        ink,
        fill=ink.edge,
    )
    band = cloth("M-33 -96 H33 V-83 H-33 Z", ink, fill=ink.edge) + button(3, -89, ink, radius=2.2)
    return (
        mirrored(cloth(leg, ink) + crease + press + pocket + side + hem)
        + band
        + seam("M0 -83 V-24", ink)
    )


def _shorts(garment: Garment, ink: Ink) -> str:
    leg = "M0 -46 L46 -46 C54 -20 60 20 66 52 C50 58 28 60 10 58 L2 6 L0 0 Z"
    hem = cloth("M66 52 C50 58 28 60 10 58 L9 50 C28 51 50 49 64.6 43 Z", ink, fill=ink.edge)
    creases = folds("M30 -40 C36 0 40 30 42 50", "M6 10 C16 4 24 2 34 -6", depth=0.18)
    half = cloth(leg, ink) + creases + seam("M28 -44 C32 -26 42 -20 54 -18", ink, width=1.5) + hem
    band = cloth("M-47 -60 H47 V-45 H-47 Z", ink, fill=ink.edge)
    gathers = "".join(seam(f"M{x} -58 V-47", ink, width=0.9) for x in range(-42, 43, 7))
    cords = seam("M-3 -50 C-8 -40 -10 -32 -8 -22", ink, width=2.4, colour=ink.accent)
    cords += seam("M3 -50 C8 -40 10 -34 10 -20", ink, width=2.4, colour=ink.accent)
    return mirrored(half) + seam("M0 -46 V2", ink) + band + gathers + cords


BOTTOMS: dict[str, Draw] = {
    "dress": _dress,
    "evening gown": _evening_gown,
    "skirt": _skirt,
    "pleated skirt": _pleated_skirt,
    "jeans": _jeans,
    "trousers": _trousers,
    "shorts": _shorts,
}
