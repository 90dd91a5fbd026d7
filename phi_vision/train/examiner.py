"""Examines a model while it learns: loss on all of validation, written answers on a part of it.

Keeps the best weights in OUT/model. Best is the lowest validation loss: it is measured on every
held-out sample, while the answers of an evaluation are too few to choose by (the accuracy over 32
samples is known to about ±17 points).
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phi_vision.data.sample import Sample
from phi_vision.data.template import Template
from phi_vision.evaluate.score import Scores, score
from phi_vision.model.answering import answer
from phi_vision.train.learner import Learner, save_model
from phi_vision.train.recipes import Recipe
from phi_vision.train.tracking import Tracking

logger = logging.getLogger(__name__)


class Examiner(TrainerCallback):
    """Adds written answers to each evaluation of the Trainer, and keeps the best weights."""

    def __init__(
        self,
        recipe: Recipe,
        learner: Learner,
        template: Template,
        tracking: Tracking,
        *,
        training: Sequence[Sample],
        validation: Sequence[Sample],
    ) -> None:
        self.recipe = recipe
        self.learner = learner
        self.template = template
        self.tracking = tracking
        self.training = training
        self.examined = choose(validation, recipe.eval_samples)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say that an evaluation comes next; without one, keep the last weights."""
        if control.should_evaluate:
            self.tracking.say("evaluating")
        elif control.should_training_stop:
            # Before the last checkpoint, which says that the run is complete.
            save_model(self.learner, self.recipe, self.recipe.out / "model")

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Have answers written and judged, write everything down, keep the weights if best."""
        assert metrics is not None
        start = time.perf_counter()
        loss = metrics["eval_loss"]
        scores = self._examine() if self.examined else None
        # The Trainer compares after this, so that `best_metric` is still that of earlier steps.
        is_best = state.best_metric is None or loss < state.best_metric
        if is_best:
            save_model(self.learner, self.recipe, self.recipe.out / "model")
        seconds = metrics["eval_runtime"] + time.perf_counter() - start
        figures = {
            "epoch": metrics["epoch"],
            "validation_loss": loss,
            "is_best": is_best,
            "seconds": round(seconds, 3),
        }
        self.tracking.evaluation(state.global_step, figures, scores, self.examined)
        if scores is not None and scores.looks is False:
            logger.warning("CANARY at step %d: %s", state.global_step, scores.canary)
        self.tracking.say("training")

    def _examine(self) -> Scores:
        return score(
            lambda samples: write_answers(
                self.learner, self.template, samples, batch_size=2 * self.recipe.batch_size
            ),
            self.examined,
            self.template,
            baselines_from=self.training,
            shuffled=len(self.examined) > 1,
            seed=self.recipe.seed,
        )


def choose(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Choose `count` samples evenly spread over all: of `a b c d e f` three are `a c e`."""
    count = min(count, len(samples))
    return [samples[place * len(samples) // count] for place in range(count)]


def write_answers(
    learner: Learner, template: Template, samples: Sequence[Sample], *, batch_size: int
) -> list[str]:
    """Have the model answer about samples, in the arithmetic it is trained in."""
    model = learner.model
    enabled = learner.precision != torch.float32
    with torch.autocast(model.device.type, dtype=learner.precision, enabled=enabled):
        return answer(
            model,
            learner.processor,
            [template.prompt(learner.processor, len(sample.images)) for sample in samples],
            [sample.pictures() for sample in samples],
            batch_size=batch_size,
        )
