"""What is known of a model besides its answers: recipe, data, versions, learning curves, cost."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from phi_vision.data.samples import Sample
from phi_vision.evaluation.collect import PredictionCollector
from phi_vision.evaluation.report import EvaluationMetadata
from phi_vision.model.checkpoint import adapter_base, resolve
from phi_vision.runs import DATA_FINGERPRINT, History, RunDir, collect_versions


def collect_metadata(
    model: str,
    name: str,
    *,
    data: Path,
    split: str,
    collector: PredictionCollector,
    samples: Sequence[Sample],
    training: Sequence[Sample],
) -> EvaluationMetadata:
    """Put together what a report tells besides figures.

    Args:
        model: What the answerer was found by; a run's folder tells most.
        name: What it calls itself.
        data: Folder of samples.
        split: Part of them that was judged on.
        hearing: Who was asked, and how long it took.
        samples: What was judged on.
        training: The train split.
    """
    run = RunDir(model)
    history = run.history()
    return EvaluationMetadata(
        model=name,
        data=str(data),
        split=split,
        data_card=_describe_data(samples, training),
        recipe=run.recipe_text(),
        versions=_tell_versions(run, samples),
        history=history,
        cost=_tell_cost(history, collector),
        left_out=collector.left_out,
    )


def start_of(model: str) -> str | None:
    """Name what a run or an adapter was fine-tuned from; None where that is not known.

    A model with random weights is no start that could be asked.
    """
    recipe = RunDir(model).recipe()
    if recipe:
        return None if recipe.get("random_weights") else str(recipe["model"])
    if Path(model).is_file():
        return None
    try:
        return adapter_base(resolve(model))
    except ValueError:  # a server's address
        return None


def groups_of(model: str) -> str | None:
    """Name the column that a run's recipe groups samples by; None where it leaves that open."""
    column = RunDir(model).recipe().get("group_column")
    return None if column is None else str(column)


def best_achievable(data: Path, split: str) -> Mapping[str, float]:
    """Read the best reachable figures that `phi-vision sample` wrote beside its catalog, if any.

    Output: {"category3_code_accuracy": 1.0, "full_price_median_ape": 0.05, "full_price_mae": 21.4}
    """
    file = data / "facts.json"
    if not file.is_file():
        return {}
    # Other data may have a file of that name, or splits that were drawn elsewhere.
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        of_split = metadata["splits"][split]
        return {
            "category3_code_accuracy": metadata["category_ceiling"],
            "full_price_median_ape": of_split["floor_median_ape"],
            "full_price_mae": of_split["floor_mae"],
        }
    except (ValueError, KeyError, TypeError):
        return {}


def _describe_data(samples: Sequence[Sample], training: Sequence[Sample]) -> dict[str, str]:
    return {
        what: f"{len(part):,} samples in {len({each.group for each in part}):,} groups"
        for what, part in (("judged on", samples), ("training", training))
    }


def _tell_versions(run: RunDir, samples: Sequence[Sample]) -> dict[str, str]:
    """Give the versions of now; those of the training where they were others, and its data."""
    now, trained = collect_versions(samples), run.versions()
    told = {name: found for name, found in now.items() if name != DATA_FINGERPRINT}
    told |= {
        f"{name}, in training": found
        for name, found in trained.items()
        if name != DATA_FINGERPRINT and found != now.get(name)
    }
    told["data judged on, sha256"] = now[DATA_FINGERPRINT]
    if DATA_FINGERPRINT in trained:
        told["data learnt from, sha256"] = trained[DATA_FINGERPRINT]
    return told


def _tell_cost(history: History | None, collector: PredictionCollector) -> dict[str, str]:
    """Say what training and answering took, on which machine.

    Output: {"training": "7.9 minutes, 760 steps", "answering": "0.11 s a sample, 16 together",
             "machine": "x86_64, 2 threads"}
    """
    told = {}
    if history is not None and history.steps:
        lines = (*history.steps, *history.evaluations)
        # Logs of earlier versions do not tell how long a step took.
        timed = all("seconds" in line for line in lines)
        minutes = sum(line["seconds"] for line in lines) / 60 if timed else None
        took = "" if minutes is None else f"{minutes:,.1f} minutes, "
        told["training"] = f"{took}{history.steps[-1]['step']} steps"
    told["answering"] = (
        f"{collector.seconds['model']:.3g} s a sample, up to {collector.batch_size} together"
    )
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    told["machine, now"] = f"{platform.machine()}, {torch.get_num_threads()} threads{card}"
    return told
