"""`phi-vision train`: a recipe and data become a run."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_vision.cli.options import Parser, add_fields, add_listed, failure, given_fields
from phi_vision.cli.reporting import CommandReport
from phi_vision.io.formatting import suggestion
from phi_vision.io.process import importing

if TYPE_CHECKING:
    from phi_vision.training.estimate import Plan
    from phi_vision.training.recipes import Recipe

FURTHER = "further."  # prefix of the destination of options that are no recipe field of our own


def add_options(parser: Parser) -> None:
    """Declare the options: every field of a recipe."""
    add_listed(parser, "train")
    add_recipe_options(parser)


def run(options: argparse.Namespace) -> CommandReport | None:
    """Fine-tune a model on images with records."""
    recipe = chosen_recipe(options)
    if options.dry_run:
        with importing():
            from phi_vision.training.estimate import make_plan
            from phi_vision.training.recipes import recipe_fields, to_yaml
            from phi_vision.training.setup import prepare

        prepare(recipe)
        plan = make_plan(recipe)
        text = [*to_yaml(recipe).splitlines(), *(f"# {e}" for e in plan.as_text().splitlines())]
        return CommandReport({"recipe": recipe_fields(recipe), "plan": plan_values(plan)}, text)
    with importing():
        from phi_vision.runs import RunDir
        from phi_vision.training.distributed import is_main
        from phi_vision.training.trainer import train as run_recipe

    try:
        run = run_recipe(recipe, resume=options.resume)
    except KeyboardInterrupt:
        command = f"phi-vision train {RunDir(recipe.output_dir).recipe_file} --resume"
        resumes = f"`{command}` resumes from the last checkpoint"
        raise KeyboardInterrupt(resumes * RunDir.is_run(recipe.output_dir)) from None
    if not is_main():
        return None
    history = RunDir(run.folder).history()
    evaluations = [*history.evaluations] if history else []
    values = {**run._asdict(), "evaluations": evaluations}
    return CommandReport(values, [f"The run is in {run.folder}, the model in {run.model}"])


def plan_values(plan: "Plan") -> dict[str, Any]:
    """Return the numbers of a plan."""
    load, need = plan.load, plan.need
    return {
        "samples": {
            "training": len(load.training),
            "validation": len(load.validation),
            "groups_in_both": load.shared_groups,
        },
        "image_tokens": _token_range([each.image_tokens for each in load.training]),
        "text_tokens": _token_range([each.text_tokens for each in load.training]),
        "rows_per_epoch": len(load.rows),
        "utilization": plan.utilization,
        "steps": plan.steps,
        "parameters": {"trained": need.cost.trained, "total": need.cost.parameters},
        "precision": "bf16" if need.precision.itemsize == 2 else "fp32",
        "memory_bytes": need.memory,
        "memory_bytes_by_part": need.parts,
        "memory_peak_in": need.moment,
        "workers": plan.workers,
        "worker_memory_bytes": plan.worker_memory,
        "seconds": plan.seconds,
        "gpu": {"name": plan.gpu.name, "memory_bytes": plan.gpu.memory},
        "fits": need.memory <= plan.gpu.memory,
        "gpus_that_fit": plan.fits,
        "changes": plan.changes,
    }


def _token_range(counts: Sequence[int]) -> dict[str, float]:
    return {"min": min(counts), "mean": sum(counts) / len(counts), "max": max(counts)}


def add_recipe_options(parser: Parser) -> None:
    """Declare the recipe argument and an option per field."""
    from phi_vision.training.further_fields import further_fields
    from phi_vision.training.recipes import RECIPES, Recipe

    add_listed(parser, "recipe", recipes=", ".join(RECIPES))
    add_fields(parser, Recipe, {name: make() for name, make in RECIPES.items()}, skip=["further"])

    def declare(option: str) -> bool:
        import yaml

        name = option.removeprefix("--").replace("-", "_")
        if is_known := name in further_fields():
            dest, read = FURTHER + name, yaml.safe_load
            parser.add_argument(option, dest=dest, type=read, nargs="?", const=True)
        return is_known

    parser.declare = declare
    parser.epilog = (
        "Any further field of transformers.TrainingArguments, peft.LoraConfig or, with "
        "phi-vision[dpo], trl.DPOConfig is an option too, such as --adam-beta2 0.95."
    )


def chosen_recipe(options: argparse.Namespace) -> "Recipe":
    """Return the recipe of a name or a YAML file with the given fields replaced."""
    from phi_vision.training.further_fields import convert_further
    from phi_vision.training.recipes import RECIPES, Recipe, change, load_recipe

    name, file = options.recipe, Path(options.recipe)
    if name in RECIPES:
        start = RECIPES[name]()
    elif file.exists() or (file.suffix in (".yaml", ".yml") and "://" not in name):
        start = load_recipe(file)
    else:
        near = suggestion(name, RECIPES)
        raise failure("no_recipe", name=name, suggestion=near, known=", ".join(RECIPES))
    fields: dict[str, Any] = {"further": dict(start.further), **given_fields(options, Recipe)}
    for option, value in vars(options).items():
        if option.startswith(FURTHER) and value is not None:
            further = option.removeprefix(FURTHER)
            fields["further"][further] = convert_further(further, value)
    return change(start, fields)
