"""run_evaluation: predictions, image ablations, baselines, leakage, scores and the report.

run_evaluation("runs/coats", EvaluationConfig(data=Path("catalog")))
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phi_vision.data.dataset import available_splits, load_samples
from phi_vision.data.image_ablations import withhold_images
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.evaluation.ablations import PredictionTask, plan_predictions
from phi_vision.evaluation.baselines import nearest, predict_baselines
from phi_vision.evaluation.config import EvaluationConfig, ProgressBar, no_progress
from phi_vision.evaluation.leakage import find_leakage
from phi_vision.evaluation.prediction_cache import PredictionCollector
from phi_vision.evaluation.provenance import (
    base_model_of,
    best_achievable,
    collect_metadata,
    group_column_of,
)
from phi_vision.evaluation.report import Evaluation, write_report
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.predictor import Predictor, load_predictor, resolve_template
from phi_vision.metrics.field_metrics import Predicted
from phi_vision.metrics.scores import Scores, score
from phi_vision.runs import RunDir

NEAREST = "nearest"
"""The baseline that needs a vision tower."""


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The scores of an evaluation, and the page of its report."""

    scores: Scores
    page: Path


def run_evaluation(
    model: str, config: EvaluationConfig, *, bar: ProgressBar = no_progress
) -> EvaluationResult:
    """Run a full evaluation and write its report; an interrupted one resumes.

    Args:
        model: Run, checkpoint or adapter folder, Hub id, ONNX folder, URL of a server
            (http://…/v1), or JSONL file of predictions.
        config: The options.
        bar: Shows the progress.

    Raises:
        ValueError: There is no such model, data or folder, or they do not fit.
    """
    out = report_folder(model, config.out)
    samples, training = _load_data(config, config.group_column or group_column_of(model))
    collector = PredictionCollector(folder=out / "answers", bar=bar)

    # The predictors are loaded one after the other: the model, then the models to compare with.
    predictor = load_predictor(model, template=config.template, batch_size=config.batch_size)
    name, template = predictor.name, predictor.template
    _check_records([*samples, *training], template)
    tasks, collector.left_out = plan_predictions(predictor, samples, training, config)
    for system, task in tasks.items():
        collector.predict(system, model, predictor, task)
    neighbours = _predict_nearest(predictor, samples, training, config, collector)
    del predictor
    for system, other in _models_to_compare(model, config, collector).items():
        predictor = load_predictor(
            other, template=resolve_template(model, config.template), batch_size=config.batch_size
        )
        shown = withhold_images(samples) if system == "twin" else samples
        collector.predict(system, other, predictor, PredictionTask(shown))
        neighbours = neighbours or _predict_nearest(predictor, samples, training, config, collector)
        del predictor
    if NEAREST not in (*config.skip, *neighbours, *collector.left_out):
        collector.left_out[NEAREST] = (
            "there is no checkpoint with a vision tower; pass one with --base"
        )

    predicted = [prediction.record for prediction in collector.predictions["model"]]
    baselines = neighbours | predict_baselines(
        samples, training, template, config, predicted=predicted, bar=bar
    )
    leaked = None
    if "leakage" not in config.skip:
        with bar("comparing images with the training data") as progress:
            leaked = find_leakage(samples, training, progress)
    scores = score(
        collector.predictions,
        samples,
        template,
        training=training,
        baselines=baselines,
        leaked=leaked,
        target_precision=config.target_precision,
        seed=config.seed,
        best_achievable=best_achievable(config.data, config.split),
    )
    metadata = collect_metadata(model, name, config, collector, samples, training)
    evaluation = Evaluation(scores=scores, samples=samples, metadata=metadata)
    return EvaluationResult(scores=scores, page=write_report(evaluation, out))


def report_folder(model: str, out: Path | None) -> Path:
    """Return the folder of a report: `out`, else that in the evaluated run.

    Raises:
        ValueError: Neither exists, or the place is a file.
    """
    if out is None and not RunDir.is_run(model):
        raise ValueError(f"{model} is not a run, so it has no place for a report; pass --out DIR")
    place = out or RunDir(model).report.path
    if place.exists() and not place.is_dir():
        raise ValueError(f"cannot write a report to {place}: found a file; pass a folder")
    return place


def _load_data(
    config: EvaluationConfig, group_column: str | None
) -> tuple[list[Sample], list[Sample]]:
    """Load the evaluated samples and the training samples."""
    splits = available_splits(config.data)
    if "train" not in splits:
        raise ValueError(
            f"{config.data} has no split 'train', which baselines, slices and leakage need; found "
            f"{', '.join(splits) or 'one file without splits'}; pass a folder that has it, such as "
            "`phi-vision prepare` writes"
        )
    load = functools.partial(load_samples, config.data, group_column=group_column)
    return load(split=config.split)[: config.limit], load(split="train")


def _check_records(samples: Sequence[Sample], template: Template) -> None:
    """Reject samples without the template's fields before the predictions, which may take hours."""
    for sample in samples:
        try:
            template.select(sample.record)
        except ValueError as error:
            what = "is a conversation and " if sample.messages else ""
            raise ValueError(f"sample {sample.id!r} {what}cannot be evaluated: {error}") from error


def _models_to_compare(
    model: str, config: EvaluationConfig, collector: PredictionCollector
) -> dict[str, str]:
    """Return the model before fine-tuning and the twin, where known and not skipped."""
    base = config.base or base_model_of(model)
    if "base" in config.skip:
        base = None
    elif base is None:
        collector.left_out["base"] = "the model before fine-tuning is unknown; pass it with --base"
    models = {"base": base, "twin": config.twin}
    return {system: other for system, other in models.items() if other is not None}


def _predict_nearest(
    predictor: Predictor,
    samples: Sequence[Sample],
    training: Sequence[Sample],
    config: EvaluationConfig,
    collector: PredictionCollector,
) -> dict[str, Predicted]:
    """Predict with the nearest neighbours by a checkpoint's vision tower; {} where impossible."""
    if NEAREST in (*config.skip, *collector.left_out):
        return {}
    if not isinstance(predictor, LocalPredictor) or predictor.is_onnx:
        return {}
    everything = [*training, *samples]
    without = next((sample.id for sample in everything if not sample.images), None)
    if without is not None:
        collector.left_out[NEAREST] = f"sample {without!r} has no image"
        return {}
    with collector.bar("finding the nearest images") as progress:
        features = predictor.features(everything)
        progress(len(everything), len(everything))
    known = len(training)
    return {NEAREST: nearest(features[known:], features[:known], training, predictor.template)}
