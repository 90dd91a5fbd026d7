"""run_evaluation: predictions, image ablations, baselines, leakage, scores and the report.

run_evaluation("runs/coats", EvaluationConfig(data=Path("catalog")))
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from phi_vision.data.dataset import available_splits, load_samples
from phi_vision.data.image_ablations import blank_images, shuffle_images, withhold_images
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template, find_template
from phi_vision.data.template_grammar import grammar_of, known_categories
from phi_vision.evaluation.baselines import nearest, predict_baselines
from phi_vision.evaluation.config import EvaluationConfig, ProgressBar, no_progress
from phi_vision.evaluation.leakage import find_leakage
from phi_vision.evaluation.prediction_cache import predict_system
from phi_vision.evaluation.provenance import (
    base_model_of,
    best_achievable,
    collect_metadata,
    group_column_of,
)
from phi_vision.evaluation.report import Evaluation, write_report
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.inference.predictor import (
    FilePredictor,
    Predictor,
    load_predictor,
    resolve_template,
)
from phi_vision.metrics.field_metrics import Predicted
from phi_vision.metrics.scores import Scores, score
from phi_vision.runs import RunDir

CONSTRAINED, NEAREST = "constrained", "nearest"

ABLATIONS: dict[str, Callable[[Sequence[Sample], int], list[Sample]]] = {
    "shuffled": lambda samples, seed: shuffle_images(samples, seed=seed),
    "blank": lambda samples, seed: blank_images(samples),
    "withheld": lambda samples, seed: withhold_images(samples),
}
"""System -> the change of its images, given a seed."""

NOT_GIVEN = {
    "base": "the model before fine-tuning is unknown; pass it with --base",
    NEAREST: "there is no checkpoint with a vision tower; pass one with --base",
}
"""System -> why it is left out where no model for it is known."""


Tasks = dict[str, tuple[Sequence[Sample], str | None]]
"""System -> the samples to predict, and the grammar that constrains the text."""


class EvaluationResult(NamedTuple):
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

    Raises:
        ValueError: There is no such model, data or folder, or they do not fit.
    """
    out = report_folder(model, config.out)
    samples, training = _load_data(config, config.group_column or group_column_of(model))
    template = find_template(resolve_template(model, config.template))
    _check_records([*samples, *training], template)
    predict = partial(predict_system, folder=out / "answers", bar=bar)
    name, predictions, baselines, left_out = _predict_all(
        model, samples, training, config, predict, bar
    )
    predicted = [prediction.record for prediction in predictions["model"]]
    baselines |= predict_baselines(
        samples, training, template, config, predicted=predicted, bar=bar
    )
    leaked = None
    if "leakage" not in config.skip:
        with bar("comparing images with the training data") as progress:
            leaked = find_leakage(samples, training, progress)
    scores = score(
        predictions,
        samples,
        template,
        training=training,
        baselines=baselines,
        leaked=leaked,
        target_precision=config.target_precision,
        seed=config.seed,
        best_achievable=best_achievable(config.data, config.split),
    )
    seconds = fmean(each.seconds or 0.0 for each in predictions["model"])
    metadata = collect_metadata(model, name, config, samples, training, seconds, left_out)
    evaluation = Evaluation(scores=scores, samples=samples, metadata=metadata)
    return EvaluationResult(scores, write_report(evaluation, out))


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
    load = partial(load_samples, config.data, group_column=group_column)
    return load(split=config.split)[: config.limit], load(split="train")


def _check_records(samples: Sequence[Sample], template: Template) -> None:
    """Reject samples without the template's fields before the predictions, which may take hours."""
    for sample in samples:
        try:
            template.select(sample.record)
        except ValueError as error:
            what = "is a conversation and " if sample.messages else ""
            raise ValueError(f"sample {sample.id!r} {what}cannot be evaluated: {error}") from error


def _predict_all(
    model: str,
    samples: Sequence[Sample],
    training: Sequence[Sample],
    config: EvaluationConfig,
    predict: Callable[..., list[Prediction]],
    bar: ProgressBar,
) -> tuple[str, dict[str, list[Prediction]], dict[str, Predicted], dict[str, str]]:
    """Return the model's name, and by system predictions, nearest records, reasons of no run."""
    predictions: dict[str, list[Prediction]] = {}
    neighbours: dict[str, Predicted] = {}
    name, left_out = "", dict[str, str]()
    template = resolve_template(model, config.template)
    base = None if "base" in config.skip else config.base or base_model_of(model)
    for system, source in {"model": model, "base": base, "twin": config.twin}.items():
        if source is None:
            continue
        predictor = load_predictor(source, template=template, batch_size=config.batch_size)
        shown = withhold_images(samples) if system == "twin" else samples
        tasks: Tasks = {system: (shown, None)}
        if system == "model":
            name, left_out = predictor.name, _unsupported(predictor, config)
            tasks |= _ablations(samples, training, predictor.template, config, left_out)
        for each, task in tasks.items():
            predictions[each] = predict(each, source, predictor, *task)
        if NEAREST not in (*config.skip, *neighbours, *left_out):
            neighbours |= _predict_nearest(predictor, samples, training, left_out, bar)
        del predictor  # before the next one is loaded: each may fill the memory
    known = {*config.skip, *predictions, *neighbours, *left_out}
    left_out |= {system: reason for system, reason in NOT_GIVEN.items() if system not in known}
    return name, predictions, neighbours, left_out


def _unsupported(predictor: Predictor, config: EvaluationConfig) -> dict[str, str]:
    """Return the systems that a predictor does not support, with the reason."""
    reasons: dict[str, str] = {}
    if isinstance(predictor, FilePredictor):
        reason = "a file has no predictions for other images"
        reasons = dict.fromkeys((*ABLATIONS, CONSTRAINED), reason)
    elif isinstance(predictor, OpenAIPredictor):
        reasons[CONSTRAINED] = "constrained generation is not requested from a server"
    if config.known_categories and CONSTRAINED in reasons:
        raise ValueError(
            f"known_categories cannot take effect: {reasons[CONSTRAINED]}; leave it out"
        )
    return {system: reason for system, reason in reasons.items() if system not in config.skip}


def _ablations(
    samples: Sequence[Sample],
    training: Sequence[Sample],
    template: Template,
    config: EvaluationConfig,
    left_out: Mapping[str, str],
) -> Tasks:
    """Plan the predictions of the model with changed images, and constrained by a grammar."""
    wanted = [each for each in (*ABLATIONS, CONSTRAINED) if each not in (*config.skip, *left_out)]
    tasks: Tasks = {}
    for system in wanted:
        if system == CONSTRAINED:
            known = known_categories(training, template) if config.known_categories else None
            tasks[system] = (samples, grammar_of(template, known))
        else:
            tasks[system] = (ABLATIONS[system](samples, config.seed), None)
    return tasks


def _predict_nearest(
    predictor: Predictor,
    samples: Sequence[Sample],
    training: Sequence[Sample],
    left_out: dict[str, str],
    bar: ProgressBar,
) -> dict[str, Predicted]:
    """Predict with the nearest neighbours by a checkpoint's vision tower; {} where impossible."""
    if not isinstance(predictor, LocalPredictor) or predictor.is_onnx:
        return {}
    everything = [*training, *samples]
    without = next((sample.id for sample in everything if not sample.images), None)
    if without is not None:
        left_out[NEAREST] = f"sample {without!r} has no image"
        return {}
    with bar("finding the nearest images") as progress:
        features = predictor.features(everything)
        progress(len(everything), len(everything))
    known = len(training)
    return {NEAREST: nearest(features[known:], features[:known], training, predictor.template)}
