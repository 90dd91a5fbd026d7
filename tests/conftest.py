"""What several rooms' tests share: a tiny random checkpoint, drawn products, and no network."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_products import product_rows

from phi_vision.training.recipes import RECIPES, Recipe

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ["PHI_VISION_CACHE"] = tempfile.mkdtemp(prefix="phi-vision-cache-")

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few hundred thousand random weights in the official layout."""
    from pretraining.tiny import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


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
            output_dir=tmp_path / "run",
            validation_fraction=0.2,
            learning_rate=3e-3,
            per_device_train_batch_size=8,
            eval_samples=0,
            bf16=False,
            report_to="none",
        )
        return replace(quick, **changes)  # type: ignore[arg-type]

    return make
