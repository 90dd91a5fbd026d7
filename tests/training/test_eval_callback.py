"""Evaluation during training: predictions are scored, images shuffled, the best weights kept."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from phi_vision.data.dataset import load_samples
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES, Template
from phi_vision.model.checkpoint import load_model
from phi_vision.training.adapters import TrainableModel, load_trainable, save_model
from phi_vision.training.eval_callback import choose_samples, generate_texts
from phi_vision.training.recipes import Recipe
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]


def test_each_evaluation_is_logged_with_shuffled_images(
    make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe("full", max_steps=2, eval_steps=1, eval_samples=4)
    with caplog.at_level(logging.WARNING):
        train(recipe)
    lines = [
        json.loads(line) for line in (recipe.output_dir / "log.jsonl").read_text().splitlines()
    ]
    evaluations = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in evaluations] == [1, 2]
    for line in evaluations:
        assert line["model"].keys() == line["shuffled"].keys() >= {"parse_rate", "full_price_mae"}
        # A model this young predicts nothing that parses, which is no evidence.
        assert line["uses_image"] is None
        assert "0 of 4 samples have predictions that parse" in line["shuffled_image_check"]
    assert "SHUFFLED-IMAGE CHECK at step 1" in caplog.text


def test_the_worse_model_is_not_kept(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Path] = []
    monkeypatch.setattr(
        "phi_vision.training.eval_callback.save_model", lambda *a: saved.append(a[-1])
    )
    recipe = make_recipe("full", max_steps=6, eval_steps=1, learning_rate=0.3, warmup_steps=0.0)
    train(recipe)
    lines = [
        json.loads(line) for line in (recipe.output_dir / "log.jsonl").read_text().splitlines()
    ]
    losses = [line["validation_loss"] for line in lines if "is_best" in line]
    kept = [line["is_best"] for line in lines if "is_best" in line]
    assert kept == [loss < min([*losses[:at], float("inf")]) for at, loss in enumerate(losses)]
    assert len(saved) == sum(kept) < len(kept)


def best_of(out: Path, metric: str) -> list[tuple[bool, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["is_best"], line["model"][metric]) for line in lines if "is_best" in line]


def test_the_best_weights_can_be_chosen_by_a_metric_of_the_answers(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are dictated: a model this young gives none that could be read."""
    right = iter([1, 3, 2])  # of the panel of four; all are right about shuffled images

    def dictate(
        _: TrainableModel, template: Template, samples: list[Sample], **__: int
    ) -> list[str]:
        texts = [template.render(sample.record) for sample in samples]
        half = len(texts) // 2
        count = next(right)
        return [*texts[:count], *["?"] * (half - count), *texts[half:]]

    monkeypatch.setattr("phi_vision.training.eval_callback.generate_texts", dictate)
    recipe = make_recipe(
        "full", max_steps=3, eval_steps=1, eval_samples=4, metric_for_best_model="title_exact"
    )
    run = train(recipe)
    assert best_of(run.folder, "title_exact") == [(True, 0.25), (True, 0.75), (False, 0.5)]
    assert run.best == 0.75


def test_a_metric_of_an_absent_field_selects_no_checkpoint(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    wording = tmp_path / "template.yaml"
    wording.write_text("question: What is it?\nanswer: 'Product: {title}'\n")
    recipe = replace(
        make_recipe("lora", eval_samples=2, template=str(wording)),
        metric_for_best_model="full_price_mae",
    )
    with pytest.raises(ValueError, match="full_price_mae, but predictions"):
        train(recipe)


def test_a_run_that_gets_no_better_is_stopped_and_stays_so(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        "full",
        num_train_epochs=20.0,
        eval_steps=1,
        learning_rate=0.3,
        warmup_steps=0.0,
        early_stopping_patience=2,
        save_steps=40,
    )
    run = train(recipe)
    lines = [
        json.loads(line) for line in (recipe.output_dir / "log.jsonl").read_text().splitlines()
    ]
    is_best = [line["is_best"] for line in lines if "is_best" in line]
    assert run.steps == len(is_best) < 40
    assert is_best[-3:] == [True, False, False]
    assert train(recipe, resume=True) == run


def test_answers_come_in_the_order_of_the_samples(make_recipe: MakeRecipe, products: Path) -> None:
    recipe = make_recipe("lora", per_device_train_batch_size=1)
    trainable = load_trainable(recipe)
    samples = load_samples(products)[:3]
    template = TEMPLATES["product"]
    answers = generate_texts(trainable, template, samples, batch_size=2)
    assert answers == [
        generate_texts(trainable, template, [sample], batch_size=1)[0] for sample in samples
    ]


def test_a_save_that_fails_leaves_the_former_weights(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("lora")
    trainable = load_trainable(recipe)
    save_model(trainable, tmp_path / "model")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(type(trainable.processor), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(trainable, tmp_path / "model")
    monkeypatch.undo()
    load_model(tmp_path / "model")
    save_model(trainable, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir() if "model" in path.name] == ["model"]


@pytest.mark.parametrize(("count", "chosen"), [(3, "ace"), (9, "abcdef"), (0, "")])
def test_examined_samples_are_spread_over_all(count: int, chosen: str) -> None:
    samples = [Sample(id=name, group=name, images=(), record={}) for name in "abcdef"]
    assert "".join(sample.id for sample in choose_samples(samples, count)) == chosen
