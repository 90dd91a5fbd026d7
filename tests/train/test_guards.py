"""Each guard fires at what it guards against, and says what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from phi_vision.data.collate import IGNORED, AnswerCollator, Batch
from phi_vision.data.loading import load_samples
from phi_vision.data.sample import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.model.checkpoint import load_model, load_processor
from phi_vision.train import guards
from phi_vision.train.learner import make_learner
from phi_vision.train.recipes import Recipe
from phi_vision.train.trainer import train

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def collator(tiny_checkpoint: Path) -> AnswerCollator:
    return AnswerCollator(processor=load_processor(tiny_checkpoint), template=TEMPLATES["product"])


@pytest.fixture
def samples(products: Path) -> list[Sample]:
    return load_samples(products)[:4]


@pytest.fixture
def batch(collator: AnswerCollator, samples: list[Sample]) -> Batch:
    return collator(samples)


def test_a_good_batch_passes(collator: AnswerCollator, samples: list[Sample], batch: Batch) -> None:
    guards.check_samples(collator, samples)
    guards.check_images_are_shown(batch, samples, collator.processor)
    guards.check_supervision(batch)
    guards.check_prompt_is_inference_prompt(collator, samples[0], batch)


@pytest.mark.parametrize("name", ["pixel_values", "image_sizes"])
def test_missing_image_inputs_are_refused(
    collator: AnswerCollator, samples: list[Sample], batch: Batch, name: str
) -> None:
    del batch[name]
    with pytest.raises(ValueError, match=f"4 pictures but the batch has no {name}"):
        guards.check_images_are_shown(batch, samples, collator.processor)


def test_missing_image_positions_are_refused(
    collator: AnswerCollator, samples: list[Sample], batch: Batch
) -> None:
    batch["input_ids"][batch["input_ids"] == collator.processor.image_token_id] = 5
    with pytest.raises(ValueError, match="but the text has 0 of them"):
        guards.check_images_are_shown(batch, samples, collator.processor)


def test_supervised_padding_is_refused(batch: Batch) -> None:
    batch["labels"][batch["attention_mask"] == 0] = 0
    with pytest.raises(ValueError, match="labels are on padding"):
        guards.check_supervision(batch)


def test_a_row_without_labels_is_refused(batch: Batch) -> None:
    batch["labels"][1] = IGNORED
    with pytest.raises(ValueError, match="1 of 4 rows have no label"):
        guards.check_supervision(batch)


def test_a_supervised_prompt_is_refused(batch: Batch) -> None:
    real = batch["attention_mask"] == 1
    batch["labels"] = torch.where(real, batch["input_ids"], IGNORED)
    with pytest.raises(ValueError, match="100% of all tokens are labelled"):
        guards.check_supervision(batch)


def test_another_prompt_than_at_inference_is_refused(
    collator: AnswerCollator, samples: list[Sample], batch: Batch
) -> None:
    batch["input_ids"][0, 0] += 1
    with pytest.raises(ValueError, match=r"sample 'p0' trains after \d+ prompt tokens"):
        guards.check_prompt_is_inference_prompt(collator, samples[0], batch)


def test_samples_that_would_be_cut_stop_before_the_first_step(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", max_length=30)
    with pytest.raises(ValueError, match="20 of 20 samples have more than max_length 30 tokens"):
        train(recipe)
    assert not recipe.out.exists()


def test_an_adapter_that_misses_the_language_model_is_refused(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", lora_targets=("q_proj", "v_proj"))
    names = "down_proj, gate_up_proj, o_proj, qkv_proj"
    with pytest.raises(
        ValueError, match=f"no language-model layer.*the language model has {names}"
    ):
        train(recipe)
    assert not recipe.out.exists()


def test_a_target_that_matches_nothing_is_refused(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ValueError, match="no linear layer is named gate_proj"):
        make_learner(make_recipe("lora", lora_targets=("qkv_proj", "gate_proj")))


def test_a_model_without_adapters_is_refused(tiny_checkpoint: Path) -> None:
    model, _ = load_model(tiny_checkpoint)
    with pytest.raises(ValueError, match="no language-model layer carries an adapter"):
        guards.check_adapter_is_attached(model)


def test_a_trainable_part_without_gradient_is_named() -> None:
    model = nn.ModuleDict({"seen": nn.Linear(2, 1), "unseen": nn.Linear(2, 1)})
    model["seen"](torch.ones(1, 2)).sum().backward()
    with pytest.raises(ValueError, match=r"no gradient reached unseen\.bias, unseen\.weight"):
        guards.check_gradients(model)
    guards.check_gradients(model["seen"])


def test_the_zero_half_of_a_fresh_adapter_counts_as_one_with_the_other() -> None:
    layer = nn.ModuleDict({"lora_A": nn.Linear(2, 2), "lora_B": nn.Linear(2, 2, bias=False)})
    layer["lora_A"].requires_grad_(False).weight.requires_grad_(True)
    layer["lora_A"].weight.grad = torch.zeros(2, 2)
    layer["lora_B"].weight.grad = torch.ones(2, 2)
    guards.check_gradients(nn.ModuleDict({"qkv_proj": layer}))


def test_a_tower_that_no_sample_uses_stops_after_the_first_step(
    make_recipe: MakeRecipe, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = [Sample(id=s.id, group=s.group, images=(), record=s.record) for s in samples]
    monkeypatch.setattr("phi_vision.train.trainer.load_samples", lambda *_, **__: blind)
    with pytest.raises(ValueError, match=r"no gradient reached .*img_processor.*layers\.\*"):
        train(make_recipe("full", validation_fraction=0.0))


def test_a_broken_loss_stops_the_training() -> None:
    guards.check_loss(3, 0.5)
    with pytest.raises(ValueError, match="the loss is nan at step 3"):
        guards.check_loss(3, float("nan"))
