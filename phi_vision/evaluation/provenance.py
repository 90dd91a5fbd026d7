"""Provenance of an evaluation: recipe, data, versions, learning curves, cost."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from phi_vision.data.samples import Sample
from phi_vision.evaluation.config import EvaluationConfig
from phi_vision.evaluation.report import EvaluationMetadata
from phi_vision.model.checkpoint import adapter_base, resolve
from phi_vision.runs import DATA_FINGERPRINT, History, RunDir, collect_versions


def collect_metadata(
    model: str,
    name: str,
    config: EvaluationConfig,
    samples: Sequence[Sample],
    training: Sequence[Sample],
    seconds: float,
    left_out: Mapping[str, str],
) -> EvaluationMetadata:
    """Collect the metadata of a report; of a run folder more than of another model."""
    run = RunDir(model)
    history = run.history()
    return EvaluationMetadata(
        model=name,
        data=str(config.data),
        split=config.split,
        data_card={
            part: f"{len(each):,} samples in {len({sample.group for sample in each}):,} groups"
            for part, each in (("evaluation data", samples), ("training data", training))
        },
        recipe=run.recipe_text(),
        versions=_versions(run, samples),
        history=history,
        cost=_training_cost(history)
        | {
            "prediction": f"{seconds:.3g} s per sample, batch size {config.batch_size}",
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
            + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        },
        left_out=left_out,
    )


def base_model_of(model: str) -> str | None:
    """Find the model that a run or an adapter was fine-tuned from; None where unknown or random."""
    recipe = RunDir(model).recipe()
    if recipe:
        return None if recipe.get("random_weights") else str(recipe["model"])
    try:
        return None if Path(model).is_file() else adapter_base(resolve(model))
    except ValueError:  # the URL of a server
        return None


def group_column_of(model: str) -> str | None:
    """Read the column that a run's recipe groups samples by; None without one."""
    column = RunDir(model).recipe().get("group_column")
    return None if column is None else str(column)


def best_achievable(data: Path, split: str) -> Mapping[str, float]:
    """Read the noise ceilings that `phi-vision sample` wrote beside its catalog; {} without them.

    Output: {"category3_code_accuracy": 1.0, "full_price_median_ape": 0.05, "full_price_mae": 21.4}
    """
    # Other data may have a file of that name, or splits that were drawn elsewhere.
    try:
        facts = json.loads((data / "facts.json").read_text(encoding="utf-8"))
        of_split = facts["splits"][split]
        return {
            "category3_code_accuracy": facts["category_ceiling"],
            "full_price_median_ape": of_split["floor_median_ape"],
            "full_price_mae": of_split["floor_mae"],
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _versions(run: RunDir, samples: Sequence[Sample]) -> dict[str, str]:
    """List the current versions, those of the training that differ, and the data fingerprints."""
    now, trained = collect_versions(samples), dict(run.versions())
    data = {"evaluation data, sha256": now.pop(DATA_FINGERPRINT)}
    if DATA_FINGERPRINT in trained:
        data["training data, sha256"] = trained.pop(DATA_FINGERPRINT)
    changed = {f"{name}, in training": v for name, v in trained.items() if v != now.get(name)}
    return now | changed | data


def _training_cost(history: History | None) -> dict[str, str]:
    """Describe the cost of a run: {"training": "7.9 minutes, 760 steps"}; {} without a log."""
    if history is None or not history.steps:
        return {}
    lines = (*history.steps, *history.evaluations)
    # Logs of earlier versions lack the time of a step.
    is_timed = all("seconds" in line for line in lines)
    minutes = f"{sum(line['seconds'] for line in lines) / 60:,.1f} minutes, " if is_timed else ""
    return {"training": f"{minutes}{history.steps[-1]['step']} steps"}
