"""Small catalogs on disk with images that are all different, and what became of them."""

import csv
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from phi_vision.data.dataset import available_splits, load_samples
from phi_vision.prepare.pipeline import Prepared, prepare
from phi_vision.prepare.prepare_config import PrepareConfig

CATEGORIES = ("Coats", "Tees", "Scarves")


def image(seed: int, side: int = 32, kind: str = "PNG") -> bytes:
    """Draw an 8x8 pattern of random colours: no two seeds look alike."""
    colours = random.Random(f"image {seed}").randbytes(8 * 8 * 3)
    small = Image.frombytes("RGB", (8, 8), colours)
    file = io.BytesIO()
    small.resize((side, side), Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


def product(number: int, **changed: str) -> dict[str, str]:
    """Write the row of a product of its own."""
    return {
        "sku": f"S{number}",
        "title": f"Product {number}",
        "category": CATEGORIES[number % len(CATEGORIES)],
        "price": f"{number + 1}.50",
        "photo": f"images/{number}.png",
    } | changed


def products(count: int) -> list[dict[str, str]]:
    return [product(number) for number in range(count)]


def write_shop(folder: Path, rows: Sequence[Mapping[str, str]]) -> str:
    """Write products.csv with an image for each row, and name it."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "products.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
    for row in rows:
        number = Path(row["photo"]).stem
        if number.isdigit():
            (folder / "images" / f"{number}.png").write_bytes(image(int(number)))
    return str(folder / "products.csv")


def run(source: str | Path, out: Path, **options: Any) -> Prepared:
    """Prepare in this process."""
    return prepare(str(source), PrepareConfig(**{"out": out, "workers": 0, **options}))


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    """Read all samples as they stand in the files: id -> columns, with their split."""
    return {
        row["id"]: row | {"split": file.name.split("-")[0]}
        for file in sorted((out / "data").glob("*.parquet"))
        for row in pq.read_table(file).to_pylist()
    }


def rejected_of(out: Path) -> dict[int, dict[str, Any]]:
    """Read the rejected rows: number of the row -> columns."""
    return {row["row"]: row for row in pq.read_table(out / "rejected.parquet").to_pylist()}


def splits_of(out: Path) -> dict[str, str]:
    """Read where each sample is: id -> split."""
    return {
        sample.id: split
        for split in available_splits(out)
        for sample in load_samples(out, split=split)
    }


def tree(folder: Path) -> dict[str, bytes]:
    """Read a whole folder: name -> bytes."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in sorted(folder.rglob("*"))}
