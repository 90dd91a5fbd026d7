"""Resuming: a run continues from its last whole checkpoint, with the same recipe, data and base."""

import json
import logging
import os
import shutil
import textwrap
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import safe_globals

from phi_vision import runs
from phi_vision.data.samples import join_samples
from phi_vision.data.template import find_template, write_template
from phi_vision.io import atomic, process
from phi_vision.io.formatting import error_texts
from phi_vision.model.checkpoint import first_line
from phi_vision.training import distributed
from phi_vision.training.callbacks import StepCheck
from phi_vision.training.recipes import Recipe, load_recipe, recipe_fields, to_yaml
from phi_vision.training.setup import Setup

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

MAY_DIFFER = {"output_dir", "report_to", "dataloader_num_workers"}  # without effect on the result
THREADS = "threads"  # key in versions.json: sums are rounded by the number of PyTorch's threads
BASE_FINGERPRINT = "base_sha256"  # key in versions.json, as that of the data
FINGERPRINTS = {runs.DATA_FINGERPRINT: "data", BASE_FINGERPRINT: "files of the base model"}

# Files of a checkpoint -> keys of their content, which may not be empty.
STATES = {
    "optimizer.pt": ("state", "param_groups"),
    "scheduler.pt": ("last_epoch",),
    "rng_state*.pth": ("python", "numpy"),
}
# Weights of a checkpoint under FSDP, whose optimizer state is another file too.
SHARDED_WEIGHTS = "pytorch_model_fsdp.bin"


def find_checkpoint(recipe: Recipe) -> Path | None:
    """Find the last whole checkpoint of a run, None before the first, or raise ValueError."""
    run = runs.RunDir(recipe.output_dir)
    if not run.recipe_file.is_file():
        raise failure("no_run", file=run.recipe_file)
    old, new = recipe_fields(load_recipe(run.recipe_file)), recipe_fields(recipe)
    for name in {**new, **old}:
        before, now = old.get(name), new.get(name)
        if before != now and name not in MAY_DIFFER:
            values = {"name": name, "before": before, "now": now}
            raise failure("other_recipe", file=run.recipe_file, **values)
    if distributed.is_main():
        repair(run.path)
        _remove_damaged(run)
    distributed.wait_for_all()
    checkpoint = run.last_checkpoint()
    if checkpoint is not None:
        distributed.check_same_processes(checkpoint)
    logger.info("resuming from %s", checkpoint.name if checkpoint else "the first step")
    _restore_threads(run)
    return checkpoint


def _restore_threads(run: runs.RunDir) -> None:
    """Use as many threads as the run began with, unless the user has set their number."""
    began = str(run.versions().get(THREADS, ""))
    if not began.isdecimal() or process.THREADS in os.environ:
        return
    if (count := int(began)) not in (0, torch.get_num_threads()):
        torch.set_num_threads(count)
        logger.info("PyTorch uses %d threads, as the run began", count)


def repair(output_dir: Path) -> None:
    """Clean up what a kill left in a run folder, before the run resumes."""
    atomic.recover(runs.RunDir(output_dir).model_dir)
    remove_unfinished(output_dir)
    remove_incomplete(output_dir)


def remove_unfinished(output_dir: Path, name: str = "") -> None:
    """Remove what is left of files whose writing was killed, of a name or of all."""
    for file in output_dir.glob(f".{name}*-new"):
        if file.is_file():
            file.unlink(missing_ok=True)


def remove_incomplete(output_dir: Path) -> None:
    """Remove incomplete checkpoints, which would replace complete ones by `save_total_limit`."""
    for folder in runs.RunDir(output_dir).checkpoints():
        if not runs.is_complete(folder):
            logger.info("%s was not written to its end, so it is removed", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _remove_damaged(run: runs.RunDir) -> None:
    """Remove damaged checkpoints after the last whole one; raise ValueError if there is none."""
    damaged: dict[Path, str] = {}
    for folder in reversed(run.checkpoints()):
        if (fault := find_fault(folder)) is None:
            break
        damaged[folder] = fault
    else:
        if damaged:
            raise failure("all_damaged", checkpoint=folder, fault=fault)
    for folder, fault in damaged.items():
        logger.warning("%s is damaged (%s), so it is removed", folder, fault)
        shutil.rmtree(folder)


def find_fault(checkpoint: Path) -> str | None:
    """Find why a run cannot resume exactly from a checkpoint: "it has no optimizer.pt", or None."""
    file = checkpoint / runs.STATE_FILE
    # Whatever a library raises for a damaged file means the same: it does not load.
    try:
        state = TrainerState.load_from_json(str(file))
        if not 0 < state.global_step == runs.checkpoint_step(checkpoint) <= state.max_steps:
            return f"its {runs.STATE_FILE} has the impossible step {state.global_step!r:.40}"
        is_sharded = (checkpoint / SHARDED_WEIGHTS).is_file()
        if not is_sharded and (pickled := [*checkpoint.glob("*_model.bin")]):
            return f"its weights are pickled in {pickled[0].name}"
        for pattern, keys in STATES.items():
            if is_sharded and pattern == "optimizer.pt":
                continue
            if not (files := [*checkpoint.glob(pattern)]):
                return f"it has no {pattern}"
            for file in files:
                if not zipfile.is_zipfile(file):
                    raise ValueError("it was not written by torch.save, or cut")
                with safe_globals():
                    held = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
                if not all(held[key] for key in keys):
                    return f"its {file.name} is empty"
        weights = {*checkpoint.glob("*.safetensors")}
        for file in checkpoint.glob("*.safetensors.index.json"):
            names = json.loads(file.read_text())["weight_map"].values()
            weights |= {checkpoint / name for name in names}
        for file in weights:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    if not opened.get_tensor(name).isfinite().all():
                        return f"its {name} holds values that are not finite"
    except Exception as error:
        return f"its {file.name} does not load: {first_line(error).rstrip('.')}"
    return None if weights or is_sharded else "it has no weights"


@contextmanager
def explain_damage(checkpoint: Path | None, step_check: StepCheck) -> Iterator[None]:
    """Turn any error of loading a checkpoint, before the first step, into a clear one."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if checkpoint is None or step_check.has_begun:
            raise
        fault = textwrap.shorten(str(error), 400, placeholder=" …")
        raise failure("damaged", checkpoint=checkpoint, fault=fault) from error


def write_run_files(recipe: Recipe, setup: Setup) -> None:
    """Write recipe, versions and template into the run folder; only the first process does.

    Raises ValueError if data, template or base of a resumed run have changed, or processes differ.
    """
    run, template = runs.RunDir(recipe.output_dir), setup.collator.template
    samples, before = join_samples(setup.training, setup.validation), run.versions()
    data = samples.source.fingerprint() or runs.fingerprint(samples)
    known = before.get(runs.DATA_FINGERPRINT, data)
    # Runs of earlier versions hashed their samples, not the files.
    data = known if known != data and known == runs.fingerprint(samples) else data
    versions = runs.collect_versions(data) | {BASE_FINGERPRINT: setup.base_fingerprint}
    settings = {**recipe_fields(recipe), **versions}  # threads may differ between machines
    versions |= {THREADS: str(torch.get_num_threads())}
    other = {name: old for name, old in before.items() if old != versions.get(name)}
    for name, changed in FINGERPRINTS.items():
        if name in other:
            raise failure("changed", changed=changed, folder=run.path)
    if run.template_file.is_file() and find_template(str(run.template_file)) != template:
        raise failure("other_template", file=run.template_file)
    if run.is_run(run.path) and not before:
        logger.warning("%s is missing: whether the data have changed is unknown", run.versions_file)
    if other:
        changes = ", ".join(f"{name} {old} -> {versions.get(name)}" for name, old in other.items())
        logger.warning(
            "versions have changed since the run began: %s; its result may differ from that of an "
            "uninterrupted run, install the first ones for the same",
            changes,
        )
    # Every process has checked that the folder is free before the first one writes.
    distributed.check_same_settings(settings)
    if distributed.is_main():
        run.path.resolve().mkdir(parents=True, exist_ok=True)  # through a link to nothing yet
        # First: without a recipe a run cannot be resumed.
        atomic.write_text(run.recipe_file, to_yaml(recipe))
        if not before:
            atomic.write_text(run.versions_file, json.dumps(versions, indent=2) + "\n")
        write_template(template, run.template_file)
    distributed.check_folder_is_shared(run.path, run.recipe_file)
