"""Bags and shoes as SVG: one function per kind, from facts to shapes in a box from -100 to 100.

A new garment is one function and one line in `BAGS_AND_SHOES`.
"""

# An outline reads best unbroken.
# ruff: noqa: E501

from phi_vision.synthetic.render.cloth import (
    Draw,
    Ink,
    buckle,
    button,
    chain,
    cloth,
    embroidery,
    folds,
    fur,
    metal,
    mirrored,
    seam,
    stitches,
    symmetric,
)
from phi_vision.synthetic.render.garment import Garment

_RUBBER = "#f4f2ec"

_CAP = 'fill="none" stroke-linecap="round"'


def _tote_bag(garment: Garment, ink: Ink) -> str:
    body = "M-66 -26 H66 L78 84 C78 90 74 92 70 92 H-70 C-74 92 -78 90 -78 84 Z"
    front = "M-34 -20 C-34 -98 34 -98 34 -20"
    handle = seam(front, ink, width=8.5) + seam(front, ink, width=6.2, colour=ink.edge)
    back = seam("M-28 -26 C-28 -84 28 -84 28 -26", ink, width=5.5, colour=ink.deep)
    tab = mirrored(
        cloth("M27 -24 H41 L39 4 L34 10 L29 4 Z", ink, fill=ink.edge)
        + button(34, -2, ink, radius=3.6, metal=True)
    )
    top = cloth("M-66 -26 H66 L67.4 -15 H-67.4 Z", ink, fill=ink.edge)
    plate = metal("M-15 22 H15 V36 H-15 Z", ink) + seam(
        "M-9 29 H9", ink, width=2, colour=ink.metal_dark
    )
    edges = stitches("M-72 80 L-63 -10 M72 80 L63 -10 M-70 87 H70", ink.seam)
    corners = mirrored(
        cloth("M78 84 C78 90 74 92 70 92 H52 C56 76 66 66 76.5 66 Z", ink, fill=ink.edge)
    )
    plate = "" if garment.trim in ("monogram", "embroidery") else plate
    return (
        back
        + cloth(body, ink)
        + folds("M-40 10 C-44 40 -44 60 -40 84", "M44 -4 C40 30 48 60 46 84")
        + top
        + edges
        + corners
        + handle
        + tab
        + plate
        + embroidery(garment, 0, 40, size=26)
    )


def _crossbody_bag(garment: Garment, ink: Ink) -> str:
    body = symmetric("0 -16 L 58 -16 C 66 -16 70 -10 70 0 L 72 60 C 72 70 66 76 56 76 L 0 76")
    flap = symmetric("0 -20 L 58 -20 C 70 -20 72 -8 71 2 C 68 24 46 38 0 38")
    strap = chain("M-64 -8 C-74 -104 74 -104 64 -8", ink)
    rings = mirrored(
        f'<circle cx="64" cy="-8" r="5" fill="none" stroke="{ink.metal}" stroke-width="3"/>'
    )
    lock = metal("M-11 28 H11 V44 C11 50 -11 50 -11 44 Z", ink) + metal("M-3 34 h6 v8 h-6 Z", ink)
    piping = seam("M-71 2 C-68 24 -46 38 0 38 C46 38 68 24 71 2", ink, width=4, colour=ink.edge)
    rim = stitches("M-64 58 C-64 66 -58 69 -52 69 H52 C58 69 64 66 64 58", ink.seam)
    ruff = fur(garment, [(-60, 14), (-40, 25), (-16, 30)], radius=11) + fur(
        garment, [(60, 14), (40, 25), (16, 30)], radius=11
    )
    return (
        strap
        + cloth(body, ink)
        + rim
        + folds("M-60 36 C-30 52 30 52 60 36", depth=0.2)
        + cloth(flap, ink)
        + piping
        + rings
        + ruff
        + lock
        + embroidery(garment, -34, 6, size=16)
    )


def _backpack(garment: Garment, ink: Ink) -> str:
    body = symmetric("0 -78 C 36 -78 54 -60 56 -26 L 58 72 C 58 82 52 88 42 88 L 0 88")
    handle = seam("M-16 -74 C-16 -100 16 -100 16 -74", ink, width=6) + seam(
        "M-16 -74 C-16 -100 16 -100 16 -74", ink, width=4, colour=ink.edge
    )
    strap = cloth(
        "M40 -66 C66 -60 74 -20 72 40 L68 66 L60 66 C64 20 58 -30 46 -44 Z", ink, fill=ink.dark
    )
    pocket = symmetric("0 18 L 38 18 C 42 18 44 22 44 26 L 44 70 C 44 76 40 80 34 80 L 0 80")
    flap = symmetric("0 -56 L 44 -56 C 50 -40 52 -20 46 2 C 30 8 14 8 0 8")
    side = mirrored(cloth("M58 34 C68 36 70 44 70 56 L68 82 C64 86 60 86 57 84 Z", ink))
    zip_line = seam("M-38 30 H38", ink, width=4, colour=ink.deep) + stitches(
        "M-38 30 H38", ink.metal, width=2.4
    )
    belts = mirrored(
        cloth("M18 -30 h9 V26 h-9 Z", ink, fill=ink.edge) + buckle(22.5, 6, 14, 12, ink)
    )
    puller = metal("M30 30 h4 v12 h-4 Z", ink)
    return (
        handle
        + mirrored(strap)
        + side
        + cloth(body, ink)
        + folds("M-48 -20 C-50 20 -50 50 -46 84")
        + cloth(pocket, ink)
        + zip_line
        + puller
        + cloth(flap, ink)
        + folds("M-40 2 C-20 8 20 8 40 2")
        + belts
        + embroidery(garment, 0, -28, size=15)
        + embroidery(garment, 0, 56, size=12)
    )


def _sneaker(garment: Garment, ink: Ink) -> str:
    high = garment.length == "long"
    collar = "M-74 -58 C-66 -66 -44 -66 -34 -58" if high else "M-78 -16 C-66 -26 -42 -18 -30 -22"
    tongue = (
        "M-34 -62 L-16 -70 L-4 -48 L-24 -30 Z" if high else "M-34 -26 L-18 -40 L-4 -24 L-16 -12 Z"
    )
    upper = f"{collar} L-2 -8 C22 6 50 8 74 18 C90 24 94 36 92 44 L-80 44 C-86 20 -80 0 {'-74 -58' if high else '-78 -16'} Z"
    toe = cloth("M46 10 C60 12 90 18 92 44 L40 44 C38 30 40 18 46 10 Z", ink, fill=ink.edge)
    heel = cloth(
        "M-79 0 L-56 2 C-54 20 -58 34 -58 44 L-80 44 C-84 26 -83 12 -79 0 Z", ink, fill=ink.edge
    )
    sole = "M-84 42 C-30 48 40 46 94 42 C98 50 96 58 88 62 H-76 C-86 60 -88 50 -84 42 Z"
    stay = cloth(
        "M-30 -20 L-18 -24 L40 6 L34 18 L-10 2 Z"
        if not high
        else "M-38 -56 L-26 -58 L-4 -12 L40 6 L34 18 L-14 4 Z",
        ink,
        fill=ink.edge,
    )
    steps = 6 if high else 4
    start = (-30, -50) if high else (-14, -16)
    laces = "".join(
        f'<path d="M{start[0] + (32 - start[0]) * i / steps:.1f} {start[1] + (10 - start[1]) * i / steps:.1f} '
        f'l9 -9" stroke="#fbfaf6" stroke-width="4.2" {_CAP}/><path d="M{start[0] + (32 - start[0]) * i / steps:.1f} '
        f'{start[1] + (10 - start[1]) * i / steps + 2.6:.1f} l9 -9" stroke="#8a8780" stroke-width="0.8" {_CAP}/>'
        for i in range(steps + 1)
    )
    wave = seam("M-56 26 C-30 30 -8 22 16 -2", ink, width=5.5, colour=ink.accent)
    return (
        cloth(tongue, ink, fill=ink.light)
        + cloth(upper, ink)
        + toe
        + heel
        + wave
        + stay
        + laces
        + cloth(sole, ink, fill=_RUBBER)
        + seam("M-84 51 H95", ink, width=1.6, colour="#b9b4a8")
        + stitches("M-78 45.5 H90", "#a9a498", width=0.9)
        + embroidery(garment, -26, 14, size=13)
    )


def _boot(garment: Garment, ink: Ink) -> str:
    top = -92 if garment.length == "long" else -34
    upper = (
        f"M-56 {top} C-44 {top - 4} -18 {top - 4} -6 {top} C-4 -30 -6 0 2 14 C16 32 52 38 70 50 "
        "C80 56 82 66 80 74 L-56 74 C-62 50 -58 10 -56 -14 Z"
    )
    sole = "M-58 72 C-20 76 40 76 82 72 L82 80 H-24 L-26 94 H-58 Z"
    toe = seam("M44 36 C36 48 36 62 40 74", ink, width=1.6)
    heel = cloth(
        "M-58 30 C-40 34 -34 54 -34 74 L-56 74 C-60 58 -60 44 -58 30 Z", ink, fill=ink.edge
    )
    zip_line = seam(f"M-30 {top + 2} V58", ink, width=1.4)
    creases = folds("M-50 8 C-34 16 -16 12 -4 0", "M-52 20 C-30 28 -10 22 4 14", depth=0.2)
    cuff = cloth(
        f"M-57 {top - 1} C-44 {top - 5} -18 {top - 5} -5 {top - 1} V{top + 11} C-20 {top + 9} -42 {top + 9} -57 {top + 11} Z",
        ink,
        fill=ink.edge,
    )
    strap = ""
    if garment.hardware != "none":
        strap = cloth("M-58 4 L-4 -2 L-2 9 L-58 16 Z", ink, fill=ink.dark) + buckle(
            -26, 6.5, 17, 16, ink
        )
    ruff = fur(garment, [(-56, top + 2), (-31, top - 1), (-6, top + 2)], radius=11)
    return (
        cloth(upper, ink)
        + toe
        + heel
        + creases
        + zip_line
        + cuff
        + strap
        + cloth(sole, ink, fill="#3b2f2a" if garment.trim != "contrast" else _RUBBER)
        + ruff
    )


def _loafer(garment: Garment, ink: Ink) -> str:
    inside = cloth("M-84 -6 C-66 -18 -30 -10 -2 -14 L0 6 L-70 18 Z", ink, fill=ink.deep)
    upper = "M-86 -8 C-78 0 -40 8 -8 4 C-4 -6 -2 -16 6 -22 C34 -16 70 4 86 22 C92 30 92 38 90 44 L-86 44 C-92 24 -90 6 -86 -8 Z"
    apron = "M4 -20 C34 -14 62 4 76 22 C60 24 30 12 -8 4 C-4 -6 -2 -16 4 -20 Z"
    saddle = cloth(
        "M2 -22 C14 -20 22 -16 28 -14 C20 4 18 22 18 44 L-14 44 C-12 24 -6 0 2 -22 Z",
        ink,
        fill=ink.edge,
    )
    sole = "M-88 42 C-40 46 40 46 92 42 L92 50 H-34 L-36 62 H-86 C-88 56 -88 50 -88 42 Z"
    bit = ""
    if garment.hardware != "none":
        bit = chain("M-6 8 L24 0", ink) + buckle(-7, 9, 13, 12, ink) + buckle(25, 0, 13, 12, ink)
    return (
        inside
        + cloth(upper, ink)
        + cloth(apron, ink)
        + stitches("M80 26 C60 26 30 16 -4 8", ink.seam, width=1.6)
        + saddle
        + bit
        + stitches("M-84 39 H88", ink.seam, width=0.9)
        + cloth(sole, ink, fill="#3b2f2a")
        + folds("M40 30 C46 20 52 16 58 14")
        + fur(garment, [(-84, -6), (-62, -2), (-38, 1), (-14, 0)], radius=10)
    )


def _heel(garment: Garment, ink: Ink) -> str:
    inside = cloth("M-72 -50 C-58 -44 -30 -30 14 14 L-8 28 L-74 -30 Z", ink, fill="#d9b48c")
    upper = "M-76 -50 C-66 -34 -40 -14 -6 12 C6 20 16 18 26 16 C52 20 82 40 92 56 C94 62 92 66 86 66 L48 66 C16 64 -14 30 -44 8 C-56 0 -70 -2 -76 -10 C-80 -24 -80 -38 -76 -50 Z"
    sole = seam(
        "M90 67 H48 C16 65 -14 31 -44 9 C-56 1 -68 -1 -74 -8", ink, width=3.6, colour="#8d2b2b"
    )
    stiletto = cloth(
        "M-76 -10 C-70 -2 -58 0 -50 6 C-58 20 -64 50 -65 80 L-72 80 C-72 50 -76 20 -76 -10 Z",
        ink,
        fill=ink.edge,
    )
    strap = ""
    if garment.hardware == "gold":
        strap = seam("M-74 -44 C-50 -74 -22 -66 -14 -50 C-10 -40 -14 -24 -22 -2", ink, width=6.4)
        strap += seam(
            "M-74 -44 C-50 -74 -22 -66 -14 -50 C-10 -40 -14 -24 -22 -2",
            ink,
            width=4.4,
            colour=ink.edge,
        )
        strap += buckle(-14, -46, 14, 13, ink)
    bow = (
        cloth("M28 18 L10 4 L12 26 Z M28 18 L46 8 L46 30 Z", ink, fill=ink.edge)
        if garment.trim == "contrast"
        else ""
    )
    return (
        inside
        + stiletto
        + sole
        + cloth(upper, ink)
        + folds("M40 26 C56 32 70 44 80 58")
        + strap
        + bow
        + embroidery(garment, 46, 38, size=13)
    )


BAGS_AND_SHOES: dict[str, Draw] = {
    "tote bag": _tote_bag,
    "crossbody bag": _crossbody_bag,
    "backpack": _backpack,
    "sneaker": _sneaker,
    "boot": _boot,
    "loafer": _loafer,
    "heel": _heel,
}
