"""Draws the sample catalog: an invented brand's products, images and records, from a seed.

The records follow from the images by the rules of `products.py`, plus noise of known size, so the
best score that any model can reach is known; it is written beside the data.
Run it with `phi-vision sample --out DIR`.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined

from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.synthetic.products import PRICE_NOISE, SPLITS, CatalogProduct, plan_catalog
from phi_vision.synthetic.render.drawing import draw, encode, random_scene
from phi_vision.synthetic.render.garment import Garment

Progress = Callable[[int, int], None]

VERSION = 1
_MIN_PARALLEL = 150  # images; below this, starting processes takes longer than drawing


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """Size of a split, and the best and the simplest prediction of its prices."""

    rows: int
    styles: int  # groups of products that share a title and a price
    floor_median_ape: float  # median relative error of the noiseless price, the best achievable
    floor_mae: float  # its mean absolute error, in pounds
    baseline_median_ape: float  # median relative error of always predicting the training median


@dataclass(frozen=True, kw_only=True)
class CatalogFacts:
    """The known properties of a sample catalog, as in facts.json."""

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

    Writes OUT/data/{train,validation,test}-00000-of-00001.parquet, OUT/facts.json, OUT/README.md
    atomically; the same rows and seed give the same bytes. Larger catalogs are drawn by one
    process a core, so a script that calls this at its top level needs the usual
    `if __name__ == "__main__":`.

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
    with atomic_folder(out) as folder:
        facts = _facts(products, seed)
        (folder / "data").mkdir()
        with parallel_map(rows) as run:
            codes = (f"{seed} {product.record['product_code']}" for product in products)
            images = run(_draw_product, (product.garment for product in products), codes)
            _write_splits(folder / "data", products, images, progress)
        text = json.dumps(asdict(facts), indent=2, ensure_ascii=False)
        (folder / "facts.json").write_text(text + "\n", encoding="utf-8")
        card = render("catalog_card.md.j2", **asdict(facts))
        (folder / "README.md").write_text(card, encoding="utf-8")
    return facts


def render(template: str, **values: object) -> str:
    """Render a template of this package."""
    environment = Environment(
        loader=PackageLoader("phi_vision.synthetic"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(template).render(values)


@contextmanager
def parallel_map(images: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` that uses one process a core where there are enough images for it."""
    workers = os.cpu_count() or 1
    if workers == 1 or images < _MIN_PARALLEL:
        yield map
        return
    # Spawned, not forked: the caller may hold threads and locks (progress bars, torch).
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield partial(pool.map, chunksize=8)


def add_features(schema: pa.Schema, images: Sequence[str]) -> pa.Schema:
    """Describe the columns as the `datasets` library does, so that it decodes the images.

    A schema with a type that this table lacks stays as it is: `datasets` infers its features.
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


def _draw_product(garment: Garment, seed: str) -> bytes:
    # Each image from its own seed, so that the order of drawing does not matter.
    scene = random_scene(random.Random(seed))
    return encode(draw(garment, scene), scene)


def _write_splits(
    folder: Path,
    products: Sequence[CatalogProduct],
    images: Iterable[bytes],
    progress: Progress | None,
) -> None:
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for done, (product, image) in enumerate(zip(products, images, strict=True), 1):
        path = f"{product.record['product_code']}.jpg"
        rows[product.split].append({**product.record, "image": {"bytes": image, "path": path}})
        if progress:
            progress(done, len(products))
    for split, members in rows.items():
        table = pa.Table.from_pylist(members, schema=_SCHEMA)
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet", row_group_size=100)


def _facts(products: Sequence[CatalogProduct], seed: int) -> CatalogFacts:
    categories = Counter(str(product.record["category3_code"]) for product in products)
    usual = median(_full_price(product) for product in products if product.split == "train")
    splits = {
        split: _split_facts([product for product in products if product.split == split], usual)
        for split in SPLITS
    }
    return CatalogFacts(
        version=VERSION,
        seed=seed,
        rows=len(products),
        styles=sum(facts.styles for facts in splits.values()),
        categories=dict(sorted(categories.items())),
        price_noise=PRICE_NOISE,
        category_ceiling=1.0,
        splits=splits,
    )


def _split_facts(products: Sequence[CatalogProduct], usual: float) -> SplitFacts:
    prices = [_full_price(product) for product in products]
    errors = [abs(product.rule_price - _full_price(product)) for product in products]
    return SplitFacts(
        rows=len(products),
        styles=len({product.record["group_id"] for product in products}),
        floor_median_ape=round(median(e / p for e, p in zip(errors, prices, strict=True)), 6),
        floor_mae=round(fmean(errors), 4),
        baseline_median_ape=round(median(abs(usual - price) / price for price in prices), 6),
    )


def _full_price(product: CatalogProduct) -> float:
    return float(product.record["full_price"])


_DTYPES = {
    **{name: name for name in ("bool", "string", "large_string", "int8", "int16", "int32")},
    **{"int64": "int64", "uint8": "uint8"},
    **{"float": "float32", "double": "float64", "halffloat": "float16"},
}
"""Arrow's names of types -> those of the `datasets` library."""

_NUMBERS = {"product_code": pa.int64(), "flg_discount": pa.int64()}
_NUMBERS |= dict.fromkeys(("full_price", "price", "full_price_eur", "price_eur"), pa.float64())
_COLUMNS = (
    *("website_name", "competence_date", "country_code", "currency_code", "brand"),
    *("category1_code", "category2_code", "category3_code", "product_code", "title"),
    *("itemurl", "imageurl", "full_price", "price", "full_price_eur", "price_eur"),
    *("flg_discount", "colour", "group_id"),
)
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SCHEMA = add_features(
    pa.schema([*((name, _NUMBERS.get(name, pa.string())) for name in _COLUMNS), ("image", _IMAGE)]),
    images=["image"],
)
