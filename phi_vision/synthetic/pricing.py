"""The house of the sample catalog: how it names, files and prices a garment.

Everything follows from the visible facts of `garment.py`, save two things an image cannot tell:
a rare line name in a title, and the noise that `catalog.py` lays over the prices.
"""

import random
from dataclasses import dataclass

from phi_vision.synthetic.render.garment import Garment

BRAND = "MERIDIAN"


@dataclass(frozen=True, kw_only=True)
class Range:
    """How the house sells one kind of garment.

    Attributes:
        category: `category3_code`; kinds that belong together share one.
        department: `category2_code`.
        audiences: the `category1_code`s it is made for.
        noun: what titles call it.
        price: of a plain one in cotton without hardware, in pounds.
        share: of the catalog, in per cent or nearly so.
    """

    category: str
    department: str
    audiences: tuple[str, ...]
    noun: str
    price: float
    share: float


def title(garment: Garment, rng: random.Random) -> str:
    """Word a title from what is seen, its colour apart: all colours of a style share it.

    Input:  a long trench coat of leather with fur
    Output: "Long Shearling-trim Calfskin Trench Coat"
    """
    words = [
        rng.choice(_LINES) if rng.random() < _LINE_NAME_SHARE else "",
        _LENGTH_WORDS.get((garment.kind, garment.length), ""),
        "Hooded" if garment.hood and garment.kind != "hoodie" else "",
        TRIM_WORDS[garment.trim],
        _PATTERN_WORDS[garment.pattern],
        "Chronograph" if garment.kind == "watch" and garment.buttons > 1 else "",
        MATERIAL_WORDS[garment.material],
        RANGES[garment.kind].noun,
    ]
    return " ".join(word for word in words if word)


def rule_price(garment: Garment) -> float:
    """Price a garment by what is seen, in pounds: its kind's base times a factor for each fact."""
    price = RANGES[garment.kind].price
    price *= _MATERIAL_FACTORS[garment.material] * _PATTERN_FACTORS[garment.pattern]
    price *= _TRIM_FACTORS[garment.trim] * _HARDWARE_FACTORS[garment.hardware]
    price *= _LENGTH_FACTORS[garment.length]
    if garment.hood and garment.kind != "hoodie":
        price *= 1.1
    if garment.kind == "watch" and garment.buttons > 1:
        price *= 1.3
    return price


def price_point(amount: float) -> float:
    """Round to a price that a shop would print.

    Input:  88.2, 193.4, 391.7, 1312.0
    Output: 90.0, 195.0, 390.0, 1290.0
    """
    if amount < 200:
        return 5.0 * max(1, round(amount / 5))
    if amount < 995:
        return 10.0 * round(amount / 10)
    return 100.0 * round((amount + 10) / 100) - 10


_LINE_NAME_SHARE = 0.12
_LINES = ("Aldwych", "Cavendish", "Halden", "Lydgate", "Marlowe", "Orsett", "Thornby", "Wren")
MATERIAL_WORDS = {
    "cotton": "Cotton",
    "denim": "Selvedge",
    "wool": "Wool",
    "knit": "Cashmere",
    "tweed": "Bouclé",
    "canvas": "Canvas",
    "nylon": "Nylon",
    "silk": "Silk",
    "leather": "Calfskin",
    "patent": "Patent",
    "acetate": "Acetate",
    "metal": "Steel",
}
_PATTERN_WORDS = {
    "plain": "",
    "striped": "Striped",
    "pinstriped": "Pinstripe",
    "checked": "House Check",
    "dotted": "Dotted",
    "herringbone": "Herringbone",
    "floral": "Meadow Print",
    "quilted": "Quilted",
}
TRIM_WORDS = {
    "none": "",
    "contrast": "Contrast",
    "monogram": "Monogram",
    "embroidery": "Embroidered",
    "fur": "Shearling-trim",
}
_LENGTH_WORDS = {
    ("trench coat", "long"): "Long",
    ("puffer jacket", "short"): "Cropped",
    ("cardigan", "long"): "Long",
    ("dress", "short"): "Mini",
    ("dress", "regular"): "Midi",
    ("skirt", "short"): "Mini",
    ("skirt", "regular"): "Midi",
    ("pleated skirt", "short"): "Mini",
    ("pleated skirt", "long"): "Maxi",
    ("trousers", "long"): "Wide-leg",
    ("sneaker", "long"): "High-top",
    ("boot", "short"): "Ankle",
    ("boot", "long"): "Knee-high",
    ("hat", "long"): "Wide-brim",
    ("sunglasses", "long"): "Oversized",
    ("wallet", "long"): "Continental",
    ("gloves", "long"): "Long",
    ("socks", "short"): "Ankle",
}
_MATERIAL_FACTORS = {
    "cotton": 1.0,
    "denim": 0.95,
    "wool": 1.15,
    "knit": 1.3,
    "tweed": 1.45,
    "canvas": 0.85,
    "nylon": 0.9,
    "silk": 1.5,
    "leather": 1.75,
    "patent": 1.5,
    "acetate": 0.9,
    "metal": 1.35,
}
_PATTERN_FACTORS = {
    "plain": 1.0,
    "striped": 1.05,
    "pinstriped": 1.05,
    "checked": 1.1,
    "dotted": 1.05,
    "herringbone": 1.1,
    "floral": 1.15,
    "quilted": 1.2,
}
_TRIM_FACTORS = {"none": 1.0, "contrast": 1.08, "monogram": 1.2, "embroidery": 1.4, "fur": 1.65}
_HARDWARE_FACTORS = {"none": 1.0, "silver": 1.05, "gold": 1.2}
_LENGTH_FACTORS = {"short": 0.85, "regular": 1.0, "long": 1.2}

_ALL = ("WOMEN", "MEN")
_WOMEN = ("WOMEN",)
_MEN = ("MEN",)
_WEAR, _BAGS, _SHOES, _EXTRAS = "READY TO WEAR", "LEATHER GOODS", "SHOES", "ACCESSORIES"


def _range(
    category: str,
    department: str,
    audiences: tuple[str, ...],
    noun: str,
    price: float,
    share: float,
) -> Range:
    return Range(
        category=category,
        department=department,
        audiences=audiences,
        noun=noun,
        price=price,
        share=share,
    )


RANGES: dict[str, Range] = {
    "trench coat": _range("OUTERWEAR - TRENCH", _WEAR, _ALL, "Trench Coat", 1450, 6.3),
    "puffer jacket": _range("OUTERWEAR - DOWN", _WEAR, _ALL, "Down Jacket", 1150, 3.8),
    "blazer": _range("TAILORING", _WEAR, _ALL, "Tailored Jacket", 990, 3.8),
    "cardigan": _range("KNITWEAR", _WEAR, _ALL, "Cardigan", 520, 3.0),
    "sweater": _range("KNITWEAR", _WEAR, _ALL, "Sweater", 460, 4.6),
    "hoodie": _range("LOUNGE JERSEY", _WEAR, _ALL, "Hooded Top", 420, 3.0),
    "t-shirt": _range("JERSEY TOPS", _WEAR, _ALL, "T-shirt", 250, 5.2),
    "polo shirt": _range("PIQUE", _WEAR, _ALL, "Polo Shirt", 280, 3.0),
    "shirt": _range("SHIRTING", _WEAR, _ALL, "Shirt", 340, 4.8),
    "tank top": _range("JERSEY TOPS", _WEAR, _ALL, "Vest", 220, 1.6),
    "dress": _range("DAY DRESSING", _WEAR, _WOMEN, "Dress", 890, 4.8),
    "evening gown": _range("EVENING", _WEAR, _WOMEN, "Gown", 1700, 1.7),
    "skirt": _range("SKIRTS & KILTS", _WEAR, _WOMEN, "Skirt", 480, 2.2),
    "pleated skirt": _range("SKIRTS & KILTS", _WEAR, _WOMEN, "Pleated Kilt", 590, 1.8),
    "jeans": _range("DENIM", _WEAR, _ALL, "Jeans", 390, 2.6),
    "trousers": _range("TROUSERS & SHORTS", _WEAR, _ALL, "Trousers", 450, 3.2),
    "shorts": _range("TROUSERS & SHORTS", _WEAR, _ALL, "Shorts", 330, 1.8),
    "scarf": _range("SCARVES & STOLES", _EXTRAS, _ALL, "Scarf", 280, 5.2),
    "tie": _range("NECKWEAR", _EXTRAS, _MEN, "Tie", 105, 2.0),
    "tote bag": _range("BAGS - TOP HANDLE", _BAGS, _WOMEN, "Tote", 1150, 4.8),
    "crossbody bag": _range("BAGS - SHOULDER", _BAGS, _WOMEN, "Chain Bag", 890, 5.2),
    "backpack": _range("BAGS - RUCKSACK", _BAGS, _ALL, "Rucksack", 790, 2.0),
    "sneaker": _range("SHOES - ATHLETIC", _SHOES, _ALL, "Trainers", 360, 3.8),
    "boot": _range("SHOES - BOOTS & BOOTIES", _SHOES, _ALL, "Boots", 490, 2.6),
    "loafer": _range("SHOES - MOCCASINS", _SHOES, _ALL, "Loafers", 350, 2.2),
    "heel": _range("SHOES - PUMPS", _SHOES, _WOMEN, "Pumps", 370, 2.6),
    "cap": _range("HEADWEAR", _EXTRAS, _ALL, "Cap", 210, 1.8),
    "hat": _range("HEADWEAR", _EXTRAS, _ALL, "Fedora", 270, 1.6),
    "sunglasses": _range("EYEWEAR", _EXTRAS, _ALL, "Sunglasses", 190, 2.6),
    "watch": _range("TIMEPIECES", _EXTRAS, _ALL, "Watch", 540, 1.8),
    "belt": _range("BELTS", _EXTRAS, _ALL, "Belt", 185, 2.8),
    "wallet": _range("SMALL LEATHERS", _BAGS, _ALL, "Wallet", 215, 3.0),
    "gloves": _range("GLOVES & MITTENS", _EXTRAS, _ALL, "Gloves", 190, 1.7),
    "socks": _range("SOCKS & TIGHTS", _EXTRAS, _ALL, "Socks", 72, 1.7),
}
