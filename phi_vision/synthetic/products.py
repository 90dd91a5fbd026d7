"""Chooses the products of a sample catalog: kinds, styles in their colours, splits, records.

Titles and prices follow from the visible facts of a garment, except for two things that no image
shows: a rare line name in a title, and log-normal noise on the price of a style.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from phi_vision.synthetic.render.garment import CHOICES, Garment, random_dye, random_garment

BRAND = "MERIDIAN"
SPLITS = ("train", "validation", "test")
PRICE_NOISE = 0.15  # standard deviation of the logarithm of a style's price
_HELD_OUT = 0.1  # fraction of validation, and of test
_DISCOUNTED = 0.12
_EUROS_PER_POUND = 1.17
_DATE = "2026-02-01"
_SITE = "https://www.example.com"
_COLOURS_PER_STYLE = ((1, 2, 3, 4, 5), (30, 25, 20, 15, 10))
_MIN_PER_KIND = 3  # one product for each split
_LINE_NAME_FRACTION = 0.12
_LINES = ("Aldwych", "Cavendish", "Halden", "Lydgate", "Marlowe", "Orsett", "Thornby", "Wren")

# Fact -> its word in a title, and the factor by which it changes the price.
MATERIAL_WORDS = {
    "cotton": ("Cotton", 1.0),
    "denim": ("Selvedge", 0.95),
    "wool": ("Wool", 1.15),
    "knit": ("Cashmere", 1.3),
    "tweed": ("Bouclé", 1.45),
    "canvas": ("Canvas", 0.85),
    "nylon": ("Nylon", 0.9),
    "silk": ("Silk", 1.5),
    "leather": ("Calfskin", 1.75),
    "patent": ("Patent", 1.5),
    "acetate": ("Acetate", 0.9),
    "metal": ("Steel", 1.35),
}
_PATTERN_WORDS = {
    "plain": ("", 1.0),
    "striped": ("Striped", 1.05),
    "pinstriped": ("Pinstripe", 1.05),
    "checked": ("House Check", 1.1),
    "dotted": ("Dotted", 1.05),
    "herringbone": ("Herringbone", 1.1),
    "floral": ("Meadow Print", 1.15),
    "quilted": ("Quilted", 1.2),
}
TRIM_WORDS = {
    "none": ("", 1.0),
    "contrast": ("Contrast", 1.08),
    "monogram": ("Monogram", 1.2),
    "embroidery": ("Embroidered", 1.4),
    "fur": ("Shearling-trim", 1.65),
}
_HARDWARE_FACTORS = {"none": 1.0, "silver": 1.05, "gold": 1.2}
_LENGTH_FACTORS = {"short": 0.85, "regular": 1.0, "long": 1.2}
_LENGTH_WORDS = {
    "trench coat": {"long": "Long"},
    "puffer jacket": {"short": "Cropped"},
    "cardigan": {"long": "Long"},
    "dress": {"short": "Mini", "regular": "Midi"},
    "skirt": {"short": "Mini", "regular": "Midi"},
    "pleated skirt": {"short": "Mini", "long": "Maxi"},
    "trousers": {"long": "Wide-leg"},
    "sneaker": {"long": "High-top"},
    "boot": {"short": "Ankle", "long": "Knee-high"},
    "hat": {"long": "Wide-brim"},
    "sunglasses": {"long": "Oversized"},
    "wallet": {"long": "Continental"},
    "gloves": {"long": "Long"},
    "socks": {"short": "Ankle"},
}
_ALL, _WOMEN, _MEN = ("WOMEN", "MEN"), ("WOMEN",), ("MEN",)
_WEAR, _BAGS, _SHOES, _EXTRAS = "READY TO WEAR", "LEATHER GOODS", "SHOES", "ACCESSORIES"


class Range(NamedTuple):
    """How the brand sells one kind of garment."""

    category: str
    """`category3_code`; kinds that belong together share one."""
    department: str
    """`category2_code`."""
    audiences: tuple[str, ...]
    """The `category1_code`s it is made for."""
    noun: str
    """Its name in titles."""
    price: float
    """Of a plain one in cotton without hardware, in pounds."""
    share: float
    """Of the catalog, in per cent or nearly so."""


RANGES: dict[str, Range] = {
    "trench coat": Range("OUTERWEAR - TRENCH", _WEAR, _ALL, "Trench Coat", 1450, 6.3),
    "puffer jacket": Range("OUTERWEAR - DOWN", _WEAR, _ALL, "Down Jacket", 1150, 3.8),
    "blazer": Range("TAILORING", _WEAR, _ALL, "Tailored Jacket", 990, 3.8),
    "cardigan": Range("KNITWEAR", _WEAR, _ALL, "Cardigan", 520, 3.0),
    "sweater": Range("KNITWEAR", _WEAR, _ALL, "Sweater", 460, 4.6),
    "hoodie": Range("LOUNGE JERSEY", _WEAR, _ALL, "Hooded Top", 420, 3.0),
    "t-shirt": Range("JERSEY TOPS", _WEAR, _ALL, "T-shirt", 250, 5.2),
    "polo shirt": Range("PIQUE", _WEAR, _ALL, "Polo Shirt", 280, 3.0),
    "shirt": Range("SHIRTING", _WEAR, _ALL, "Shirt", 340, 4.8),
    "tank top": Range("JERSEY TOPS", _WEAR, _ALL, "Vest", 220, 1.6),
    "dress": Range("DAY DRESSING", _WEAR, _WOMEN, "Dress", 890, 4.8),
    "evening gown": Range("EVENING", _WEAR, _WOMEN, "Gown", 1700, 1.7),
    "skirt": Range("SKIRTS & KILTS", _WEAR, _WOMEN, "Skirt", 480, 2.2),
    "pleated skirt": Range("SKIRTS & KILTS", _WEAR, _WOMEN, "Pleated Kilt", 590, 1.8),
    "jeans": Range("DENIM", _WEAR, _ALL, "Jeans", 390, 2.6),
    "trousers": Range("TROUSERS & SHORTS", _WEAR, _ALL, "Trousers", 450, 3.2),
    "shorts": Range("TROUSERS & SHORTS", _WEAR, _ALL, "Shorts", 330, 1.8),
    "scarf": Range("SCARVES & STOLES", _EXTRAS, _ALL, "Scarf", 280, 5.2),
    "tie": Range("NECKWEAR", _EXTRAS, _MEN, "Tie", 105, 2.0),
    "tote bag": Range("BAGS - TOP HANDLE", _BAGS, _WOMEN, "Tote", 1150, 4.8),
    "crossbody bag": Range("BAGS - SHOULDER", _BAGS, _WOMEN, "Chain Bag", 890, 5.2),
    "backpack": Range("BAGS - RUCKSACK", _BAGS, _ALL, "Rucksack", 790, 2.0),
    "sneaker": Range("SHOES - ATHLETIC", _SHOES, _ALL, "Trainers", 360, 3.8),
    "boot": Range("SHOES - BOOTS & BOOTIES", _SHOES, _ALL, "Boots", 490, 2.6),
    "loafer": Range("SHOES - MOCCASINS", _SHOES, _ALL, "Loafers", 350, 2.2),
    "heel": Range("SHOES - PUMPS", _SHOES, _WOMEN, "Pumps", 370, 2.6),
    "cap": Range("HEADWEAR", _EXTRAS, _ALL, "Cap", 210, 1.8),
    "hat": Range("HEADWEAR", _EXTRAS, _ALL, "Fedora", 270, 1.6),
    "sunglasses": Range("EYEWEAR", _EXTRAS, _ALL, "Sunglasses", 190, 2.6),
    "watch": Range("TIMEPIECES", _EXTRAS, _ALL, "Watch", 540, 1.8),
    "belt": Range("BELTS", _EXTRAS, _ALL, "Belt", 185, 2.8),
    "wallet": Range("SMALL LEATHERS", _BAGS, _ALL, "Wallet", 215, 3.0),
    "gloves": Range("GLOVES & MITTENS", _EXTRAS, _ALL, "Gloves", 190, 1.7),
    "socks": Range("SOCKS & TIGHTS", _EXTRAS, _ALL, "Socks", 72, 1.7),
}


@dataclass(frozen=True, kw_only=True)
class Product:
    """One colour of one style.

    Attributes:
        garment: the visible facts.
        record: the columns, in order, without the image.
        split: which part of the catalog it belongs to.
        rule_price: its price before noise, as a price point: the best possible prediction.
    """

    garment: Garment
    record: Mapping[str, str | int | float]
    split: str
    rule_price: float


def plan_catalog(rows: int, seed: int) -> list[Product]:
    """Choose all products of a catalog, without drawing them, split by split."""
    if rows < _MIN_PER_KIND:
        raise ValueError(
            f"a catalog of {rows} rows cannot be split into {', '.join(SPLITS)}; "
            f"ask for at least {_MIN_PER_KIND} rows"
        )
    rng = random.Random(f"catalog {seed}")
    quotas = _quotas(rows).items()
    styles = [style for kind, count in quotas for style in _styles_of(kind, count, rng)]
    rng.shuffle(styles)
    products = [
        product
        for number, (garments, split) in enumerate(styles)
        for product in _style(garments, split, number, rng)
    ]
    rng.shuffle(products)
    return sorted(products, key=lambda product: SPLITS.index(product.split))


def title(garment: Garment, rng: random.Random) -> str:
    """Word a title from the visible facts except the colour: all colours of a style share it.

    Input:  a long trench coat of leather with fur
    Output: "Long Shearling-trim Calfskin Trench Coat"
    """
    words = [
        rng.choice(_LINES) if rng.random() < _LINE_NAME_FRACTION else "",
        _LENGTH_WORDS.get(garment.kind, {}).get(garment.length, ""),
        "Hooded" if garment.hood and garment.kind != "hoodie" else "",
        TRIM_WORDS[garment.trim][0],
        _PATTERN_WORDS[garment.pattern][0],
        "Chronograph" if garment.kind == "watch" and garment.buttons > 1 else "",
        MATERIAL_WORDS[garment.material][0],
        RANGES[garment.kind].noun,
    ]
    return " ".join(word for word in words if word)


def rule_price(garment: Garment) -> float:
    """Price a garment by its visible facts, in pounds: its kind's base times a factor for each."""
    price = RANGES[garment.kind].price
    price *= MATERIAL_WORDS[garment.material][1] * _PATTERN_WORDS[garment.pattern][1]
    price *= TRIM_WORDS[garment.trim][1] * _HARDWARE_FACTORS[garment.hardware]
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


def _quotas(rows: int) -> dict[str, int]:
    """Share rows out to kinds by their shares: at least one for each split, `rows` in all."""
    kinds = sorted(RANGES, key=lambda kind: -RANGES[kind].share)[: rows // _MIN_PER_KIND]
    spare = rows - _MIN_PER_KIND * len(kinds)
    wanted = {kind: max(0.0, rows * RANGES[kind].share - 100 * _MIN_PER_KIND) for kind in kinds}
    whole = sum(wanted.values()) or 1.0
    exact = {kind: spare * wanted[kind] / whole for kind in kinds}
    quotas = {kind: _MIN_PER_KIND + math.floor(exact[kind]) for kind in kinds}
    by_remainder = sorted(kinds, key=lambda kind: math.floor(exact[kind]) - exact[kind])
    for kind in by_remainder[: rows - sum(quotas.values())]:
        quotas[kind] += 1
    return quotas


def _styles_of(kind: str, count: int, rng: random.Random) -> Iterator[tuple[list[Garment], str]]:
    """Yield styles of a kind, each a list of its colours, until there are `count` garments."""
    most = max(1, count // _MIN_PER_KIND)  # so that there are enough styles for all splits
    held_out = max(1, round(count * _HELD_OUT))
    for split, room in (
        ("test", held_out),
        ("validation", held_out),
        ("train", count - 2 * held_out),
    ):
        while room:
            garment = random_garment(rng, kind)
            colours = min(rng.choices(*_COLOURS_PER_STYLE)[0], most, room)
            dyes = rng.sample(CHOICES[kind].colours, colours)
            yield [replace(garment, colour=dye, rgb=random_dye(rng, dye)) for dye in dyes], split
            room -= colours


def _style(
    garments: Sequence[Garment], split: str, number: int, rng: random.Random
) -> Iterator[Product]:
    """Yield the products of one style: one title, one full price, one group."""
    ideal = rule_price(garments[0])
    full_price = price_point(ideal * math.exp(PRICE_NOISE * rng.gauss(0, 1)))
    name = title(garments[0], rng)
    slug = name.lower().replace(" ", "-").replace("é", "e")
    kind = RANGES[garments[0].kind]
    audience = rng.choice(kind.audiences)
    for index, garment in enumerate(garments):
        code = 80_000_000 + 10 * number + index
        price = full_price
        if rng.random() < _DISCOUNTED:
            price = price_point(full_price * (1 - rng.choice((0.2, 0.3, 0.4, 0.5))))
        record: dict[str, str | int | float] = {
            "website_name": BRAND.title(),
            "competence_date": _DATE,
            "country_code": "GBR",
            "currency_code": "GBP",
            "brand": BRAND,
            "category1_code": audience,
            "category2_code": kind.department,
            "category3_code": kind.category,
            "product_code": code,
            "title": name,
            "itemurl": f"{_SITE}/{slug}-p{code}",
            "imageurl": f"{_SITE}/images/{code}.jpg",
            "full_price": full_price,
            "price": price,
            "full_price_eur": round(full_price * _EUROS_PER_POUND, 2),
            "price_eur": round(price * _EUROS_PER_POUND, 2),
            "flg_discount": int(price < full_price),
            "colour": garment.colour,
            "group_id": f"style-{number:06d}",
        }
        yield Product(garment=garment, record=record, split=split, rule_price=price_point(ideal))
