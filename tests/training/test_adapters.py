"""What learns under each recipe: which parts, in which numbers, how fast; and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from transformers import TrainingArguments

from phi_vision.data.dataset import load_samples
from phi_vision.data.template import TEMPLATES
from phi_vision.model.checkpoint import load_model
from phi_vision.training.adapters import (
    choose_precision,
    describe_weight,
    list_trained,
    load_trainable,
    save_model,
)
from phi_vision.training.callbacks import generate_texts
from phi_vision.training.recipes import Recipe
from phi_vision.training.trainer import describe_optimizer, group_weights

MakeRecipe = Callable[..., Recipe]
DECODER = {
    "model.layers.*.self_attn.qkv_proj",
    "model.layers.*.self_attn.o_proj",
    "model.layers.*.mlp.gate_up_proj",
    "model.layers.*.mlp.down_proj",
}
TOWER = {
    f"model.vision_embed_tokens.img_processor.vision_model.encoder.layers.*.{name}"
    for name in (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
        "mlp.fc1",
        "mlp.fc2",
    )
}
PROJECTION = {f"model.vision_embed_tokens.img_projection.{at}" for at in (0, 2)}


def adapters(modules: set[str]) -> set[str]:
    return {f"{module} (lora)" for module in modules}


def test_rotary_frequencies_stay_in_float32_under_bf16_weights(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", bf16=True)
    trained, used = load_trainable(recipe).model, load_model(recipe.model, dtype=torch.bfloat16)[0]
    for name, buffer in used.named_buffers():
        if name.endswith("inv_freq"):
            found = trained.get_buffer(f"base_model.model.{name}")
            assert found.dtype == torch.float32
            assert torch.equal(found, buffer)


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({}, {"tower", "separators", "projection", "decoder"}),
        ({"train_vision": False}, {"separators", "projection", "decoder"}),
        ({"train_vision": False, "train_projector": False}, {"decoder"}),
        ({"train_language": False}, {"tower", "separators", "projection"}),
        ({"train_language": False, "train_vision": False}, {"separators", "projection"}),
    ],
)
def test_full_trains_the_parts_it_names(
    make_recipe: MakeRecipe, changes: dict[str, bool], trained: set[str]
) -> None:
    model = load_trainable(make_recipe("full", **changes)).model
    part_of = {
        "vision_embed_tokens.img_processor": "tower",
        "GN": "separators",
        "img_projection": "projection",
    }
    found = set()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            # The last of the tiny tower's three layers, and the norm after it, are never run.
            assert "encoder.layers.2." not in name
            assert "post_layernorm" not in name
            found.add(next((part for key, part in part_of.items() if key in name), "decoder"))
    assert found == trained


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({}, adapters(DECODER)),
        ({"train_vision": True}, adapters(DECODER | TOWER)),
        ({"train_vision": True, "train_language": False}, adapters(TOWER)),
        ({"train_projector": True}, adapters(DECODER) | PROJECTION),
        ({"target_modules": ("o_proj",)}, {"model.layers.*.self_attn.o_proj (lora)"}),
    ],
)
def test_lora_adapts_the_parts_it_names(
    make_recipe: MakeRecipe, changes: dict[str, object], trained: set[str]
) -> None:
    model = load_trainable(make_recipe("lora", **changes)).model
    assert set(list_trained(model)) == trained
    assert not any("encoder.layers.2." in n for n, w in model.named_parameters() if w.requires_grad)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_only_the_last_layers_of_the_tower_learn_where_so_many_are_asked_for(
    make_recipe: MakeRecipe, method: str
) -> None:
    recipe = make_recipe(method, train_vision=True, train_language=False, vision_layers=1)
    model = load_trainable(recipe).model
    trained = [name for name, w in model.named_parameters() if w.requires_grad]
    tower = [name for name in trained if "img_processor" in name]
    # Of the tiny tower's three layers the last is never run.
    assert tower
    assert all("encoder.layers.1." in name for name in tower)


def test_the_count_of_trained_weights_is_rank_times_widths(make_recipe: MakeRecipe) -> None:
    counts = list_trained(load_trainable(make_recipe("lora", r=8)).model)
    # Two layers; o_proj is 64 x 64, gate_up_proj 64 x 256.
    assert counts["model.layers.*.self_attn.o_proj (lora)"] == 2 * 8 * (64 + 64)
    assert counts["model.layers.*.mlp.gate_up_proj (lora)"] == 2 * 8 * (64 + 256)
    with_lengths = list_trained(load_trainable(make_recipe("dora", r=8)).model)
    assert with_lengths["model.layers.*.self_attn.o_proj (lora)"] == 2 * (8 * (64 + 64) + 64)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lm_head.weight", "lm_head"),
        ("model.layers.11.input_layernorm.weight", "model.layers.*.input_layernorm"),
        (
            "base_model.model.model.layers.0.mlp.down_proj.lora_B.default.weight",
            "model.layers.*.mlp.down_proj (lora)",
        ),
        (
            "base_model.model.model.vision_embed_tokens.img_projection.2.modules_to_save.default.bias",
            "model.vision_embed_tokens.img_projection.2",
        ),
    ],
)
def test_a_weight_is_described_by_its_kind_of_module(name: str, kind: str) -> None:
    assert describe_weight(name) == kind


def test_bf16_holds_frozen_weights_in_bf16_and_trained_ones_in_float32(
    make_recipe: MakeRecipe,
) -> None:
    trainable = load_trainable(make_recipe("lora", bf16=True, train_projector=True))
    for name, weight in trainable.model.named_parameters():
        expected = torch.float32 if weight.requires_grad else torch.bfloat16
        assert weight.dtype == expected, name


def test_qlora_holds_the_decoder_in_4_bits_and_the_rest_whole(make_recipe: MakeRecipe) -> None:
    model = load_trainable(make_recipe("qlora", train_vision=True)).model
    in_4_bits = {
        describe_weight(f"{name}.weight").replace(".base_layer", "")
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }
    assert in_4_bits == DECODER


def test_qlora_s_gradients_survive_an_evaluation(make_recipe: MakeRecipe) -> None:
    """bitsandbytes packs 4-bit weights anew at the first evaluation, and loses gradients then."""
    recipe = make_recipe("qlora", bf16=True, lora_dropout=0.0)
    trainable = load_trainable(recipe)
    model = trainable.model
    ids = torch.arange(20, 60)[None]

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(input_ids=ids, labels=ids).loss.backward()
        return {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}

    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would leave half of the gradients zero
            torch.nn.init.normal_(weight, std=0.02)
    before = gradients()
    samples = load_samples(recipe.data)[:2]
    generate_texts(trainable, TEMPLATES["product"], samples, batch_size=2)
    after = gradients()
    assert len(before) == 16
    for name, gradient in before.items():
        assert torch.equal(gradient, after[name]), name


def test_random_weights_are_fresh_but_of_the_seed(
    make_recipe: MakeRecipe, tiny_checkpoint: Path
) -> None:
    recipe = make_recipe("full", random_weights=True)
    torch.manual_seed(1)
    first = load_trainable(recipe).model.state_dict()
    torch.manual_seed(1)
    second = load_trainable(recipe).model.state_dict()
    stored = load_model(tiny_checkpoint)[0].state_dict()
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], stored[name])


@pytest.fixture
def adapter(make_recipe: MakeRecipe, tmp_path: Path) -> Path:
    """An adapter with trained projector, whose second matrices are no zeros."""
    trainable = load_trainable(make_recipe("lora", train_projector=True))
    for name, weight in trainable.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    save_model(trainable, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_training_an_adapter_further_goes_on_with_its_weights(
    make_recipe: MakeRecipe, adapter: Path, tiny_checkpoint: Path
) -> None:
    trainable = load_trainable(make_recipe("lora", model=str(adapter), train_projector=True))
    stored = load_model(adapter)[0].state_dict()
    assert set(list_trained(trainable.model)) == adapters(DECODER) | PROJECTION
    for name, weight in trainable.model.state_dict().items():
        assert torch.equal(weight, stored[name]), name
    assert trainable.base == str(tiny_checkpoint)


def test_an_adapter_of_another_shape_is_not_trained_further(
    make_recipe: MakeRecipe, adapter: Path
) -> None:
    with pytest.raises(ValueError, match="was made with r 16, this recipe has 8"):
        load_trainable(make_recipe("lora", model=str(adapter), train_projector=True, r=8))
    with pytest.raises(ValueError, match="was made with train_projector"):
        load_trainable(make_recipe("lora", model=str(adapter)))


def test_adapters_of_fewer_layers_of_the_tower_are_not_trained_further(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    save_model(
        load_trainable(make_recipe("lora", train_vision=True, vision_layers=1)), tmp_path / "one"
    )
    settings = {"model": str(tmp_path / "one"), "train_vision": True}
    trained = list_trained(load_trainable(make_recipe("lora", **settings, vision_layers=1)).model)
    assert trained.keys() == adapters(DECODER | TOWER)
    with pytest.raises(ValueError, match=r"6 layers of the CLIP tower .*layers\.0\.self_attn"):
        load_trainable(make_recipe("lora", **settings))


def test_full_merges_an_adapter_and_trains_the_sum(make_recipe: MakeRecipe, adapter: Path) -> None:
    trainable = load_trainable(make_recipe("full", model=str(adapter)))
    assert not isinstance(trainable.model, PeftModel)


def test_targets_in_the_tower_are_rejected_with_the_decoder_s_names(
    make_recipe: MakeRecipe,
) -> None:
    with pytest.raises(ValueError, match=r"reach no language-model layer.*gate_up_proj"):
        load_trainable(make_recipe("lora", target_modules=("q_proj", "v_proj")))
    with pytest.raises(ValueError, match="no linear layer is named qkv"):
        load_trainable(make_recipe("lora", target_modules=("qkv",)))


def test_each_part_learns_at_its_own_rate(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        "full",
        learning_rate=1e-4,
        projector_learning_rate=3e-4,
        vision_learning_rate=1e-5,
        weight_decay=0.1,
    )
    groups = group_weights(recipe, load_trainable(recipe).model)
    found = {(group["name"], group["lr"], group["weight_decay"]) for group in groups}
    assert found == {
        (name, rate, decay)
        for name, rate in {"language": 1e-4, "projector": 3e-4, "vision": 1e-5}.items()
        for decay in (0.0, 0.1)
    }


def test_lora_plus_learns_the_second_matrices_faster(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", learning_rate=1e-4, loraplus_ratio=16.0)
    model = load_trainable(recipe).model
    rates = {id(w): g["lr"] for g in group_weights(recipe, model) for w in g["params"]}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert rates[id(weight)] == pytest.approx(16e-4 if "lora_B" in name else 1e-4)


@pytest.mark.parametrize(
    ("name", "bits", "is_paged"),
    [
        ("adamw_8bit", 8, False),
        ("adamw_bnb_8bit", 8, False),
        ("paged_adamw_32bit", 32, True),
        ("paged_adamw_8bit", 8, True),
    ],
)
def test_the_optimizer_is_the_one_of_optim(
    make_recipe: MakeRecipe, name: str, bits: int, is_paged: bool
) -> None:
    recipe = make_recipe("lora", optim=name)
    arguments = TrainingArguments(optim=name, adam_beta2=0.95, use_cpu=True)
    found, settings = describe_optimizer(recipe, load_trainable(recipe).model, arguments)
    optimizer: Any = found(**settings)
    assert (optimizer.args.optim_bits, optimizer.is_paged) == (bits, is_paged)
    assert optimizer.defaults["betas"] == (0.9, 0.95)


def test_the_default_optimizer_is_the_fused_adamw_of_pytorch(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora")
    arguments = TrainingArguments(optim=recipe.optim, use_cpu=True)
    found, settings = describe_optimizer(recipe, load_trainable(recipe).model, arguments)
    assert found is torch.optim.AdamW
    assert settings["fused"]


def test_bf16_is_chosen_by_the_recipe_or_by_the_machine() -> None:
    assert choose_precision(False) == torch.float32
    assert choose_precision(True) == torch.bfloat16
    assert choose_precision(None) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("train_vision", [False, True])
def test_gradient_checkpointing_runs_backward_through_a_trained_tower_only(
    make_recipe: MakeRecipe, train_vision: bool
) -> None:
    model: Any = load_trainable(make_recipe("lora", train_vision=train_vision)).model
    model.train().get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    tower = model.get_base_model().model.vision_embed_tokens.img_processor
    size = tower.vision_model.config.image_size
    assert tower(torch.zeros(1, 3, size, size)).requires_grad == train_vision
    embeddings = model.get_base_model().get_input_embeddings()
    assert embeddings(torch.zeros(1, 1, dtype=torch.long)).requires_grad
