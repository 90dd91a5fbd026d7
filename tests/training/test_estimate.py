"""The plan: it counts truly, has the GPUs, suggests what to change, and writes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toy_products import product_rows

from phi_vision.training.estimate import (
    CHANGES,
    WORKER_BYTES,
    RowSize,
    describe_distribution,
    estimate_need,
    largest_batch,
    make_plan,
    measure_data,
    options_of,
    typical_batch,
    worker_bytes,
)
from phi_vision.training.gpus import GIB, GPUS, Gpu, find_gpu, seconds_per_step
from phi_vision.training.memory import Cost
from phi_vision.training.recipes import RECIPES, Recipe
from phi_vision.training.setup import prepare

MakeRecipe = Callable[..., Recipe]


def test_a_plan_counts_what_training_would_use(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        "lora", per_device_train_batch_size=5, gradient_accumulation_steps=2, num_train_epochs=1.5
    )
    plan = make_plan(recipe, gpu="T4")
    assert (len(plan.load.training), len(plan.load.validation), plan.load.shared_groups) == (
        16,
        4,
        0,
    )
    # 16 samples are 4 batches of 5 and so 2 steps an epoch; one and a half epochs are 3.
    assert (plan.steps.per_epoch, plan.steps.total) == (2, 3)
    # Images of one crop and its global view, 2 x 2 tokens each: 2 * 4 + 1 + 2 * 2.
    assert {size.image_tokens for size in plan.load.training} == {13}
    prepared = prepare(recipe)
    weights = list(prepared.trainable.model.parameters())
    assert plan.need.cost.parameters == sum(weight.numel() for weight in weights)
    assert plan.need.cost.trained == sum(
        weight.numel() for weight in weights if weight.requires_grad
    )
    assert (plan.steps, len(plan.load.rows)) == (prepared.steps, len(prepared.rows))


@pytest.mark.parametrize("augmentation", [(), ("flip",)])
def test_a_plan_of_packed_rows_counts_rows(
    make_recipe: MakeRecipe, augmentation: tuple[str, ...]
) -> None:
    changes = {"pack_length": 200, "augmentation": augmentation}
    recipe = make_recipe("lora", per_device_train_batch_size=1, **changes)
    plan = make_plan(recipe, gpu="T4")
    rows = len(plan.load.rows)
    assert rows == len(prepare(recipe).rows) < len(plan.load.training)
    assert f"{rows} per epoch instead of 16, packed" in plan.as_text()


def test_a_plan_writes_nothing_and_lists_the_gpus_that_fit(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("full")
    text = make_plan(recipe, gpu="l4").as_text()
    assert "16 training, 4 validation, 0 groups in both" in text
    assert "yes, L4 has 22.00 GiB" in text
    assert not recipe.output_dir.exists()


def test_a_run_that_does_not_fit_is_made_smaller_until_it_does(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_plan(make_recipe("full"), gpu="T4")
    little = GPUS["T4"]._replace(name="little", memory=whole.need.memory - 2**20)
    monkeypatch.setitem(GPUS, "little", little)
    plan = make_plan(make_recipe("full"), gpu="little")
    assert "NO, little has" in plan.as_text()
    assert (
        plan.changes[0].options == "--per-device-train-batch-size 4 --gradient-accumulation-steps 2"
    )
    assert plan.changes[0].memory == pytest.approx(plan.need.memory - plan.changes[0].saved)
    assert plan.changes[-1].memory <= plan.gpu.memory


def test_a_run_that_never_fits_is_reported(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GPUS, "none", GPUS["T4"]._replace(name="none", memory=1.0))
    recipe = make_recipe("qlora", per_device_train_batch_size=1, optim="adamw_8bit")
    text = make_plan(recipe, gpu="none").as_text()
    assert "even so it does not fit: use a GPU with more memory" in text


def test_pairs_are_planned_as_twice_the_rows(make_recipe: MakeRecipe) -> None:
    pairs, single = (make_plan(make_recipe(name), gpu="T4") for name in ("dpo", "lora"))
    kept = [plan.need.parts["activations"] for plan in (pairs, single)]
    assert 1.5 < kept[0] / kept[1] < 2.1


def test_changes_that_train_alike_come_first() -> None:
    assert list(CHANGES) == ["batch", "checkpointing", "optimizer", "adapters", "bits"]
    recipe = replace(
        RECIPES["full"](), per_device_train_batch_size=5, gradient_accumulation_steps=2
    )
    smaller = CHANGES["batch"][1](recipe)
    # Ten samples a step before and after.
    assert (smaller.per_device_train_batch_size, smaller.gradient_accumulation_steps) == (2, 5)
    assert options_of("batch", recipe)
    assert all(options_of(name, RECIPES["qlora"]()) is None for name in ("adapters", "bits"))


def test_an_unknown_card_is_rejected() -> None:
    with pytest.raises(ValueError, match="no GPU 'Voodoo'; choose one of cpu, T4"):
        find_gpu("Voodoo")


def test_the_time_of_a_step_is_products_or_handing_them_over() -> None:
    card = Gpu(name="c", memory=GIB, bf16=4e14, fp32=1e13, bandwidth=28e9)
    cost = Cost(
        parts={},
        flops=16 * 10**13,
        operations=1000,
        parameters=10**9,
        trained=10**9,
        packed=0,
        scattered=0,
    )
    # 1.6e14 of 0.4 * 4e14 a second, then 28 bytes for each of 1e9 weights.
    assert seconds_per_step(card, RECIPES["full"](), cost, torch.bfloat16) == pytest.approx(2.0)
    small = replace(cost, flops=1, trained=0)
    assert seconds_per_step(card, RECIPES["full"](), small, torch.bfloat16) == pytest.approx(0.01)


def test_a_step_on_a_cpu_takes_longer_than_its_products() -> None:
    cost = Cost(
        **{"parts": {}, "flops": 10**9, "operations": 1000, "parameters": 1, "trained": 1},
        **{"packed": 0, "scattered": 0},
    )
    cpu = find_gpu("cpu")
    small, large = (
        seconds_per_step(cpu, RECIPES["lora"](), cost, torch.float32, (tokens, 256))
        for tokens in (64, 4096)
    )
    assert 0 < small < large
    assert large > 1000 * 5e-6


def test_a_distribution_is_described_by_mean_median_and_maximum() -> None:
    assert describe_distribution(range(1, 101)) == "mean 50, median 50, 95 % up to 95, max 100"


def test_the_worst_and_the_usual_batch() -> None:
    rows = [
        RowSize(image_tokens=0, text_tokens=length, supervised=1, images=())
        for length in (40, 10, 20, 30)
    ]
    assert (largest_batch(rows, 2).rows, largest_batch(rows, 2).length) == (2, 40)
    assert (typical_batch(rows, 2).rows, typical_batch(rows, 2).length) == (2, 40)
    assert typical_batch(rows, 1).length == 30


def test_an_evaluation_of_conversations_is_planned_with_their_longer_predictions(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    talk = [{"role": "user", "content": "<image>Why?"}, {"role": "assistant", "content": "So."}]
    rows = [
        {"id": str(at), "images": [row["image"]], "messages": talk}
        for at, row in enumerate(product_rows(10))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    records = make_recipe("lora", eval_samples=2)
    chats = replace(records, data=str(tmp_path))
    assert [measure_data(recipe).new_tokens for recipe in (records, chats)] == [96, 256]
    assert measure_data(replace(chats, eval_samples=0)).new_tokens == 0


def test_the_time_of_loading_images_belongs_to_a_step_unless_workers_do_it(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi_vision.training.gpus.best_seconds", lambda work: 400.0)
    alone = make_recipe(
        "lora", gradient_accumulation_steps=2, num_train_epochs=1.0, dataloader_num_workers=0
    )
    # 100 s for each of four samples: one step of two batches of eight takes 1600 s.
    assert make_plan(alone, gpu="T4").seconds == pytest.approx(1600, rel=0.01)
    beside = replace(alone, dataloader_num_workers=4)
    assert make_plan(beside, gpu="T4").seconds == pytest.approx(400, rel=0.01)
    monkeypatch.setattr("phi_vision.training.recipes.usable_cores", lambda: 5)
    by_default = make_plan(replace(alone, dataloader_num_workers=None), gpu="T4")
    assert by_default.seconds == pytest.approx(400, rel=0.01)
    assert "workers         4, about" in by_default.as_text()


def test_processes_that_prepare_batches_take_memory_of_the_machine(
    make_recipe: MakeRecipe,
) -> None:
    none, two = (make_recipe("lora", dataloader_num_workers=count) for count in (0, 2))
    load = measure_data(none)
    shape = largest_batch(load.rows, none.per_device_train_batch_size)
    crops = sum(height * width // 56**2 + 1 for height, width in shape.images)
    expected = 2 * (WORKER_BYTES + 2 * crops * 3 * 56 * 56 * 4)
    on_cpu = [estimate_need(recipe, load, find_gpu("cpu")).parts for recipe in (none, two)]
    assert "workers" not in on_cpu[0]
    assert on_cpu[1]["workers"] == expected
    # A GPU's memory has none of it.
    assert "workers" not in estimate_need(two, load, GPUS["T4"]).parts
    assert worker_bytes(two, load, on_gpu=True) == expected
