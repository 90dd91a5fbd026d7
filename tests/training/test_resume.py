"""Resuming: from the last whole checkpoint only, with the same data, by one process at a time."""

import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from phi_vision.io import atomic
from phi_vision.runs import STATE_FILE, RunDir, fingerprint
from phi_vision.training import resume
from phi_vision.training.recipes import RECIPES, Recipe
from phi_vision.training.setup import load_split
from phi_vision.training.trainer import train
from pretraining.tiny import write_tiny_checkpoint


@pytest.fixture(scope="module")
def trained(
    tiny_checkpoint: Path, products: Path, tmp_path_factory: pytest.TempPathFactory
) -> Recipe:
    """A run of two steps with two checkpoints."""
    recipe = replace(
        RECIPES["lora"](),
        **{"model": str(tiny_checkpoint), "data": str(products), "report_to": "none"},
        **{"validation_fraction": 0.2, "per_device_train_batch_size": 8, "eval_samples": 0},
        **{"bf16": False, "max_steps": 2, "save_steps": 1},
        output_dir=tmp_path_factory.mktemp("trained") / "run",
    )
    train(recipe)
    return recipe


@pytest.fixture
def recipe(trained: Recipe, tmp_path: Path) -> Recipe:
    """The same run, the test's own to break."""
    shutil.copytree(trained.output_dir, tmp_path / "run")
    return replace(trained, output_dir=tmp_path / "run")


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    with caplog.at_level(logging.INFO, "phi_vision"):
        yield lambda: "\n".join(caplog.messages)


def change_state(**fields: object) -> Callable[[Path], None]:
    def harm(checkpoint: Path) -> None:
        file = checkpoint / STATE_FILE
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return harm


def cut(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: os.truncate(checkpoint / name, 1000)


def remove(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).unlink()


def empty_optimizer(checkpoint: Path) -> None:
    torch.save({"state": {}, "param_groups": [{}]}, checkpoint / "optimizer.pt")


def pickle_weights(checkpoint: Path) -> None:
    (checkpoint / "adapter_model.safetensors").rename(checkpoint / "adapter_model.bin")


def plant_code(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").write_bytes(pickle.dumps(os.getcwd))


def spoil_weights(checkpoint: Path) -> None:
    file = checkpoint / "adapter_model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(file).items()}, file)


HARMS = {
    "no optimizer state": (remove("optimizer.pt"), "it has no optimizer.pt"),
    "an empty optimizer state": (empty_optimizer, "its optimizer.pt is empty"),
    "no schedule": (remove("scheduler.pt"), "it has no scheduler.pt"),
    "no random state": (remove("rng_state.pth"), "it has no rng_state"),
    "a step too far": (change_state(global_step=999), "the impossible step 999"),
    "a step below zero": (change_state(global_step=-1), "the impossible step -1"),
    "a step of text": (change_state(global_step="2"), "does not load"),
    "a list as state": (
        lambda checkpoint: (checkpoint / STATE_FILE).write_text("[]"),
        "trainer_state.json does not load",
    ),
    "cut weights": (cut("adapter_model.safetensors"), "adapter_model.safetensors does not load"),
    "a cut optimizer": (cut("optimizer.pt"), "optimizer.pt does not load"),
    "code in a pickle": (plant_code, "optimizer.pt does not load"),
    "pickled weights": (pickle_weights, "its weights are pickled in adapter_model.bin"),
    "weights that are no numbers": (spoil_weights, "holds values that are not finite"),
    "text as optimizer": (
        lambda checkpoint: (checkpoint / "optimizer.pt").write_text("no"),
        "optimizer.pt does not load: it was not written by torch.save",
    ),
    "no weights": (remove("adapter_model.safetensors"), "it has no weights"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    recipe: Recipe, messages: Callable[[], str], harm: str
) -> None:
    checkpoints = RunDir(recipe.output_dir).checkpoints()
    damage, expected = HARMS[harm]
    damage(checkpoints[1])
    assert resume.find_checkpoint(recipe) == checkpoints[0]
    assert expected in messages()
    assert "resuming from checkpoint-1" in messages()


def test_a_run_resumes_from_the_older_checkpoint_to_the_same_end(
    recipe: Recipe, trained: Recipe
) -> None:
    remove("optimizer.pt")(RunDir(recipe.output_dir).checkpoints()[1])
    assert train(recipe, resume=True).steps == 2
    ours, theirs = (
        (RunDir(each.output_dir).model_dir / "adapter_model.safetensors").read_bytes()
        for each in (recipe, trained)
    )
    assert ours == theirs


def test_without_a_whole_checkpoint_nothing_is_removed(recipe: Recipe) -> None:
    checkpoints = RunDir(recipe.output_dir).checkpoints()
    for checkpoint in checkpoints:
        remove("optimizer.pt")(checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint-1 is damaged \(it has no optimizer.pt\)"):
        train(recipe, resume=True)
    assert RunDir(recipe.output_dir).checkpoints() == checkpoints


def test_a_checkpoint_that_fails_to_load_is_one_line(recipe: Recipe) -> None:
    first, second = RunDir(recipe.output_dir).checkpoints()
    shutil.rmtree(second)
    torch.save({"state": {0: {}}, "param_groups": [{"params": [0]}]}, first / "optimizer.pt")
    with pytest.raises(ValueError, match=r"checkpoint-1 does not load: .*Remove it to resume"):
        train(recipe, resume=True)


def test_weights_of_other_shapes_are_one_line_with_the_shapes(recipe: Recipe) -> None:
    first, second = RunDir(recipe.output_dir).checkpoints()
    shutil.rmtree(second)
    file = first / "adapter_model.safetensors"
    save_file({name: value[:1].clone() for name, value in load_file(file).items()}, file)
    with pytest.raises(ValueError, match=r"checkpoint-1 does not load: .*size mismatch for ") as e:
        train(recipe, resume=True)
    assert "\n" not in str(e.value)


def test_a_run_without_its_versions_resumes_with_a_warning(
    recipe: Recipe, messages: Callable[[], str]
) -> None:
    RunDir(recipe.output_dir).versions_file.unlink()
    train(recipe, resume=True)
    assert "versions.json is missing: whether the data have changed is unknown" in messages()


def test_changed_data_do_not_resume_a_run(recipe: Recipe, products: Path, tmp_path: Path) -> None:
    versions = RunDir(recipe.output_dir).versions_file
    versions.write_text(versions.read_text().replace('data_sha256": "', 'data_sha256": "0'))
    with pytest.raises(ValueError, match="the data have changed since the run"):
        train(recipe, resume=True)


def test_a_run_of_an_earlier_version_resumes_with_the_fingerprint_of_its_samples(
    recipe: Recipe,
) -> None:
    training, validation = load_split(recipe)
    versions = RunDir(recipe.output_dir).versions_file
    before = json.loads(versions.read_text())
    own = fingerprint([*training, *validation])
    assert own != before["data_sha256"], "now that of the files"
    versions.write_text(json.dumps({**before, "data_sha256": own}))
    train(recipe, resume=True)


def test_another_base_under_the_same_path_does_not_resume_a_run(
    recipe: Recipe, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    recipe = replace(recipe, model=str(base), output_dir=tmp_path / "own", max_steps=1)
    train(recipe)
    write_tiny_checkpoint(base, seed=1)
    with pytest.raises(ValueError, match="the files of the base model have changed since the run"):
        train(recipe, resume=True)


def test_a_run_of_an_earlier_version_resumes_without_a_fingerprint_of_its_base(
    recipe: Recipe,
) -> None:
    file = RunDir(recipe.output_dir).versions_file
    first = json.loads(file.read_text())
    del first["base_sha256"]
    file.write_text(json.dumps(first))
    assert train(recipe, resume=True).steps == 2


def test_a_run_that_was_killed_in_its_first_checkpoint_resumes_from_its_first_step(
    recipe: Recipe, trained: Recipe, messages: Callable[[], str]
) -> None:
    first, second = RunDir(recipe.output_dir).checkpoints()
    shutil.rmtree(second)
    (first / STATE_FILE).unlink()
    assert train(recipe, resume=True).steps == 2
    assert "resuming from the first step" in messages()
    name = "adapter_model.safetensors"
    ours, theirs = (RunDir(each.output_dir).model_dir / name for each in (recipe, trained))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_run_that_was_killed_before_it_had_a_recipe_starts_anew(
    trained: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".recipe.yaml.123-new").write_text("method: lo")
    recipe = replace(trained, output_dir=tmp_path / "run", max_steps=1)
    with pytest.raises(ValueError, match="start without --resume in a new or empty folder"):
        train(recipe, resume=True)
    assert train(recipe).steps == 1


def test_a_damaged_log_is_a_warning(recipe: Recipe, messages: Callable[[], str]) -> None:
    log = RunDir(recipe.output_dir).log_file
    whole = log.read_text()
    log.write_bytes(b"\xff what\n[1]\n")
    shutil.rmtree(RunDir(recipe.output_dir).checkpoints()[1])
    train(recipe, resume=True)
    assert "log.jsonl is damaged from line 1 on, which is lost" in messages()
    assert log.read_text().count("grad_norm") == 1 < whole.count("grad_norm")


def test_a_link_to_no_folder_yet_is_followed(trained: Recipe, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    train(replace(trained, output_dir=tmp_path / "link", max_steps=1))
    assert RunDir.is_run(tmp_path / "there")


def test_changed_versions_are_a_warning_and_the_first_ones_stay(
    recipe: Recipe, messages: Callable[[], str]
) -> None:
    file = RunDir(recipe.output_dir).versions_file
    first = json.loads(file.read_text()) | {"torch": "1.0"}
    file.write_text(json.dumps(first))
    train(recipe, resume=True)
    assert f"have changed since the run began: torch 1.0 -> {torch.__version__}" in messages()
    assert json.loads(file.read_text()) == first


def test_a_run_resumes_with_as_many_threads_as_it_began_with(
    recipe: Recipe, messages: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, before = RunDir(recipe.output_dir).versions_file, torch.get_num_threads()
    began = json.loads(file.read_text())
    assert began["threads"] == str(before)
    file.write_text(json.dumps(began | {"threads": str(before + 1)}))
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    resume.find_checkpoint(recipe)
    assert torch.get_num_threads() == before, "the user decides"
    monkeypatch.delenv("OMP_NUM_THREADS")
    resume.find_checkpoint(recipe)
    try:
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert f"PyTorch uses {before + 1} threads, as the run began" in messages()


def test_a_changed_template_does_not_resume_a_run(recipe: Recipe) -> None:
    file = RunDir(recipe.output_dir).template_file
    file.write_text(file.read_text().replace("Name the product", "Name the thing"))
    with pytest.raises(ValueError, match="the template is another than"):
        train(recipe, resume=True)


def test_conversations_belong_to_the_fingerprint() -> None:
    from phi_vision.data.samples import Message, Sample

    first = Sample(id="a", group="a", images=(), record={}, messages=(Message("user", "one"),))
    other = replace(first, messages=(Message("user", "two"),))
    assert fingerprint([first]) != fingerprint([other])
    assert fingerprint([first]) != fingerprint([replace(first, rejected="no")])


def same(folder: Path) -> Path:
    return folder


def linked(folder: Path) -> Path:
    (link := folder.with_name("link")).symlink_to(folder)
    return link


def below_a_link(folder: Path) -> Path:
    (link := folder.with_name("above")).symlink_to(folder.parent)
    return link / folder.name


def relative(folder: Path) -> Path:
    return Path(os.path.relpath(folder))


def round_about(folder: Path) -> Path:
    return folder / ".." / folder.name


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("spelling", [same, linked, below_a_link, relative, round_about])
def test_a_run_that_another_process_trains_is_rejected_however_its_path_is_spelt(
    recipe: Recipe, resumes: bool, spelling: Callable[[Path], Path]
) -> None:
    other = replace(recipe, output_dir=spelling(recipe.output_dir))
    with (
        atomic.lock(recipe.output_dir),
        pytest.raises(ValueError, match="is being written by another process"),
    ):
        train(other, resume=resumes)
