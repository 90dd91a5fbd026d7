"""Draws the sample catalog: an invented brand's products, images and records, from a seed.

Titles and prices follow from the visible facts of a garment, except for two things that no image
shows: a rare line name in a title, and log-normal noise on the price of a style. As the noise is of
known size, so is the best score that any model can reach; it is written beside the data.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined

from phi_vision.data.samples import Value
from phi_vision.data.template import TEMPLATE_FILE, write_template
from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.io.process import usable_cores
from phi_vision.synthetic import attributes, drawing
from phi_vision.synthetic.attributes import Market, StyleAttributes, visible_attributes
from phi_vision.synthetic.drawing import VOCABULARY, Garment, draw, encode, random_scene
from phi_vision.synthetic.observation import failure

Progress = Callable[[int, int], None]

VERSION = 1
_MIN_PARALLEL = 150  # images; below this, starting processes takes longer than drawing
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_DTYPES = {  # Arrow's names of types -> those of the `datasets` library
    **{name: name for name in ("bool", "string", "large_string", "uint8")},
    **{f"int{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{"float": "float32", "double": "float64", "halffloat": "float16"},
}

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
    market: Market | None = None  # of a catalog with attributes
    visible: Mapping[str, Value] | None = None  # what the image shows, likewise


def write_catalog(
    out: Path,
    *,
    rows: int,
    seed: int,
    with_attributes: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw a catalog, write it as Parquet with its facts and a data card, and return the facts.

    With attributes, a template.yaml asks for them (see `attributes.py`).

    Writes OUT/data/{train,validation,test}-00000-of-00001.parquet, OUT/facts.json, OUT/README.md
    atomically; OUT must be free. The same rows and seed give the same bytes; below about a hundred
    rows, only the most frequent kinds appear. `progress` gets (done, total) after each image.
    Larger catalogs are drawn by one process a core, so a script that calls this at its top level
    needs the usual `if __name__ == "__main__":`.
    """
    check_folder_is_free(out)
    products = plan_catalog(rows, seed)
    if with_attributes:
        products = add_attributes(products, seed)
    facts = _measure(products, seed)
    members: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    with atomic_folder(out) as folder:
        with parallel_map(rows) as run:
            seeds = (f"{seed} {product.record['product_code']}" for product in products)
            garments, markets = zip(*((p.garment, p.market) for p in products), strict=True)
            images = run(_draw_product, garments, seeds, markets)
            for done, (product, image) in enumerate(zip(products, images, strict=True), start=1):
                cell = {"bytes": image, "path": f"{product.record['product_code']}.jpg"}
                members[product.split].append({**product.record, "image": cell})
                if progress:
                    progress(done, rows)
        columns = [(name, _arrow_type(products, name)) for name in products[0].record]
        schema = add_features(pa.schema([*columns, ("image", _IMAGE)]), images=["image"])
        (folder / "data").mkdir()
        for split, records in members.items():
            file = folder / "data" / f"{split}-00000-of-00001.parquet"
            pq.write_table(pa.Table.from_pylist(records, schema=schema), file, row_group_size=100)
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        (folder / "facts.json").write_text(text + "\n", encoding="utf-8")
        if with_attributes:
            write_template(attributes.TEMPLATE, folder / TEMPLATE_FILE)
        render("catalog_card.md.j2", folder / "README.md", has_attributes=with_attributes, **facts)
    return facts


def render(template: str, file: Path, **values: object) -> None:
    """Render a template of this package to a file."""
    environment = Environment(
        loader=PackageLoader("phi_vision.synthetic"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    file.write_text(environment.get_template(template).render(values), encoding="utf-8")


@contextmanager
def parallel_map(images: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` that uses one process a core where there are enough images for it."""
    workers = usable_cores()
    if workers == 1 or images < _MIN_PARALLEL:
        yield map
        return
    # Spawned, not forked: the caller may hold threads and locks (progress bars, torch).
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield partial(pool.map, chunksize=8)


def add_features(schema: pa.Schema, images: Sequence[str]) -> pa.Schema:
    """Describe the columns as the `datasets` library does, so that it decodes the images.

    A schema with a type that `_DTYPES` lacks stays as it is: `datasets` infers its features.
    """
    features: dict[str, Any] = {}
    for column in schema:
        if column.name in images:
            image = {"_type": "Image"}
            several = pa.types.is_list(column.type)
            features[column.name] = {"feature": image, "_type": "List"} if several else image
        elif (dtype := _DTYPES.get(str(column.type))) is not None:
            features[column.name] = {"dtype": dtype, "_type": "Value"}
        else:
            return schema
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _draw_product(garment: Garment, seed: str, market: Market | None) -> bytes:
    # Each image from its own seed, so that the order of drawing does not matter.
    scene = random_scene(random.Random(seed))
    scene = market.photograph(scene) if market else scene
    return encode(draw(garment, scene), scene)


def _arrow_type(products: Sequence[CatalogProduct], column: str) -> pa.DataType:
    cells = (product.record[column] for product in products)
    return _TYPES[type(next((cell for cell in cells if cell is not None), ""))]


def _measure(products: Sequence[CatalogProduct], seed: int) -> dict[str, Any]:
    """Count the products, and measure the best and the simplest prediction of their prices."""
    usual = median(p.record["full_price"] for p in products if p.split == "train")
    splits = dict[str, dict[str, Any]]()
    for split in SPLITS:
        members = [product for product in products if product.split == split]
        prices = [product.record["full_price"] for product in members]
        errors = [abs(p.rule_price - price) for p, price in zip(members, prices, strict=True)]
        shares = (error / price for error, price in zip(errors, prices, strict=True))
        splits[split] = {
            "rows": len(members),
            "styles": len({product.record["group_id"] for product in members}),
            # Of the noiseless price, the best achievable prediction.
            "floor_median_ape": round(median(shares), 6),
            "floor_mae": round(fmean(errors), 4),
            # Of always predicting the training median.
            "baseline_median_ape": round(median(abs(usual - p) / p for p in prices), 6),
        }
        if pairs := [(each.visible, each.record) for each in members if each.visible]:
            splits[split] |= {
                "empty_cells": attributes.count_empty([record for _, record in pairs]),
                "best_achievable": attributes.ceilings(pairs),
            }
    return {
        "version": VERSION,
        "seed": seed,
        "rows": len(products),
        "styles": sum(split["styles"] for split in splits.values()),
        "categories": dict(sorted(Counter(p.record["category3_code"] for p in products).items())),
        "price_noise": PRICE_NOISE,
        "category_ceiling": 1.0,
        "splits": splits,
    }


def plan_catalog(rows: int, seed: int) -> list[CatalogProduct]:
    """Choose all products of a catalog, without drawing them, split by split."""
    if rows < _MIN_PER_KIND:
        raise failure("few_products", rows=rows, splits=", ".join(SPLITS), minimum=_MIN_PER_KIND)
    rng = random.Random(f"catalogue {seed}")  # another word would draw another catalog
    quotas = _quotas(rows).items()
    styles = [style for kind, count in quotas for style in _styles_of(kind, count, rng)]
    rng.shuffle(styles)
    products = [
        product
        for number, (colours, split) in enumerate(styles)
        for product in _style(colours, split, number, rng)
    ]
    rng.shuffle(products)
    return sorted(products, key=lambda product: SPLITS.index(product.split))


def add_attributes(products: Sequence[CatalogProduct], seed: int) -> list[CatalogProduct]:
    """Add the attributes of `attributes.py` to the products of a catalog, style by style."""
    styles = dict[str, StyleAttributes]()
    dressed = []
    for product in products:
        record, name = product.record, product.record["group_id"]
        style = styles.setdefault(name, StyleAttributes(name, seed))
        market, garment = style.market, style.dress(product.garment)
        full, price, ideal = (
            price_point(amount * market.rate)
            for amount in (record["full_price"], record["price"], product.rule_price)
        )
        local = {
            "country_code": market.country,
            "currency_code": market.currency,
            "full_price": full,
            "price": price,
            "flg_discount": int(price < full),
        }
        visible = visible_attributes(garment, market, ideal) | {"title": visible_title(garment)}
        dressed.append(
            replace(
                product,
                garment=garment,
                record=record | local | style.cells(garment, full),
                rule_price=ideal,
                market=market,
                visible=visible,
            )
        )
    return dressed


def title(garment: Garment, rng: random.Random) -> str:
    """Word a title: some bear the name of a line, which no image shows."""
    line = f"{rng.choice(_LINES)} " if rng.random() < _LINE_NAME_FRACTION else ""
    return line + visible_title(garment)


def visible_title(garment: Garment) -> str:
    """Word a title from the visible facts except the colour: all colours of a style share it.

    Input:  a long trench coat of leather with fur
    Output: "Long Shearling-trim Calfskin Trench Coat"
    """
    words = [
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
    """Yield styles of a kind, each a list of its colours, until there are `count` drawing."""
    most = max(1, count // _MIN_PER_KIND)  # so that there are enough styles for all splits
    held_out = max(1, round(count * _HELD_OUT))
    places = {"test": held_out, "validation": held_out, "train": count - 2 * held_out}
    for split, left in places.items():
        while left:
            garment = drawing.random_garment(rng, kind)
            colours = min(rng.choices(*_COLOURS_PER_STYLE)[0], most, left)
            dyes = rng.sample(drawing.CHOICES[kind].colours, colours)
            yield [replace(garment, colour=d, rgb=drawing.random_dye(rng, d)) for d in dyes], split
            left -= colours


def _style(
    colours: Sequence[Garment], split: str, number: int, rng: random.Random
) -> Iterator[CatalogProduct]:
    """Yield the products of one style: one title, one full price, one group."""
    ideal = rule_price(colours[0])
    full_price = price_point(ideal * math.exp(PRICE_NOISE * rng.gauss(0, 1)))
    name = title(colours[0], rng)
    slug = name.lower().replace(" ", "-").replace("é", "e")
    kind = RANGES[colours[0].kind]
    audience = rng.choice(kind.audiences.split())
    for code, garment in enumerate(colours, start=80_000_000 + 10 * number):
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
