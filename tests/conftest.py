"""What several rooms' tests share: a tiny random checkpoint, drawn products, and no network."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from phi_vision.train.recipes import RECIPES, Recipe

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

COLORS = {"red": 100.0, "green": 250.0, "blue": 390.0, "black": 45.5}
SHAPES = ("HATS", "BAGS")
MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few hundred thousand random weights in the official layout."""
    from phi_vision.model.tiny import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


def draw_product(color: str, shape: str, size: tuple[int, int]) -> bytes:
    picture = Image.new("RGB", size, "white")
    box = (8, 8, size[0] - 8, size[1] - 8)
    draw = ImageDraw.Draw(picture)
    (draw.ellipse if shape == "HATS" else draw.rectangle)(box, fill=color)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def product_rows(count: int) -> list[dict[str, object]]:
    """Products in groups of two; every fourth picture stands upright."""
    rows: list[dict[str, object]] = []
    for number in range(count):
        color, price = list(COLORS.items())[number % len(COLORS)]
        shape = SHAPES[number // len(COLORS) % len(SHAPES)]
        size = (40, 60) if number % 4 == 3 else (60, 40 + number)
        rows.append(
            {
                "image": {"bytes": draw_product(color, shape, size), "path": None},
                "id": f"p{number}",
                "group_id": f"g{number // 2}",
                "title": f"{color} {shape.lower()}" + " long" * (number % 3),
                "category3_code": shape,
                "full_price": price,
            }
        )
    return rows


@pytest.fixture
def rows() -> list[dict[str, object]]:
    """Twelve products as rows of a Parquet file."""
    return product_rows(12)


@pytest.fixture(scope="session")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 drawn products without a validation split."""
    folder = tmp_path_factory.mktemp("products")
    pq.write_table(pa.Table.from_pylist(product_rows(20)), folder / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture
def make_recipe(tiny_checkpoint: Path, products: Path, tmp_path: Path) -> MakeRecipe:
    """Make a quick recipe: `make_recipe("lora", max_steps=3)`."""

    def make(method: str, **changes: object) -> Recipe:
        quick = replace(
            RECIPES[method](),
            model=str(tiny_checkpoint),
            data=str(products),
            out=tmp_path / "run",
            validation_fraction=0.2,
            learning_rate=3e-3,
            batch_size=8,
            eval_samples=0,
            precision="fp32",
            tracker="none",
        )
        return replace(quick, **changes)  # type: ignore[arg-type]

    return make
