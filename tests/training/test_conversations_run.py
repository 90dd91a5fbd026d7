"""Conversations from training to evaluation and prediction, with a tiny model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_products import product_rows

from phi_vision.evaluation.config import EvaluationConfig
from phi_vision.evaluation.evaluator import run_evaluation
from phi_vision.inference import local
from phi_vision.inference.predictor import load_predictor
from phi_vision.training import setup
from phi_vision.training.recipes import Recipe
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]

SKIPPED = ("base", "blank", "boosting", "leakage", "nearest", "withheld")


def chats(*, images: bool = True) -> list[dict[str, object]]:
    return [
        {
            "id": str(place),
            "images": [row["image"]] if images else [],
            "messages": [
                {"role": "user", "content": ("<image>" if images else "") + "What is it?"},
                {"role": "assistant", "content": f"A coat, number {place}."},
            ],
        }
        for place, row in enumerate(product_rows(8))
    ]


def lay(folder: Path, **splits: list[dict[str, object]]) -> Path:
    folder.mkdir()
    for name, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("images", [True, False])
def test_conversations_train_are_evaluated_and_predict_with_their_own_prompt(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: bool
) -> None:
    for module in (setup, local):
        monkeypatch.setattr(module, "MAX_TURN_TOKENS", 4)
    rows = chats(images=images)
    data = lay(tmp_path / "chats", train=rows[:6], test=rows[6:])
    run = train(make_recipe("lora", data=str(data), max_steps=1, eval_samples=2))
    (evaluation,) = [
        line
        for line in map(json.loads, (run.folder / "log.jsonl").read_text().splitlines())
        if "validation_loss" in line
    ]
    assert {"completion_exact", "completion_similarity"} <= evaluation["model"].keys()
    assert ("shuffled" in evaluation) == images
    predictor = load_predictor(str(run.folder))
    assert predictor.template.question == "What is it?"
    config = EvaluationConfig(data=data, skip=SKIPPED)
    outcome = run_evaluation(str(run.model), replace(config, out=tmp_path / "report"))
    assert outcome.scores.template.fields == ("completion",)
    assert ("shuffled" in outcome.scores.estimates) == images


def test_conversations_that_could_not_be_evaluated_are_rejected_before_the_first_step(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    data = lay(tmp_path / "chats", train=chats())
    with pytest.raises(ValueError, match=r"8 of 8 samples, such as .* 'product' \(title, "):
        train(make_recipe("lora", data=str(data), template="product"))
    record = {"title": "Coat", "category3_code": "COATS", "full_price": 390.0}
    records = [{**row, **record, "messages": None} for row in chats()[:4]]
    mixed = lay(tmp_path / "mixed", train=[*records, *chats()])
    with pytest.raises(ValueError, match="train records and conversations apart"):
        train(make_recipe("lora", data=str(mixed), eval_samples=2))
