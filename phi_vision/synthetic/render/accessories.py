"""Bags, shoes and other accessories as SVG: one function a kind; a new kind is one line in
`ACCESSORIES`.
"""

# An outline reads best unbroken.
# ruff: noqa: E501
# fmt: off

from phi_vision.synthetic.render.pen import Pen, Shape

_RUBBER, _SOLE = "#f4f2ec", "#3b2f2a"
_ROUND_ENDS = 'fill="none" stroke-linecap="round"'


def _tote_bag(pen: Pen) -> None:
    pen.seam("M-28 -26 C-28 -84 28 -84 28 -26", width=5.5, colour=pen.palette.deep)
    pen.cloth("M-66 -26 H66 L78 84 C78 90 74 92 70 92 H-70 C-74 92 -78 90 -78 84 Z")
    pen.folds("M-40 10 C-44 40 -44 60 -40 84", "M44 -4 C40 30 48 60 46 84")
    pen.edge("M-66 -26 H66 L67.4 -15 H-67.4 Z")
    pen.stitches("M-72 80 L-63 -10 M72 80 L63 -10 M-70 87 H70")
    with pen.both_sides():
        pen.edge("M78 84 C78 90 74 92 70 92 H52 C56 76 66 66 76.5 66 Z")
    handle = "M-34 -20 C-34 -98 34 -98 34 -20"
    pen.seam(handle, width=8.5)
    pen.hem(handle, width=6.2)
    with pen.both_sides():
        pen.edge("M27 -24 H41 L39 4 L34 10 L29 4 Z")
        pen.button(34, -2, 3.6, metal=True)
    if pen.garment.trim not in ("monogram", "embroidery"):
        pen.metal("M-15 22 H15 V36 H-15 Z")
        pen.seam("M-9 29 H9", width=2, colour=pen.palette.metal_dark)
    pen.embroidery(0, 40, 26)


def _crossbody_bag(pen: Pen) -> None:
    pen.chain("M-64 -8 C-74 -104 74 -104 64 -8")
    pen.symmetric("0 -16 L 58 -16 C 66 -16 70 -10 70 0 L 72 60 C 72 70 66 76 56 76 L 0 76")
    pen.stitches("M-64 58 C-64 66 -58 69 -52 69 H52 C58 69 64 66 64 58")
    pen.folds("M-60 36 C-30 52 30 52 60 36", depth=0.2)
    pen.symmetric("0 -20 L 58 -20 C 70 -20 72 -8 71 2 C 68 24 46 38 0 38")
    pen.hem("M-71 2 C-68 24 -46 38 0 38 C46 38 68 24 71 2")
    with pen.both_sides():
        pen.add(f'<circle cx="64" cy="-8" r="5" fill="none" stroke="{pen.palette.metal}" stroke-width="3"/>')
    for side in (-1, 1):
        pen.fur((60 * side, 14), (40 * side, 25), (16 * side, 30), radius=11)
    pen.metal("M-11 28 H11 V44 C11 50 -11 50 -11 44 Z", "M-3 34 h6 v8 h-6 Z")
    pen.embroidery(-34, 6, 16)


def _backpack(pen: Pen) -> None:
    handle = "M-16 -74 C-16 -100 16 -100 16 -74"
    pen.seam(handle, width=6)
    pen.hem(handle)
    strap = "M40 -66 C66 -60 74 -20 72 40 L68 66 L60 66 C64 20 58 -30 46 -44 Z"
    with pen.both_sides():
        pen.cloth(strap, fill=pen.palette.dark)
    with pen.both_sides():
        pen.cloth("M58 34 C68 36 70 44 70 56 L68 82 C64 86 60 86 57 84 Z")
    pen.symmetric("0 -78 C 36 -78 54 -60 56 -26 L 58 72 C 58 82 52 88 42 88 L 0 88")
    pen.folds("M-48 -20 C-50 20 -50 50 -46 84")
    pen.symmetric("0 18 L 38 18 C 42 18 44 22 44 26 L 44 70 C 44 76 40 80 34 80 L 0 80")
    pen.seam("M-38 30 H38", width=4, colour=pen.palette.deep)
    pen.stitches("M-38 30 H38", colour=pen.palette.metal, width=2.4)
    pen.metal("M30 30 h4 v12 h-4 Z")
    pen.symmetric("0 -56 L 44 -56 C 50 -40 52 -20 46 2 C 30 8 14 8 0 8")
    pen.folds("M-40 2 C-20 8 20 8 40 2")
    with pen.both_sides():
        pen.edge("M18 -30 h9 V26 h-9 Z")
        pen.buckle(22.5, 6, 14, 12)
    pen.embroidery(0, -28, 15)
    pen.embroidery(0, 56, 12)


def _sneaker(pen: Pen) -> None:
    high = pen.garment.length == "long"
    if high:
        tongue = "M-34 -62 L-16 -70 L-4 -48 L-24 -30 Z"
        collar, back = "M-74 -58 C-66 -66 -44 -66 -34 -58", "-74 -58"
        stay = "M-38 -56 L-26 -58 L-4 -12 L40 6 L34 18 L-14 4 Z"
    else:
        tongue = "M-34 -26 L-18 -40 L-4 -24 L-16 -12 Z"
        collar, back = "M-78 -16 C-66 -26 -42 -18 -30 -22", "-78 -16"
        stay = "M-30 -20 L-18 -24 L40 6 L34 18 L-10 2 Z"
    pen.cloth(tongue, fill=pen.palette.light)
    pen.cloth(f"{collar} L-2 -8 C22 6 50 8 74 18 C90 24 94 36 92 44 L-80 44 C-86 20 -80 0 {back} Z")
    pen.edge("M46 10 C60 12 90 18 92 44 L40 44 C38 30 40 18 46 10 Z")
    pen.edge("M-79 0 L-56 2 C-54 20 -58 34 -58 44 L-80 44 C-84 26 -83 12 -79 0 Z")
    pen.seam("M-56 26 C-30 30 -8 22 16 -2", width=5.5, colour=pen.palette.accent)
    pen.edge(stay)
    (left, top), steps = ((-30, -50), 6) if high else ((-14, -16), 4)
    for i in range(steps + 1):
        x, y = left + (32 - left) * i / steps, top + (10 - top) * i / steps
        for drop, stroke in (
            (0, 'stroke="#fbfaf6" stroke-width="4.2"'),
            (2.6, 'stroke="#8a8780" stroke-width="0.8"'),
        ):
            pen.add(f'<path d="M{x:.1f} {y + drop:.1f} l9 -9" {stroke} {_ROUND_ENDS}/>')
    pen.cloth("M-84 42 C-30 48 40 46 94 42 C98 50 96 58 88 62 H-76 C-86 60 -88 50 -84 42 Z", fill=_RUBBER)
    pen.seam("M-84 51 H95", width=1.6, colour="#b9b4a8")
    pen.stitches("M-78 45.5 H90", colour="#a9a498", width=0.9)
    pen.embroidery(-26, 14, 13)


def _boot(pen: Pen) -> None:
    top = -92 if pen.garment.length == "long" else -34
    pen.cloth(
        f"M-56 {top} C-44 {top - 4} -18 {top - 4} -6 {top} C-4 -30 -6 0 2 14 C16 32 52 38 70 50 "
        "C80 56 82 66 80 74 L-56 74 C-62 50 -58 10 -56 -14 Z"
    )
    pen.seam("M44 36 C36 48 36 62 40 74", width=1.6)
    pen.edge("M-58 30 C-40 34 -34 54 -34 74 L-56 74 C-60 58 -60 44 -58 30 Z")
    pen.folds("M-50 8 C-34 16 -16 12 -4 0", "M-52 20 C-30 28 -10 22 4 14", depth=0.2)
    pen.seam(f"M-30 {top + 2} V58", width=1.4)
    pen.edge(f"M-57 {top - 1} C-44 {top - 5} -18 {top - 5} -5 {top - 1} V{top + 11} C-20 {top + 9} -42 {top + 9} -57 {top + 11} Z")
    if pen.garment.hardware != "none":
        pen.cloth("M-58 4 L-4 -2 L-2 9 L-58 16 Z", fill=pen.palette.dark)
        pen.buckle(-26, 6.5, 17, 16)
    sole = _RUBBER if pen.garment.trim == "contrast" else _SOLE
    pen.cloth("M-58 72 C-20 76 40 76 82 72 L82 80 H-24 L-26 94 H-58 Z", fill=sole)
    pen.fur((-56, top + 2), (-31, top - 1), (-6, top + 2), radius=11)


def _loafer(pen: Pen) -> None:
    pen.cloth("M-84 -6 C-66 -18 -30 -10 -2 -14 L0 6 L-70 18 Z", fill=pen.palette.deep)
    pen.cloth("M-86 -8 C-78 0 -40 8 -8 4 C-4 -6 -2 -16 6 -22 C34 -16 70 4 86 22 C92 30 92 38 90 44 L-86 44 C-92 24 -90 6 -86 -8 Z")
    pen.cloth("M4 -20 C34 -14 62 4 76 22 C60 24 30 12 -8 4 C-4 -6 -2 -16 4 -20 Z")
    pen.stitches("M80 26 C60 26 30 16 -4 8", width=1.6)
    pen.edge("M2 -22 C14 -20 22 -16 28 -14 C20 4 18 22 18 44 L-14 44 C-12 24 -6 0 2 -22 Z")
    if pen.garment.hardware != "none":
        pen.chain("M-6 8 L24 0")
        pen.buckle(-7, 9, 13, 12)
        pen.buckle(25, 0, 13, 12)
    pen.stitches("M-84 39 H88", width=0.9)
    pen.cloth("M-88 42 C-40 46 40 46 92 42 L92 50 H-34 L-36 62 H-86 C-88 56 -88 50 -88 42 Z", fill=_SOLE)
    pen.folds("M40 30 C46 20 52 16 58 14")
    pen.fur((-84, -6), (-62, -2), (-38, 1), (-14, 0), radius=10)


def _heel(pen: Pen) -> None:
    pen.cloth("M-72 -50 C-58 -44 -30 -30 14 14 L-8 28 L-74 -30 Z", fill="#d9b48c")
    pen.edge("M-76 -10 C-70 -2 -58 0 -50 6 C-58 20 -64 50 -65 80 L-72 80 C-72 50 -76 20 -76 -10 Z")
    pen.seam("M90 67 H48 C16 65 -14 31 -44 9 C-56 1 -68 -1 -74 -8", width=3.6, colour="#8d2b2b")
    pen.cloth("M-76 -50 C-66 -34 -40 -14 -6 12 C6 20 16 18 26 16 C52 20 82 40 92 56 C94 62 92 66 86 66 L48 66 C16 64 -14 30 -44 8 C-56 0 -70 -2 -76 -10 C-80 -24 -80 -38 -76 -50 Z")
    pen.folds("M40 26 C56 32 70 44 80 58")
    if pen.garment.hardware == "gold":
        strap = "M-74 -44 C-50 -74 -22 -66 -14 -50 C-10 -40 -14 -24 -22 -2"
        pen.seam(strap, width=6.4)
        pen.hem(strap, width=4.4)
        pen.buckle(-14, -46, 14, 13)
    if pen.garment.trim == "contrast":
        pen.edge("M28 18 L10 4 L12 26 Z M28 18 L46 8 L46 30 Z")
    pen.embroidery(46, 38, 13)


def _scarf(pen: Pen) -> None:
    pen.seam(*(f"M{6 + 4 * i} {88 - 0.4 * i} l0.6 11" for i in range(9)), width=1.8)
    pen.seam(*(f"M{-42 + 4 * i} {55 + 0.4 * i} l-0.6 11" for i in range(8)), width=1.8)
    pen.cloth("M-10 -40 C-22 -42 -30 -38 -34 -32 C-40 0 -42 20 -44 54 L-12 58 C-8 20 -8 0 -10 -40 Z")
    pen.folds("M-24 -30 C-28 0 -30 20 -30 50")
    pen.cloth("M-6 -44 C8 -46 22 -44 30 -38 C36 0 36 40 40 84 L4 88 C2 40 -2 0 -6 -44 Z")
    pen.folds("M12 -30 C18 0 18 40 20 80")
    pen.edge("M4.5 72 L39 69 L40 84 L4 88 Z", "M-43 43 L-12.8 47 L-12 58 L-44 54 Z")
    pen.fur((4, 88), (40, 84), radius=10)
    pen.fur((-44, 56), (-12, 60), radius=10)
    pen.cloth("M-58 -66 C-60 -90 60 -92 58 -66 C58 -40 34 -22 0 -22 C-34 -22 -58 -40 -58 -66 Z")
    pen.folds("M-54 -60 C-34 -34 34 -34 54 -60", "M-46 -68 C-30 -46 30 -46 46 -68", depth=0.22)
    pen.cloth("M-36 -72 C-30 -82 30 -82 36 -72 C30 -56 -30 -56 -36 -72 Z", fill=pen.palette.deep)


def _tie(pen: Pen) -> None:
    with pen.both_sides():
        pen.cloth("M-16 -92 C-46 -98 -46 -78 -14 -82 Z", fill=pen.palette.deep)
    pen.cloth("M-3 -66 L8 -66 C12 -20 16 20 18 58 L10 70 L2 60 Z", fill=pen.palette.dark)
    pen.cloth("M-10 -68 L10 -68 C13 -30 20 20 24 72 L0 98 L-24 72 C-20 20 -13 -30 -10 -68 Z")
    pen.folds("M0 -62 L0 -30", "M-6 -60 L-10 -20")
    pen.cloth("M-17 -92 C-8 -97 8 -97 17 -92 L10 -66 C4 -62 -4 -62 -10 -66 Z")
    pen.folds("M-10 -70 L10 -70")
    pen.button(0, 40, 0.1)


def _cap(pen: Pen) -> None:
    pen.button(-6, -62, 4)
    pen.cloth("M-74 30 C-78 -30 -46 -62 -6 -62 C36 -62 60 -30 60 22 C30 10 -20 12 -74 30 Z")
    pen.seam("M-6 -62 C-24 -40 -28 -10 -28 18", "M-6 -62 C22 -44 30 -10 32 15")
    pen.button(-48, -22, 1.8)
    pen.button(12, -36, 1.8)
    pen.folds("M-60 20 C-62 -10 -50 -36 -36 -48")
    pen.hem("M-74 28 C-20 10 20 8 40 12", width=4.4)
    pen.edge("M-10 16 C30 8 56 14 72 26 C92 36 98 50 92 58 C60 44 10 40 -30 40 C-26 28 -20 20 -10 16 Z")
    pen.stitches("M-16 30 C20 26 60 34 88 52", "M-22 35 C20 33 60 40 90 56")
    pen.embroidery(2, -22, 17)


def _hat(pen: Pen) -> None:
    wide, colours = (96 if pen.garment.length == "long" else 76), pen.palette
    pen.symmetric(f"0 18 C 30 18 {wide - 18} 16 {wide} 22 C {wide - 8} 44 40 52 0 52")
    pen.hem(f"M-{wide} 22 C-{wide - 8} 44 -40 52 0 52 C40 52 {wide - 8} 44 {wide} 22", width=2.6)
    pen.folds("M-60 34 C-30 44 30 44 60 34")
    pen.symmetric("0 -50 C 10 -56 34 -60 40 -44 C 46 -20 50 0 52 26 C 36 34 16 36 0 36")
    pen.folds("M0 -48 C-4 -30 -4 -20 0 -12", "M-26 -50 C-20 -34 -18 -24 -20 -14", depth=0.25)
    ribbon = colours.accent if pen.garment.trim == "contrast" else colours.deep
    pen.symmetric("0 14 C 20 14 36 12 50 6 L 52 26 C 36 34 16 36 0 36", ribbon)
    pen.cloth("M-50 8 L-34 14 L-34 30 L-52 28 Z", fill=colours.deep)
    if pen.garment.hardware == "gold":
        pen.metal("M26 22 l7 -6 l7 6 l-7 7 Z")
    pen.embroidery(18, -18, 14)


def _sunglasses(pen: Pen) -> None:
    wire, colours = pen.garment.material == "metal", pen.palette
    rim, width = (colours.metal, 4) if wire else (colours.base, 11)
    lens = "M12 -14 C14 -26 60 -30 74 -20 C80 -6 72 30 44 32 C20 32 10 8 12 -14 Z"
    temple = "M74 -18 C86 -20 94 -26 96 -34 L97 -27 C94 -14 86 -8 76 -6 Z"
    with pen.collected(f"scale(1 {1.14 if pen.garment.length == 'long' else 0.92})"):
        with pen.both_sides():
            if wire:
                pen.metal(temple)
            else:
                pen.cloth(temple)
                pen.metal("M76 -16 l8 -3 l1 5 l-8 4 Z")
            pen.add(f'<path d="{lens}" fill="{colours.base if wire else colours.deep}"/>')
            pen.add(f'<path d="{lens}" fill="#000" fill-opacity="0.35"/>')
            pen.add('<path d="M22 -14 L38 -19 L26 20 C20 12 18 0 22 -14 Z" fill="url(#glint)"/>')
            pen.seam(lens, width=width + 2.2, colour=colours.metal_dark if wire else colours.seam)
            pen.seam(lens, width=width, colour=rim)
            if not wire:
                pen.seam("M14 -20 C20 -28 58 -30 72 -22", width=2, colour=colours.light)
        pen.seam("M-12 -10 C-6 -20 6 -20 12 -10", width=width * 0.9, colour=rim)
        if wire:
            pen.seam("M-14 -24 H14", width=3.6, colour=colours.metal)


def _watch(pen: Pen) -> None:
    colours = pen.palette
    if pen.garment.material == "metal":
        for y in (*range(-98, -30, 12), *range(32, 98, 12)):
            left, width = -23 + abs(y) * 0.07, 46 - abs(y) * 0.14
            pen.metal(f"M{left:.1f} {y} h{width:.1f} v11 h{-width:.1f} Z")
        pen.seam("M-9 -98 V98 M9 -98 V98", colour=colours.metal_dark)
    else:
        pen.symmetric("0 -98 L 19 -98 L 24 -30 L 24 30 L 17 98 L 0 98")
        pen.stitches("M-17 -94 L-20 -36 M17 -94 L20 -36 M-20 36 L-15 94 M20 36 L15 94", colour=colours.accent)
        for y in (62, 71, 80):
            pen.button(0, y, 1.2)
        pen.buckle(0, -93, 30, 10)
    with pen.collected(f"scale({1.12 if pen.garment.length == 'long' else 0.92})"):
        pen.metal("M36 -5 h9 v10 h-9 Z")
        for radius, paint in (
            (41, f'fill="{colours.metal_dark}"'),
            (39.5, f'fill="{colours.metal}"'),
            (40, 'fill="url(#metal)"'),
            (32, f'fill="{colours.base}" stroke="{colours.metal_dark}"'),
            (32, 'fill="url(#shade)"'),
        ):
            pen.add(f'<circle r="{radius}" {paint}/>')
        line = f'stroke="{colours.accent}" stroke-width'
        for i in range(12):
            pen.add(f'<g transform="rotate({30 * i})"><path d="M0 -29 V-23" {line}="2.6"/></g>')
        if pen.garment.buttons >= 3:
            for x, y in ((-13, 4), (13, 4), (0, 16)):
                pen.add(
                    f'<circle cx="{x}" cy="{y}" r="7.5" fill="{colours.light}" {line}="1.2"/>'
                    f'<path d="M{x} {y} v-5" {line}="1.4"/>'
                )
            pen.metal("M32 -26 l7 -5 l4 6 l-7 5 Z M32 26 l7 5 l4 -6 l-7 -5 Z")
        pen.add(f'<path d="M0 0 L-13 -10 M0 0 L15 -16" {line}="3.2" {_ROUND_ENDS}/>')


def _belt(pen: Pen) -> None:
    pen.cloth("M-84 -6 C-84 -52 84 -52 84 -6 L84 14 C84 -30 -84 -30 -84 14 Z", fill=pen.palette.deep)
    pen.cloth("M-84 -6 C-84 44 84 44 84 -6 L84 16 C84 68 -84 68 -84 16 Z")
    rows = ("M-80 6 C-76 42 76 42 80 6", "M-80 18 C-74 56 74 56 80 18")
    pen.stitches(*rows, colour=pen.palette.accent)
    pen.edge("M6 32 C40 32 70 22 84 2 L97 12 C90 40 50 56 6 56 Z")
    for x, y in ((36, 40), (50, 36), (64, 29)):
        pen.button(x, y, 1.5)
    pen.cloth("M-34 26 l9 1.4 v25 l-9 -1.6 Z", fill=pen.palette.dark)
    pen.buckle(2, 43, 31, 33)


def _wallet(pen: Pen) -> None:
    side, top, foot = (86, -36, 44) if pen.garment.length == "long" else (58, -46, 46)
    back = f"0 {top - 10} L {side - 8} {top - 10} C {side} {top - 10} {side} {top} {side} {top} L 0 {top + 10}"
    pen.symmetric(back, pen.palette.deep)
    for i, tint in enumerate(("#f1ead9", "#c9b68a")):
        card = top - 16 + 6 * i
        pen.symmetric(f"0 {card} L {side - 12 - i} {card} L {side - 12} {top} L 0 {top}", tint)
    pen.symmetric(
        f"0 {top} L {side - 6} {top} C {side} {top} {side} {top + 6} {side} {top + 6} "
        f"L {side} {foot - 8} C {side} {foot} {side - 8} {foot} {side - 8} {foot} L 0 {foot}"
    )
    pen.stitches(f"M{-side + 5} {top + 6} V{foot - 5} H{side - 5} V{top + 6}")
    pen.hem(f"M{-side} {top + 22} H{side}", width=3.4)
    pen.folds(f"M{-side + 4} {top + 26} H{side - 4}")
    pen.edge(f"M{side + 2} -10 H{side - 24} C{side - 34} -10 {side - 34} 16 {side - 24} 16 H{side + 2} Z")
    if pen.garment.hardware != "none":
        pen.button(side - 21, 3, 5, metal=True)
        if pen.garment.trim != "monogram":
            pen.metal(f"M{-side + 14} {foot - 26} h16 v12 h-16 Z")


def _gloves(pen: Pen) -> None:
    cuff = 92 if pen.garment.length == "long" else 66
    with pen.collected("translate(-42 -6) rotate(-10)", "translate(42 -6) rotate(10) scale(-1 1)"):
        pen.cloth(
            f"M-22 {cuff} L-24 30 C-40 16 -46 -4 -50 -16 C-52 -26 -40 -30 -36 -22 L-24 -2 "
            "C-26 -28 -28 -50 -28 -64 C-28 -74 -16 -74 -15 -64 L-12 -22 L-10 -74 C-9 -86 3 -86 3 -74 L4 -22 "
            f"L10 -68 C12 -78 23 -76 22 -66 L18 -16 L26 -48 C30 -58 40 -54 38 -45 C34 -20 30 4 26 30 L24 {cuff} Z"
        )
        pen.seam("M-12 -10 L-9 22 M3 -10 V22 M17 -8 L13 22", width=1.4)
        pen.folds("M-26 34 C-10 40 10 40 24 34")
        pen.edge(f"M-26 {cuff + 3} L-25 {cuff - 14} H25 L28 {cuff + 3} Z")
        pen.fur((-26, cuff - 4), (26, cuff - 4), radius=11)


def _socks(pen: Pen) -> None:
    top = -94 if pen.garment.length == "long" else -30
    with pen.collected("translate(-34 -6)", "translate(26 12)"):
        pen.cloth(f"M-24 {top} H8 C8 0 8 20 10 28 C24 38 46 44 56 56 C62 66 56 78 44 78 C14 80 -20 76 -28 60 C-32 44 -24 30 -24 {top} Z")
        pen.folds("M-20 20 C-8 26 0 24 8 22")
        pen.edge(f"M-25 {top - 2} H9 V{top + 13} H-25 Z")
        pen.seam(*(f"M{x} {top} V{top + 11}" for x in range(-21, 8, 4)), width=0.9)
        pen.edge("M-29 40 C-20 38 -10 46 -8 60 C-10 68 -14 72 -18 72 C-30 64 -32 50 -29 40 Z", "M40 44 C50 48 60 58 58 68 C56 76 50 78 44 78 C36 78 34 76 34 74 C34 62 34 50 40 44 Z")


ACCESSORIES: dict[str, Shape] = {
    "tote bag": _tote_bag,
    "crossbody bag": _crossbody_bag,
    "backpack": _backpack,
    "sneaker": _sneaker,
    "boot": _boot,
    "loafer": _loafer,
    "heel": _heel,
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
