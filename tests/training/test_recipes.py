"""Recipes: written as YAML and read again, and refused where they make no sense."""

import ast
from dataclasses import fields, replace
from pathlib import Path

import pytest

from phi_vision.training import recipes
from phi_vision.training.further_fields import (
    ALLOWED_VALUES,
    REFUSED,
    check_further,
    further_fields,
)
from phi_vision.training.recipes import (
    PHOTO_FURTHER,
    RECIPES,
    Recipe,
    change,
    load_recipe,
    loader_workers,
    lora,
    to_yaml,
)

NO_IMAGES = {"withhold_images": True, "train_vision": False, "train_projector": False}
IMAGE_FIELDS = {"projector_learning_rate", "augmentation", "feature_noise", "image_token_dropout"}

OWN_FIELDS = {
    *("method", "objective", "model", "data", "template", "group_column", "validation_fraction"),
    *("train_language", "train_projector", "train_vision", "projector_learning_rate"),
    *("projector_start", "augmentation", "feature_noise", "image_token_dropout"),
    "num_crops",
    *("vision_learning_rate", "vision_layers", "loraplus_ratio", "quantization", "withhold_images"),
    *("random_weights", "pack_length", "max_length", "eval_samples", "early_stopping_patience"),
    *("sharding", "streaming", "further"),
}
"""Fields of a recipe that no class of transformers, PEFT or TRL has (`max_length` of DPOConfig cuts
rows, ours never does; `early_stopping_patience` is an argument of EarlyStoppingCallback)."""


def write(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_path_and_its_text_are_the_same_recipe(tmp_path: Path) -> None:
    texts = {"model": "runs/base", "data": "runs/catalog", "output_dir": "runs/coats"}
    paths = {name: Path(text) for name, text in texts.items()}
    assert replace(RECIPES["lora"](), **paths) == replace(RECIPES["lora"](), **texts)
    given = replace(RECIPES["lora"](), **paths)
    assert load_recipe(write(tmp_path, to_yaml(given))) == given


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_written_as_yaml_reads_back_equal(name: str, tmp_path: Path) -> None:
    recipe = replace(RECIPES[name](), data="Ärmel: # 1", max_steps=7, learning_rate=1e-5)
    assert load_recipe(write(tmp_path, to_yaml(recipe))) == recipe


def test_further_fields_of_a_preset_are_valid_for_every_method() -> None:
    for recipe in (make() for make in RECIPES.values()):
        check_further(PHOTO_FURTHER, method=recipe.method, objective=recipe.objective)


def test_every_field_has_a_help_text() -> None:
    (recipe,) = (
        node
        for node in ast.parse(Path(recipes.__file__).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "Recipe"
    )
    following = zip(recipe.body, recipe.body[1:], strict=False)
    documented = {
        first.target.id
        for first, second in following
        if isinstance(first, ast.AnnAssign)
        and isinstance(first.target, ast.Name)
        and isinstance(second, ast.Expr)
    }
    assert documented == {field.name for field in fields(Recipe)}


def test_fields_left_out_are_those_of_the_method(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "method: lora\nr: 4\n"))
    assert recipe == replace(RECIPES["lora"](), r=4)


def test_a_number_in_the_form_1e_4_is_a_number(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "method: full\nlearning_rate: 1e-4")).learning_rate == 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: lora\nlearning_rat: 1", "no field 'learning_rat'; did you mean 'learning_rate'?"),
        ("method: laro", "field 'method' is 'laro'; it takes full or lora"),
        ("per_device_train_batch_size: 8", "field 'method' is missing; choose one of full, lora"),
        (
            "method: lora\nper_device_train_batch_size: many",
            "'per_device_train_batch_size' is 'many'; it takes a whole number",
        ),
        (
            "method: lora\nper_device_train_batch_size: true",
            "'per_device_train_batch_size' is True; it takes a whole number",
        ),
        (
            "method: lora\nper_device_train_batch_size: null",
            "'per_device_train_batch_size' is None; it takes a whole number",
        ),
        ("method: lora\ntarget_modules: qkv_proj", "it takes a list of names or null"),
        ("method: [a", "is no YAML: found at line 1"),
        ("password: hunter2\nseed: x", "field 'method' is missing; choose one of full, lora"),
        ("method: &a lora\nseed: *a", "has references (*name)"),
        ("just words", "holds a str, not fields"),
    ],
)
def test_a_file_that_is_no_recipe_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml") as caught:
        load_recipe(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "password" not in str(caught.value)


def test_every_field_has_its_name_in_the_class_it_feeds() -> None:
    known = names() & further_fields().keys()
    assert names() - known <= OWN_FIELDS
    assert names() >= OWN_FIELDS


def names() -> set[str]:
    return {field.name for field in fields(Recipe)}


def test_a_further_field_is_checked_kept_and_written_beside_the_others(tmp_path: Path) -> None:
    text = "method: lora\nadam_beta2: 0.95\nlayers_to_transform: [0, 1]\n"
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.further == {"adam_beta2": 0.95, "layers_to_transform": [0, 1]}
    assert load_recipe(write(tmp_path, to_yaml(recipe))) == recipe
    assert "\nadam_beta2: 0.95\n" in to_yaml(recipe)
    hash(recipe)


@pytest.mark.parametrize(
    ("name", "further", "message"),
    [
        ("lora", {"adam_bta2": 0.9}, "no field 'adam_bta2'; did you mean 'adam_beta"),
        ("lora", {"adam_beta2": "high"}, "'adam_beta2' is 'high'; it takes a number"),
        ("lora", {"full_determinism": 1}, "it takes true or false"),
        ("lora", {"data_seed": 1}, "data_seed cannot be set: the order of samples follows from"),
        ("lora", {"label_names": ["x"]}, "label_names cannot be set: batches come from our"),
        ("lora", {"fp16": True}, "use bf16"),
        ("lora", {"init_lora_weights": "pissa"}, "choose one of True, gaussian, orthogonal"),
        ("full", {"rank_pattern": {"o_proj": 4}}, "method full trains no adapters"),
        ("lora", {"label_smoothing": 0.1}, "objective sft is not dpo"),
    ],
)
def test_a_further_field_that_cannot_be_passed_on_is_rejected(
    name: str, further: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPES[name](), further=further)


def test_every_rejected_field_exists() -> None:
    assert [name for name in (*REFUSED, *ALLOWED_VALUES) if name not in further_fields()] == []
    assert not REFUSED.keys() & names()


def test_a_missing_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recipe at"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("name", "changes", "reset"),
    [
        ("photo", {"train_vision": False}, {"vision_learning_rate", "vision_layers"}),
        ("photo", {"train_projector": False}, {"projector_learning_rate"}),
        ("photo", NO_IMAGES, {*IMAGE_FIELDS, "vision_learning_rate", "vision_layers"}),
        ("lora", {"r": 8}, set()),
    ],
)
def test_fields_that_a_change_makes_idle_go_back_to_their_defaults(
    name: str, changes: dict[str, object], reset: set[str]
) -> None:
    before, after = vars(RECIPES[name]()), vars(change(RECIPES[name](), changes))
    others = {field for field in before if before[field] != after[field]} - changes.keys()
    assert others == reset


def test_an_idle_field_beside_the_change_that_makes_it_so_is_rejected() -> None:
    with pytest.raises(ValueError, match="the CLIP tower is not trained"):
        change(RECIPES["photo"](), {"train_vision": False, "vision_layers": 4})


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (replace(lora(), sharding="fsdp"), {"quantization": "nf4"}, "it leaves weights in nf4"),
        (replace(lora(), withhold_images=True), {"train_vision": True}, "no gradient would reach"),
        (RECIPES["photo"](), {"method": "full"}, "method full trains no adapters"),
        (RECIPES["photo"](), {"streaming": True, "max_steps": 3}, "a stream does not know"),
    ],
)
def test_a_change_against_another_field_is_rejected(
    recipe: Recipe, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        change(recipe, changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("full", {"r": 8}, "method full trains no adapters"),
        ("lora", {"r": None}, "method lora needs it"),
        ("lora", {"target_modules": ()}, "target_modules is empty"),
        ("lora", {"train_language": False}, "there would be no adapter"),
        ("full", {"quantization": "nf4"}, "weights in 4 bits cannot be trained"),
        ("full", {"use_dora": True}, "method full trains no adapters"),
        ("full", {"loraplus_ratio": 16.0}, "method full trains no adapters"),
        ("lora", {"vision_learning_rate": 1e-5}, "the CLIP tower is not trained"),
        ("lora", {"vision_layers": 2}, "the CLIP tower is not trained"),
        ("full", {"vision_layers": 0}, "it must be at least 1"),
        ("lora", {"projector_learning_rate": 1e-5}, "the projector is not trained"),
        ("lora", {"beta": 0.1}, "objective sft has no preferences"),
        ("dpo", {"beta": None}, "objective dpo needs it"),
        ("dpo", {"pack_length": 512}, "pairs are not packed"),
        ("dpo", {"withhold_images": True}, "a text-only baseline is trained on completions"),
        ("lora", {"streaming": True}, "the length of a stream is unknown; set --max-steps"),
        ("lora", {"streaming": True, "max_steps": 1, "pack_length": 9}, "a stream is not held"),
        ("dpo", {"streaming": True, "max_steps": 1}, "streaming is for completions"),
        ("full", {"withhold_images": True}, "no gradient would reach tower and projector"),
        (
            "lora",
            {"metric_for_best_model": "full_price_mae", "eval_samples": 0},
            "generates no predictions",
        ),
        ("lora", {"early_stopping_patience": 2, "validation_fraction": 0.0}, "nothing to evaluate"),
        (
            "full",
            {"train_language": False, "train_projector": False, "train_vision": False},
            "nothing would learn",
        ),
        ("lora", {"random_weights": True}, "lora does not save the weights below"),
        ("lora", {"validation_fraction": 0.0, "eval_steps": 5}, "nothing to evaluate"),
        ("lora", {"per_device_train_batch_size": 0}, "must be at least 1"),
        ("lora", {"learning_rate": 0.0}, "must be more than 0"),
        ("lora", {"learning_rate": float("nan")}, "must be more than 0"),
        ("lora", {"lora_dropout": 1.0}, "it is a fraction"),
        ("lora", {"template": "produkt"}, "choose from product, walkthrough"),
    ],
)
def test_a_setting_that_cannot_take_effect_is_rejected(
    name: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPES[name](), **changes)  # type: ignore[arg-type]


def test_workers_prepare_batches_beside_a_gpu_and_not_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipes.lora()
    chosen = replace(recipe, dataloader_num_workers=3)
    for cores, processes, workers in ((64, 1, 8), (8, 1, 7), (8, 4, 1), (1, 1, 1)):
        monkeypatch.setattr("phi_vision.training.recipes.usable_cores", lambda count=cores: count)
        assert loader_workers(recipe, on_gpu=True, processes=processes) == workers
        assert loader_workers(recipe, on_gpu=False) == 0
        assert loader_workers(chosen, on_gpu=True, processes=processes) == 3
