"""run_evaluation: predictions, image ablations, baselines, leakage, scores and the report."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from phi_vision.data.conversation import are_conversations
from phi_vision.data.dataset import available_splits, load_samples
from phi_vision.data.feature_cache import cache_features
from phi_vision.data.kinds.field_kind import Predicted
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import (
    LazySamples,
    Sample,
    blank_images,
    join_samples,
    shuffle_images,
    withhold_images,
)
from phi_vision.data.template import CONVERSATION, Template, find_template
from phi_vision.data.template_grammar import grammar_of, known_categories
from phi_vision.evaluation.baselines import boost, nearest, probe
from phi_vision.evaluation.config import EvaluationConfig, ProgressBar, failure, no_progress
from phi_vision.evaluation.leakage import find_leakage
from phi_vision.evaluation.prediction_cache import predict_cached
from phi_vision.evaluation.report import Evaluation, EvaluationMetadata, write_report
from phi_vision.inference import predictor as predictors
from phi_vision.inference.local import LocalPredictor, resolve_template
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.io.atomic import check_kind, lock
from phi_vision.io.formatting import suggestion
from phi_vision.io.hashing import digest
from phi_vision.metrics.constant_baselines import category_median, constant
from phi_vision.metrics.scores import Scores, score
from phi_vision.model.checkpoint import adapter_base, resolve
from phi_vision.runs import DATA_FINGERPRINT, RunDir, collect_versions, fingerprint

CONSTRAINED, NEAREST, PROBE = "constrained", "nearest", "probe"

NOT_GIVEN = {
    "base": "the model before fine-tuning is unknown; pass it with --base",
    NEAREST: "there is no checkpoint with a vision tower; pass one with --base",
    PROBE: "there is no checkpoint with a vision tower; pass one with --base",
}
"""System -> why it is left out where no model for it is known."""

Tasks = dict[str, tuple[Sequence[Sample], str | None]]  # system -> samples, and grammar of the text


class EvaluationResult(NamedTuple):
    """The scores of an evaluation, and the page of its report."""

    scores: Scores
    page: Path


def run_evaluation(
    model: str | Path, config: EvaluationConfig, *, bar: ProgressBar = no_progress
) -> EvaluationResult:
    """Run a full evaluation and write its report; an interrupted one resumes.

    The model is a run, checkpoint or adapter folder, Hub id, ONNX folder, URL of a server
    (http://…/v1), or JSONL file of predictions.
    """
    evaluator = _Evaluator(str(model), config, report_folder(str(model), config.out), bar)
    with lock(evaluator.out):
        return evaluator.run()


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
    """Read the noise ceilings that `phi-vision sample` wrote beside its catalog; else {}."""
    # Other data may have a file of that name, or splits that were drawn elsewhere.
    try:
        facts = json.loads((data / "facts.json").read_text(encoding="utf-8"))
        of_split = facts["splits"][split]
        return {
            "category3_code_accuracy": facts["category_ceiling"],
            "full_price_median_ape": of_split["floor_median_ape"],
            "full_price_mae": of_split["floor_mae"],
            **of_split.get("best_achievable", {}),
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def report_folder(model: str, out: Path | None) -> Path:
    """Return the folder of a report: `out`, else that in the evaluated run."""
    if out is None and not RunDir.is_run(model):
        runs = map(str, filter(RunDir.is_run, Path(model).parent.glob("*")))
        raise failure("no_place", model=model, meant=suggestion(model, runs))
    place = Path(out or RunDir(model).report.path)
    check_kind(place, is_folder=True)
    return place


class _Evaluator:
    """An evaluation in progress: predictions, baselines and reasons to leave out, by system."""

    def __init__(self, model: str, config: EvaluationConfig, out: Path, bar: ProgressBar) -> None:
        self.model, self.config, self.out, self.bar = model, config, out, bar
        self.samples, self.training = _load_data(model, config)
        self.template_name = resolve_template(model, config.template, config.data)
        self.template = find_template(self.template_name)
        everything = join_samples(self.samples, self.training)
        chats = config.template is None and are_conversations(everything)
        if chats and not self.template.is_conversation:
            self.template_name, self.template = CONVERSATION.name, CONVERSATION
        _check_records(everything, self.template)
        self.predictions: dict[str, list[Prediction]] = {}
        self.baselines: dict[str, Predicted] = {}
        self.left_out: dict[str, str] = {}
        self.name = ""
        self.cost: dict[str, str] = {}

    def run(self) -> EvaluationResult:
        config, leaked = self.config, None
        base = None if "base" in config.skip else config.base or base_model_of(self.model)
        for system, source in {"model": self.model, "base": base, "twin": config.twin}.items():
            if source is not None:
                self._predict(system, source)
        known = {*config.skip, *self.predictions, *self.baselines, *self.left_out}
        self.left_out |= {name: why for name, why in NOT_GIVEN.items() if name not in known}
        self._predict_baselines()
        if "leakage" not in config.skip:
            with self.bar("comparing images with the training data") as progress:
                leaked = find_leakage(self.samples, self.training, progress)
        scores = score(
            self.predictions,
            self.samples,
            self.template,
            training=self.training,
            baselines=self.baselines,
            leaked=leaked,
            target_precision=config.target_precision,
            seed=config.seed,
            best_achievable=best_achievable(Path(config.data), config.split),
        )
        evaluation = Evaluation(scores, self.samples, self._metadata())
        return EvaluationResult(scores, write_report(evaluation, self.out))

    def _predict(self, system: str, source: str) -> None:
        """Predict with one of the models, which are loaded one after the other."""
        template, batch_size = self.template_name, self.config.batch_size
        predictor = predictors.load_predictor(source, template=template, batch_size=batch_size)
        if isinstance(predictor, LocalPredictor) and isinstance(predictor.model, torch.nn.Module):
            cache_features(predictor.model)
        shown = withhold_images(self.samples) if system == "twin" else self.samples
        tasks = self._plan(predictor) if system == "model" else {system: (shown, None)}
        known: dict[object, Prediction] = {}
        for each, (samples, grammar) in tasks.items():
            model, wording = predictors.model_identity(source), predictor.template.as_dict()
            decisive = {"model": model, "template": wording, "grammar": grammar}
            key = digest({**decisive, "samples": fingerprint(samples)})
            file = self.out / "answers" / f"{each}-{key[:12]}.jsonl"
            with self.bar(f"predicting: {each.replace('_', ' ')}") as progress:
                self.predictions[each] = predict_cached(
                    predictor, samples, file, grammar, key=key, known=known, progress=progress
                )
        self._predict_by_tower(predictor)

    def _plan(self, predictor: predictors.Predictor) -> Tasks:
        """Plan the model's predictions: raw, with changed images, and constrained by a grammar."""
        config, template = self.config, self.template
        self.name, unsupported = predictor.name, dict[str, str]()
        if isinstance(predictor, LocalPredictor) and "numbers" in template.as_dict():
            self.cost["numbers"] = "each the median of draws"
        ablations: dict[str, Callable[[Sequence[Sample]], Sequence[Sample]]] = {
            "shuffled": partial(shuffle_images, seed=config.seed),
            "blank": blank_images,
            "withheld": withhold_images,
        }
        if isinstance(predictor, predictors.FilePredictor):
            reason = "a file has no predictions for other images"
            unsupported = dict.fromkeys((*ablations, CONSTRAINED), reason)
        elif isinstance(predictor, OpenAIPredictor):
            unsupported[CONSTRAINED] = "constrained generation is not requested from a server"
        if template.is_conversation:
            unsupported[CONSTRAINED] = "completions have no form that they could be constrained to"
        if not any(sample.images for sample in self.samples):
            unsupported |= dict.fromkeys(ablations, "no sample has an image")
        if config.known_categories and CONSTRAINED in unsupported:
            reason = f"{unsupported[CONSTRAINED]}; leave it out"
            raise failure("without_effect", name="known_categories", reason=reason)
        self.left_out = {key: why for key, why in unsupported.items() if key not in config.skip}
        without = (*config.skip, *unsupported)
        tasks: Tasks = {"model": (self.samples, None)}
        for system, change in ablations.items():
            if system not in without:
                tasks[system] = (change(self.samples), None)
        if CONSTRAINED not in without:
            known = known_categories(self.training, template) if config.known_categories else None
            tasks[CONSTRAINED] = (self.samples, grammar_of(template, known))
        return tasks

    def _predict_by_tower(self, predictor: predictors.Predictor) -> None:
        """Predict by the first checkpoint's vision tower: nearest neighbours and a linear probe."""
        done = (*self.config.skip, *self.baselines, *self.left_out)
        wanted = [name for name in (NEAREST, PROBE) if name not in done]
        if not wanted or not isinstance(predictor, LocalPredictor) or predictor.is_onnx:
            return
        everything = join_samples(self.training, self.samples)
        without = next((sample.id for sample in everything if not sample.images), None)
        if without is not None:
            self.left_out |= dict.fromkeys(wanted, f"sample {without!r} has no image")
            return
        with self.bar("reading the images by the vision tower") as progress:
            features = predictor.features(everything)
            progress(len(everything), len(everything))
        known, new = features[: len(self.training)], features[len(self.training) :]
        data, half = (self.training, self.template), known.shape[1] // 2
        if NEAREST in wanted:
            self.baselines[NEAREST] = nearest(new[:, :half], known[:, :half], *data)
        if PROBE in wanted:
            self.baselines[PROBE] = probe(new, known, *data)

    def _predict_baselines(self) -> None:
        """Predict with the baselines that need no model; one uses the model's categories."""
        data, skip = (self.training, self.template), self.config.skip
        if "constant" not in skip:
            self.baselines["constant"] = constant(*data, len(self.samples))
        has_both = self.template.class_fields and self.template.scaled_fields
        if has_both and "category_median" not in skip:
            records = [prediction.record for prediction in self.predictions["model"]]
            self.baselines["category_median"] = category_median(records, *data)
        if "boosting" not in skip:
            with self.bar("boosting") as progress:
                boosted = boost(self.samples, *data, self.config.seed, progress)
            self.baselines["boosting"] = boosted

    def _metadata(self) -> EvaluationMetadata:
        """Collect the metadata of the report; of a run folder more than of another model."""
        run = RunDir(self.model)
        history, cost = run.history(), self.cost
        if history is not None and history.steps:
            lines = (*history.steps, *history.evaluations)
            # Logs of earlier versions lack the time of a step.
            times = [line["seconds"] for line in lines if "seconds" in line]
            minutes = f"{sum(times) / 60:,.1f} minutes, " if len(times) == len(lines) else ""
            cost["training"] = f"{minutes}{history.steps[-1]['step']} steps"
        seconds = fmean(each.seconds or 0.0 for each in self.predictions["model"])
        cost["prediction"] = f"{seconds:.3g} s per sample, batch size {self.config.batch_size}"
        gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
        cost["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads{gpu}"
        return EvaluationMetadata(
            model=self.name,
            data=str(self.config.data),
            split=self.config.split,
            data_card={
                f"{part} data": f"{len(each):,} samples in {len({s.group for s in each}):,} groups"
                for part, each in {"evaluation": self.samples, "training": self.training}.items()
            },
            recipe=run.recipe_text(),
            versions=_versions(run, self.samples),
            history=history,
            cost=cost,
            left_out=self.left_out,
        )


def _load_data(model: str, config: EvaluationConfig) -> tuple[LazySamples, LazySamples]:
    """Load the evaluated samples and the training samples."""
    splits = available_splits(config.data)
    if "train" not in splits:
        found = ", ".join(splits) or "one file without splits"
        raise failure("no_train_split", data=config.data, found=found)
    column = config.group_column or group_column_of(model)
    load = partial(load_samples, config.data, group_column=column)
    return load(split=config.split)[: config.limit], load(split="train")


def _check_records(samples: Sequence[Sample], template: Template) -> None:
    """Reject samples without the template's fields before the predictions, which may take hours."""
    for sample in samples:
        try:
            template.select(sample.record)
        except ValueError as error:
            what = "is a conversation and " if sample.messages else ""
            raise failure("sample", id=sample.id, what=what, error=error) from error


def _versions(run: RunDir, samples: Sequence[Sample]) -> dict[str, str]:
    """List the current versions, those of the training that differ, and the data fingerprints."""
    now, trained = collect_versions(fingerprint(samples)), dict(run.versions())
    data = {"evaluation data, sha256": now.pop(DATA_FINGERPRINT)}
    if DATA_FINGERPRINT in trained:
        data["training data, sha256"] = trained.pop(DATA_FINGERPRINT)
    changed = {f"{name}, in training": v for name, v in trained.items() if v != now.get(name)}
    return now | changed | data
