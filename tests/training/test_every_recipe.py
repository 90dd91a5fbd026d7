"""Every recipe trains the small checkpoint, names what it trains, and leaves a model that loads."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from phi_vision.model.checkpoint import SMALL, load_model
from phi_vision.prepare.preference_pairs import write_pairs
from phi_vision.training.recipes import RECIPES
from phi_vision.training.trainer import train


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_the_small_checkpoint(
    name: str, products: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = products
    if name == "dpo":
        write_pairs(products, tmp_path / "pairs", template="product")
        data = tmp_path / "pairs"
    recipe = replace(
        RECIPES[name](),
        model=SMALL,
        data=str(data),
        output_dir=tmp_path / "run",
        validation_fraction=0.1,
        max_steps=2,
        warmup_steps=0.0,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        eval_samples=2,
        eval_steps=2,
        report_to="none",
    )
    with caplog.at_level(logging.INFO):
        run = train(recipe)
    assert "model.layers.*.mlp.down_proj" in caplog.text
    assert " weights (" in caplog.text
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == run.steps == 2
    assert all(0 < loss < 12 for loss in losses)
    evaluation = lines[-1]
    assert evaluation["validation_loss"] == pytest.approx(run.best)
    assert {"model", "shuffled"} <= evaluation.keys()
    load_model(run.folder)
