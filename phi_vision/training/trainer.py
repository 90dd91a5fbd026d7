"""Recipe -> run: one path for every way to train, on transformers' Trainer.

recipe -> samples, split -> model, frozen or with adapters -> checks -> steps -> OUT/model
"""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerState
from transformers.trainer_pt_utils import get_parameter_names
from transformers.utils import logging as hf_logging

from phi_vision.data.augmentation import AugmentedRows
from phi_vision.data.samples import SampleRows
from phi_vision.io import atomic
from phi_vision.io.formatting import error_texts, format_bytes, read_yaml
from phi_vision.runs import STATE_FILE, RunDir
from phi_vision.training import callbacks, distributed
from phi_vision.training.adapters import list_trained
from phi_vision.training.dpo import make_dpo_trainer
from phi_vision.training.recipes import Recipe, further_of, loader_workers, to_yaml
from phi_vision.training.resume import (
    explain_damage,
    find_checkpoint,
    remove_incomplete,
    remove_unfinished,
    write_run_files,
)
from phi_vision.training.setup import Setup, best_metric, eval_batch_size, prepare, row_collator
from phi_vision.training.tracking.tracker import Tracking

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

# Names of weights without weight decay, as in `Trainer.get_decay_parameter_names`.
NOT_DECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]

ARGUMENTS = read_yaml(__file__, "training_arguments.yaml")


class Run(NamedTuple):
    """The result of a training."""

    folder: Path
    model: Path  # the best weights, or the adapter; loadable
    steps: int
    best: float | None  # `metric_for_best_model` of these weights; None if nothing was held out


def train(recipe: Recipe, *, resume: bool = False) -> Run:
    """Train as the recipe says and write a run folder, or resume it as if never interrupted.

    Raises:
        ValueError: The recipe, the data or the model cannot be trained with; nothing was written.
            After the first step: no gradient, a loss that is not finite, or too little memory.
        OSError: The disk is full; everything saved before is intact.
    """
    run = RunDir(recipe.output_dir)
    loading = callbacks.explain_out_of_memory(recipe, doing=lambda: "loading data and model")
    locked = atomic.lock(run.path) if distributed.is_main() else nullcontext()
    with distributed.joined(recipe), locked, explain_full_disk(run.path), loading:
        if not resume:
            remove_unfinished(run.path, run.recipe_file.name)  # of a run without a recipe
            resumed = "continue the run there with --resume"
            atomic.check_folder_is_free(run.path, option="--output-dir", instead=resumed)
        if recipe.report_to == "wandb":
            from phi_vision.training.tracking.wandb_run import check_variables

            check_variables()
        checkpoint = find_checkpoint(recipe) if resume else None
        setup = prepare(recipe)
        write_run_files(recipe, setup)
        _log_trained_weights(setup.trainable.model)
        state = TrainerState()
        if checkpoint:
            state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        if state.global_step < setup.steps.total and not _stopped_early(recipe, state):
            state = _train(recipe, setup, checkpoint, state.global_step)
    return Run(run.path, run.model_dir, state.global_step, state.best_metric)


def _train(recipe: Recipe, setup: Setup, checkpoint: Path | None, first_step: int) -> TrainerState:
    tracking = Tracking(
        RunDir(recipe.output_dir),
        recipe=to_yaml(recipe),
        report_to=recipe.report_to,
        first_step=first_step,
        total_steps=setup.steps.total,
        writes=distributed.is_main(),
    )
    with _quiet_transformers(), tracking:
        step_check = callbacks.StepCheck(setup.trainable.model)
        trainer = _make_trainer(recipe, setup, tracking, step_check)
        memory = callbacks.explain_out_of_memory(recipe, doing=step_check.describe)
        with memory, explain_damage(checkpoint, step_check):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    state: TrainerState = trainer.state
    return state


def _make_trainer(
    recipe: Recipe, setup: Setup, tracking: Tracking, step_check: callbacks.StepCheck
) -> Trainer:
    model = setup.trainable.model
    in_order: list[TrainerCallback] = [
        step_check,
        callbacks.StepCallback(tracking, recipe),
        callbacks.GenerationEvalCallback(recipe, setup, tracking),
    ]
    if recipe.early_stopping_patience is not None:
        # After the GenerationEvalCallback, which computes the metric.
        in_order.append(StopWithCheckpoint(recipe.early_stopping_patience))
    arguments = _training_arguments(recipe, setup)
    if recipe.objective == "dpo":
        trainer = make_dpo_trainer(recipe, setup, arguments, in_order)
    else:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**arguments),
            train_dataset=setup.rows,
            eval_dataset=SampleRows(setup.validation) if setup.validation else None,
            data_collator=row_collator(recipe, setup),
            callbacks=in_order,
        )
    if isinstance(setup.rows, AugmentedRows):
        trainer.add_callback(NewEpoch(setup.rows))
    trainer.optimizer_cls_and_kwargs = describe_optimizer(recipe, model, trainer.args)
    trainer.remove_callback(PrinterCallback)
    distributed.apply_sharding(trainer, recipe)
    return trainer


class NewEpoch(TrainerCallback):
    """Tells augmented rows the pass over the data that begins, or is resumed."""

    def __init__(self, rows: AugmentedRows) -> None:
        self.rows = rows

    def on_epoch_begin(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        """Set the pass, before any process that prepares batches is started."""
        self.rows.epoch = int((state.epoch or 0.0) + 1e-6)


class StopWithCheckpoint(EarlyStoppingCallback):
    """Stops a run early and saves a checkpoint there, so that it is known to be complete."""

    # One callback, not two: a resumed Trainer appends those that have a state behind all others.

    def on_evaluate(self, args: Any, state: Any, control: Any, *given: Any, **others: Any) -> None:
        """Save when stopping."""
        super().on_evaluate(args, state, control, *given, **others)
        control.should_save = control.should_save or control.should_training_stop


def _training_arguments(recipe: Recipe, setup: Setup) -> dict[str, Any]:
    evaluation: dict[str, Any] = {"eval_strategy": "no"}
    if setup.validation:
        key, higher = best_metric(recipe, setup.collator.template)
        logger.info("the weights with the best %s are kept", key.removeprefix("eval_"))
        evaluation = {
            "eval_strategy": "steps",
            "eval_steps": recipe.eval_steps or setup.steps.per_epoch,
            "metric_for_best_model": key,
            "greater_is_better": higher,
        }
    warmup, on_gpu = recipe.warmup_steps, torch.cuda.is_available()
    workers = loader_workers(recipe, on_gpu=on_gpu, processes=distributed.local_world_size())
    if workers:
        logger.info("batches are prepared by %d processes", workers)
    return {
        **ARGUMENTS["fixed"],
        **{name: getattr(recipe, name) for name in ARGUMENTS["of_recipe"].split()},
        **evaluation,
        "output_dir": str(RunDir(recipe.output_dir).checkpoints_dir),
        "max_steps": setup.steps.total,
        "per_device_eval_batch_size": eval_batch_size(recipe),
        "warmup_steps": int(warmup) if warmup >= 1 else round(warmup * setup.steps.total),
        "bf16": setup.trainable.precision == torch.bfloat16,
        "activation_checkpointing": recipe.gradient_checkpointing,
        "save_steps": recipe.save_steps or setup.steps.per_epoch,
        "use_cpu": not on_gpu,
        # Crops of several images cannot be cut into equal parts by rows.
        **({"accelerator_config": {"dispatch_batches": False}} if recipe.streaming else {}),
        "dataloader_pin_memory": on_gpu,
        "dataloader_num_workers": workers,
        **distributed.sharding_arguments(recipe),
        **further_of(recipe, "TrainingArguments"),
    }


def describe_optimizer(
    recipe: Recipe, model: nn.Module, arguments: TrainingArguments
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Return the optimizer's class and arguments, in the form that the Trainer takes."""
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return kind, {**settings, "params": group_weights(recipe, model)}


def group_weights(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """Group the trainable weights by part of the model, learning rate and weight decay.

    Input:  a recipe with learning_rate 1e-4, vision_learning_rate 1e-5, weight_decay 0.01
    Output: [{"name": "language", "lr": 1e-4, "weight_decay": 0.01, "params": […]},
             {"name": "vision", "lr": 1e-5, …}, …]
    """
    rates = {"projector": recipe.projector_learning_rate, "vision": recipe.vision_learning_rate}
    decayed = set(get_parameter_names(model, [nn.LayerNorm], NOT_DECAYED))
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            part = "projector" if "vision_embed_tokens" in name else "language"
            part = "vision" if "img_processor" in name else part
            rate = rates.get(part)
            rate = recipe.learning_rate if rate is None else rate
            if "lora_B" in name:
                # LoRA+ (arXiv:2402.12354): the matrix that starts at zero has to go further.
                rate *= recipe.loraplus_ratio or 1.0
            decay = recipe.weight_decay if name in decayed else 0.0
            groups.setdefault((part, rate, decay), []).append(weight)
    return [
        {"name": part, "lr": rate, "weight_decay": decay, "params": weights}
        for (part, rate, decay), weights in groups.items()
    ]


@contextmanager
def explain_full_disk(output_dir: Path) -> Iterator[None]:
    """Turn errors of a full disk into one clear OSError, and remove incomplete files."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not atomic.is_full_disk(error):
            raise
        remove_incomplete(output_dir)
        run = RunDir(output_dir)
        free = shutil.disk_usage(run.path if run.path.exists() else Path.cwd()).free
        values = {"folder": run.path, "free": format_bytes(free), "model": run.model_dir}
        text = "full_disk"
        if checkpoint := run.last_checkpoint():
            size = format_bytes(atomic.folder_bytes(checkpoint))
            values |= {"checkpoint": checkpoint.name, "size": size}
            text = "full_disk_best_kept" if run.model_dir.exists() else "full_disk_checkpoint_kept"
        explained = failure(text, **values)
        # An atomic folder already wraps the error of the library that wrote into it.
        raise OSError(str(explained)) from error.__cause__ or error


def _stopped_early(recipe: Recipe, state: TrainerState) -> bool:
    """Whether a checkpoint is that of a run that early stopping has ended."""
    kept = state.stateful_callbacks.get(StopWithCheckpoint.__name__, {}).get("attributes", {})
    waited, limit = kept.get("early_stopping_patience_counter", 0), recipe.early_stopping_patience
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


def _log_trained_weights(model: nn.Module) -> None:
    counts, total = list_trained(model), sum(weight.numel() for weight in model.parameters())
    trained = counts.total()
    logger.info(
        "training %s (%.2f %%):", f"{trained:,} of {total:,} weights", 100 * trained / total
    )
    for module, count in counts.items():
        logger.info("  %-60s %14s", module, f"{count:,}")
