"""The projection's start in closed form, and the noise on what the decoder sees of an image."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from parts_of_a_base import make_decoder, make_tokenizer, make_tower
from PIL import Image
from torch import nn
from toy_products import product_rows

from phi_vision.data.dataset import load_samples
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.model.assembly import assemble
from phi_vision.model.checkpoint import load_model
from phi_vision.training.estimate import make_plan
from phi_vision.training.projector_start import (
    add_noise,
    fit_ridge,
    separate,
    set_directions,
    start_projection,
)
from phi_vision.training.recipes import Recipe
from phi_vision.training.setup import prepare
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]


def test_the_first_layer_measures_independent_directions_with_both_signs() -> None:
    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(500, 3, generator=draw) @ torch.randn(3, 3, generator=draw) + 4
    tokens, layer = torch.cat([mixed, mixed[:, :1]], dim=1), nn.Linear(4 * 4, 10)
    with torch.no_grad():
        set_directions(layer, tokens)
        found = layer(tokens.repeat(1, 4))
        # It sees four patches, and measures their mean.
        torch.testing.assert_close(layer(torch.stack([tokens] * 4, 1).flatten(1)), found)
    torch.testing.assert_close(found[:, 5:], -found[:, :5])
    # Of four features one repeats another: three directions.
    assert (found[:, 3:5] == 0).all()
    covariance = found[:, :3].T @ found[:, :3] / len(found)
    torch.testing.assert_close(covariance, torch.eye(3), atol=0.01, rtol=0)
    torch.testing.assert_close(found[:, :3].mean(dim=0), torch.zeros(3), atol=1e-4, rtol=0)


def test_both_signs_of_a_direction_keep_its_value_and_its_strength() -> None:
    """Images with the same mean, whose tokens vary little or much, are told from each other."""
    quiet, loud = torch.tensor([0.1, -0.1]), torch.tensor([2.0, -2.0])
    gelu = nn.functional.gelu
    for tokens in (quiet, loud):
        torch.testing.assert_close(gelu(tokens) - gelu(-tokens), tokens)
    assert (gelu(quiet) + gelu(-quiet)).mean() < 0.1 < 1 < (gelu(loud) + gelu(-loud)).mean()


def test_ridge_regression_finds_what_is_linear_and_shrinks_what_is_noise() -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = 3 + 2 * torch.randn(4000, 3, generator=draw, dtype=torch.float64)
    true = torch.tensor([[1.0, 0, 0], [0, -2.0, 0]], dtype=torch.float64)
    weight, bias = fit_ridge(inputs, inputs @ true.T + 5, torch.ones(4000).double())
    # The penalty of 0.1 N divides the weight of a standardised input by 1.1.
    torch.testing.assert_close(weight, true / 1.1, atol=0.05, rtol=0)
    expected = (inputs @ true.T + 5).mean(dim=0)
    torch.testing.assert_close(inputs.mean(dim=0) @ weight.T + bias, expected)


def test_an_image_of_weight_2_counts_as_two() -> None:
    draw = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(30, 2, generator=draw).double() for _ in range(2))
    twice = torch.cat([torch.arange(30), torch.arange(10)])
    weights = torch.tensor([2.0] * 10 + [1.0] * 20).double()
    inputs /= inputs.std(dim=0)
    weight, bias = fit_ridge(inputs, targets, weights / weights.mean())
    doubled = inputs[twice] - (inputs[twice]).mean(dim=0)
    own = torch.linalg.solve(
        doubled.T @ doubled * 30 / 40 + 0.1 * 30 * torch.eye(2).double(),
        doubled.T @ (targets[twice] - targets[twice].mean(dim=0)) * 30 / 40,
    ).T
    torch.testing.assert_close(weight, own)
    torch.testing.assert_close(inputs[twice].mean(dim=0) @ own.T + bias, targets[twice].mean(dim=0))


def test_all_categories_get_the_same_distance_near_their_words() -> None:
    """Of three categories two have nearly the same words."""
    words = {
        "Pants": torch.tensor([1.0, 0.1, 0, 0]),
        "Pants & Shorts": torch.tensor([1.0, -0.1, 0, 0]),
        "Scarves": torch.tensor([-1.0, 0.0, 0.5, 0]),
    }
    images = ["Pants"] * 4 + ["Scarves"] + ["Pants & Shorts"]
    targets, weights = separate(torch.stack([words[name] for name in images]).double(), images)
    one, other, far = (targets[images.index(name)] for name in words)
    torch.testing.assert_close((one - other).norm(), (one - far).norm())
    torch.testing.assert_close((one - other).norm(), (other - far).norm())
    # Each is nearest to its own words, and categories count alike.
    distances = torch.cdist(torch.stack([one, other, far]), torch.stack([*words.values()]).double())
    assert distances.argmin(dim=1).tolist() == [0, 1, 2]
    torch.testing.assert_close(weights, torch.tensor([0.5] * 4 + [2.0, 2.0]).double())
    alone, _ = separate(torch.stack([words["Pants"]] * 2).double(), ["Pants"] * 2)
    torch.testing.assert_close(alone, torch.stack([words["Pants"]] * 2).double())


@pytest.fixture(scope="module")
def toy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "toy"
    for part in assemble(make_tower(), make_decoder(), make_tokenizer(), crop_size=28):
        part.save_pretrained(folder)
    return folder


def projector_weights(model: nn.Module) -> list[torch.Tensor]:
    """Copy the trained weights of the projection, also beside adapters."""
    return [
        weight.detach().clone()
        for name, weight in model.named_parameters()
        if "img_projection" in name and "original_module" not in name
    ]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_untrained_projection_starts_in_closed_form(
    make_recipe: MakeRecipe, toy_base: Path, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    caplog.set_level(logging.INFO)
    recipe = make_recipe(method, model=str(toy_base), train_projector=True, train_vision=False)
    model = prepare(recipe).trainable.model
    assert "the projection starts from a regression over 48 views of images" in caplog.text
    first, _, _, bias = projector_weights(model)
    half = len(first) // 2
    assert torch.equal(first[half:], -first[:half])
    words = model.get_input_embeddings().weight
    assert 0.1 < bias.norm() / words.norm(dim=-1).mean() < 2
    stored = prepare(replace(recipe, projector_start="stored")).trainable.model
    assert not torch.equal(projector_weights(stored)[0], first)


def test_a_trained_projection_stays_as_it_is_unless_asked(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", train_projector=True)
    before = projector_weights(load_model(recipe.model)[0])
    after = projector_weights(prepare(recipe).trainable.model)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    asked = prepare(replace(recipe, projector_start="closed-form")).trainable.model
    assert not torch.equal(projector_weights(asked)[0], before[0])


def test_an_untrained_projection_that_is_not_trained_is_refused(
    make_recipe: MakeRecipe, toy_base: Path
) -> None:
    with pytest.raises(ValueError, match=r"is untrained: .* Train it with --train-projector"):
        prepare(make_recipe("lora", model=str(toy_base)))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_trained_run_of_such_a_base_is_trained_further_and_merged_as_it_is(
    make_recipe: MakeRecipe, toy_base: Path, tmp_path: Path, method: str
) -> None:
    recipe = make_recipe(
        method, model=str(toy_base), train_projector=True, train_vision=False, max_steps=2
    )
    run = train(recipe)
    model, _ = load_model(run.model)
    assert not hasattr(model.config, "projector_is_untrained")
    further = prepare(replace(recipe, model=str(run.model), output_dir=tmp_path / "further"))
    trained, again = (projector_weights(each) for each in (model, further.trainable.model))
    for one, other in zip(trained, again, strict=True):
        torch.testing.assert_close(one.float(), other)


def test_a_projector_with_a_learning_rate_of_0_stays_at_its_start(
    make_recipe: MakeRecipe, toy_base: Path
) -> None:
    recipe = make_recipe(
        "lora", model=str(toy_base), train_projector=True, projector_learning_rate=0.0, max_steps=2
    )
    start = projector_weights(prepare(recipe).trainable.model)
    end = projector_weights(load_model(train(recipe).model)[0])
    for one, other in zip(start, end, strict=True):
        torch.testing.assert_close(one, other.float())


def test_too_few_images_for_a_regression_are_refused(tiny_checkpoint: Path) -> None:
    model, processor = load_model(tiny_checkpoint)
    sample = Sample(
        id="1", group="1", images=(), record={"title": "Coat", "category3_code": "COATS"}
    )
    with pytest.raises(ValueError, match="0 training samples have an image, but they"):
        start_projection(model, processor, [sample], TEMPLATES["product"])


def test_images_of_one_category_start_from_their_texts(
    toy_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model, processor = load_model(toy_base)
    rows = [{**row, "category3_code": "COATS"} for row in product_rows(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    samples = load_samples(tmp_path)
    start_projection(model, processor, samples, TEMPLATES["product"])
    assert "a regression over 18 views" in caplog.text
    assert projector_weights(model)[2].abs().max() > 0
    alike = [replace(sample, record={**sample.record, "title": "Coat"}) for sample in samples]
    with pytest.raises(ValueError, match=r"6 training samples .* no two different categories or"):
        start_projection(model, processor, alike, TEMPLATES["product"])


def test_an_adapter_without_a_projection_leaves_it_untrained(
    make_recipe: MakeRecipe, toy_base: Path
) -> None:
    blind = train(make_recipe("lora", model=str(toy_base), withhold_images=True, max_steps=1))
    assert load_model(blind.model)[0].config.projector_is_untrained
    with pytest.raises(ValueError, match="is untrained"):
        prepare(make_recipe("lora", model=str(blind.model), output_dir=Path("other")))


def test_a_plan_counts_a_tied_embedding_once(make_recipe: MakeRecipe, toy_base: Path) -> None:
    recipe = make_recipe("full", model=str(toy_base))
    weights = prepare(recipe).trainable.model.parameters()
    cost = make_plan(recipe, gpu="T4").need.cost
    assert cost.parameters == sum(weight.numel() for weight in weights)


def test_noise_and_dropout_disturb_training_alone(tiny_checkpoint: Path) -> None:
    model, processor = load_model(tiny_checkpoint)
    made = processor.image_processor([Image.new("RGB", (60, 60), "red")])
    images = {name: made[name] for name in ("pixel_values", "image_sizes")}
    embedding = model.model.vision_embed_tokens
    with torch.no_grad():
        (plain,) = embedding(**images)
        add_noise(model, feature_noise=0.3, token_dropout=0.5)
        assert torch.equal(embedding(**images)[0], plain)
        model.train()
        torch.manual_seed(0)
        (disturbed,) = embedding(**images)
        is_zero = (disturbed == 0).all(dim=-1)
        assert 0.2 < is_zero.float().mean() < 0.8
        # Separators come from no crop: they are dropped, but have no noise.
        assert (disturbed != plain).any(dim=-1).sum() >= len(plain) - 3


@pytest.mark.parametrize(
    ("field", "value"), [("feature_noise", -0.1), ("image_token_dropout", 1.0)]
)
def test_impossible_noise_is_refused(make_recipe: MakeRecipe, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        make_recipe("lora", **{field: value})


def test_a_start_without_a_trained_projector_is_refused(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ValueError, match="projector_start is closed-form, but the projector is no"):
        make_recipe("lora", projector_start="closed-form")
