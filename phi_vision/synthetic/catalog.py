"""Draws the sample catalog: a fashion house's products, images and records, from a seed.

The records follow from the images by the rules of `house.py`, plus noise of known size, so the
best score that any reader of the images can reach is known; it is written beside the data.
Run it with `phi-vision sample --out DIR`.
"""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.synthetic.products import PRICE_NOISE, SPLITS, Product, plan_catalog
from phi_vision.synthetic.render.drawing import draw, encode, random_scene
from phi_vision.synthetic.render.garment import Garment

Progress = Callable[[int, int], None]

VERSION = 1
_WORTH_WORKERS = 150  # images; below this, starting processes takes longer than drawing


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """Size of a split, and the best and the laziest reading of its prices.

    Attributes:
        rows: products.
        styles: groups of products that share a title and a price.
        floor_median_ape: median relative error of the noiseless price, the best to be expected.
        floor_mae: mean absolute error of the noiseless price, in pounds.
        baseline_median_ape: median relative error of always answering the training median.
    """

    rows: int
    styles: int
    floor_median_ape: float
    floor_mae: float
    baseline_median_ape: float


@dataclass(frozen=True, kw_only=True)
class CatalogFacts:
    """What is known of a sample catalog: written to facts.json beside it."""

    version: int
    seed: int
    rows: int
    styles: int
    categories: dict[str, int]
    price_noise: float
    category_ceiling: float
    splits: dict[str, SplitFacts]


def write_catalog(
    out: Path, *, rows: int, seed: int, progress: Progress | None = None
) -> CatalogFacts:
    """Draw a catalog and write it as Parquet, with its facts and a data card.

    Writes OUT/data/{train,validation,test}-00000-of-00001.parquet, OUT/facts.json, OUT/README.md;
    the same rows and seed give the same bytes. OUT appears complete or not at all. Larger
    catalogs are drawn by one process for each core, so a script that calls this at its top level
    needs the usual `if __name__ == "__main__":`.

    Args:
        out: a folder that does not exist yet, or is empty.
        rows: how many products. Below about a hundred, only the most frequent kinds appear.
        seed: of everything.
        progress: called with (done, total) after each image.

    Raises:
        ValueError: `rows` is too small, or `out` is in use.
    """
    check_folder_is_free(out)
    products = plan_catalog(rows, seed)
    with atomic_folder(out) as unfinished:
        facts = _facts(products, seed)
        _write_splits(unfinished / "data", products, seed, progress)
        text = json.dumps(asdict(facts), indent=2, ensure_ascii=False)
        (unfinished / "facts.json").write_text(text + "\n", encoding="utf-8")
        (unfinished / "README.md").write_text(_card(facts), encoding="utf-8")
    return facts


def _facts(products: Sequence[Product], seed: int) -> CatalogFacts:
    categories = sorted(str(product.record["category3_code"]) for product in products)
    training = [_full_price(product) for product in products if product.split == "train"]
    splits = {
        split: _split_facts([p for p in products if p.split == split], median(training))
        for split in SPLITS
    }
    return CatalogFacts(
        version=VERSION,
        seed=seed,
        rows=len(products),
        styles=sum(facts.styles for facts in splits.values()),
        categories={category: categories.count(category) for category in dict.fromkeys(categories)},
        price_noise=PRICE_NOISE,
        category_ceiling=1.0,
        splits=splits,
    )


def _split_facts(products: Sequence[Product], usual: float) -> SplitFacts:
    prices = [_full_price(product) for product in products]
    errors = [abs(product.rule_price - _full_price(product)) for product in products]
    return SplitFacts(
        rows=len(products),
        styles=len({product.record["group_id"] for product in products}),
        floor_median_ape=round(median(e / p for e, p in zip(errors, prices, strict=True)), 6),
        floor_mae=round(fmean(errors), 4),
        baseline_median_ape=round(median(abs(usual - price) / price for price in prices), 6),
    )


def _full_price(product: Product) -> float:
    return float(product.record["full_price"])


def _write_splits(
    folder: Path, products: Sequence[Product], seed: int, progress: Progress | None
) -> None:
    folder.mkdir()
    images = _images(products, seed)
    done = 0
    for split in SPLITS:
        members = [product for product in products if product.split == split]
        rows = []
        for product in members:
            code = product.record["product_code"]
            image = {"bytes": next(images), "path": f"{code}.jpg"}
            rows.append({**product.record, "image": image})
            done += 1
            if progress:
                progress(done, len(products))
        table = pa.Table.from_pylist(rows, schema=_SCHEMA)
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet", row_group_size=100)


def _images(products: Sequence[Product], seed: int) -> Iterator[bytes]:
    garments = [product.garment for product in products]
    seeds = [f"{seed} {product.record['product_code']}" for product in products]
    workers = os.cpu_count() or 1
    if workers == 1 or len(products) < _WORTH_WORKERS:
        yield from map(_photograph, garments, seeds)
        return
    # Spawned, not forked: the caller may hold threads and locks (progress bars, torch).
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_photograph, garments, seeds, chunksize=8)


def _photograph(garment: Garment, seed: str) -> bytes:
    # Each image from its own seed, so that the order of drawing does not matter.
    scene = random_scene(random.Random(seed))
    return encode(draw(garment, scene), scene)


def _card(facts: CatalogFacts) -> str:
    sizes = "\n".join(
        f"| {name} | {split.rows} | {split.styles} | {split.floor_median_ape:.3f} "
        f"| {split.baseline_median_ape:.3f} |"
        for name, split in facts.splits.items()
    )
    return _CARD.format(facts=facts, sizes=sizes, categories=len(facts.categories))


_CARD = """---
configs:
- config_name: default
  data_files:
  - {{split: train, path: data/train-*}}
  - {{split: validation, path: data/validation-*}}
  - {{split: test, path: data/test-*}}
---

# Sample catalog

{facts.rows} drawn products in {facts.styles} styles and {categories} categories of an invented
fashion house (version {facts.version}, seed {facts.seed}). No real brand, product or price is
in it.

- Colours of one style share `title`, `full_price` and `group_id`, and stand in one split.
- `category3_code` follows from the image without error; it is never `N.A.`, as no image could
  tell such a row from its neighbours.
- `full_price` follows from the image (kind, material, pattern, trim, hardware, length, hood)
  times log-normal noise of {facts.price_noise} drawn for each style, rounded to a price point.
- Titles follow from the image, save a line name in front of about one in eight.

| split | rows | styles | best reachable median price error | always the median price |
|---|---|---|---|---|
{sizes}

`facts.json` holds these figures and the size of each category.
Made by `phi-vision sample --rows {facts.rows} --seed {facts.seed}`, which writes the same bytes
again.
"""

_WHOLE = ("product_code", "flg_discount")
_MONEY = ("full_price", "price", "full_price_eur", "price_eur")
_COLUMNS = (
    *("website_name", "competence_date", "country_code", "currency_code", "brand"),
    *("category1_code", "category2_code", "category3_code", "product_code", "title"),
    *("itemurl", "imageurl", "full_price", "price", "full_price_eur", "price_eur"),
    *("flg_discount", "colour", "group_id"),
)
_DTYPES = {
    name: "int64" if name in _WHOLE else "float64" if name in _MONEY else "string"
    for name in _COLUMNS
}
# The feature types as the `datasets` library notes them, so that it decodes the images.
_FEATURES = {name: {"dtype": dtype, "_type": "Value"} for name, dtype in _DTYPES.items()}
_SCHEMA = pa.schema(
    [
        *(
            (name, {"int64": pa.int64(), "float64": pa.float64()}.get(dtype, pa.string()))
            for name, dtype in _DTYPES.items()
        ),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ],
    metadata={
        "huggingface": json.dumps(
            {"info": {"features": {**_FEATURES, "image": {"_type": "Image"}}}}
        )
    },
)
