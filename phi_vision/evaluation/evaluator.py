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
from phi_vision.evaluation.baselines import NEAREST, make_rivals, nearest_of
from phi_vision.evaluation.collect import Bar, PredictionCollector
from phi_vision.evaluation.config import EvaluationConfig
from phi_vision.evaluation.leakage import find_leaks
from phi_vision.evaluation.report import write_report
from phi_vision.evaluation.run_facts import gather_facts, groups_of, noise_floor, start_of
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.predictor import Predictor, load_predictor, resolve_template
from phi_vision.metrics.scores import Scores, score
from phi_vision.runs import RunDir


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial found, and where it is written."""

    scores: Scores
    page: Path


@contextmanager
def no_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show nothing."""
    yield lambda done, total: None


def run_evaluation(model: str, trial: EvaluationConfig, *, bar: Bar = no_bar) -> Outcome:
    """Ask, judge and report; what was answered before a kill is not asked again.

    Args:
        model: Run, checkpoint or adapter folder, hub id, folder for ONNX Runtime, address of a
            server (http://…/v1), or a JSONL file of predictions.
        trial: How to judge.
        bar: Shows how far it is.

    Raises:
        ValueError: There is no such model, data or folder, or they do not fit.
    """
    out = report_folder(model, trial.out)
    samples, training = _load(trial, trial.group_column or groups_of(model))
    hearing = PredictionCollector(answers=out / "answers", batch_size=trial.batch_size, bar=bar)
    name, template = _hear_model(model, trial, hearing, samples, training)
    _hear_others(model, trial, hearing, samples, training)
    rivals = make_rivals(
        samples,
        training,
        template,
        said=[reply.record for reply in hearing.replies["model"]],
        skip=trial.skip,
        seed=trial.seed,
        bar=bar,
    )
    leaked = None
    if "leaks" not in trial.skip:
        with bar("comparing images with training") as advance:
            leaked = find_leaks(samples, training, progress=advance)
    scores = score(
        hearing.replies,
        samples,
        template,
        training=training,
        rivals=rivals | hearing.rivals,
        leaked=leaked,
        target_precision=trial.target_precision,
        seed=trial.seed,
        floor=noise_floor(trial.data, trial.split),
    )
    facts = gather_facts(
        model,
        name,
        data=trial.data,
        split=trial.split,
        hearing=hearing,
        samples=samples,
        training=training,
    )
    return Outcome(scores=scores, page=write_report(scores, samples, facts, out))


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


def _load(trial: EvaluationConfig, group_column: str | None) -> tuple[list[Sample], list[Sample]]:
    """Load what is judged on, and what was learnt from."""
    splits = available_splits(trial.data)
    if "train" not in splits:
        raise ValueError(
            f"{trial.data} has no split 'train', which tells rivals, slices and leaks what was "
            f"learnt from; found {', '.join(splits) or 'one file without splits'}; give a folder "
            "that has it, such as `phi-vision prepare` makes"
        )
    load = functools.partial(load_samples, trial.data, group_column=group_column)
    return load(split=trial.split)[: trial.limit], load(split="train")


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
    trial: EvaluationConfig,
    hearing: PredictionCollector,
    samples: list[Sample],
    training: list[Sample],
) -> tuple[str, Template]:
    """Ask the model everything that it can be asked; it is let go of before others are loaded."""
    answerer = load_predictor(model, template=trial.template, batch_size=trial.batch_size)
    _refuse_other_records([*samples, *training], answerer.template)
    asked = rounds_for(
        answerer,
        samples,
        training,
        known_categories=trial.known_categories,
        seed=trial.seed,
        skip=trial.skip,
    )
    hearing.left_out |= asked.left_out
    for who, round_ in asked.rounds.items():
        hearing.ask(who, model, answerer, round_)
    _find_nearest(trial, hearing, answerer, samples, training)
    return answerer.name, answerer.template


def _hear_others(
    model: str,
    trial: EvaluationConfig,
    hearing: PredictionCollector,
    samples: list[Sample],
    training: list[Sample],
) -> None:
    """Ask the model before fine-tuning and the twin, one after the other, in the same wording."""
    wording = resolve_template(model, trial.template)
    base = trial.base or start_of(model)
    if base is None and "base" not in trial.skip:
        hearing.left_out["base"] = "it is not known what the model started from; --base tells"
    for who, words in (("base", base), ("twin", trial.twin)):
        if words is None or who in trial.skip:
            continue
        other = load_predictor(words, template=wording, batch_size=trial.batch_size)
        shown = withhold_images(samples) if who == "twin" else samples
        hearing.ask(who, words, other, Round(samples=shown))
        _find_nearest(trial, hearing, other, samples, training)
    if NEAREST not in (*trial.skip, *hearing.rivals, *hearing.left_out):
        hearing.left_out[NEAREST] = "no checkpoint with a vision tower is at hand; --base gives one"


def _find_nearest(
    trial: EvaluationConfig,
    hearing: PredictionCollector,
    answerer: Predictor,
    samples: list[Sample],
    training: list[Sample],
) -> None:
    """Have a checkpoint find the nearest images, unless that is done already or cannot be."""
    if NEAREST in (*trial.skip, *hearing.rivals, *hearing.left_out) or not _sees(answerer):
        return
    bare = next((sample.id for sample in (*samples, *training) if not sample.images), None)
    if bare is None:
        hearing.rivals[NEAREST] = nearest_of(answerer, samples, training, hearing.bar)
    else:
        hearing.left_out[NEAREST] = f"sample {bare!r} has no image to be compared"


def _sees(answerer: Predictor) -> TypeGuard[LocalPredictor]:
    """Whether an answerer has a vision tower that can be asked by itself."""
    return isinstance(answerer, LocalPredictor) and not answerer.is_onnx
