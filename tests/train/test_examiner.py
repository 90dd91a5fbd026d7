"""Evaluation in the loop: answers are written and judged, the canary sings, the best is kept."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from phi_vision.data.loading import load_samples
from phi_vision.data.sample import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.model.checkpoint import load_model
from phi_vision.train.examiner import choose, write_answers
from phi_vision.train.learner import make_learner, save_model
from phi_vision.train.recipes import Recipe
from phi_vision.train.trainer import train

MakeRecipe = Callable[..., Recipe]


def test_each_evaluation_is_logged_with_shuffled_pictures(
    make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe("full", max_steps=2, eval_every=1, eval_samples=4)
    with caplog.at_level(logging.WARNING):
        train(recipe)
    lines = [json.loads(line) for line in (recipe.out / "log.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in evaluations] == [1, 2]
    for line in evaluations:
        assert line["model"].keys() == line["shuffled"].keys() >= {"parse_rate", "price_mae"}
        # A model this young says nothing that could depend on the picture.
        assert line["looks"] is False
    assert "CANARY at step 1" in caplog.text


def test_the_worse_model_is_not_kept(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Path] = []
    monkeypatch.setattr("phi_vision.train.examiner.save_model", lambda *a: saved.append(a[-1]))
    recipe = make_recipe("full", max_steps=6, eval_every=1, learning_rate=0.3, warmup_fraction=0.0)
    train(recipe)
    lines = [json.loads(line) for line in (recipe.out / "log.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "is_best" in line]
    kept = [line["is_best"] for line in lines if "is_best" in line]
    assert kept == [loss < min([*losses[:at], float("inf")]) for at, loss in enumerate(losses)]
    assert len(saved) == sum(kept) < len(kept)


def test_answers_come_in_the_order_of_the_samples(make_recipe: MakeRecipe, products: Path) -> None:
    recipe = make_recipe("lora", batch_size=1)
    learner = make_learner(recipe)
    samples = load_samples(products)[:3]
    template = TEMPLATES["product"]
    answers = write_answers(learner, template, samples, batch_size=2)
    assert answers == [
        write_answers(learner, template, [sample], batch_size=1)[0] for sample in samples
    ]


def test_a_save_that_fails_leaves_the_former_weights(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("lora")
    learner = make_learner(recipe)
    save_model(learner, recipe, tmp_path / "model")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(type(learner.processor), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(learner, recipe, tmp_path / "model")
    monkeypatch.undo()
    load_model(tmp_path / "model")
    save_model(learner, recipe, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir() if "model" in path.name] == ["model"]


@pytest.mark.parametrize(("count", "chosen"), [(3, "ace"), (9, "abcdef"), (0, "")])
def test_examined_samples_are_spread_over_all(count: int, chosen: str) -> None:
    samples = [Sample(id=name, group=name, images=(), record={}) for name in "abcdef"]
    assert "".join(sample.id for sample in choose(samples, count)) == chosen
