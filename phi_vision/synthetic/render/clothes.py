"""Clothes as SVG: one function a kind draws it with a pen; a new kind is one line in `CLOTHES`."""

# An outline reads best unbroken.
# ruff: noqa: E501
# fmt: off

from phi_vision.synthetic.render.pen import FOLD, Pen, Shape

_LONG_SLEEVE = (
    "M44 -74 C66 -70 74 -40 80 -8 L88 58 C82 63 76 64 70 63 L58 4 C54 -16 50 -28 44 -36 Z"
)
_SHORT_SLEEVE = "M42 -75 C58 -72 70 -58 86 -34 C80 -24 73 -18 64 -14 L46 -34 Z"
_CUFF = "M88 58 C82 63 76 64 70 63 L71.5 72 C78 73 84 72 89.5 67 Z"
_SLEEVE_FOLD = "M62 -40 C66 -10 72 20 76 54"
_SHIRT_FOLDS = ("M42 -20 C38 10 42 40 44 66", "M20 20 C24 40 24 52 26 66")


def _trench_coat(pen: Pen) -> None:
    hem = {"short": 70, "regular": 80, "long": 96}[pen.garment.length]
    with pen.both_sides():
        pen.cloth(_LONG_SLEEVE)
        pen.folds(_SLEEVE_FOLD)
        pen.edge("M69 44 L86 40 L87 48 L70 52 Z")
    pen.neck(16)
    pen.symmetric(f"0 -74 L 20 -82 L 48 -73 C 50 -40 42 -16 41 4 C 46 34 54 60 60 {hem} L 0 {hem + 3}")
    with pen.both_sides():
        pen.folds(f"M30 16 C34 40 38 60 42 {hem}", "M18 16 L20 70")
    pen.seam(f"M4 -6 L7 {hem + 2}", width=1.6)
    pairs = pen.garment.buttons // 2
    for y in [-44 + 90 * i / pairs for i in range(pairs)]:
        pen.button(-13, 8 + y, 3.4)
        pen.button(13, 8 + y, 3.4)
    with pen.both_sides():
        pen.cloth("M2 -48 L18 -84 C26 -86 32 -80 34 -74 L38 -54 L29 -55 L22 -38 L4 -6 Z")
        pen.seam("M44 -38 C34 -26 22 -24 12 -28", "M26 20 L42 28 L40 33 L24 25 Z")
        pen.edge("M20 -83 C12 -92 6 -91 0 -91 L0 -80 L4 -66 Z")
    pen.edge("M-43 -2 H43 V9 H-43 Z")
    pen.buckle(0, 3.5, 18, 15)
    pen.fur((-26, -40), (-30, -66), (-16, -82), (16, -82), (30, -66), (26, -40))


def _puffer_jacket(pen: Pen) -> None:
    bands, hood = (5 if pen.garment.length == "short" else 6), pen.garment.hood
    with pen.both_sides():
        for i in range(5):
            with pen.collected(f"translate({60 + 4.4 * i} {-58 + 23 * i}) rotate(-14)"):
                _quilt(pen, 16, 0)
    if hood:
        pen.symmetric("0 -100 C 26 -100 38 -88 36 -66 L 0 -58")
        pen.symmetric("0 -91 C 16 -91 24 -84 22 -70 L 0 -62", pen.palette.deep)
    else:
        pen.symmetric("0 -90 C 14 -92 24 -90 26 -86 L 30 -66 L 0 -62", pen.palette.edge)
    for i in range(bands):
        _quilt(pen, 54 + (i > 0), -70.0 + 23 * i)
    bottom = -70.0 + 23 * bands
    pen.edge(f"M-52 {bottom - 2} H52 V{bottom + 7} H-52 Z")
    pen.seam(f"M0 -80 V{bottom + 6}", width=4.4, colour=pen.palette.deep)
    pen.stitches(f"M0 -80 V{bottom + 6}", colour=pen.palette.metal, width=2.6)
    pen.metal("M-2.4 -62 H2.4 L3.2 -50 H-3.2 Z")
    pen.embroidery(28, -36)
    if hood:
        ruff = ((-34, -62), (-34, -82), (-20, -95), (0, -98), (20, -95), (34, -82), (34, -62))
        pen.fur(*ruff, radius=10)
    else:
        pen.fur((-30, -70), (-22, -84), (0, -88), (22, -84), (30, -70), radius=10)


def _quilt(pen: Pen, right: float, top: float) -> None:
    left, bottom = -right, top + 24
    pen.cloth(
        f"M{left + 4} {top} H{right - 4} C{right + 5} {top + 3} {right + 5} {bottom - 3} "
        f"{right - 4} {bottom} H{left + 4} C{left - 5} {bottom - 3} {left - 5} {top + 3} {left + 4} {top} Z"
    )
    pen.folds(f"M{left + 4} {bottom - 2} H{right - 4}", depth=0.22)


def _sleeves(pen: Pen, sleeve: str, cuff: str) -> None:
    with pen.both_sides():
        pen.cloth(sleeve)
        pen.edge(cuff)


def _blazer(pen: Pen) -> None:
    with pen.both_sides():
        pen.cloth(_LONG_SLEEVE + _CUFF)
        pen.folds(_SLEEVE_FOLD)
        for i in range(3):
            pen.button(84 - i * 0.6, 52 + 6 * i, 1.7)
    pen.symmetric("0 -80 L 18 -80 L 22 -40 L 0 0", "#f3f1ec")
    with pen.both_sides():
        pen.cloth("M18 -83 L47 -74 C50 -40 42 -14 42 6 C44 26 48 42 50 60 C44 66 30 66 16 60 C6 52 2 40 2 12 L2 -2 Z")
        pen.folds("M38 -30 C34 -6 36 20 40 56", "M12 20 C14 40 18 52 22 58")
        pen.edge("M17 22 L43 20 L43.6 27 L17.6 29 Z")
        pen.cloth("M18 -84 C24 -82 29 -78 31 -70 L35 -50 L28 -51 L29 -44 L4 6 C4 -6 10 -50 15 -76 Z")
        pen.cloth("M18 -84 C12 -91 4 -90 0 -90 L0 -83 L13 -72 Z")
    pen.seam("M21 -34 L38 -37", width=2.4)
    pen.embroidery(33, -22, 9)
    for x in (-11, 11) if pen.garment.buttons == 4 else (0,):
        for y in (10,) if pen.garment.buttons == 1 else (8, 25):
            pen.button(x, y, 3.6, metal=pen.garment.hardware == "gold")


def _cardigan(pen: Pen) -> None:
    hem = {"short": 50, "regular": 58, "long": 88}[pen.garment.length]
    _sleeves(pen, _LONG_SLEEVE, _CUFF)
    pen.symmetric("0 -80 L 20 -82 L 18 -50 L 0 -2", pen.palette.deep)
    with pen.both_sides():
        pen.cloth(f"M19 -82 L46 -75 C50 -40 46 0 50 {hem} L4 {hem} L4 0 Z")
        pen.edge(f"M50 {hem} L51 {hem + 10} H4 V{hem} Z")
        pen.folds("M40 -40 C36 -10 40 20 44 50", _SLEEVE_FOLD)
        pen.seam(f"M18 {hem - 22} H40 V{hem - 2} H18 Z")
        pen.hem(f"M18 {hem - 19} H40", width=3)
        pen.edge(f"M19 -83 L26 -80 L9 0 V{hem + 10} H0 V0 Z")
    gap = (hem + 4) / (pen.garment.buttons - 1)
    for i in range(pen.garment.buttons):
        pen.button(0, 3 + gap * i, 3.4)
    pen.embroidery(32, -28)
    pen.fur((-10, -6), (-20, -50), (-23, -80), (0, -84), (23, -80), (20, -50), (10, -6), radius=8)


def _sweater(pen: Pen) -> None:
    _sleeves(pen, _LONG_SLEEVE, _CUFF)
    pen.neck(22)
    pen.symmetric("0 -68 C 12 -68 20 -74 22 -83 L 46 -75 C 50 -40 47 10 50 58 L 0 60")
    with pen.both_sides():
        pen.folds("M40 -30 C36 0 40 30 44 56", _SLEEVE_FOLD)
    pen.symmetric("0 60 L 50 58 L 48 70 L 0 72", pen.palette.edge)
    pen.seam(*(f"M{x} 60 V71" for x in range(-44, 45, 8)), width=0.7)
    pen.symmetric("0 -62 C 16 -62 26 -72 28 -84 C 22 -90 16 -88 16 -84 C 16 -76 8 -70 0 -70", pen.palette.edge)
    pen.embroidery(0, -20, 20)


def _hoodie(pen: Pen) -> None:
    _sleeves(pen, _LONG_SLEEVE, _CUFF)
    pen.symmetric("0 -66 L 24 -76 L 47 -73 C 52 -40 49 10 51 58 L 0 60")
    with pen.both_sides():
        pen.folds("M42 -30 C38 0 42 30 46 56", _SLEEVE_FOLD)
    pen.symmetric("0 14 L 20 14 L 34 32 L 34 54 L 0 54")
    pen.symmetric("0 60 L 51 58 L 48 70 L 0 72", pen.palette.edge)
    if pen.garment.hardware == "gold":
        pen.stitches("M0 -48 V71", colour=pen.palette.metal, width=3.2)
    pen.symmetric("0 -100 C 24 -100 38 -88 37 -68 C 34 -58 14 -50 0 -48")
    pen.symmetric("0 -88 C 16 -88 22 -80 20 -70 C 16 -60 6 -56 0 -55", pen.palette.deep)
    with pen.both_sides():
        pen.seam("M9 -57 C11 -44 10 -36 11 -22", width=2.4, colour=pen.palette.accent)
    if pen.garment.hardware != "none":
        with pen.both_sides():
            pen.metal("M9.4 -24 h3.4 v8 h-3.4 Z")
    pen.embroidery(0, -14, 16)


def _t_shirt(pen: Pen) -> None:
    _sleeves(pen, _SHORT_SLEEVE, "M86 -34 C80 -24 73 -18 64 -14 L61.5 -18 C70 -22 77 -28 83 -38 Z")
    pen.neck(22)
    pen.symmetric("0 -66 C 14 -66 22 -74 24 -83 L 46 -74 C 50 -40 47 20 50 70 C 30 74 10 74 0 74")
    with pen.both_sides():
        pen.folds(*_SHIRT_FOLDS)
    pen.stitches("M-48 68 C-20 71 20 71 48 68", width=0.8)
    pen.symmetric("0 -61 C 18 -61 27 -72 29 -84 L 23 -86 C 21 -75 12 -68 0 -68", pen.palette.edge)
    pen.embroidery(0, -16, 20)


def _polo_shirt(pen: Pen) -> None:
    _sleeves(pen, _SHORT_SLEEVE, "M86 -34 C80 -24 73 -18 64 -14 L60 -20 C68 -24 76 -31 81 -41 Z")
    pen.neck(18)
    pen.symmetric("0 -62 L 22 -82 L 46 -74 C 50 -40 47 20 50 68 C 30 71 10 71 0 71")
    with pen.both_sides():
        pen.folds(*_SHIRT_FOLDS)
    pen.edge("M-6 -68 H6 V-18 H-6 Z")
    for i in range(pen.garment.buttons):
        pen.button(0, -60 + 14 * i, 2.6)
    with pen.both_sides():
        pen.edge("M0 -70 C6 -74 12 -82 14 -90 C22 -90 28 -86 30 -82 C30 -70 24 -58 17 -50 Z")
    pen.embroidery(28, -30, 10)


def _shirt(pen: Pen) -> None:
    with pen.both_sides():
        pen.cloth(_LONG_SLEEVE)
        pen.edge(_CUFF)
        pen.button(86, 66, 1.8)
        pen.folds(_SLEEVE_FOLD)
    pen.symmetric("0 -66 L 18 -84 L 46 -75 C 50 -40 46 10 48 46 C 48 62 30 78 0 74")
    with pen.both_sides():
        pen.folds("M42 -20 C38 10 42 40 42 60", _SHIRT_FOLDS[1])
    pen.cloth("M16 -36 H38 V-14 L27 -8 L16 -14 Z")
    pen.cloth("M-5 -66 H5 V74.5 H-5 Z")
    gap = 122 / (pen.garment.buttons - 1)
    for i in range(pen.garment.buttons):
        pen.button(0, -58 + gap * i, 2.5)
    pen.symmetric("0 -90 L 13 -93 L 16 -80 L 0 -70", pen.palette.deep)
    with pen.both_sides():
        pen.edge("M0 -70 L13 -92 C22 -92 27 -87 28 -82 L22 -52 Z")
    pen.embroidery(-26, -26, 11)


def _tank_top(pen: Pen) -> None:
    pen.symmetric("0 -58 C 14 -58 22 -68 24 -82 L 30 -82 L 30 -30 L 0 -30", pen.palette.deep)
    pen.symmetric("0 -36 C 16 -36 24 -52 24 -82 L 36 -82 C 36 -56 40 -42 50 -34 C 46 0 48 40 54 70 C 34 75 12 75 0 75")
    with pen.both_sides():
        pen.folds("M40 -10 C36 20 40 50 46 70", "M16 10 C20 34 20 52 22 70")
        pen.hem("M0 -36 C16 -36 24 -52 24 -82", "M36 -82 C36 -56 40 -42 50 -34")
    pen.embroidery(0, -4, 18)


def _dress(pen: Pen) -> None:
    hem = {"short": 58, "regular": 90}[pen.garment.length]
    with pen.both_sides():
        pen.cloth("M38 -77 C52 -74 62 -62 66 -46 C58 -40 50 -38 42 -40 Z")
    pen.neck(20)
    pen.symmetric(f"0 -4 L 29 -4 C 42 20 60 52 66 {hem - 8} C 44 {hem + 2} 20 {hem + 4} 0 {hem + 4}")
    with pen.both_sides():
        pen.folds(f"M22 0 C32 26 42 {hem - 30} 48 {hem - 6}", f"M12 0 C16 26 24 {hem - 30} 26 {hem}", f"M3 0 C4 26 6 {hem - 30} 6 {hem}", depth=0.2)
    pen.hem(f"M-66 {hem - 9} C-44 {hem + 1} 44 {hem + 1} 66 {hem - 9}")
    pen.symmetric("0 -62 C 14 -62 20 -72 22 -84 L 40 -76 C 38 -60 40 -46 40 -40 C 36 -24 30 -14 29 -4 L 0 -2")
    with pen.both_sides():
        pen.folds("M32 -44 C26 -34 24 -22 24 -8")
    pen.edge("M-30 -10 H30 V0 H-30 Z")
    if pen.garment.hardware == "gold":
        pen.buckle(0, -5, 13, 12)
    pen.embroidery(0, -36, 14)
    pen.embroidery(30, hem - 26, 13)


def _evening_gown(pen: Pen) -> None:
    with pen.both_sides():
        pen.seam("M26 -74 C24 -86 18 -92 14 -98", width=2.6, colour=pen.palette.dark)
    pen.symmetric("0 -28 L 23 -26 C 32 -8 34 8 30 30 C 30 56 52 78 78 92 C 50 102 20 100 0 100")
    with pen.both_sides():
        pen.folds("M18 -20 C24 10 20 40 26 60 C34 80 46 90 56 96", "M8 -20 C12 20 10 50 14 96", "M26 20 C22 50 34 74 66 92", depth=0.2)
    pen.symmetric("0 -62 C 8 -76 24 -80 32 -68 C 32 -50 26 -38 23 -26 L 0 -24")
    with pen.both_sides():
        pen.folds("M14 -66 C16 -50 14 -40 14 -30")
    pen.symmetric("0 -32 L 25 -33 L 24 -22 L 0 -22", pen.palette.edge)
    if pen.garment.hardware == "gold":
        pen.metal("M0 -35 L8 -27 L0 -19 L-8 -27 Z")
    for x, y, size in ((0, -48, 11), (-26, 66, 16), (20, 76, 16)):
        pen.embroidery(x, y, size)
    pen.fur((-36, -66), (-22, -76), (0, -66), (22, -76), (36, -66), radius=11)


def _skirt(pen: Pen) -> None:
    hem = {"short": 34, "regular": 78}[pen.garment.length]
    pen.symmetric(f"0 -64 L 34 -64 C 50 -40 54 -20 54 0 C 54 20 52 {hem - 20} 50 {hem} L 0 {hem + 2}")
    with pen.both_sides():
        pen.folds("M20 -60 L24 -30", f"M44 -20 C48 0 46 20 44 {hem}")
    pen.seam(f"M22 {hem + 1} L24 {hem - 34}", width=2)
    pen.folds(f"M24 {hem - 34} L14 {hem}")
    pen.hem(f"M-50 {hem - 2} C-20 {hem + 1} 20 {hem + 1} 50 {hem - 2}")
    pen.edge("M-35 -76 H35 V-63 H-35 Z")
    if pen.garment.hardware != "none":
        pen.buckle(0, -69.5, 17, 15)
    pen.embroidery(-22, hem - 24, 17)


def _pleated_skirt(pen: Pen) -> None:
    hem, flare = {"short": (38, 84), "long": (86, 78)}[pen.garment.length]
    for i in range(12):
        (top, next_top), (foot, next_foot) = ([-half + 2 * half * (i + k) / 12 for k in (0, 1)] for half in (34, flare))
        drop = hem + 8 - 8 * abs(2 * (i + 0.5) / 12 - 1)
        bottom = f"L{next_foot:.1f} {drop - 6:.1f}"
        pen.cloth(f"M{top:.1f} -60 L{foot:.1f} {drop:.1f} {bottom} L{next_top:.1f} -60 Z")
        fold = f"M{next_top:.1f} -60 {bottom} L{next_foot - 6:.1f} {drop - 4:.1f} Z"
        pen.add(f'<path d="{fold}" fill="{FOLD}" fill-opacity="0.26"/>')
        pen.hem(f"M{foot:.1f} {drop:.1f} {bottom}", width=3.5)
    pen.edge("M-36 -74 H36 V-58 H-36 Z")


def _jeans(pen: Pen) -> None:
    thread = "#d99a45"
    with pen.both_sides():
        pen.cloth("M0 -82 L38 -84 C44 -50 44 -20 43 10 L40 94 L12 94 L8 10 C7 -10 4 -24 0 -30 Z")
        pen.folds("M14 6 C22 10 32 8 40 2", "M14 14 C24 18 32 14 38 12", "M6 -30 C16 -34 22 -34 30 -40")
        pocket = "M20 -72 C22 -60 30 -56 41 -58"
        pen.stitches(pocket, "M36 -54 L37 86", "M12 88 H40", colour=thread)
        pen.folds("M14 30 L18 90")
    pen.stitches("M8 -80 C10 -60 8 -48 1 -42", colour=thread)
    pen.seam("M0 -82 V-30")
    pen.cloth("M-39 -94 H39 V-82 H-39 Z", fill=pen.palette.dark)
    pen.stitches("M-37 -85 H37", colour=thread)
    pen.cloth(*(f"M{x} -96 h5 v15 h-5 Z" for x in (-30, -14, 10, 26)))
    pen.button(0, -88, 3.4)
    pen.embroidery(26, 50, 14)


def _trousers(pen: Pen) -> None:
    wide = 20 if pen.garment.length == "long" else 0
    knee, foot, inner = 46 + wide * 0.3, 42 + wide, 14 - wide * 0.2
    press = f"M20 -80 C25 -30 26 10 {28 + wide * 0.4} 95"
    with pen.both_sides():
        pen.cloth(f"M0 -84 L32 -84 C42 -60 {knee} -20 {45 + wide * 0.6} 10 L{foot} 96 L{inner} 96 L4 -8 L0 -24 Z")
        pen.folds(press, "M38 -60 L42 60", depth=0.2)
        pen.seam(press, width=1.3)
        pen.seam("M34 -78 L42 -50", width=1.6)
        if pen.garment.trim == "contrast":
            pen.hem(f"M36 -76 C{knee} -30 {44 + wide * 0.6} 10 {40 + wide} 95")
        pen.edge(f"M{foot} 96 L{inner} 96 L{inner} 89 L{foot} 89 Z")
    pen.edge("M-33 -96 H33 V-83 H-33 Z")
    pen.button(3, -89, 2.2)
    pen.seam("M0 -83 V-24")


def _shorts(pen: Pen) -> None:
    with pen.both_sides():
        pen.cloth("M0 -46 L46 -46 C54 -20 60 20 66 52 C50 58 28 60 10 58 L2 6 L0 0 Z")
        pen.folds("M30 -40 C36 0 40 30 42 50", "M6 10 C16 4 24 2 34 -6", depth=0.18)
        pen.seam("M28 -44 C32 -26 42 -20 54 -18", width=1.5)
        pen.edge("M66 52 C50 58 28 60 10 58 L9 50 C28 51 50 49 64.6 43 Z")
    pen.seam("M0 -46 V2")
    pen.edge("M-47 -60 H47 V-45 H-47 Z")
    pen.seam(*(f"M{x} -58 V-47" for x in range(-42, 43, 7)), width=0.9)
    cords = ("M-3 -50 C-8 -40 -10 -32 -8 -22", "M3 -50 C8 -40 10 -34 10 -20")
    pen.seam(*cords, width=2.4, colour=pen.palette.accent)


CLOTHES: dict[str, Shape] = {
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
    "dress": _dress,
    "evening gown": _evening_gown,
    "skirt": _skirt,
    "pleated skirt": _pleated_skirt,
    "jeans": _jeans,
    "trousers": _trousers,
    "shorts": _shorts,
}
