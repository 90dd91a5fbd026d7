"""A disk that fills up while a run saves: one clear error, and what was whole stays whole."""

import contextlib
import errno
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from small_disks import MEGABYTE, mounted

from phi_vision.model.checkpoint import load_model
from phi_vision.runs import RunDir
from phi_vision.training.recipes import Recipe
from phi_vision.training.resume import repair
from phi_vision.training.tracking.tracker import Tracking
from phi_vision.training.trainer import explain_full_disk, train

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB."""
    with mounted(tmp_path / "small", megabytes=64) as folder:
        yield folder


@contextlib.contextmanager
def at_step(number: int, happens: Callable[[], object]) -> Iterator[None]:
    """Have something happen once a step is written down."""
    write = Tracking.step

    def step(self: Tracking, step: int, figures: Any) -> None:
        write(self, step, figures)
        if step == number:
            happens()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Tracking, "step", step)
        yield


@contextlib.contextmanager
def longest_file(size: int) -> Iterator[Callable[[], object]]:
    """Give what forbids files longer than `size` from then on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def saved(out: Path) -> dict[str, bytes]:
    return contents(out / "model") | contents(out / "checkpoints")


def fill(folder: Path, *, leave: int) -> None:
    free = shutil.disk_usage(folder).free
    with (folder / "ballast").open("wb") as file:
        for _ in range((free - leave) // MEGABYTE):
            file.write(bytes(MEGABYTE))


def train_until_full(recipe: Recipe, step: int, happens: Callable[[], object]) -> OSError:
    """Train with a disk that is full from a step on, and see that all saved before it is left."""
    kept: dict[str, bytes] = {}

    def look_and_go_on() -> None:
        kept.update(saved(recipe.output_dir))
        happens()

    with at_step(step, look_and_go_on), pytest.raises(OSError, match="the disk is full") as caught:
        train(recipe)
    assert saved(recipe.output_dir) == kept
    assert f"checkpoint-{step - 1}/optimizer.pt" in kept
    assert not list(recipe.output_dir.glob(".*")), "leftovers that fill the disk"
    return caught.value


# The weights of the tiny model have 1.7 MB, the moments of AdamW 3.2 MB, those of adapters 0.2 MB.
# At even steps the best weights are written, and then the checkpoint; at odd ones the latter alone.
@pytest.mark.parametrize(
    ("method", "size", "step", "fails"),
    [
        ("full", 1 * MEGABYTE, 4, SafetensorError),
        ("full", 2 * MEGABYTE, 3, RuntimeError),
        ("lora", MEGABYTE // 6, 3, RuntimeError),
    ],
)
def test_a_file_that_may_not_grow_leaves_all_that_was_saved_before(
    make_recipe: MakeRecipe, method: str, size: int, step: int, fails: type[Exception]
) -> None:
    recipe = make_recipe(method, max_steps=4, save_steps=1, eval_steps=2)
    with longest_file(size) as limit:
        error = train_until_full(recipe, step, limit)
    assert isinstance(error.__cause__, fails)
    words = str(error)
    assert f"checkpoint-{step - 1} is complete, and so are the best weights so far" in words
    assert "use --resume" in words
    assert "\n" not in words
    assert train(recipe, resume=True).steps == 4


def test_a_full_disk_leaves_all_that_was_saved_before(
    make_recipe: MakeRecipe, small_disk: Path
) -> None:
    out = small_disk / "run"
    recipe = make_recipe("full", output_dir=out, max_steps=4, save_steps=1, eval_steps=2)
    train_until_full(recipe, 3, lambda: fill(small_disk, leave=3 * MEGABYTE))
    (small_disk / "ballast").unlink()
    assert train(recipe, resume=True).steps == 4
    load_model(recipe.output_dir)


def test_a_disk_that_is_full_before_the_first_checkpoint(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", max_steps=2)
    nothing_yet = "it has no checkpoint yet, so free some space"
    with longest_file(100) as limit, at_step(1, limit), pytest.raises(OSError, match=nothing_yet):
        train(recipe)
    assert train(recipe, resume=True).steps == 2


def test_errors_of_other_kinds_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), explain_full_disk(tmp_path):
        (tmp_path / "missing").read_text()
    with pytest.raises(SafetensorError, match="header"), explain_full_disk(tmp_path):
        raise SafetensorError("Error while deserializing: header too large")
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(RuntimeError, match="Reader"), explain_full_disk(tmp_path):
        torch.load(tmp_path / "broken.pt")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disks_and_full_quotas_are_one_to_the_user(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError, match="the disk is full"), explain_full_disk(tmp_path):
        raise OSError(number, "No space left on device")


def test_the_remains_of_a_killed_process_are_recovered(tmp_path: Path) -> None:
    def checkpoint(step: int, state: str | None) -> None:
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if state is not None:
            (folder / "trainer_state.json").write_text(state)

    for step, state in {9: "{}", 10: "{}", 11: '{"global_step', 12: None}.items():
        checkpoint(step, json.dumps({"global_step": step}) if state == "{}" else state)
    # Between the two renames: the new model is complete, but the checkpoint knows nothing of it.
    (tmp_path / ".model-old").mkdir()
    (tmp_path / ".model-old" / "weights").write_text("former")
    (tmp_path / ".model-new").mkdir()
    repair(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["checkpoints", "model"]
    assert (tmp_path / "model" / "weights").read_text() == "former"
    found = RunDir(tmp_path).last_checkpoint()
    assert found is not None
    assert found.name == "checkpoint-10"
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
