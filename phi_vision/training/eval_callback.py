"""Examines a model while it learns: loss on all of validation, written answers on a panel of it.

Keeps the best weights in OUT/model, by default those with the lowest validation loss: it is
measured on every held-out sample, while the answers of a small panel are too few to choose by (the
accuracy over 32 samples is known to about ±17 points). A recipe that chooses by a metric of the
answers wants more `eval_samples`.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phi_vision.data.image_ablations import shuffle_images
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.metrics.constant_baselines import constant
from phi_vision.metrics.field_metrics import metrics_for
from phi_vision.metrics.scores import Scores, score
from phi_vision.runs import RunDir
from phi_vision.training.adapters import TrainableModel, save_model
from phi_vision.training.distributed import divide, gather
from phi_vision.training.recipes import VALIDATION_LOSS, Recipe
from phi_vision.training.sharding import is_sharded
from phi_vision.training.tracking.tracker import Tracking

logger = logging.getLogger(__name__)


class GenerationEvalCallback(TrainerCallback):
    """Adds written answers to each evaluation of the Trainer, and keeps the best weights."""

    def __init__(
        self,
        recipe: Recipe,
        learner: TrainableModel,
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
        self.panel = choose(validation, recipe.eval_samples)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say that an evaluation comes next; without one, keep the last weights."""
        if control.should_evaluate:
            self.tracking.say("evaluating")
        elif control.should_training_stop:
            # Before the last checkpoint, which says that the run is complete.
            save_model(self.learner, RunDir(self.recipe.output_dir).model_dir)

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
        scores = self._examine() if self.panel else None
        if scores is not None:
            metrics |= {f"eval_{name}": f.value for name, f in scores.estimates["model"].items()}
        # The Trainer compares after this, so that `best_metric` is still that of earlier steps.
        is_best = self._is_better(metrics[best_metric_key(self.recipe)], state.best_metric)
        if is_best:
            save_model(self.learner, RunDir(self.recipe.output_dir).model_dir)
        seconds = metrics["eval_runtime"] + time.perf_counter() - start
        figures = {
            "epoch": metrics["epoch"],
            "validation_loss": metrics["eval_loss"],
            "is_best": is_best,
            "seconds": round(seconds, 3),
            **_rewards(metrics),
        }
        self.tracking.evaluation(state.global_step, figures, scores, self.panel)
        if scores is not None and scores.uses_image is False:
            logger.warning(
                "SHUFFLED-IMAGE CHECK at step %d: %s",
                state.global_step,
                scores.shuffled_image_check,
            )
        self.tracking.say("training")

    def _is_better(self, value: float, best: float | None) -> bool:
        if best is None:
            return True
        higher = higher_is_better(self.recipe, self.template)
        return value > best if higher else value < best

    def _examine(self) -> Scores:
        seed = self.recipe.seed
        is_shuffled = len(self.panel) > 1 and not self.recipe.withhold_images
        shuffled = shuffle_images(self.panel, seed=seed) if is_shuffled else []
        given = self._answer([*self.panel, *shuffled])
        replies = {"model": given[: len(self.panel)]}
        if is_shuffled:
            replies["shuffled"] = given[len(self.panel) :]
        return score(
            replies,
            self.panel,
            self.template,
            training=self.training,
            baselines={"constant": constant(self.training, self.template, len(self.panel))},
            seed=seed,
        )

    def _answer(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Have each process answer a part; where layers are shared, all answer in step."""
        together = is_sharded(self.learner.model)
        answers = write_answers(
            self.learner,
            self.template,
            samples if together else divide(samples),
            batch_size=2 * self.recipe.per_device_train_batch_size,
        )
        texts = answers if together else gather(answers)
        return [Prediction.parse(text, self.template) for text in texts]


def _rewards(metrics: Mapping[str, float]) -> dict[str, float]:
    """Pick what TRL measured of pairs: "eval_rewards/margins" as "rewards/margins"."""
    return {
        name.removeprefix("eval_"): value for name, value in metrics.items() if "rewards/" in name
    }


def best_metric_key(recipe: Recipe) -> str:
    """Name what chooses the best weights as the Trainer does: `validation_loss` is `eval_loss`."""
    return (
        "eval_loss"
        if recipe.metric_for_best_model == VALIDATION_LOSS
        else f"eval_{recipe.metric_for_best_model}"
    )


def higher_is_better(recipe: Recipe, template: Template) -> bool:
    """Whether a higher value of the recipe's `best_metric` is the better one."""
    metric = metrics_for(template).get(recipe.metric_for_best_model)
    return metric is not None and metric.better == "higher"


def choose(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Choose `count` samples evenly spread over all: of `a b c d e f` three are `a c e`."""
    count = min(count, len(samples))
    return [samples[place * len(samples) // count] for place in range(count)]


def write_answers(
    learner: TrainableModel, template: Template, samples: Sequence[Sample], *, batch_size: int
) -> list[str]:
    """Have the model answer about samples, in the arithmetic it is trained in."""
    model = learner.model
    enabled = learner.precision != torch.float32
    with torch.autocast(model.device.type, dtype=learner.precision, enabled=enabled):
        questions = [
            GenerationRequest(
                prompt=template.prompt(learner.processor, len(sample.images)),
                images=tuple(sample.open_images()),
            )
            for sample in samples
        ]
        answers = generate(model, learner.processor, questions, batch_size=batch_size)
    return [each.text for each in answers]
