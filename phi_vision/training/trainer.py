"""Recipe -> run: one path for every way to train, on transformers' Trainer.

    recipe -> samples, split -> model, frozen or with adapters -> guards -> steps -> OUT/model

A run folder holds recipe.yaml, template.yaml, versions.json, log.jsonl, checkpoints/ and the best
weights in model/. The Trainer is used as it is: what differs is in the collator and in callbacks.
"""

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging as hf_logging

from phi_vision.io.atomic import check_folder_is_free
from phi_vision.runs import RunDir
from phi_vision.training.adapters import TrainableModel, list_trained
from phi_vision.training.callbacks import GradientGuard, LossGuard, explain_out_of_memory
from phi_vision.training.checkpointing import explain_full_disk
from phi_vision.training.distributed import OwnRandomness, is_main, joined, world_size
from phi_vision.training.dpo import make_dpo_trainer
from phi_vision.training.eval_callback import (
    GenerationEvalCallback,
    best_metric_key,
    higher_is_better,
)
from phi_vision.training.hf_fields import further_of
from phi_vision.training.optim import describe_optimizer
from phi_vision.training.recipe_file import to_yaml
from phi_vision.training.recipes import Recipe
from phi_vision.training.rows import RowDataset, collate_rows, rows_examined
from phi_vision.training.run_folder import find_checkpoint, state_of, write_description
from phi_vision.training.setup import Prepared, prepare
from phi_vision.training.sharding import SharingGuard, describe_sharding, put_in_force
from phi_vision.training.steps import StepCallback
from phi_vision.training.tracking.run_metadata import RunFacts
from phi_vision.training.tracking.tracker import Tracking

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
"""The last one, and one before it should the last be damaged."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came out of a training."""

    folder: Path
    """Recipe, log, versions, checkpoints, model."""

    model: Path
    """The best weights, or the adapter; loadable."""

    steps: int
    """Optimizer steps done."""

    best: float | None
    """The best value of the recipe's `best_metric`, that of `model`; None where nothing was held
    out."""


def train(recipe: Recipe, *, resume: bool = False) -> Run:
    """Train as the recipe says and leave a run folder.

    Args:
        recipe: What to do; its `out` must be new or empty.
        resume: Go on from the last checkpoint in `out`; the losses are those of an uninterrupted
            run.

    Raises:
        ValueError: The recipe, the data or the model cannot be trained with; nothing was written.
            After the first step: a part did not learn, the loss broke, or memory did not suffice.
        OSError: The disk is full; what was saved before is whole.
    """
    loading = explain_out_of_memory(recipe, doing=lambda: "loading data and model")
    with joined(recipe), explain_full_disk(recipe.output_dir), loading:
        if not resume:
            check_folder_is_free(
                recipe.output_dir, otherwise="continue the run there with --resume"
            )
        return _run(recipe, find_checkpoint(recipe) if resume else None)


def _run(recipe: Recipe, checkpoint: Path | None) -> Run:
    prepared = prepare(recipe)
    write_description(recipe, prepared)
    _say_what_is_trained(prepared.learner)
    state = state_of(checkpoint)
    if state.global_step < prepared.steps.in_all and not _was_stopped(recipe, state):
        with (
            _quiet_transformers(),
            _track(recipe, prepared, state) as tracking,
        ):
            loss_guard = LossGuard(prepared.learner.model)
            trainer = _make_trainer(recipe, prepared, tracking, loss_guard)
            with explain_out_of_memory(recipe, doing=loss_guard.describe):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            state = trainer.state
    return Run(
        folder=recipe.output_dir,
        model=RunDir(recipe.output_dir).model_dir,
        steps=state.global_step,
        best=state.best_metric,
    )


def _track(recipe: Recipe, prepared: Prepared, state: TrainerState) -> Tracking:
    return Tracking(
        RunFacts(
            folder=recipe.output_dir,
            model=RunDir(recipe.output_dir).model_dir,
            data=recipe.data,
            recipe=to_yaml(recipe),
            tracker=recipe.report_to,
        ),
        first_step=state.global_step,
        total_steps=prepared.steps.in_all,
        writes=is_main(),
    )


def _make_trainer(
    recipe: Recipe, prepared: Prepared, tracking: Tracking, loss_guard: LossGuard
) -> Trainer:
    callbacks = _make_callbacks(recipe, prepared, tracking, loss_guard)
    trainer = OBJECTIVES[recipe.objective](recipe, prepared, callbacks)
    trainer.remove_callback(PrinterCallback)
    put_in_force(trainer, recipe)
    trainer.add_callback(SharingGuard(recipe, trainer))
    if world_size() > 1:
        trainer.add_callback(OwnRandomness())
    return trainer


def _learn_answers(
    recipe: Recipe, prepared: Prepared, callbacks: Sequence[TrainerCallback]
) -> Trainer:
    arguments = TrainingArguments(**_training_arguments(recipe, prepared))
    return Trainer(
        model=prepared.learner.model,
        args=arguments,
        train_dataset=RowDataset(prepared.rows),
        eval_dataset=RowDataset([(sample,) for sample in prepared.validation]) or None,
        data_collator=functools.partial(collate_rows, prepared.collator, recipe.pack_length),
        callbacks=[*callbacks],
        optimizer_cls_and_kwargs=describe_optimizer(recipe, prepared.learner.model, arguments),
    )


def _learn_preferences(
    recipe: Recipe, prepared: Prepared, callbacks: Sequence[TrainerCallback]
) -> Trainer:
    return make_dpo_trainer(
        recipe,
        prepared.learner,
        prepared.collator,
        _training_arguments(recipe, prepared),
        training=prepared.training,
        validation=prepared.validation,
        callbacks=callbacks,
    )


def _make_callbacks(
    recipe: Recipe, prepared: Prepared, tracking: Tracking, loss_guard: LossGuard
) -> list[TrainerCallback]:
    """Hang in what looks and writes while the Trainer goes, in the order in which it is asked."""
    callbacks: list[TrainerCallback] = [
        GradientGuard(prepared.learner.model),
        loss_guard,
        StepCallback(tracking, recipe),
        GenerationEvalCallback(
            recipe,
            prepared.learner,
            prepared.collator.template,
            tracking,
            training=prepared.training,
            validation=prepared.validation,
        ),
    ]
    if recipe.early_stopping_patience is not None:
        # After the GenerationEvalCallback, who gives it the metric to look at.
        callbacks.append(StopWithCheckpoint(recipe.early_stopping_patience))
    return callbacks


class StopWithCheckpoint(EarlyStoppingCallback):
    """Stops a run early, and has a checkpoint written there, so that it is known to be over.

    Not a second callback behind the first: a resumed Trainer hangs those that have a state in
    anew, behind all others.
    """

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **others: Any,
    ) -> None:
        """Save where it wants to stop."""
        super().on_evaluate(args, state, control, metrics, **others)
        control.should_save = control.should_save or control.should_training_stop


def _training_arguments(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    """Say what the Trainer is told, as fields of TrainingArguments."""
    held_out = bool(prepared.validation)
    return {
        "output_dir": str(RunDir(recipe.output_dir).checkpoints_dir),
        "max_steps": prepared.steps.in_all,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "per_device_eval_batch_size": rows_examined(recipe),
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": recipe.count_warmup_steps(prepared.steps.in_all),
        "optim": recipe.optim,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "bf16": prepared.learner.precision == torch.bfloat16,
        "activation_checkpointing": recipe.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "eval_strategy": "steps" if held_out else "no",
        "eval_steps": (recipe.eval_steps or prepared.steps.an_epoch) if held_out else None,
        "metric_for_best_model": best_metric_key(recipe) if held_out else None,
        "greater_is_better": (
            higher_is_better(recipe, prepared.collator.template) if held_out else None
        ),
        "restore_callback_states_from_checkpoint": True,
        "prediction_loss_only": True,
        "save_steps": recipe.save_steps or prepared.steps.an_epoch,
        "save_total_limit": KEPT_CHECKPOINTS,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_num_workers": recipe.dataloader_num_workers,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "seed": recipe.seed,
        **describe_sharding(recipe),
        **further_of(recipe.further, "TrainingArguments"),
    }


def _was_stopped(recipe: Recipe, state: TrainerState) -> bool:
    """Whether a checkpoint is that of a run that early stopping has ended."""
    kept = state.stateful_callbacks.get(StopWithCheckpoint.__name__, {})
    waited = kept.get("attributes", {}).get("early_stopping_patience_counter", 0)
    return recipe.early_stopping_patience is not None and waited >= recipe.early_stopping_patience


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and remarks on saved files out of our progress bar."""
    had_bars, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # TRL 1.16 asks transformers 5.23 for checkpointing by its former name.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if had_bars:
            hf_logging.enable_progress_bar()


def _say_what_is_trained(learner: TrainableModel) -> None:
    counts = list_trained(learner.model)
    total = sum(weight.numel() for weight in learner.model.parameters())
    trained = sum(counts.values())
    logger.info(
        "training %s of %s weights (%.2f %%):", f"{trained:,}", f"{total:,}", 100 * trained / total
    )
    for module, count in counts.items():
        logger.info("  %-60s %14s", module, f"{count:,}")


OBJECTIVES: dict[str, Callable[[Recipe, Prepared, Sequence[TrainerCallback]], Trainer]] = {
    "sft": _learn_answers,
    "dpo": _learn_preferences,
}
"""What is learnt -> what makes the Trainer for it."""
