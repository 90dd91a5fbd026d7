"""Datasets, templates and runs as the first version wrote them still train, resume and predict."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from toy_products import product_rows

from phi_vision.cli.main import main
from phi_vision.data.dataset import load_samples
from phi_vision.data.template import find_template
from phi_vision.inference.local import LocalPredictor
from phi_vision.model.checkpoint import load_processor
from phi_vision.runs import RunDir
from phi_vision.training.recipes import load_recipe
from phi_vision.training.trainer import train

TEMPLATE = """\
name: shop
question: What is it?
answer: 'It is {title}, of {category3_code:category}, for {full_price:number}'
layout: chat
"""
LATER = (
    *("streaming", "projector_start", "augmentation", "feature_noise", "image_token_dropout"),
    "num_crops",
)
"""Fields that the recipe of the first version did not have."""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Parquet without the types of the `datasets` library, beside a template without `missing`."""
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    rows = product_rows(20)
    for split, part in {"train": rows[:12], "validation": rows[12:16], "test": rows[16:]}.items():
        table = pa.Table.from_pylist(part).replace_schema_metadata(None)
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "template.yaml").write_text(TEMPLATE, encoding="utf-8")
    return folder


def test_they_still_train_resume_predict_and_are_scored(
    dataset: Path, make_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"validation_fraction": None, "data": str(dataset), "max_steps": 2, "save_steps": 1}
    run = RunDir(train(make_recipe("lora", **given)).folder)
    assert yaml.safe_load(run.template_file.read_text()) == yaml.safe_load(TEMPLATE)
    assert find_template(str(run.path)).optional == ()
    recipe = yaml.safe_load(run.recipe_file.read_text())
    first = {name: value for name, value in recipe.items() if name not in LATER}
    assert len(first) == len(recipe) - len(LATER)
    run.recipe_file.write_text(yaml.safe_dump(first, sort_keys=False))
    versions = json.loads(run.versions_file.read_text())
    run.versions_file.write_text(json.dumps({k: v for k, v in versions.items() if k != "threads"}))
    shutil.rmtree(run.checkpoints()[-1])
    assert train(load_recipe(run.recipe_file), resume=True).steps == 2
    assert load_processor(run.path).image_processor.num_crops == 1
    (prediction,) = LocalPredictor(run.path).predict_samples(
        load_samples(dataset, split="test")[:1]
    )
    assert isinstance(prediction[1].text, str)
    options = ["--data", str(dataset), "--limit", "4", "--out", str(tmp_path / "report")]
    skip = ["--skip", "boosting", "nearest", "probe", "base", "leakage", "blank", "withheld"]
    assert main(["evaluate", str(run.path), *options, *skip]) == 0
    assert "title" in capsys.readouterr().out
    kept = yaml.safe_load((tmp_path / "report" / "template.yaml").read_text())
    assert kept == yaml.safe_load(TEMPLATE)
