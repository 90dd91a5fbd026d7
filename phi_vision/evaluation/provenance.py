"""Provenance of an evaluation: recipe, data, versions, learning curves, cost."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from phi_vision.data.samples import Sample
from phi_vision.evaluation.config import EvaluationConfig
from phi_vision.evaluation.prediction_cache import PredictionCollector
from phi_vision.evaluation.report import EvaluationMetadata
from phi_vision.model.checkpoint import adapter_base, resolve
from phi_vision.runs import DATA_FINGERPRINT, History, RunDir, collect_versions


def collect_metadata(
    model: str,
    name: str,
    config: EvaluationConfig,
    collector: PredictionCollector,
    samples: Sequence[Sample],
    training: Sequence[Sample],
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
        cost=_cost(history, collector.seconds["model"], config.batch_size),
        left_out=collector.left_out,
    )


def base_model_of(model: str) -> str | None:
    """Find the model that a run or an adapter was fine-tuned from; None where unknown or random."""
    recipe = RunDir(model).recipe()
    if recipe:
        return None if recipe.get("random_weights") else str(recipe["model"])
    if Path(model).is_file():
        return None
    try:
        return adapter_base(resolve(model))
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
    file = data / "facts.json"
    if not file.is_file():
        return {}
    # Other data may have a file of that name, or splits that were drawn elsewhere.
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        of_split = facts["splits"][split]
        return {
            "category3_code_accuracy": facts["category_ceiling"],
            "full_price_median_ape": of_split["floor_median_ape"],
            "full_price_mae": of_split["floor_mae"],
        }
    except (ValueError, KeyError, TypeError):
        return {}


def _versions(run: RunDir, samples: Sequence[Sample]) -> dict[str, str]:
    """List the current versions, those of the training that differ, and the data fingerprints."""
    now, trained = collect_versions(samples), run.versions()
    versions = {name: found for name, found in now.items() if name != DATA_FINGERPRINT}
    versions |= {
        f"{name}, in training": found
        for name, found in trained.items()
        if name != DATA_FINGERPRINT and found != now.get(name)
    }
    versions["evaluation data, sha256"] = now[DATA_FINGERPRINT]
    if DATA_FINGERPRINT in trained:
        versions["training data, sha256"] = trained[DATA_FINGERPRINT]
    return versions


def _cost(history: History | None, seconds: float, batch_size: int) -> dict[str, str]:
    """Describe the cost of training and prediction, and the machine.

    Output: {"training": "7.9 minutes, 760 steps", "prediction": "0.11 s per sample, batch size 16",
             "machine": "x86_64, 2 threads"}
    """
    cost = {}
    if history is not None and history.steps:
        lines = (*history.steps, *history.evaluations)
        # Logs of earlier versions lack the time of a step.
        is_timed = all("seconds" in line for line in lines)
        minutes = (
            f"{sum(line['seconds'] for line in lines) / 60:,.1f} minutes, " if is_timed else ""
        )
        cost["training"] = f"{minutes}{history.steps[-1]['step']} steps"
    cost["prediction"] = f"{seconds:.3g} s per sample, batch size {batch_size}"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    cost["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads{gpu}"
    return cost
