"""Learning to prefer right answers to rejected ones."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from torch import nn

from phi_vision.data.preference_collator import collate_pairs
from phi_vision.model.checkpoint import load_model
from phi_vision.training import dpo as preferences
from phi_vision.training.recipes import Recipe
from phi_vision.training.setup import prepare
from phi_vision.training.trainer import train

LN_2 = math.log(2)
"""The loss while the model is still the one that it is compared with: -log sigmoid(0)."""

MakeRecipe = Callable[..., Recipe]
MakePreferenceRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def pairs(products: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen products, each with an answer that has another category and price."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [
        row | {"rejected": f"Product: {row['title']}, Category: SHOES, Full Price: {number + 7}.0"}
        for number, row in enumerate(pq.read_table(products).to_pylist()[:16])
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture
def make_dpo(make_recipe: MakeRecipe, pairs: Path) -> MakePreferenceRecipe:
    """Make a quick recipe of preferences: `make_dpo(max_steps=3)`, or of another start."""

    def make(method: str = "dpo", **changes: object) -> Recipe:
        dpo = {
            "objective": "dpo",
            "beta": 0.1,
            "data": str(pairs),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 3.0,
        }
        return make_recipe(method, **{**dpo, "save_steps": 100, "eval_steps": 100, **changes})

    return make


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["dpo", "full"])
def test_after_some_steps_the_chosen_answer_is_preferred(make_dpo, method):
    recipe = make_dpo(method, max_steps=6, learning_rate=3e-3)
    train(recipe)
    *steps, evaluation = read_log(recipe.output_dir)
    assert steps[0]["loss"] == pytest.approx(LN_2, abs=1e-6)
    assert steps[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)  # but for rounding
    assert steps[-1]["loss"] < LN_2 - 0.05
    assert steps[-1]["rewards/chosen"] > steps[-1]["rewards/rejected"]
    assert evaluation["validation_loss"] < LN_2
    assert evaluation["rewards/accuracies"] == 1.0
    assert evaluation["rewards/margins"] > 0.1
    assert "num_tokens" not in steps[0]


def test_the_margin_is_that_of_the_model_that_was_kept(make_dpo):
    recipe = make_dpo(max_steps=4)
    run = train(recipe)
    prepared = prepare(replace(recipe, output_dir=recipe.output_dir.with_name("again")))
    batch = collate_pairs(prepared.collator, prepared.validation)
    model, _ = load_model(str(run.model))
    with torch.inference_mode(), model.disable_adapter():
        before = answer_logps(model, batch)
    with torch.inference_mode():
        after = answer_logps(model, batch)
    right, wrong = (after - before).chunk(2)
    rewards = read_log(recipe.output_dir)[-1]
    assert 0.1 * float((right - wrong).mean()) == pytest.approx(
        rewards["rewards/margins"], abs=1e-4
    )


def answer_logps(model: nn.Module, batch: dict) -> torch.Tensor:
    """Log probability of each row's answer, by a forward pass with every image twice."""
    ids, mask = batch["input_ids"], batch["completion_mask"].bool()[:, 1:]
    logits = model(
        input_ids=ids,
        attention_mask=batch["attention_mask"],
        pixel_values=batch["shared_pixel_values"].repeat(2, 1, 1, 1),
        image_sizes=batch["shared_image_sizes"].repeat(2, 1),
    ).logits
    logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (logps * mask).sum(dim=1)


@pytest.mark.parametrize(("trained", "encodings"), [(False, 1), (True, 2)])
def test_images_are_encoded_once_for_both_rows(make_dpo, monkeypatch, trained, encodings):
    recipe = make_dpo(max_steps=1, train_projector=trained)
    prepared = prepare(recipe)
    seen: list[int] = []
    tower = next(
        m for n, m in prepared.trainable.model.named_modules() if n.endswith("img_processor")
    )
    tower.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    trainer = preferences.make_dpo_trainer(
        recipe,
        replace(prepared, validation=[]),
        {"output_dir": str(recipe.output_dir), "report_to": "none", "use_cpu": True, "bf16": False},
        [],
    )
    batch = trainer.data_collator([{"images": place} for place in range(4)])
    loss = trainer.compute_loss(trainer.model, dict(batch))
    # Of one crop, which is the global view as well.
    assert seen == [len(batch["shared_image_sizes"])] * encodings
    assert float(loss.detach()) == pytest.approx(LN_2, abs=1e-6)


def test_fresh_adapters_are_compared_with_the_model_below(make_dpo):
    recipe = make_dpo(max_steps=1)
    run = train(recipe)
    assert not (run.model / "ref").exists()
    assert not list((recipe.output_dir / "checkpoints").glob("*/ref"))


def test_adapters_that_go_on_are_compared_with_what_they_were(make_dpo, make_recipe, tmp_path):
    start = train(
        make_recipe("lora", max_steps=4, lora_dropout=0.0, output_dir=tmp_path / "sft")
    ).model
    recipe = make_dpo(model=str(start), max_steps=2, lora_dropout=0.0)
    run = train(recipe)
    first = read_log(recipe.output_dir)[0]
    assert first["loss"] == pytest.approx(LN_2, abs=1e-6)
    former, latter = (load_model(str(folder))[0] for folder in (start, run.model))
    assert isinstance(latter, PeftModel)
    moved = [
        not torch.equal(weight, former.get_parameter(name))
        for name, weight in latter.named_parameters()
        if "lora" in name
    ]
    assert all(moved)


def test_a_resumed_run_goes_on_as_it_would_have(make_dpo):
    recipe = make_dpo(max_steps=4, save_steps=2, eval_steps=4)
    train(recipe)
    whole = read_log(recipe.output_dir)
    weights = (recipe.output_dir / "model" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(recipe.output_dir / "checkpoints" / "checkpoint-4")
    shutil.rmtree(recipe.output_dir / "model")
    train(recipe, resume=True)
    for before, after in zip(whole, read_log(recipe.output_dir), strict=True):
        same = [name for name in before if "/" in name or "loss" in name]
        assert {name: before[name] for name in same} == {name: after[name] for name in same}
    assert (recipe.output_dir / "model" / "adapter_model.safetensors").read_bytes() == weights


def test_the_models_stop_tokens_stay(make_dpo, tiny_checkpoint):
    run = train(make_dpo("full", max_steps=1))
    for name in ("config.json", "generation_config.json"):
        before, after = (
            json.loads((folder / name).read_text()) for folder in (tiny_checkpoint, run.model)
        )
        for token in ("eos_token_id", "pad_token_id", "bos_token_id"):
            assert after.get(token) == before.get(token), f"{token} of {name}"


def test_samples_without_rejected_answers_are_rejected(make_dpo, products):
    with pytest.raises(
        ValueError, match=r"20 of 20 samples have no rejected completion.*phi-vision pa"
    ):
        train(make_dpo(data=str(products)))


def test_a_pair_that_breaks_the_loss_is_named(make_dpo, monkeypatch):
    recipe = make_dpo(max_steps=4)

    def spoil(*arguments: object) -> dict:
        batch = collate_pairs(*arguments)
        if "p5" in batch["sample_ids"]:
            place = batch["sample_ids"].index("p5")
            batch["shared_pixel_values"][2 * place : 2 * place + 2] = float("nan")
        return batch

    monkeypatch.setattr(preferences, "collate_pairs", spoil)
    with pytest.raises(ValueError, match=r"of the 8 rows in the batch only 'p5'.* caused it"):
        train(recipe)
