"""Memory found without numbers is that of a real step, and of a real training."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoTokenizer

from phi_vision.data.collator import select_labelled
from phi_vision.model.checkpoint import SMALL, load_config, resolve
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.training.estimate import batch_shape, measure
from phi_vision.training.memory import (
    BatchShape,
    Cost,
    MemoryTracker,
    Setting,
    evaluation_cost,
    training_cost,
)
from phi_vision.training.recipes import Recipe, to_yaml
from phi_vision.training.setup import prepare
from pretraining.tiny import Sizes, make_config, make_processor

MakeRecipe = Callable[..., Recipe]

BATCH = BatchShape(rows=2, length=40, supervised=20, images=((56, 56), (56, 56)))


def test_a_ledger_counts_the_bytes_at_the_peak() -> None:
    tracker = MemoryTracker()
    with FakeTensorMode(), tracker:
        first = torch.zeros(1000)
        with tracker.counting_for("logits"):
            second = torch.zeros(2000)
        del first
        third = torch.zeros(500)
        product = third[:100].view(10, 10) @ third[:100].view(10, 10)
    # 4 kB and 8 kB together; views hold nothing, and after `del` there are only 8, 2 and 0.4.
    assert dict(tracker.peak) == {"activations": 4000, "logits": 8000}
    assert tracker.held == {"activations": 2400, "logits": 8000}
    # A product of two 10 x 10 matrices: 1000 multiplications, 1000 additions.
    assert tracker.flops == 2000
    del second, third, product
    assert tracker.held == {"activations": 0, "logits": 0}


def test_a_gradient_is_moved_to_its_own_part() -> None:
    tracker = MemoryTracker()
    with FakeTensorMode(), tracker:
        weight = nn.Parameter(torch.zeros(250))
        (weight * 2).sum().backward()
        assert weight.grad is not None
        tracker.move(weight.grad, "gradients")
        assert tracker.held["gradients"] == 1000


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("full", {}),
        ("full", {"gradient_checkpointing": True}),
        ("lora", {}),
        ("lora", {"train_projector": True, "bf16": True}),
        ("full", {"bf16": True}),
    ],
)
def test_a_step_on_fake_tensors_uses_the_memory_of_a_real_one(
    make_recipe: MakeRecipe, method: str, changes: dict[str, object]
) -> None:
    recipe = make_recipe(method, **changes)
    prepared = prepare(recipe)
    model = prepared.trainable.model.train()
    samples = prepared.training[: recipe.per_device_train_batch_size]
    shape = batch_shape([measure(prepared.collator, sample) for sample in samples])
    setting = Setting(
        recipe=recipe,
        config=load_config(recipe.model),
        precision=prepared.trainable.precision,
        attention=model.config._attn_implementation,
    )
    planned = training_cost(setting, shape)
    if recipe.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    batch = dict(select_labelled(prepared.collator(samples)))
    del batch["sample_ids"]
    with MemoryTracker() as tracker:
        tracker.record(model.parameters(), "weights")
        tracker.record([batch["pixel_values"]], "images")
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.precision == torch.bfloat16):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
    real = sum(tracker.peak.values()) - tracker.peak["images"]
    # Beside what the step makes, the plan holds two batches of images and AdamW's moments; and
    # it takes the rotary table for one of the batch, where a real one is for one row.
    there = planned.parts["optimizer"] + planned.parts["images"]
    assert sum(planned.parts.values()) - there == pytest.approx(real, rel=0.05)
    assert planned.trained == sum(w.numel() for w in model.parameters() if w.requires_grad)


def test_weights_and_moments_are_counted_exactly(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("full", train_vision=False, train_projector=False)
    whole, halved = (
        _cost(replace(recipe, optim=name)) for name in ("adamw_torch_fused", "adamw_8bit")
    )
    positions = 8 * (16 + 1)  # of the tower's patches, the only buffer
    assert whole.parts["weights"] == 4 * whole.parameters + positions
    assert whole.parts["optimizer"] == 8 * whole.trained
    # One byte for each number and a float32 for 256 of them; small weights stay as they are.
    assert 2.03 < halved.parts["optimizer"] / halved.trained < 2.2


def test_recomputed_activations_are_not_stored(make_recipe: MakeRecipe) -> None:
    once = _cost(make_recipe("full"))
    twice = _cost(make_recipe("full", gradient_checkpointing=True))
    assert sum(twice.parts.values()) < sum(once.parts.values())
    assert 1.1 * once.flops < twice.flops < 1.4 * once.flops


def test_four_bits_are_half_a_byte_and_a_scale(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora")
    whole, packed = (_cost(replace(recipe, quantization=bits)) for bits in (None, "nf4"))
    assert packed.parameters == whole.parameters
    config = load_config(recipe.model)
    width, wide = config.hidden_size, config.intermediate_size
    packed_weights = config.num_hidden_layers * (4 * width * width + 3 * width * wide)
    others = whole.parameters - packed_weights - whole.trained
    bytes_of_others = others * (config.dtype or torch.float32).itemsize + 4 * whole.trained
    expected = bytes_of_others + packed_weights * (1 / 2 + 1 / 64 + 4 / (64 * 256))
    assert packed.parts["weights"] == pytest.approx(expected, rel=0.01)


def test_an_evaluation_holds_no_gradients_but_a_cache(make_recipe: MakeRecipe) -> None:
    parts = evaluation_cost(_setting(make_recipe("full")), BATCH, new_tokens=96)
    assert "gradients" not in parts
    # Two rows of 40 + 96 positions, 2 layers of keys and values of 64 numbers of 4 bytes.
    assert parts["cache"] == 2 * (40 + 96) * 2 * 2 * 64 * 4


def test_the_peak_of_a_real_training_is_within_ten_per_cent(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """In processes of their own, with a model large enough to outweigh the libraries."""
    sizes = Sizes(hidden_size=512, layers=4, heads=8, intermediate_size=1536)
    tokenizer = AutoTokenizer.from_pretrained(resolve(SMALL))
    Phi3VForCausalLM(make_config(sizes, tokenizer)).save_pretrained(tmp_path / "model")
    make_processor(sizes, tokenizer).save_pretrained(tmp_path / "model")
    recipe = make_recipe(
        "full", model=str(tmp_path / "model"), per_device_train_batch_size=16, max_steps=2
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(recipe), encoding="utf-8")
    planned, measured = (
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.plan_memory", str(file), "--child", task],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()[-1]
        )["bytes"]
        for task in ("plan", "train")
    )
    assert planned == pytest.approx(measured, rel=0.1)


def test_the_full_size_is_planned_without_its_weights(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", bf16=True, gradient_checkpointing=True)
    config = Phi3VConfig(
        rope_scaling={"type": "su", "short_factor": [1.0] * 48, "long_factor": [1.0] * 48}
    )
    setting = Setting(recipe=recipe, config=config, precision=torch.bfloat16, attention="sdpa")
    shape = BatchShape(rows=1, length=800, supervised=40, images=((672, 672),))
    cost = training_cost(setting, shape)
    # 4,146,621,440 weights in two bytes; adapters of rank 16 in four.
    assert cost.parameters - cost.trained == 4_146_621_440
    assert cost.parts["weights"] == pytest.approx(2 * 4_146_621_440 + 4 * cost.trained, rel=1e-3)
    assert cost.flops > 2 * 2 * 3.7e9 * 800


def _setting(recipe: Recipe) -> Setting:
    config = load_config(recipe.model)
    return Setting(recipe=recipe, config=config, precision=torch.float32, attention="sdpa")


def _cost(recipe: Recipe) -> Cost:
    return training_cost(_setting(recipe), BATCH)
