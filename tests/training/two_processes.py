"""What `test_distributed.py` has torchrun start twice: the jobs of a list, one after another.

Importing PyTorch takes longer than all of these trainings, so one launch does them all.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.tensor import DTensor

from phi_vision.training import distributed
from phi_vision.training.recipes import load_recipe
from phi_vision.training.trainer import train


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for job in json.loads((folder / "jobs.json").read_text()):
        found = folder / f"{job['name']}-{rank}.json"
        found.write_text(json.dumps(do(job, rank)))
    dist.destroy_process_group()


def do(job: dict[str, Any], rank: int) -> dict[str, Any]:
    """Train as a job says and tell what was in force, or why it was refused."""
    recipe = load_recipe(Path(job["recipe"]))
    if rank == 1:
        recipe = replace(recipe, **job.get("second_process_has", {}))
    if rank == 0 and "go_on_from" in job:
        forget = shutil.ignore_patterns(job["forget"])
        shutil.copytree(job["go_on_from"], recipe.output_dir, ignore=forget)
    dist.barrier()
    found: dict[str, Any] = {}
    check_sharding = distributed.check_sharding

    def look(recipe: Any, model: Any) -> None:
        weights = list(model.parameters())
        found["model"] = type(model).__name__
        found["weights"] = sum(weight.numel() for weight in weights)
        found["held"] = sum(
            (weight.to_local() if isinstance(weight, DTensor) else weight).numel()
            for weight in weights
        )
        check_sharding(recipe, model)

    distributed.check_sharding = look
    try:
        train(recipe, resume="go_on_from" in job)
    except ValueError as error:
        found["refused"] = str(error)
    finally:
        distributed.check_sharding = check_sharding
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
