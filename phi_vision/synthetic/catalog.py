"""Draws the sample catalog: an invented brand's products, images and records, from a seed.

The records follow from the images by the rules of `products.py`, plus noise of known size, so the
best score that any model can reach is known; it is written beside the data.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
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
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_DTYPES = {
    **{name: name for name in ("bool", "string", "large_string", "uint8")},
    **{f"int{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{"float": "float32", "double": "float64", "halffloat": "float16"},
}
"""Arrow's names of types -> those of the `datasets` library."""


def write_catalog(
    out: Path, *, rows: int, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Draw a catalog, write it as Parquet with its facts and a data card, and return the facts.

    Writes OUT/data/{train,validation,test}-00000-of-00001.parquet, OUT/facts.json, OUT/README.md
    atomically; the same rows and seed give the same bytes. Larger catalogs are drawn by one
    process a core, so a script that calls this at its top level needs the usual
    `if __name__ == "__main__":`.

    Args:
        out: A folder that does not exist yet, or is empty.
        rows: How many products. Below about a hundred, only the most frequent kinds appear.
        seed: Of everything.
        progress: Called with (done, total) after each image.
    """
    check_folder_is_free(out)
    products = plan_catalog(rows, seed)
    facts = _measure(products, seed)
    members: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    with atomic_folder(out) as folder:
        with parallel_map(rows) as run:
            seeds = (f"{seed} {product.record['product_code']}" for product in products)
            images = run(_draw_product, (product.garment for product in products), seeds)
            for done, (product, image) in enumerate(zip(products, images, strict=True), start=1):
                cell = {"bytes": image, "path": f"{product.record['product_code']}.jpg"}
                members[product.split].append({**product.record, "image": cell})
                if progress:
                    progress(done, rows)
        columns = [(name, _TYPES[type(value)]) for name, value in products[0].record.items()]
        schema = add_features(pa.schema([*columns, ("image", _IMAGE)]), images=["image"])
        (folder / "data").mkdir()
        for split, records in members.items():
            file = folder / "data" / f"{split}-00000-of-00001.parquet"
            pq.write_table(pa.Table.from_pylist(records, schema=schema), file, row_group_size=100)
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        (folder / "facts.json").write_text(text + "\n", encoding="utf-8")
        render("catalog_card.md.j2", folder / "README.md", **facts)
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
    workers = os.cpu_count() or 1
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


def _draw_product(garment: Garment, seed: str) -> bytes:
    # Each image from its own seed, so that the order of drawing does not matter.
    scene = random_scene(random.Random(seed))
    return encode(draw(garment, scene), scene)


def _measure(products: Sequence[CatalogProduct], seed: int) -> dict[str, Any]:
    """Count the products, and measure the best and the simplest prediction of their prices."""
    usual = median(p.record["full_price"] for p in products if p.split == "train")
    splits = {}
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
