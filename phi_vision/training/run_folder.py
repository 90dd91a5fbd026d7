"""The folder of a run: free for a new one, or the one to go on in; and what describes it."""

import json
from collections.abc import Mapping
from pathlib import Path

from transformers import TrainerState

from phi_vision.data.template import write_template
from phi_vision.io.atomic import write_text
from phi_vision.runs import STATE_FILE, RunDir, collect_versions
from phi_vision.training.checkpointing import mend
from phi_vision.training.distributed import (
    check_alike,
    check_folder_is_shared,
    check_same_processes,
    is_main,
    wait_for_all,
)
from phi_vision.training.recipe_file import load_recipe, recipe_fields, to_yaml
from phi_vision.training.recipes import Recipe
from phi_vision.training.setup import Prepared

MAY_DIFFER_ON_RESUME = {"output_dir", "report_to", "dataloader_num_workers"}
"""Fields of a recipe that do not change what is computed."""


def find_checkpoint(recipe: Recipe) -> Path | None:
    """Find the last whole checkpoint of the recipe's run; None if it was stopped before the first.

    Raises:
        ValueError: There is no run, or it has another recipe.
    """
    described = RunDir(recipe.output_dir).recipe_file
    if not described.is_file():
        raise ValueError(
            f"no run to resume in {recipe.output_dir}: it has no recipe.yaml; check --output-dir"
        )
    before, now = (recipe_fields(each) for each in (load_recipe(described), recipe))
    changed = [
        name
        for name in {**now, **before}
        if now.get(name) != before.get(name) and name not in MAY_DIFFER_ON_RESUME
    ]
    if changed:
        name = changed[0]
        raise ValueError(
            f"the run in {recipe.output_dir} has {name} {before.get(name)}, this recipe "
            f"{now.get(name)}; "
            f"resume with {described}, or start anew in another --output-dir"
        )
    if is_main():
        mend(recipe.output_dir)
    wait_for_all()
    checkpoint = RunDir(recipe.output_dir).last_checkpoint()
    if checkpoint is not None:
        check_same_processes(checkpoint)
    return checkpoint


def state_of(checkpoint: Path | None) -> TrainerState:
    """Read how far a checkpoint got; nowhere without one."""
    if checkpoint is None:
        return TrainerState()
    return TrainerState.load_from_json(str(checkpoint / STATE_FILE))


def write_description(recipe: Recipe, prepared: Prepared) -> None:
    """Write recipe, versions and template into the folder; of several processes one does.

    Raises:
        ValueError: The processes were given different recipes or data, or share no folder.
    """
    found = collect_versions([*prepared.training, *prepared.validation])
    # Nobody writes before all have looked whether the folder is free.
    check_alike({**recipe_fields(recipe), **found})
    if is_main():
        _write_files(recipe, prepared, found)
    check_folder_is_shared(recipe.output_dir, RunDir(recipe.output_dir).recipe_file)


def _write_files(recipe: Recipe, prepared: Prepared, found: Mapping[str, str]) -> None:
    run = RunDir(recipe.output_dir)
    run.path.mkdir(parents=True, exist_ok=True)
    # First, and never a half: without it a run cannot be resumed.
    write_text(run.recipe_file, to_yaml(recipe))
    write_text(run.versions_file, json.dumps(found, indent=2) + "\n")
    write_template(prepared.collator.template, run.template_file)
