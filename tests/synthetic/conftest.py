"""A toy shop to sample from: 120 rows in 60 styles, small images of noise."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

RARE_NAMES = ("Abelone", "Brunhild", "Cosima", "Dorothea", "Eulalia", "Friderike")
STYLES = {"Coats": 24, "Tees": 20, "Scarves": 13, "Falconry": 3}
DEPARTMENTS = {"Coats": "Wear", "Tees": "Wear", "Scarves": "Extras", "Falconry": "Extras"}
NOUNS = {"Coats": "Wool Coat", "Tees": "Tee", "Scarves": "Silk Scarf", "Falconry": "Hood"}
PRICES = {"Coats": 400, "Tees": 30, "Scarves": 90, "Falconry": 700}
SPLITS = {"train": 40, "validation": 50, "test": 60}
"""Number of the style where each split ends."""


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset's folder. Falconry has three styles only, so no output may name it."""
    folder = tmp_path_factory.mktemp("shops") / "shop"
    write_shop(folder)
    return folder


def write_shop(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    categories = [name for name, count in STYLES.items() for _ in range(count)]
    # 7 has no factor in common with 60: every split gets some of everything.
    styles = [(7 * number) % 60 for number in range(60)]
    start = 0
    for split, end in SPLITS.items():
        rows = [row for s in styles[start:end] for row in _style(s, categories[s])]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
        start = end


def _style(number: int, category: str) -> list[dict[str, object]]:
    name = f"{RARE_NAMES[number % 6]}{'xyzvwqkjhf'[number // 6]} {NOUNS[category]}"
    price = float(PRICES[category] + 10 * (number % 7) + 9)
    return [_row(number, colour, category, name, price) for colour in ("Red", "Navy")]


def _row(number: int, colour: str, category: str, name: str, price: float) -> dict[str, object]:
    code = 7_700_000 + 37 * number + len(colour)
    is_sale = number % 5 == 0
    return {
        "group_id": f"S-{1000 + 13 * number}",
        "title": name,
        "department_code": DEPARTMENTS[category],
        "category_code": category,
        "colour": colour,
        "product_code": code,
        "itemurl": f"https://www.realshop.com/{name.lower().replace(' ', '-')}/{code}.html",
        "full_price": price,
        "price": price - 20 if is_sale else price,
        "on_sale": is_sale,
        "is_vegan": number == 3,
        "season": None if number % 4 == 0 else "Winter",
        "tags": ["a", "b"],
        "image": {"bytes": _image(number, colour), "path": f"{code}.jpg"},
    }


def _image(number: int, colour: str) -> bytes:
    levels = np.random.default_rng([number, len(colour)]).integers(
        0, 255, (6, 4, 3), dtype=np.uint8
    )
    file = io.BytesIO()
    Image.fromarray(levels).resize((96, 128), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("group_id", "title", "department_code")),
        *((name, pa.string()) for name in ("category_code", "colour")),
        ("product_code", pa.int64()),
        ("itemurl", pa.string()),
        *((name, pa.float64()) for name in ("full_price", "price")),
        ("on_sale", pa.bool_()),
        ("is_vegan", pa.bool_()),
        ("season", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ]
)
