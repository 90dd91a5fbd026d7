"""The maximum crops of an image: chosen by the recipe, saved with the weights, used ever after."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from phi_vision.export.hf import export_hf
from phi_vision.inference.local import LocalPredictor
from phi_vision.model.checkpoint import MAX_CROPS, load_processor
from phi_vision.training.adapters import load_trainable
from phi_vision.training.estimate import measure_data
from phi_vision.training.recipes import Recipe
from phi_vision.training.setup import prepare
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]
WIDE = Image.new("RGB", (112, 56), "red")
"""Two crops of 56 pixels beside each other, where there may be two."""


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_keeps_its_number_and_predicts_and_exports_with_it(
    make_recipe: MakeRecipe, tiny_checkpoint: Path, tmp_path: Path, method: str
) -> None:
    run = train(make_recipe(method, num_crops=4, max_steps=1, num_train_epochs=1.0)).folder
    assert load_processor(tiny_checkpoint).image_processor.num_crops == 1
    saved = json.loads((run / "model" / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert saved["num_crops"] == 4
    crops = {}
    for name in (str(run), str(tiny_checkpoint)):
        cutter = LocalPredictor(name, template="product").processor.image_processor
        crops[name] = len(cutter(WIDE, return_tensors="pt")["pixel_values"])
    assert [*crops.values()] == [1 + 2, 1 + 1]
    export_hf(str(run), tmp_path / "exported", samples=0)
    assert load_processor(tmp_path / "exported").image_processor.num_crops == 4


@pytest.mark.parametrize("num_crops", [1, 4])
def test_batches_and_plans_follow_it(make_recipe: MakeRecipe, num_crops: int) -> None:
    recipe = make_recipe("lora", num_crops=num_crops)
    setup = prepare(recipe)
    sizes = [size.image_tokens for size in measure_data(recipe).training]
    assert sizes == [setup.collator.count_tokens(sample)[0] for sample in setup.training]
    one_crop = 2 * 4 + 1 + 2 * 2  # 2 x 2 tokens of crop and global view, separators
    assert min(sizes) > one_crop if num_crops > 1 else {*sizes} == {one_crop}


def test_the_tower_encodes_an_image_of_one_crop_once(make_recipe: MakeRecipe) -> None:
    model, processor, *_ = load_trainable(make_recipe("lora", num_crops=1))
    batch = processor(text=["<|image_1|>a"] * 2, images=[[WIDE]] * 2, return_tensors="pt")
    shown = list[int]()
    (tower,) = (each for name, each in model.named_modules() if name.endswith("img_processor"))
    tower.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    model(**batch)
    assert shown == [2]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_crops": 0}, "num_crops is 0; it must be from 1 to 256"),
        ({"num_crops": MAX_CROPS + 1}, "num_crops is 257; it must be from 1 to 256"),
        ({"num_crops": 4, "withhold_images": True}, "num_crops is 4, but there are no images"),
    ],
)
def test_a_number_without_meaning_is_one_line(
    make_recipe: MakeRecipe, changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem) as error:
        make_recipe("lora", **changes)
    assert "\n" not in str(error.value)
