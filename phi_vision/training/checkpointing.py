"""The files of a run: written atomically, resumed after a kill, intact on a full disk.

A checkpoint counts only once it is complete. Its content is that of the Trainer.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from phi_vision.data.template import write_template
from phi_vision.io.atomic import folder_bytes, is_full_disk, recover, write_text
from phi_vision.io.formatting import format_bytes
from phi_vision.runs import RunDir, collect_versions, is_complete
from phi_vision.training import distributed
from phi_vision.training.recipe_file import load_recipe, recipe_fields, to_yaml
from phi_vision.training.recipes import Recipe
from phi_vision.training.setup import Setup

MAY_DIFFER_ON_RESUME = {"output_dir", "report_to", "dataloader_num_workers"}
"""Fields of a recipe that do not change the result."""


def write_run_files(recipe: Recipe, setup: Setup) -> None:
    """Write recipe, versions and template into the run folder; only the first process does.

    Raises:
        ValueError: The processes have different recipes or data, or share no folder.
    """
    run = RunDir(recipe.output_dir)
    versions = collect_versions([*setup.training, *setup.validation])
    # Every process has checked that the folder is free before the first one writes.
    distributed.check_same_settings({**recipe_fields(recipe), **versions})
    if distributed.is_main():
        run.path.mkdir(parents=True, exist_ok=True)
        # First: without a recipe a run cannot be resumed.
        write_text(run.recipe_file, to_yaml(recipe))
        write_text(run.versions_file, json.dumps(versions, indent=2) + "\n")
        write_template(setup.collator.template, run.template_file)
    distributed.check_folder_is_shared(run.path, run.recipe_file)


def find_checkpoint(recipe: Recipe) -> Path | None:
    """Find the last complete checkpoint of the recipe's run; None before the first.

    Raises:
        ValueError: There is no run, or it has another recipe.
    """
    run = RunDir(recipe.output_dir)
    if not run.recipe_file.is_file():
        raise ValueError(
            f"no run to resume in {run.path}: it has no {run.recipe_file.name}; check --output-dir"
        )
    before, now = recipe_fields(load_recipe(run.recipe_file)), recipe_fields(recipe)
    for name in {**now, **before}:
        if now.get(name) != before.get(name) and name not in MAY_DIFFER_ON_RESUME:
            raise ValueError(
                f"the run in {run.path} has {name} {before.get(name)}, this recipe "
                f"{now.get(name)}; resume with {run.recipe_file}, or start in another --output-dir"
            )
    if distributed.is_main():
        repair(run.path)
    distributed.wait_for_all()
    checkpoint = run.last_checkpoint()
    if checkpoint is not None:
        distributed.check_same_processes(checkpoint)
    return checkpoint


def repair(output_dir: Path) -> None:
    """Clean up what a kill left in a run folder, before the run resumes.

    Incomplete checkpoints would count towards `save_total_limit`, and replace a complete one.
    """
    recover(RunDir(output_dir).model_dir)
    for unfinished in output_dir.glob(".*-new"):
        if unfinished.is_file():
            unfinished.unlink()
    _remove_incomplete(output_dir)


@contextlib.contextmanager
def explain_full_disk(output_dir: Path) -> Iterator[None]:
    """Turn the errors of PyTorch, safetensors and Python on a full disk into one clear error.

    Incomplete files are removed; the last checkpoint and the best model stay intact.

    Raises:
        OSError: The disk is full; with the state of the run and how to resume.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_full_disk(error):
            raise
        free = shutil.disk_usage(output_dir if output_dir.exists() else Path.cwd()).free
        _remove_incomplete(output_dir)
        # An atomic folder already wraps the error of the library that wrote into it.
        raise OSError(_describe_full_disk(RunDir(output_dir), free)) from error.__cause__ or error


def _describe_full_disk(run: RunDir, free: int) -> str:
    found = f"the disk is full: the run in {run.path} could not be saved ({format_bytes(free)} free"
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        return f"{found}); it has no checkpoint yet, so free some space and start it with --resume"
    size = format_bytes(folder_bytes(checkpoint))
    kept = f"{checkpoint.name} is complete"
    if run.model_dir.exists():
        kept += f", and so are the best weights so far in {run.model_dir}"
    return f"{found}, a checkpoint takes {size}); {kept}; free some space and use --resume"


def _remove_incomplete(output_dir: Path) -> None:
    for folder in RunDir(output_dir).checkpoints():
        if not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
