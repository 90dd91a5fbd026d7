"""What the house sells in one season: the products of a sample catalog, before any is drawn.

Chosen from a seed: how many of each kind, styles in their colours, prices, splits, records.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from phi_vision.synthetic.pricing import BRAND, RANGES, price_point, rule_price, title
from phi_vision.synthetic.render.garment import CHOICES, Garment, random_dye, random_garment

SPLITS = ("train", "validation", "test")
PRICE_NOISE = 0.15  # standard deviation of the logarithm of a style's price
_HELD_OUT = 0.1  # share of validation, and of test
_DISCOUNTED = 0.12
_EURO = 1.17  # for one pound
_DATE = "2026-02-01"
_SITE = "https://www.example.com"
_COLOURS_OF_A_STYLE = ((1, 2, 3, 4, 5), (30, 25, 20, 15, 10))
_FEWEST = 3  # products of a kind: one for each split


@dataclass(frozen=True, kw_only=True)
class Product:
    """One colour of one style: what the image shows, and what the record says.

    Attributes:
        garment: the visible facts.
        record: the columns, in order, without the image.
        split: which part of the catalog it belongs to.
        rule_price: its price before noise, as a price point: what a perfect reader would answer.
    """

    garment: Garment
    record: Mapping[str, str | int | float]
    split: str
    rule_price: float


def plan_catalog(rows: int, seed: int) -> list[Product]:
    """Choose all products of a catalog, without drawing them, split by split."""
    if rows < _FEWEST:
        raise ValueError(
            f"a catalog of {rows} rows cannot be split into {', '.join(SPLITS)}; "
            f"ask for at least {_FEWEST} rows"
        )
    rng = random.Random(f"catalog {seed}")
    styles = [
        style for kind, count in _quotas(rows).items() for style in _styles_of(kind, count, rng)
    ]
    rng.shuffle(styles)
    products = [
        product
        for number, (garments, split) in enumerate(styles)
        for product in _style(garments, split, number, rng)
    ]
    rng.shuffle(products)
    return sorted(products, key=lambda product: SPLITS.index(product.split))


def _quotas(rows: int) -> dict[str, int]:
    """Share rows out to kinds by their shares: at least one for each split, `rows` in all."""
    kinds = sorted(RANGES, key=lambda kind: -RANGES[kind].share)[: rows // _FEWEST]
    spare = rows - _FEWEST * len(kinds)
    wanted = {kind: max(0.0, rows * RANGES[kind].share - 100 * _FEWEST) for kind in kinds}
    whole = sum(wanted.values()) or 1.0
    exact = {kind: spare * wanted[kind] / whole for kind in kinds}
    quotas = {kind: _FEWEST + math.floor(exact[kind]) for kind in kinds}
    by_remainder = sorted(kinds, key=lambda kind: math.floor(exact[kind]) - exact[kind])
    for kind in by_remainder[: rows - sum(quotas.values())]:
        quotas[kind] += 1
    return quotas


def _styles_of(kind: str, count: int, rng: random.Random) -> Iterator[tuple[list[Garment], str]]:
    """Yield styles of a kind, each a list of its colours, until there are `count` garments."""
    most = max(1, count // _FEWEST)  # so that there are enough styles for all splits
    held_out = max(1, round(count * _HELD_OUT))
    places = {"test": held_out, "validation": held_out, "train": count - 2 * held_out}
    for split, room in places.items():
        while room:
            garment = random_garment(rng, kind)
            numbers, weights = _COLOURS_OF_A_STYLE
            colours = min(rng.choices(numbers, weights)[0], most, room)
            yield _in_colours(garment, colours, rng), split
            room -= colours


def _in_colours(garment: Garment, count: int, rng: random.Random) -> list[Garment]:
    colours = rng.sample(CHOICES[garment.kind].colours, count)
    return [replace(garment, colour=colour, rgb=random_dye(rng, colour)) for colour in colours]


def _style(
    garments: Sequence[Garment], split: str, number: int, rng: random.Random
) -> Iterator[Product]:
    """Yield the products of one style: one title, one full price, one group."""
    ideal = rule_price(garments[0])
    full_price = price_point(ideal * math.exp(PRICE_NOISE * rng.gauss(0, 1)))
    name = title(garments[0], rng)
    audience = rng.choice(RANGES[garments[0].kind].audiences)
    for index, garment in enumerate(garments):
        code = 80_000_000 + 10 * number + index
        record = _record(garment, name, audience, code, full_price, _price(full_price, rng))
        record["group_id"] = f"style-{number:06d}"
        yield Product(garment=garment, record=record, split=split, rule_price=price_point(ideal))


def _price(full_price: float, rng: random.Random) -> float:
    if rng.random() >= _DISCOUNTED:
        return full_price
    return price_point(full_price * (1 - rng.choice((0.2, 0.3, 0.4, 0.5))))


def _record(
    garment: Garment, name: str, audience: str, code: int, full_price: float, price: float
) -> dict[str, str | int | float]:
    slug = name.lower().replace(" ", "-").replace("é", "e")
    return {
        "website_name": BRAND.title(),
        "competence_date": _DATE,
        "country_code": "GBR",
        "currency_code": "GBP",
        "brand": BRAND,
        "category1_code": audience,
        "category2_code": RANGES[garment.kind].department,
        "category3_code": RANGES[garment.kind].category,
        "product_code": code,
        "title": name,
        "itemurl": f"{_SITE}/{slug}-p{code}",
        "imageurl": f"{_SITE}/images/{code}.jpg",
        "full_price": full_price,
        "price": price,
        "full_price_eur": round(full_price * _EURO, 2),
        "price_eur": round(price * _EURO, 2),
        "flg_discount": int(price < full_price),
        "colour": garment.colour,
    }
