"""Training: it learns, equivalent settings train alike, and what it leaves behind loads."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel

from phi_vision.model.checkpoint import load_model
from phi_vision.training.recipes import Recipe, load_recipe
from phi_vision.training.setup import load_split
from phi_vision.training.tracking.tracker import MACHINE_DEPENDENT, Tracking
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]


def steps(out: Path) -> list[dict[str, Any]]:
    return [line for line in read_log(out) if "loss" in line]


def read_log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def without_speed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in MACHINE_DEPENDENT} for line in lines]


@pytest.mark.parametrize(("method", "fall"), [("full", 1.0), ("lora", 0.3)])
def test_the_loss_falls_and_the_best_weights_load(
    make_recipe: MakeRecipe, method: str, fall: float
) -> None:
    recipe = make_recipe(method, num_train_epochs=4.0)
    run = train(recipe)
    losses = [line["loss"] for line in steps(run.folder)]
    assert len(losses) == run.steps == 8
    assert losses[-1] < losses[0] - fall
    evaluations = [line["validation_loss"] for line in read_log(run.folder) if "is_best" in line]
    assert run.best == min(evaluations)
    model, processor = load_model(run.folder)
    assert isinstance(model, PeftModel) == (method == "lora")
    assert processor.image_processor.num_crops == 1
    assert load_recipe(run.folder / "recipe.yaml") == recipe
    assert json.loads((run.folder / "versions.json").read_text())["torch"] == torch.__version__


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"])
def test_other_optimizers_train_much_like_adamw(
    make_recipe: MakeRecipe, tmp_path: Path, optimizer: str
) -> None:
    plain = make_recipe("full", max_steps=4, validation_fraction=0.0, output_dir=tmp_path / "plain")
    other = replace(plain, optim=optimizer, output_dir=tmp_path / "other")
    ours, theirs = ([line["loss"] for line in steps(train(r).folder)] for r in (other, plain))
    assert ours[-1] < ours[0] - 0.2
    # State in 8 bits rounds the steps; state in 32 bits does not.
    assert ours == pytest.approx(theirs, rel=2e-2 if "8bit" in optimizer else 1e-4)


def test_eight_at_once_train_like_eight_times_one(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    at_once = make_recipe("full", max_steps=3, validation_fraction=0.0)
    one_by_one = replace(
        at_once,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        output_dir=tmp_path / "one by one",
    )
    train(at_once)
    train(one_by_one)
    for left, right in zip(steps(at_once.output_dir), steps(one_by_one.output_dir), strict=True):
        # float32 sums in another order, through three steps of Adam
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-3)


def test_checkpointed_activations_train_like_kept_ones(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    kept = make_recipe("full", max_steps=2, validation_fraction=0.0)
    again = replace(kept, gradient_checkpointing=True, output_dir=tmp_path / "again")
    train(kept)
    train(again)
    for left, right in zip(steps(kept.output_dir), steps(again.output_dir), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_run_is_the_uninterrupted_run(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    # Four steps an epoch: the checkpoint of step 6 lies in the middle of the second.
    whole = make_recipe(
        method, num_train_epochs=2.0, per_device_train_batch_size=4, save_steps=2, eval_steps=3
    )
    if method == "lora":
        whole = replace(whole, lora_dropout=0.3)
    train(whole)
    cut = replace(whole, output_dir=tmp_path / "cut")
    write_step = Tracking.step

    def interrupt(self: Tracking, step: int, figures: dict[str, float]) -> None:
        write_step(self, step, figures)
        if step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(Tracking, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(cut)
    # What a kill in the middle of writing leaves is passed over.
    (cut.output_dir / "checkpoints" / "checkpoint-7").mkdir()
    run = train(cut, resume=True)
    assert run.steps == 8
    assert without_speed(read_log(cut.output_dir)) == without_speed(read_log(whole.output_dir))
    ours, theirs = (load_model(out)[0].state_dict() for out in (cut.output_dir, whole.output_dir))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_complete_run_has_nothing_to_resume(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", max_steps=2)
    run = train(recipe)
    before = read_log(recipe.output_dir)
    assert train(recipe, resume=True) == run
    assert read_log(recipe.output_dir) == before


def test_a_folder_in_use_is_rejected_untouched(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora")
    recipe.output_dir.mkdir()
    (recipe.output_dir / "thesis.txt").touch()
    with pytest.raises(ValueError, match="choose another folder with --output-dir, or continue"):
        train(recipe)
    assert [file.name for file in recipe.output_dir.iterdir()] == ["thesis.txt"]


def test_another_recipe_does_not_resume_a_run(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", max_steps=1)
    train(recipe)
    with pytest.raises(ValueError, match=r"has learning_rate 0\.003, this recipe 0\.1"):
        train(replace(recipe, learning_rate=0.1), resume=True)


def test_there_must_be_a_run_to_resume(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ValueError, match="no run to resume"):
        train(make_recipe("lora"), resume=True)


def test_without_validation_the_last_weights_are_kept(make_recipe: MakeRecipe) -> None:
    run = train(make_recipe("lora", max_steps=1, validation_fraction=0.0))
    assert run.best is None
    assert (run.model / "adapter_model.safetensors").is_file()


def test_an_adapter_names_its_base_as_the_recipe_does(
    make_recipe: MakeRecipe, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_checkpoint.parent)
    run = train(make_recipe("lora", model="tiny", max_steps=1, train_projector=True))
    described = json.loads((run.model / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "tiny"
    assert described["modules_to_save"] == ["img_projection.0", "img_projection.2"]
    load_model(run.folder)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_bf16_trains_and_answers(make_recipe: MakeRecipe, method: str) -> None:
    recipe = make_recipe(method, bf16=True, max_steps=2, eval_samples=2, train_projector=True)
    train(recipe)
    losses = [line["loss"] for line in steps(recipe.output_dir)]
    assert losses[1] < losses[0] + 0.1
    assert load_model(recipe.output_dir)[0].dtype == torch.float32, "saved as the checkpoint was"


def test_the_split_holds_out_whole_groups(make_recipe: MakeRecipe) -> None:
    training, validation = load_split(make_recipe("lora"))
    assert (len(training), len(validation)) == (16, 4)
    assert not {s.group for s in training} & {s.group for s in validation}
    other, _ = load_split(make_recipe("lora", seed=1))
    assert {s.group for s in other} != {s.group for s in training}


def test_the_validation_split_of_the_data_is_used_unless_a_fraction_is_set(
    make_recipe: MakeRecipe, tmp_path: Path, rows: list[dict[str, object]]
) -> None:
    for split, part in {"train": rows[:8], "validation": rows[8:10], "test": rows[10:]}.items():
        pq.write_table(pa.Table.from_pylist(part), tmp_path / f"{split}-00000-of-00001.parquet")
    own = make_recipe("lora", data=str(tmp_path), validation_fraction=None)
    assert [len(part) for part in load_split(own)] == [8, 2]
    assert [len(part) for part in load_split(replace(own, validation_fraction=0.25))] == [6, 2]


def test_training_requires_data(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ValueError, match="no data given"):
        train(make_recipe("lora", data=""))


def test_a_column_that_the_template_needs_must_be_there(
    make_recipe: MakeRecipe, tmp_path: Path, rows: list[dict[str, object]]
) -> None:
    for row in rows:
        del row["full_price"]
    file = tmp_path / "no_prices.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    recipe = make_recipe("lora", data=str(file))
    with pytest.raises(ValueError, match="needs the field 'full_price'"):
        train(recipe)
    assert not recipe.output_dir.exists()


def test_a_twin_learns_without_images(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", max_steps=2, eval_samples=4, eval_steps=2, withhold_images=True)
    run = train(recipe)
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    (evaluation,) = [line for line in lines if "model" in line]
    assert "shuffled" not in evaluation
    assert evaluation["uses_image"] is None
    tokens = [line for line in lines if "loss" in line]
    assert len(tokens) == 2
