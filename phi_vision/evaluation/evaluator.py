"""A trial: whoever answers is asked everything, beside rivals, and a report is written.

run_evaluation("runs/coats", EvaluationConfig(data=Path("catalog")))
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from phi_vision.data.dataset import available_splits, load_samples
from phi_vision.data.image_ablations import withhold_images
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.evaluation.ablations import Round, rounds_for
from phi_vision.evaluation.baselines import NEAREST, nearest_of, predict_baselines
from phi_vision.evaluation.collect import Bar, PredictionCollector
from phi_vision.evaluation.config import EvaluationConfig
from phi_vision.evaluation.leakage import find_leakage
from phi_vision.evaluation.report import Evaluation, write_report
from phi_vision.evaluation.run_facts import best_achievable, collect_metadata, groups_of, start_of
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.predictor import Predictor, load_predictor, resolve_template
from phi_vision.metrics.scores import Scores, score
from phi_vision.runs import RunDir


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What a trial found, and where it is written."""

    scores: Scores
    page: Path


@contextmanager
def no_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show nothing."""
    yield lambda done, total: None


def run_evaluation(model: str, config: EvaluationConfig, *, bar: Bar = no_bar) -> EvaluationResult:
    """Ask, judge and report; what was answered before a kill is not asked again.

    Args:
        model: Run, checkpoint or adapter folder, hub id, folder for ONNX Runtime, address of a
            server (http://…/v1), or a JSONL file of predictions.
        trial: How to judge.
        bar: Shows how far it is.

    Raises:
        ValueError: There is no such model, data or folder, or they do not fit.
    """
    out = report_folder(model, config.out)
    samples, training = _load(config, config.group_column or groups_of(model))
    collector = PredictionCollector(cache=out / "answers", batch_size=config.batch_size, bar=bar)
    name, template = _hear_model(model, config, collector, samples, training)
    _hear_others(model, config, collector, samples, training)
    baselines = predict_baselines(
        samples,
        training,
        template,
        predicted=[reply.record for reply in collector.predictions["model"]],
        skip=config.skip,
        seed=config.seed,
        bar=bar,
    )
    leaked = None
    if "leakage" not in config.skip:
        with bar("comparing images with training") as advance:
            leaked = find_leakage(samples, training, progress=advance)
    scores = score(
        collector.predictions,
        samples,
        template,
        training=training,
        baselines=baselines | collector.baselines,
        leaked=leaked,
        target_precision=config.target_precision,
        seed=config.seed,
        best_achievable=best_achievable(config.data, config.split),
    )
    metadata = collect_metadata(
        model,
        name,
        data=config.data,
        split=config.split,
        collector=collector,
        samples=samples,
        training=training,
    )
    evaluation = Evaluation(scores=scores, samples=samples, metadata=metadata)
    return EvaluationResult(scores=scores, page=write_report(evaluation, out))


def report_folder(model: str, out: Path | None) -> Path:
    """Say where a report goes: where it was told to, else into the run that is judged.

    Raises:
        ValueError: Neither is there, or the place is a file.
    """
    if out is None and not RunDir.is_run(model):
        raise ValueError(f"{model} is no run that a report could be put into; give --out DIR")
    place = out or RunDir(model).report.path
    if place.exists() and not place.is_dir():
        raise ValueError(f"cannot write a report to {place}: found a file; give a folder")
    return place


def _load(config: EvaluationConfig, group_column: str | None) -> tuple[list[Sample], list[Sample]]:
    """Load what is judged on, and what was learnt from."""
    splits = available_splits(config.data)
    if "train" not in splits:
        raise ValueError(
            f"{config.data} has no split 'train', which tells rivals, slices and leaks what was "
            f"learnt from; found {', '.join(splits) or 'one file without splits'}; give a folder "
            "that has it, such as `phi-vision prepare` makes"
        )
    load = functools.partial(load_samples, config.data, group_column=group_column)
    return load(split=config.split)[: config.limit], load(split="train")


def _refuse_other_records(samples: Sequence[Sample], template: Template) -> None:
    """Refuse what cannot be judged before anything is asked, which may take hours."""
    for sample in samples:
        try:
            template.select(sample.record)
        except ValueError as error:
            what = "is a conversation and " if sample.messages else ""
            raise ValueError(f"sample {sample.id!r} {what}cannot be judged: {error}") from error


def _hear_model(
    model: str,
    config: EvaluationConfig,
    collector: PredictionCollector,
    samples: list[Sample],
    training: list[Sample],
) -> tuple[str, Template]:
    """Ask the model everything that it can be asked; it is let go of before others are loaded."""
    answerer = load_predictor(model, template=config.template, batch_size=config.batch_size)
    _refuse_other_records([*samples, *training], answerer.template)
    asked = rounds_for(
        answerer,
        samples,
        training,
        known_categories=config.known_categories,
        seed=config.seed,
        skip=config.skip,
    )
    collector.left_out |= asked.left_out
    for system, round_ in asked.rounds.items():
        collector.ask(system, model, answerer, round_)
    _find_nearest(config, collector, answerer, samples, training)
    return answerer.name, answerer.template


def _hear_others(
    model: str,
    config: EvaluationConfig,
    collector: PredictionCollector,
    samples: list[Sample],
    training: list[Sample],
) -> None:
    """Ask the model before fine-tuning and the twin, one after the other, in the same wording."""
    wording = resolve_template(model, config.template)
    base = config.base or start_of(model)
    if base is None and "base" not in config.skip:
        collector.left_out["base"] = "it is not known what the model started from; --base tells"
    for system, words in (("base", base), ("twin", config.twin)):
        if words is None or system in config.skip:
            continue
        other = load_predictor(words, template=wording, batch_size=config.batch_size)
        shown = withhold_images(samples) if system == "twin" else samples
        collector.ask(system, words, other, Round(samples=shown))
        _find_nearest(config, collector, other, samples, training)
    if NEAREST not in (*config.skip, *collector.baselines, *collector.left_out):
        collector.left_out[NEAREST] = (
            "no checkpoint with a vision tower is at hand; --base gives one"
        )


def _find_nearest(
    config: EvaluationConfig,
    collector: PredictionCollector,
    answerer: Predictor,
    samples: list[Sample],
    training: list[Sample],
) -> None:
    """Have a checkpoint find the nearest images, unless that is done already or cannot be."""
    if NEAREST in (*config.skip, *collector.baselines, *collector.left_out) or not _sees(answerer):
        return
    bare = next((sample.id for sample in (*samples, *training) if not sample.images), None)
    if bare is None:
        collector.baselines[NEAREST] = nearest_of(answerer, samples, training, collector.bar)
    else:
        collector.left_out[NEAREST] = f"sample {bare!r} has no image to be compared"


def _sees(answerer: Predictor) -> TypeGuard[LocalPredictor]:
    """Whether an answerer has a vision tower that can be asked by itself."""
    return isinstance(answerer, LocalPredictor) and not answerer.is_onnx
