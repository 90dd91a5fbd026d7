"""Chooses the products of a sample catalog: kinds, styles in their colours, splits, records.

Titles and prices follow from the visible facts of a garment, except for two things that no image
shows: a rare line name in a title, and log-normal noise on the price of a style.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from phi_vision.synthetic.render import garment as facts
from phi_vision.synthetic.render.garment import VOCABULARY, Garment

BRAND = "MERIDIAN"
SPLITS = ("train", "validation", "test")
PRICE_NOISE = 0.15  # standard deviation of the logarithm of a style's price
_HELD_OUT = 0.1  # fraction of validation, and of test
_DISCOUNTED = 0.12
_EUROS_PER_POUND = 1.17
_SITE = "https://www.example.com"
_COLOURS_PER_STYLE = ((1, 2, 3, 4, 5), (30, 25, 20, 15, 10))
_MIN_PER_KIND = 3  # one product for each split
_LINE_NAME_FRACTION = 0.12
_LINES = ("Aldwych", "Cavendish", "Halden", "Lydgate", "Marlowe", "Orsett", "Thornby", "Wren")


class Range(NamedTuple):
    """How the brand sells one kind of garment."""

    category: str  # `category3_code`; kinds that belong together share one
    department: str  # `category2_code`
    audiences: str  # `category1_code`s
    noun: str  # in titles
    price: float  # of a plain one in cotton without hardware, in pounds
    share: float  # of the catalog, in per cent or nearly so


RANGES = {kind: Range(**entry["range"]) for kind, entry in VOCABULARY["kinds"].items()}


@dataclass(frozen=True, kw_only=True)
class CatalogProduct:
    """One colour of one style."""

    garment: Garment
    record: dict[str, Any]  # the columns, in order, without the image
    split: str
    rule_price: float  # its price before noise, as a price point: the best possible prediction


def plan_catalog(rows: int, seed: int) -> list[CatalogProduct]:
    """Choose all products of a catalog, without drawing them, split by split."""
    if rows < _MIN_PER_KIND:
        raise ValueError(
            f"a catalog of {rows} rows cannot be split into {', '.join(SPLITS)}; "
            f"ask for at least {_MIN_PER_KIND} rows"
        )
    rng = random.Random(f"catalogue {seed}")  # another word would draw another catalog
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
        VOCABULARY["kinds"][garment.kind].get("length_words", {}).get(garment.length, ""),
        "Hooded" if garment.hood and garment.kind != "hoodie" else "",
        VOCABULARY["trims"][garment.trim][0],
        VOCABULARY["patterns"][garment.pattern][0],
        "Chronograph" if garment.kind == "watch" and garment.buttons > 1 else "",
        VOCABULARY["materials"][garment.material][0],
        RANGES[garment.kind].noun,
    ]
    return " ".join(filter(None, words))


def rule_price(garment: Garment) -> float:
    """Price a garment by its visible facts, in pounds: its kind's base times a factor for each."""
    factors = VOCABULARY
    price: float = RANGES[garment.kind].price
    price *= factors["materials"][garment.material][1] * factors["patterns"][garment.pattern][1]
    price *= factors["trims"][garment.trim][1] * factors["hardware"][garment.hardware]
    price *= factors["lengths"][garment.length]
    if garment.hood and garment.kind != "hoodie":
        price *= 1.1
    return price * 1.3 if garment.kind == "watch" and garment.buttons > 1 else price


def price_point(amount: float) -> float:
    """Round to a price that a shop would print.

    Input:  88.2, 193.4, 391.7, 1312.0
    Output: 90.0, 195.0, 390.0, 1290.0
    """
    if amount < 200:
        return 5.0 * max(1, round(amount / 5))
    return 10.0 * round(amount / 10) if amount < 995 else 100.0 * round((amount + 10) / 100) - 10


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
    places = {"test": held_out, "validation": held_out, "train": count - 2 * held_out}
    for split, left in places.items():
        while left:
            garment = facts.random_garment(rng, kind)
            colours = min(rng.choices(*_COLOURS_PER_STYLE)[0], most, left)
            dyes = rng.sample(facts.CHOICES[kind].colours, colours)
            yield [replace(garment, colour=d, rgb=facts.random_dye(rng, d)) for d in dyes], split
            left -= colours


def _style(
    garments: Sequence[Garment], split: str, number: int, rng: random.Random
) -> Iterator[CatalogProduct]:
    """Yield the products of one style: one title, one full price, one group."""
    ideal = rule_price(garments[0])
    full_price = price_point(ideal * math.exp(PRICE_NOISE * rng.gauss(0, 1)))
    name = title(garments[0], rng)
    slug = name.lower().replace(" ", "-").replace("é", "e")
    kind = RANGES[garments[0].kind]
    audience = rng.choice(kind.audiences.split())
    for code, garment in enumerate(garments, start=80_000_000 + 10 * number):
        price = full_price
        if rng.random() < _DISCOUNTED:
            price = price_point(full_price * (1 - rng.choice((0.2, 0.3, 0.4, 0.5))))
        record = {
            "website_name": BRAND.title(),
            "competence_date": "2026-02-01",
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
        point = price_point(ideal)
        yield CatalogProduct(garment=garment, record=record, split=split, rule_price=point)
