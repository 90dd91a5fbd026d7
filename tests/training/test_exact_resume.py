"""Killed with SIGKILL at any moment and resumed, a run is the uninterrupted one to the last bit.

Each part of a run is a process of its own, killed from inside at the very moment that is named, or
from outside at some moment. The processes are forked from one that has imported everything.
"""

import functools
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerState

from phi_vision.io import atomic
from phi_vision.model.checkpoint import load_model
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training import callbacks
from phi_vision.training.recipes import Recipe
from phi_vision.training.tracking.tracker import MACHINE_DEPENDENT
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]
Kill = tuple[str, int]
"""At what to be killed, and at which time that it happens."""


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phi_vision.training.trainer"])
    yield context
    for process in multiprocessing.active_children():  # of a test that failed
        process.kill()


def run(recipe: Recipe, resume: bool, kill: Kill | None) -> None:
    """Train in this process, which is a child of the tests' own."""
    torch.set_num_threads(1)
    # A child of a fork server would have its own children, which prepare images, made by that
    # server; they are to be those of a run that was started from a shell.
    multiprocessing.set_start_method("fork", force=True)
    if kill is not None:
        moment, count = kill
        times = itertools.count(1)
        KILLS[moment](lambda: next(times) == count)
    train(recipe, resume=resume)


def start(
    processes: ForkServerContext, recipe: Recipe, *, resume: bool = False, kill: Kill | None = None
) -> ForkServerProcess:
    process = processes.Process(target=run, args=(recipe, resume, kill))
    process.start()
    return process


def finish(process: ForkServerProcess) -> int | None:
    process.join(240)
    return process.exitcode


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_training(is_time: Callable[[], bool]) -> None:
    compute = Phi3VForCausalLM.forward

    @functools.wraps(compute)  # generation looks at the names of what it takes
    def forward(self: Any, *args: Any, **inputs: Any) -> Any:
        if self.training and is_time():
            die()
        return compute(self, *args, **inputs)

    Phi3VForCausalLM.forward = forward


def in_evaluation(is_time: Callable[[], bool]) -> None:
    write = callbacks.generate_texts
    callbacks.generate_texts = lambda *args, **given: die() if is_time() else write(*args, **given)


def in_optimizer_file(is_time: Callable[[], bool]) -> None:
    save = torch.save

    def write_half(what: Any, file: str) -> None:
        save(what, file)
        if file.endswith("optimizer.pt") and is_time():
            os.truncate(file, Path(file).stat().st_size // 2)
            die()

    torch.save = write_half


def in_state_file(is_time: Callable[[], bool]) -> None:
    save = TrainerState.save_to_json

    def write_half(self: TrainerState, file: str) -> None:
        save(self, file)
        if is_time():
            os.truncate(file, Path(file).stat().st_size // 2)
            die()

    TrainerState.save_to_json = write_half


def in_best_weights(is_time: Callable[[], bool]) -> None:
    save = Phi3VProcessor.save_pretrained

    def write_half(self: Any, folder: Path, **given: Any) -> None:
        if is_time():
            die()
        save(self, folder, **given)

    Phi3VProcessor.save_pretrained = write_half


def between_renames(is_time: Callable[[], bool]) -> None:
    rename = Path.rename
    # As on a system that cannot exchange two names in one step.
    atomic._exchange = lambda one, other: False

    def rename_once(self: Path, target: Path) -> Path:
        new = rename(self, target)
        if target.name == ".model-old" and is_time():
            die()
        return new

    Path.rename = rename_once


def in_removal_of_a_checkpoint(is_time: Callable[[], bool]) -> None:
    remove = shutil.rmtree

    def remove_a_part(folder: Any, *args: Any, **given: Any) -> None:
        if "checkpoint-" in str(folder) and is_time():
            next(Path(folder).glob("*.safetensors")).unlink()
            die()
        remove(folder, *args, **given)

    shutil.rmtree = remove_a_part


def in_rewriting_of(name: str) -> Callable[[Callable[[], bool]], None]:
    write = Path.write_bytes

    def kill(is_time: Callable[[], bool]) -> None:
        def write_half(self: Path, content: bytes) -> int:
            if name in self.name and is_time():
                write(self, content[: len(content) // 2])
                die()
            return write(self, content)

        Path.write_bytes = write_half

    return kill


KILLS: dict[str, Callable[[Callable[[], bool]], None]] = {
    "training": in_training,
    "evaluation": in_evaluation,
    "optimizer file": in_optimizer_file,
    "state file": in_state_file,
    "best weights": in_best_weights,
    "between renames": between_renames,
    "removal of a checkpoint": in_removal_of_a_checkpoint,
    "rewriting of the log": in_rewriting_of("log.jsonl"),
    "rewriting of the recipe": in_rewriting_of("recipe.yaml"),
}


def read_log(out: Path) -> list[dict[str, Any]]:
    """Read all that a log says but what is measured with a clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in MACHINE_DEPENDENT} for line in lines]


def weights(out: Path) -> dict[str, bytes]:
    """The best weights and those of all checkpoints, as they lie on the disk."""
    files = sorted(out.rglob("*.safetensors"))
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def assert_same(out: Path, whole: Path) -> None:
    assert read_log(out) == read_log(whole)
    ours, theirs = weights(out), weights(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    assert not list(out.glob(".*")), "leftovers"


def run_with_kills(processes: ForkServerContext, recipe: Recipe, kills: list[Kill]) -> None:
    for number, kill in enumerate(kills):
        process = start(processes, recipe, resume=number > 0, kill=kill)
        assert finish(process) == -signal.SIGKILL, kill
    assert finish(start(processes, recipe, resume=True)) == 0


def test_adapters_with_dropout_accumulation_and_workers(
    make_recipe: MakeRecipe, processes: ForkServerContext, tmp_path: Path
) -> None:
    # Three steps an epoch, of 2, 2 and 1 batches of 4, 4 and 2 + 2 samples; two epochs.
    whole = make_recipe(
        "lora",
        lora_dropout=0.3,
        augmentation=("flip", "crop", "rotation"),
        num_crops=4,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        dataloader_num_workers=2,
        num_train_epochs=2.0,
        eval_steps=2,
        eval_samples=1,
        save_steps=1,
    )
    alone = start(processes, whole)
    cut = replace(whole, output_dir=tmp_path / "cut")
    kills = [
        ("training", 2),  # in the accumulation of the first step: before any checkpoint
        ("evaluation", 1),  # at step 2, resumed from the start
        ("state file", 2),  # of checkpoint 2, resumed from 1
        ("rewriting of the log", 1),
        ("between renames", 1),
        ("optimizer file", 1),
        ("removal of a checkpoint", 1),
    ]
    run_with_kills(processes, cut, kills)
    assert finish(alone) == 0
    assert_same(cut.output_dir, whole.output_dir)
    load_model(cut.output_dir)


def test_all_weights_killed_from_outside(
    make_recipe: MakeRecipe, processes: ForkServerContext, tmp_path: Path
) -> None:
    whole = make_recipe(
        "full", per_device_train_batch_size=4, num_train_epochs=1.5, eval_steps=2, save_steps=2
    )
    alone = start(processes, whole)
    cut = replace(whole, output_dir=tmp_path / "cut")
    process = start(processes, cut)
    log = cut.output_dir / "log.jsonl"
    while not (log.is_file() and log.read_text().count("grad_norm") >= 3):
        assert process.is_alive()
        time.sleep(0.005)
    process.kill()
    assert finish(process) == -signal.SIGKILL
    for kill in [("rewriting of the recipe", 1), ("best weights", 1)]:
        assert finish(start(processes, cut, resume=True, kill=kill)) == -signal.SIGKILL
    assert finish(start(processes, cut, resume=True)) == 0
    assert finish(alone) == 0
    assert_same(cut.output_dir, whole.output_dir)


def test_packed_rows_and_early_stopping(
    make_recipe: MakeRecipe, processes: ForkServerContext, tmp_path: Path
) -> None:
    # No answer of so young a model is in order: the first evaluation stays the best.
    whole = make_recipe(
        "lora",
        pack_length=200,
        per_device_train_batch_size=1,
        num_train_epochs=20.0,
        eval_steps=1,
        eval_samples=1,
        metric_for_best_model="parse_rate",
        early_stopping_patience=2,
        save_steps=2,
    )
    assert finish(start(processes, whole)) == 0
    assert read_log(whole.output_dir)[-1]["step"] == 3
    cut = replace(whole, output_dir=tmp_path / "cut")
    # After the evaluation that was the first without progress, and in the one that stops the run.
    run_with_kills(processes, cut, [("training", 3), ("state file", 1)])
    assert_same(cut.output_dir, whole.output_dir)
    assert train(cut, resume=True).steps == 3
    assert_same(cut.output_dir, whole.output_dir)
