"""Evaluation during training: loss on all of validation, generated predictions on a part of it.

Keeps the best weights in OUT/model, by default those with the lowest validation loss: few
predictions are a noisy criterion (the accuracy over 32 samples is known to about ±17 points), so
that a recipe that selects by a metric of them wants more `eval_samples`.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from phi_vision.data.conversation import prompt_of
from phi_vision.data.image_ablations import shuffle_images
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.generation.generate import generate
from phi_vision.generation.request import (
    MAX_NEW_TOKENS,
    MAX_TURN_TOKENS,
    GenerationRequest,
)
from phi_vision.metrics.constant_baselines import constant
from phi_vision.metrics.field_metrics import metrics_for
from phi_vision.metrics.scores import Scores, score
from phi_vision.runs import RunDir
from phi_vision.training.adapters import TrainableModel, save_model
from phi_vision.training.distributed import divide, gather, is_sharded
from phi_vision.training.recipes import VALIDATION_LOSS, Recipe
from phi_vision.training.setup import Setup
from phi_vision.training.tracking.tracker import Tracking

logger = logging.getLogger(__name__)


class GenerationEvalCallback(TrainerCallback):
    """Adds generated predictions to each evaluation of the Trainer, and keeps the best weights."""

    def __init__(self, recipe: Recipe, setup: Setup, tracking: Tracking) -> None:
        self.recipe = recipe
        self.trainable = setup.trainable
        self.template = setup.collator.template
        self.tracking = tracking
        self.training = setup.training
        self.samples = choose_samples(setup.validation, recipe.eval_samples)

    def on_step_end(self, _: Any, __: Any, control: TrainerControl, **___: Any) -> None:
        """Announce an evaluation; keep the last weights of a run without one."""
        if control.should_evaluate:
            self.tracking.describe("evaluating")
        elif control.should_training_stop:
            # Before the last checkpoint, which marks the run as complete.
            self._save()

    def on_evaluate(
        self, _: Any, state: TrainerState, *__: Any, metrics: dict[str, float], **___: Any
    ) -> None:
        """Generate and score predictions, track the evaluation, keep the weights if best."""
        start = time.perf_counter()
        scores = self._score() if self.samples else None
        if scores is not None:
            metrics |= {f"eval_{name}": e.value for name, e in scores.estimates["model"].items()}
        # The Trainer compares after this, so that `best_metric` is still that of earlier steps.
        key, higher = best_metric(self.recipe, self.template)
        value, best = metrics[key], state.best_metric
        is_best = best is None or (value > best if higher else value < best)
        if is_best:
            self._save()
        measured = {
            "epoch": metrics["epoch"],
            "validation_loss": metrics["eval_loss"],
            "is_best": is_best,
            "seconds": round(metrics["eval_runtime"] + time.perf_counter() - start, 3),
        }
        # TRL's metrics of pairs.
        rewards = {name: value for name, value in metrics.items() if "rewards/" in name}
        measured |= {name.removeprefix("eval_"): value for name, value in rewards.items()}
        self.tracking.evaluation(state.global_step, measured, scores, self.samples)
        if scores is not None and "shuffled" in scores.estimates and not scores.uses_image:
            check = scores.shuffled_image_check
            logger.warning("SHUFFLED-IMAGE CHECK at step %d: %s", state.global_step, check)
        self.tracking.describe("training")

    def _save(self) -> None:
        save_model(self.trainable, RunDir(self.recipe.output_dir).model_dir)

    def _score(self) -> Scores:
        """Predict with own and shuffled images: each process a part, or together if sharded."""
        seed, count = self.recipe.seed, len(self.samples)
        shuffles = count > 1 and any(sample.images for sample in self.samples)
        samples = [*self.samples, *(shuffle_images(self.samples, seed=seed) if shuffles else [])]
        together = is_sharded(self.trainable.model)
        texts = generate_texts(
            self.trainable,
            self.template,
            samples if together else divide(samples),
            batch_size=2 * self.recipe.per_device_train_batch_size,
        )
        texts = texts if together else gather(texts)
        predicted = [Prediction.parse(text, self.template) for text in texts]
        return score(
            {"model": predicted[:count], **({"shuffled": predicted[count:]} if shuffles else {})},
            self.samples,
            self.template,
            training=self.training,
            baselines={"constant": constant(self.training, self.template, count)},
            seed=seed,
        )


def best_metric(recipe: Recipe, template: Template) -> tuple[str, bool]:
    """Return the Trainer's name of `metric_for_best_model`, and whether higher is better."""
    name = recipe.metric_for_best_model
    if name == VALIDATION_LOSS:
        return "eval_loss", False
    return f"eval_{name}", metrics_for(template)[name].better == "higher"


def choose_samples(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Choose `count` samples evenly spread over all: of `a b c d e f` three are `a c e`."""
    count = min(count, len(samples))
    return [samples[place * len(samples) // count] for place in range(count)]


def generate_texts(
    trainable: TrainableModel, template: Template, samples: Sequence[Sample], *, batch_size: int
) -> list[str]:
    """Generate a text for each sample, in the precision of the training."""
    model, processor, precision = trainable.model, trainable.processor, trainable.precision
    limit = MAX_TURN_TOKENS if template.is_conversation else MAX_NEW_TOKENS
    requests = [
        GenerationRequest(
            prompt=prompt_of(processor, template, sample),
            images=tuple(sample.open_images()),
            max_new_tokens=limit,
        )
        for sample in samples
    ]
    enabled = precision != torch.float32
    with torch.autocast(model.device.type, dtype=precision, enabled=enabled):
        generations = generate(model, processor, requests, batch_size=batch_size)
    return [each.text for each in generations]
