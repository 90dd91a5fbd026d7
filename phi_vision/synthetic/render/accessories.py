"""Scarves, hats, watches and other small things as SVG: one function per kind, from facts to shapes in a box from -100 to 100.

A new garment is one function and one line in `SMALL_THINGS`.
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
    seam,
    stitches,
    symmetric,
)
from phi_vision.synthetic.render.garment import Garment

_CAP = 'fill="none" stroke-linecap="round"'


def _scarf(garment: Garment, ink: Ink) -> str:
    long_tail = "M-6 -44 C8 -46 22 -44 30 -38 C36 0 36 40 40 84 L4 88 C2 40 -2 0 -6 -44 Z"
    short_tail = (
        "M-10 -40 C-22 -42 -30 -38 -34 -32 C-40 0 -42 20 -44 54 L-12 58 C-8 20 -8 0 -10 -40 Z"
    )
    loop = "M-58 -66 C-60 -90 60 -92 58 -66 C58 -40 34 -22 0 -22 C-34 -22 -58 -40 -58 -66 Z"
    hole = "M-36 -72 C-30 -82 30 -82 36 -72 C30 -56 -30 -56 -36 -72 Z"
    twists = folds("M-54 -60 C-34 -34 34 -34 54 -60", "M-46 -68 C-30 -46 30 -46 46 -68", depth=0.22)
    bands = cloth("M4.5 72 L39 69 L40 84 L4 88 Z", ink, fill=ink.edge)
    bands += cloth("M-43 43 L-12.8 47 L-12 58 L-44 54 Z", ink, fill=ink.edge)
    fringe = "".join(seam(f"M{6 + 4 * i} {88 - 0.4 * i} l0.6 11", ink, width=1.8) for i in range(9))
    fringe += "".join(
        seam(f"M{-42 + 4 * i} {55 + 0.4 * i} l-0.6 11", ink, width=1.8) for i in range(8)
    )
    fluff = fur(garment, [(4, 88), (40, 84)], radius=10) + fur(
        garment, [(-44, 56), (-12, 60)], radius=10
    )
    return (
        fringe
        + cloth(short_tail, ink)
        + folds("M-24 -30 C-28 0 -30 20 -30 50")
        + cloth(long_tail, ink)
        + folds("M12 -30 C18 0 18 40 20 80")
        + bands
        + fluff
        + cloth(loop, ink)
        + twists
        + cloth(hole, ink, fill=ink.deep)
    )


def _tie(garment: Garment, ink: Ink) -> str:
    tail = "M-3 -66 L8 -66 C12 -20 16 20 18 58 L10 70 L2 60 Z"
    blade = "M-10 -68 L10 -68 C13 -30 20 20 24 72 L0 98 L-24 72 C-20 20 -13 -30 -10 -68 Z"
    knot = "M-17 -92 C-8 -97 8 -97 17 -92 L10 -66 C4 -62 -4 -62 -10 -66 Z"
    loop = "M-16 -92 C-46 -98 -46 -78 -14 -82 Z"
    return (
        mirrored(cloth(loop, ink, fill=ink.deep))
        + cloth(tail, ink, fill=ink.dark)
        + cloth(blade, ink)
        + folds("M0 -62 L0 -30", "M-6 -60 L-10 -20")
        + cloth(knot, ink)
        + folds("M-10 -70 L10 -70")
        + button(0, 40, ink, radius=0.1)
    )


def _cap(garment: Garment, ink: Ink) -> str:
    crown = "M-74 30 C-78 -30 -46 -62 -6 -62 C36 -62 60 -30 60 22 C30 10 -20 12 -74 30 Z"
    brim = (
        "M-10 16 C30 8 56 14 72 26 C92 36 98 50 92 58 C60 44 10 40 -30 40 C-26 28 -20 20 -10 16 Z"
    )
    panels = seam("M-6 -62 C-24 -40 -28 -10 -28 18", ink) + seam(
        "M-6 -62 C22 -44 30 -10 32 15", ink
    )
    stitched = stitches("M-16 30 C20 26 60 34 88 52", ink.seam) + stitches(
        "M-22 35 C20 33 60 40 90 56", ink.seam
    )
    knob = button(-6, -62, ink, radius=4)
    band = seam("M-74 28 C-20 10 20 8 40 12", ink, width=4.4, colour=ink.edge)
    eyelets = button(-48, -22, ink, radius=1.8) + button(12, -36, ink, radius=1.8)
    return (
        knob
        + cloth(crown, ink)
        + panels
        + eyelets
        + folds("M-60 20 C-62 -10 -50 -36 -36 -48")
        + band
        + cloth(brim, ink, fill=ink.edge)
        + stitched
        + embroidery(garment, 2, -22, size=17)
    )


def _hat(garment: Garment, ink: Ink) -> str:
    wide = 96 if garment.length == "long" else 76
    brim = symmetric(f"0 18 C 30 18 {wide - 18} 16 {wide} 22 C {wide - 8} 44 40 52 0 52")
    crown = symmetric("0 -50 C 10 -56 34 -60 40 -44 C 46 -20 50 0 52 26 C 36 34 16 36 0 36")
    dent = folds("M0 -48 C-4 -30 -4 -20 0 -12", "M-26 -50 C-20 -34 -18 -24 -20 -14", depth=0.25)
    ribbon = symmetric("0 14 C 20 14 36 12 50 6 L 52 26 C 36 34 16 36 0 36")
    bow = cloth("M-50 8 L-34 14 L-34 30 L-52 28 Z", ink, fill=ink.deep)
    pin = metal("M26 22 l7 -6 l7 6 l-7 7 Z", ink) if garment.hardware == "gold" else ""
    rim = seam(
        f"M-{wide} 22 C-{wide - 8} 44 -40 52 0 52 C40 52 {wide - 8} 44 {wide} 22",
        ink,
        width=2.6,
        colour=ink.edge,
    )
    tone = ink.accent if garment.trim == "contrast" else ink.deep
    return (
        cloth(brim, ink)
        + rim
        + folds("M-60 34 C-30 44 30 44 60 34")
        + cloth(crown, ink)
        + dent
        + cloth(ribbon, ink, fill=tone)
        + bow
        + pin
        + embroidery(garment, 18, -18, size=14)
    )


def _sunglasses(garment: Garment, ink: Ink) -> str:
    wire = garment.material == "metal"
    big = 1.14 if garment.length == "long" else 0.92
    lens = "M12 -14 C14 -26 60 -30 74 -20 C80 -6 72 30 44 32 C20 32 10 8 12 -14 Z"
    rim, width = (ink.metal, 4) if wire else (ink.base, 11)
    frame = seam(lens + "", ink, width=width + 2.2, colour=ink.metal_dark if wire else ink.seam)
    frame += seam(lens, ink, width=width, colour=rim)
    tint = ink.deep if not wire else ink.base
    glass = f'<path d="{lens}" fill="{tint}"/><path d="{lens}" fill="#000" fill-opacity="0.35"/>'
    glint = '<path d="M22 -14 L38 -19 L26 20 C20 12 18 0 22 -14 Z" fill="url(#glint)"/>'
    temple = "M74 -18 C86 -20 94 -26 96 -34 L97 -27 C94 -14 86 -8 76 -6 Z"
    arm = (
        metal(temple, ink)
        if wire
        else cloth(temple, ink) + metal("M76 -16 l8 -3 l1 5 l-8 4 Z", ink)
    )
    bridge = seam("M-12 -10 C-6 -20 6 -20 12 -10", ink, width=width * 0.9, colour=rim)
    bar = seam("M-14 -24 H14", ink, width=3.6, colour=ink.metal) if wire else ""
    glow = "" if wire else seam("M14 -20 C20 -28 58 -30 72 -22", ink, width=2, colour=ink.light)
    return f'<g transform="scale(1 {big})">{mirrored(arm + glass + glint + frame + glow)}{bridge}{bar}</g>'


def _watch(garment: Garment, ink: Ink) -> str:
    size = 1.12 if garment.length == "long" else 0.92
    strap = symmetric("0 -98 L 19 -98 L 24 -30 L 24 30 L 17 98 L 0 98")
    if garment.material == "metal":
        links = "".join(
            metal(
                f"M{-23 + abs(y) * 0.07:.1f} {y} h{46 - abs(y) * 0.14:.1f} v11 h{-46 + abs(y) * 0.14:.1f} Z",
                ink,
            )
            for y in (*range(-98, -30, 12), *range(32, 98, 12))
        )
        band = links + seam("M-9 -98 V98 M9 -98 V98", ink, colour=ink.metal_dark)
    else:
        holes = "".join(button(0, y, ink, radius=1.2) for y in (62, 71, 80))
        band = cloth(strap, ink) + stitches(
            "M-17 -94 L-20 -36 M17 -94 L20 -36 M-20 36 L-15 94 M20 36 L15 94", ink.accent
        )
        band += holes + buckle(0, -93, 30, 10, ink)
    crown = metal("M36 -5 h9 v10 h-9 Z", ink)
    case = f'<circle r="41" fill="{ink.metal_dark}"/><circle r="39.5" fill="{ink.metal}"/><circle r="40" fill="url(#metal)"/>'
    face = f'<circle r="32" fill="{ink.base}" stroke="{ink.metal_dark}"/><circle r="32" fill="url(#shade)"/>'
    marks = "".join(
        f'<g transform="rotate({30 * i})"><path d="M0 -29 V-23" stroke="{ink.accent}" stroke-width="2.6"/></g>'
        for i in range(12)
    )
    hands = (
        f'<path d="M0 0 L-13 -10 M0 0 L15 -16" stroke="{ink.accent}" stroke-width="3.2" {_CAP}/>'
    )
    dials = (
        ""
        if garment.buttons < 3
        else "".join(
            f'<circle cx="{x}" cy="{y}" r="7.5" fill="{ink.light}" stroke="{ink.accent}" stroke-width="1.2"/>'
            f'<path d="M{x} {y} v-5" stroke="{ink.accent}" stroke-width="1.4"/>'
            for x, y in ((-13, 4), (13, 4), (0, 16))
        )
        + metal("M32 -26 l7 -5 l4 6 l-7 5 Z M32 26 l7 5 l4 -6 l-7 -5 Z", ink)
    )
    head = f'<g transform="scale({size})">{crown}{case}{face}{marks}{dials}{hands}</g>'
    return band + head


def _belt(garment: Garment, ink: Ink) -> str:
    ring = "M-84 -6 C-84 -52 84 -52 84 -6 L84 14 C84 -30 -84 -30 -84 14 Z"
    front = "M-84 -6 C-84 44 84 44 84 -6 L84 16 C84 68 -84 68 -84 16 Z"
    tail = cloth("M6 32 C40 32 70 22 84 2 L97 12 C90 40 50 56 6 56 Z", ink, fill=ink.edge)
    holes = "".join(button(x, y, ink, radius=1.5) for x, y in ((36, 40), (50, 36), (64, 29)))
    rows = stitches("M-80 6 C-76 42 76 42 80 6", ink.accent) + stitches(
        "M-80 18 C-74 56 74 56 80 18", ink.accent
    )
    keeper = cloth("M-34 26 l9 1.4 v25 l-9 -1.6 Z", ink, fill=ink.dark)
    frame = buckle(2, 43, 31, 33, ink)
    return (
        cloth(ring, ink, fill=ink.deep) + cloth(front, ink) + rows + tail + holes + keeper + frame
    )


def _wallet(garment: Garment, ink: Ink) -> str:
    side, top, foot = (86, -36, 44) if garment.length == "long" else (58, -46, 46)
    lid = top - 10
    back = f"0 {lid} L {side - 8} {lid} C {side} {lid} {side} {top} {side} {top} L 0 {top + 10}"
    body = (
        f"0 {top} L {side - 6} {top} C {side} {top} {side} {top + 6} {side} {top + 6} "
        f"L {side} {foot - 8} C {side} {foot} {side - 8} {foot} {side - 8} {foot} L 0 {foot}"
    )
    cards = ""
    for i, tint in enumerate(("#f1ead9", "#c9b68a")):
        edge = top - 16 + 6 * i
        card = f"0 {edge} L {side - 12 - i} {edge} L {side - 12} {top} L 0 {top}"
        cards += cloth(symmetric(card), ink, fill=tint)
    rows = stitches(f"M{-side + 5} {top + 6} V{foot - 5} H{side - 5} V{top + 6}", ink.seam)
    fold = seam(f"M{-side} {top + 22} H{side}", ink, width=3.4, colour=ink.edge)
    fold += folds(f"M{-side + 4} {top + 26} H{side - 4}")
    strap = (
        f"M{side + 2} -10 H{side - 24} C{side - 34} -10 {side - 34} 16 {side - 24} 16 H{side + 2} Z"
    )
    tab = cloth(strap, ink, fill=ink.edge)
    if garment.hardware != "none":
        tab += button(side - 21, 3, ink, radius=5, metal=True)
    if garment.hardware != "none" and garment.trim != "monogram":
        tab += metal(f"M{-side + 14} {foot - 26} h16 v12 h-16 Z", ink)
    shell = cloth(symmetric(back), ink, fill=ink.deep)
    return shell + cards + cloth(symmetric(body), ink) + rows + fold + tab


def _gloves(garment: Garment, ink: Ink) -> str:
    cuff = 92 if garment.length == "long" else 66
    hand = (
        f"M-22 {cuff} L-24 30 C-40 16 -46 -4 -50 -16 C-52 -26 -40 -30 -36 -22 L-24 -2 "
        "C-26 -28 -28 -50 -28 -64 C-28 -74 -16 -74 -15 -64 L-12 -22 L-10 -74 C-9 -86 3 -86 3 -74 L4 -22 "
        f"L10 -68 C12 -78 23 -76 22 -66 L18 -16 L26 -48 C30 -58 40 -54 38 -45 C34 -20 30 4 26 30 L24 {cuff} Z"
    )
    wrist = cloth(f"M-26 {cuff + 3} L-25 {cuff - 14} H25 L28 {cuff + 3} Z", ink, fill=ink.edge)
    points = seam("M-12 -10 L-9 22 M3 -10 V22 M17 -8 L13 22", ink, width=1.4)
    ruff = fur(garment, [(-26, cuff - 4), (26, cuff - 4)], radius=11)
    glove = cloth(hand, ink) + points + folds("M-26 34 C-10 40 10 40 24 34") + wrist + ruff
    return (
        f'<g transform="translate(-42 -6) rotate(-10)">{glove}</g>'
        f'<g transform="translate(42 -6) rotate(10) scale(-1 1)">{glove}</g>'
    )


def _socks(garment: Garment, ink: Ink) -> str:
    top = -94 if garment.length == "long" else -30
    leg = f"M-24 {top} H8 C8 0 8 20 10 28 C24 38 46 44 56 56 C62 66 56 78 44 78 C14 80 -20 76 -28 60 C-32 44 -24 30 -24 {top} Z"
    cuff = cloth(f"M-25 {top - 2} H9 V{top + 13} H-25 Z", ink, fill=ink.edge)
    ribs = "".join(seam(f"M{x} {top} V{top + 11}", ink, width=0.9) for x in range(-21, 8, 4))
    heel = cloth(
        "M-29 40 C-20 38 -10 46 -8 60 C-10 68 -14 72 -18 72 C-30 64 -32 50 -29 40 Z",
        ink,
        fill=ink.edge,
    )
    toe = cloth(
        "M40 44 C50 48 60 58 58 68 C56 76 50 78 44 78 C36 78 34 76 34 74 C34 62 34 50 40 44 Z",
        ink,
        fill=ink.edge,
    )
    sock = cloth(leg, ink) + folds("M-20 20 C-8 26 0 24 8 22") + cuff + ribs + heel + toe
    return f'<g transform="translate(-34 -6)">{sock}</g><g transform="translate(26 12)">{sock}</g>'


SMALL_THINGS: dict[str, Draw] = {
    "scarf": _scarf,
    "tie": _tie,
    "cap": _cap,
    "hat": _hat,
    "sunglasses": _sunglasses,
    "watch": _watch,
    "belt": _belt,
    "wallet": _wallet,
    "gloves": _gloves,
    "socks": _socks,
}
