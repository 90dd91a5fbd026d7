"""Recipe -> run: one path for every way to train, on transformers' Trainer.

    recipe -> samples, split -> model, frozen or with adapters -> checks -> steps -> OUT/model

The Trainer is used as it is: what differs is in the collator and in callbacks.
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
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging as hf_logging

from phi_vision.io.atomic import check_folder_is_free
from phi_vision.runs import RunDir
from phi_vision.training.adapters import TrainableModel, list_trained
from phi_vision.training.callbacks import (
    GradientCheck,
    LossCheck,
    StepCallback,
    explain_out_of_memory,
)
from phi_vision.training.checkpointing import (
    explain_full_disk,
    find_checkpoint,
    load_state,
    write_run_files,
)
from phi_vision.training.distributed import is_main, joined
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
from phi_vision.training.setup import RowDataset, Setup, collate_rows, eval_batch_size, prepare
from phi_vision.training.sharding import apply_sharding, sharding_arguments
from phi_vision.training.tracking.tracker import Tracking

logger = logging.getLogger(__name__)

SAVE_TOTAL_LIMIT = 2
"""Checkpoints to keep: the last one, and one before it in case the last is damaged."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The result of a training."""

    folder: Path
    """Recipe, log, versions, checkpoints, model."""

    model: Path
    """The best weights, or the adapter; loadable."""

    steps: int
    """Optimizer steps done."""

    best: float | None
    """The `metric_for_best_model` of these weights; None if nothing was held out."""


def train(recipe: Recipe, *, resume: bool = False) -> Run:
    """Train as the recipe says and write a run folder.

    Args:
        recipe: The run; its `output_dir` must be new or empty.
        resume: Continue from the last checkpoint in `output_dir`, as if never interrupted.

    Raises:
        ValueError: The recipe, the data or the model cannot be trained with; nothing was written.
            After the first step: a part has no gradient, the loss is not finite, or memory did not
            suffice.
        OSError: The disk is full; everything saved before is intact.
    """
    loading = explain_out_of_memory(recipe, doing=lambda: "loading data and model")
    with joined(recipe), explain_full_disk(recipe.output_dir), loading:
        if not resume:
            advice = "continue the run there with --resume"
            check_folder_is_free(recipe.output_dir, otherwise=advice)
        return _run(recipe, find_checkpoint(recipe) if resume else None)


def _run(recipe: Recipe, checkpoint: Path | None) -> Run:
    setup = prepare(recipe)
    write_run_files(recipe, setup)
    _log_trained_weights(setup.trainable)
    state = load_state(checkpoint)
    if state.global_step < setup.steps.total and not _stopped_early(recipe, state):
        tracking = Tracking(
            RunDir(recipe.output_dir),
            data=recipe.data,
            recipe=to_yaml(recipe),
            report_to=recipe.report_to,
            first_step=state.global_step,
            total_steps=setup.steps.total,
            writes=is_main(),
        )
        with _quiet_transformers(), tracking:
            loss_check = LossCheck(setup.trainable.model)
            trainer = _make_trainer(recipe, setup, tracking, loss_check)
            with explain_out_of_memory(recipe, doing=loss_check.describe):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            state = trainer.state
    return Run(
        folder=recipe.output_dir,
        model=RunDir(recipe.output_dir).model_dir,
        steps=state.global_step,
        best=state.best_metric,
    )


def _make_trainer(
    recipe: Recipe, setup: Setup, tracking: Tracking, loss_check: LossCheck
) -> Trainer:
    """Make the Trainer with its callbacks, in the order in which they are called."""
    callbacks: list[TrainerCallback] = [
        GradientCheck(setup.trainable.model),
        loss_check,
        StepCallback(tracking, recipe),
        GenerationEvalCallback(recipe, setup, tracking),
    ]
    if recipe.early_stopping_patience is not None:
        # After the GenerationEvalCallback, which computes the metric.
        callbacks.append(StopWithCheckpoint(recipe.early_stopping_patience))
    trainer = OBJECTIVES[recipe.objective](recipe, setup, callbacks)
    trainer.remove_callback(PrinterCallback)
    apply_sharding(trainer, recipe)
    return trainer


def _make_sft_trainer(
    recipe: Recipe, setup: Setup, callbacks: Sequence[TrainerCallback]
) -> Trainer:
    model = setup.trainable.model
    arguments = TrainingArguments(**_training_arguments(recipe, setup))
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=RowDataset(setup.rows),
        eval_dataset=RowDataset([(sample,) for sample in setup.validation]) or None,
        data_collator=functools.partial(collate_rows, setup.collator, recipe.pack_length),
        callbacks=[*callbacks],
        optimizer_cls_and_kwargs=describe_optimizer(recipe, model, arguments),
    )


class StopWithCheckpoint(EarlyStoppingCallback):
    """Stops a run early and saves a checkpoint there, so that it is known to be complete.

    Not a second callback behind the first: a resumed Trainer appends those that have a state
    anew, behind all others.
    """

    def on_evaluate(
        self, args: Any, state: TrainerState, control: Any, metrics: dict[str, float], **others: Any
    ) -> None:
        """Save when stopping."""
        super().on_evaluate(args, state, control, metrics, **others)
        control.should_save = control.should_save or control.should_training_stop


def _training_arguments(recipe: Recipe, setup: Setup) -> dict[str, Any]:
    """Return the fields of TrainingArguments."""
    held_out = bool(setup.validation)
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(RunDir(recipe.output_dir).checkpoints_dir),
        "max_steps": setup.steps.total,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "per_device_eval_batch_size": eval_batch_size(recipe),
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": recipe.count_warmup_steps(setup.steps.total),
        "optim": recipe.optim,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "bf16": setup.trainable.precision == torch.bfloat16,
        "activation_checkpointing": recipe.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "eval_strategy": "steps" if held_out else "no",
        "eval_steps": (recipe.eval_steps or setup.steps.per_epoch) if held_out else None,
        "metric_for_best_model": best_metric_key(recipe) if held_out else None,
        "greater_is_better": higher_is_better(recipe, setup.collator.template)
        if held_out
        else None,
        "restore_callback_states_from_checkpoint": True,
        "prediction_loss_only": True,
        "save_steps": recipe.save_steps or setup.steps.per_epoch,
        "save_total_limit": SAVE_TOTAL_LIMIT,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": not on_gpu,
        "dataloader_num_workers": recipe.dataloader_num_workers,
        "dataloader_pin_memory": on_gpu,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "seed": recipe.seed,
        **sharding_arguments(recipe),
        **further_of(recipe.further, "TrainingArguments"),
    }


def _make_dpo_trainer(
    recipe: Recipe, setup: Setup, callbacks: Sequence[TrainerCallback]
) -> Trainer:
    return make_dpo_trainer(recipe, setup, _training_arguments(recipe, setup), callbacks)


def _stopped_early(recipe: Recipe, state: TrainerState) -> bool:
    """Whether a checkpoint is that of a run that early stopping has ended."""
    kept = state.stateful_callbacks.get(StopWithCheckpoint.__name__, {})
    waited = kept.get("attributes", {}).get("early_stopping_patience_counter", 0)
    limit = recipe.early_stopping_patience
    return limit is not None and waited >= limit


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep the progress bars and messages of transformers out of our progress bar."""
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


def _log_trained_weights(trainable: TrainableModel) -> None:
    counts = list_trained(trainable.model)
    total = sum(weight.numel() for weight in trainable.model.parameters())
    trained = sum(counts.values())
    share = 100 * trained / total
    logger.info("training %s of %s weights (%.2f %%):", f"{trained:,}", f"{total:,}", share)
    for module, count in counts.items():
        logger.info("  %-60s %14s", module, f"{count:,}")


OBJECTIVES: dict[str, Callable[[Recipe, Setup, Sequence[TrainerCallback]], Trainer]] = {
    "sft": _make_sft_trainer,
    "dpo": _make_dpo_trainer,
}
"""Objective -> what makes its Trainer."""
