"""Recipe -> run: one path for every way to train, on transformers' Trainer.

    recipe -> samples, split -> model, frozen or with adapters -> guards -> steps -> OUT/model

A run folder holds recipe.yaml, template.yaml, versions.json, log.jsonl, checkpoints/ and the best
weights in model/. The Trainer is used as it is: what differs is in the collator and in callbacks.
"""

import dataclasses
import functools
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as hf_logging

from phi_vision.data.collate import AnswerCollator, Batch, select_answers
from phi_vision.data.loading import available_splits, load_samples, split_by_group
from phi_vision.data.packing import (
    collate_packs,
    original_context,
    pack_samples,
    refuse_both_sides,
)
from phi_vision.data.pairs import check_pairs
from phi_vision.data.sample import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template, find_template, write_template
from phi_vision.train import guards
from phi_vision.train.examiner import Examiner, best_metric_key, higher_is_better
from phi_vision.train.learner import Learner, list_trained, make_learner
from phi_vision.train.optimizer import describe_optimizer
from phi_vision.train.preferences import make_dpo_trainer
from phi_vision.train.processes import (
    OwnRandomness,
    check_alike,
    check_folder_is_shared,
    check_same_processes,
    is_main,
    joined,
    wait_for_all,
    world_size,
)
from phi_vision.train.recipe_file import load_recipe, to_yaml
from phi_vision.train.recipes import Recipe
from phi_vision.train.saving import (
    STATE_FILE,
    explain_full_disk,
    last_checkpoint,
    mend,
    replace_text,
)
from phi_vision.train.sharding import (
    SharingGuard,
    check_can_be_sharded,
    describe_sharding,
    put_in_force,
)
from phi_vision.train.steps import StepCallback
from phi_vision.train.tracking import Tracking
from phi_vision.train.versions import versions
from phi_vision.train.watch import GradientGuard, LossGuard, explain_out_of_memory

logger = logging.getLogger(__name__)

VALIDATION_FRACTION = 0.1
"""Held out where the data has no `validation` split of its own."""

KEPT_CHECKPOINTS = 2
"""The last one, and one before it should the last be damaged."""

MAY_DIFFER_ON_RESUME = {"out", "tracker", "num_workers"}
"""Fields of a recipe that do not change what is computed."""


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


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything a training needs, checked: what a dry run looks at and a run goes on with."""

    learner: Learner
    collator: AnswerCollator
    training: Sequence[Sample]
    validation: Sequence[Sample]
    rows: Sequence[tuple[Sample, ...]]
    """What one row of a batch holds: a sample, or several packed."""
    steps_per_epoch: int
    steps: int


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
    with joined(recipe), explain_full_disk(recipe.out), loading:
        if not resume:
            _refuse_used_folder(recipe.out)
        return _run(recipe, _find_checkpoint(recipe) if resume else None)


def _run(recipe: Recipe, checkpoint: Path | None) -> Run:
    prepared = prepare(recipe)
    _write_description(recipe, prepared)
    _say_what_is_trained(prepared.learner)
    state = _state_of(checkpoint)
    if state.global_step < prepared.steps and not _was_stopped(recipe, state):
        with (
            _quiet_transformers(),
            Tracking(recipe, first_step=state.global_step, total_steps=prepared.steps) as tracking,
        ):
            loss_guard = LossGuard(prepared.learner.model)
            trainer = _make_trainer(recipe, prepared, tracking, loss_guard)
            with explain_out_of_memory(recipe, doing=loss_guard.describe):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            state = trainer.state
    return Run(
        folder=recipe.out,
        model=recipe.out / "model",
        steps=state.global_step,
        best=state.best_metric,
    )


def prepare(recipe: Recipe) -> Prepared:
    """Load data and model and put every guard in front of the first step. Writes nothing."""
    check_can_be_sharded(recipe)
    training, validation = load_split(recipe)
    template = choose_template(recipe)
    guards.check_best_metric(recipe, template)
    set_seed(recipe.seed)
    learner = make_learner(recipe)
    collator = AnswerCollator(
        processor=learner.processor, template=template, max_length=recipe.max_length
    )
    lengths = _guard(recipe, learner, collator, [*training, *validation])
    rows = _make_rows(recipe, training, validation, lengths, learner)
    batches = math.ceil(len(rows) / recipe.batch_size)
    # Whole batches are dealt out to the processes; the last ones are filled up from the first.
    batches = math.ceil(batches / world_size())
    steps_per_epoch = math.ceil(batches / recipe.gradient_accumulation)
    steps = math.ceil(recipe.epochs * steps_per_epoch)
    return Prepared(
        learner=learner,
        collator=collator,
        training=training,
        validation=validation,
        rows=rows,
        steps_per_epoch=steps_per_epoch,
        steps=min(steps, recipe.max_steps or steps),
    )


def load_split(recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    """Load training and validation samples: the data's own `validation`, or whole groups held out.

    Raises:
        ValueError: There is no data, or it cannot be split.
    """
    if not recipe.data:
        raise ValueError(
            "no data given; name a folder or file of samples with --data "
            "(`phi-vision sample --out FOLDER` draws some)"
        )
    splits = available_splits(recipe.data)
    load = functools.partial(load_samples, recipe.data, group_column=recipe.group_column)
    if "validation" in splits and "train" in splits and recipe.validation_fraction is None:
        return load(split="train"), load(split="validation")
    if splits and "train" not in splits:
        raise ValueError(
            f"{recipe.data} has no split 'train' to learn from; it has {', '.join(splits)}"
        )
    fraction = recipe.validation_fraction
    return split_by_group(
        load(split="train" if splits else None),
        validation_fraction=VALIDATION_FRACTION if fraction is None else fraction,
        seed=recipe.seed,
    )


def choose_template(recipe: Recipe) -> Template:
    """Take the wording the recipe names, else the data's own, else the one of products."""
    has_own = (Path(recipe.data) / TEMPLATE_FILE).is_file()
    return find_template(recipe.template or (recipe.data if has_own else "product"))


class RowDataset(Dataset[tuple[Sample, ...]]):
    """Rows as PyTorch's DataLoader wants them; pictures are decoded by the collator."""

    def __init__(self, rows: Sequence[tuple[Sample, ...]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[Sample, ...]:
        return self.rows[place]


def _guard(
    recipe: Recipe, learner: Learner, collator: AnswerCollator, samples: Sequence[Sample]
) -> list[int]:
    """Look at all samples' words and sizes, and at the very first batch; give the lengths."""
    lengths = guards.check_samples(collator, samples)
    if recipe.objective == "dpo":
        split_at = original_context(learner.model.config)
        lengths = check_pairs(collator, samples, lengths, split_at=split_at)
    first = samples[: recipe.batch_size]
    batch = collator(first)
    guards.check_images_are_shown(batch, first, learner.processor)
    guards.check_supervision(batch)
    guards.check_prompt_is_inference_prompt(collator, first[0], batch)
    return lengths


def _make_rows(
    recipe: Recipe,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    lengths: Sequence[int],
    learner: Learner,
) -> list[tuple[Sample, ...]]:
    """Pack samples into rows where the recipe says so; `lengths` begin with those of training."""
    split_at = original_context(learner.model.config)
    learnt, examined = lengths[: len(training)], lengths[len(training) :]
    refuse_both_sides(training, learnt, most_rows=recipe.batch_size, split_at=split_at)
    refuse_both_sides(validation, examined, most_rows=_rows_examined(recipe), split_at=split_at)
    if recipe.pack_length is None:
        return [(sample,) for sample in training]
    return pack_samples(training, learnt, recipe.pack_length, split_at=split_at)


def _rows_examined(recipe: Recipe) -> int:
    """Rows in a forward pass of an evaluation: twice as many, without gradients, but one is one."""
    return 1 if recipe.batch_size == 1 else 2 * recipe.batch_size


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
    return Trainer(
        model=prepared.learner.model,
        args=TrainingArguments(**_training_arguments(recipe, prepared)),
        train_dataset=RowDataset(prepared.rows),
        eval_dataset=RowDataset([(sample,) for sample in prepared.validation]) or None,
        data_collator=functools.partial(_collate, prepared.collator, recipe.pack_length),
        callbacks=[*callbacks],
        optimizer_cls_and_kwargs=describe_optimizer(recipe, prepared.learner.model),
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
        StepCallback(tracking),
        Examiner(
            recipe,
            prepared.learner,
            prepared.collator.template,
            tracking,
            training=prepared.training,
            validation=prepared.validation,
        ),
    ]
    if recipe.early_stopping is not None:
        # After the Examiner, who gives it the metric to look at.
        callbacks.append(StopWithCheckpoint(recipe.early_stopping))
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
        "output_dir": str(recipe.out / "checkpoints"),
        "max_steps": prepared.steps,
        "per_device_train_batch_size": recipe.batch_size,
        "per_device_eval_batch_size": _rows_examined(recipe),
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(recipe.warmup_fraction * prepared.steps),
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "bf16": prepared.learner.precision == torch.bfloat16,
        "activation_checkpointing": recipe.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "eval_strategy": "steps" if held_out else "no",
        "eval_steps": (recipe.eval_every or prepared.steps_per_epoch) if held_out else None,
        "metric_for_best_model": best_metric_key(recipe) if held_out else None,
        "greater_is_better": higher_is_better(recipe) if held_out else None,
        "restore_callback_states_from_checkpoint": True,
        "prediction_loss_only": True,
        "save_steps": recipe.save_every or prepared.steps_per_epoch,
        "save_total_limit": KEPT_CHECKPOINTS,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_num_workers": recipe.num_workers,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "seed": recipe.seed,
        **describe_sharding(recipe),
    }


def _collate(
    collator: AnswerCollator, pack_length: int | None, rows: Sequence[tuple[Sample, ...]]
) -> Batch:
    """Collate and select; a function of the module, so that worker processes can be given it."""
    if pack_length is not None:
        return select_answers(collate_packs(collator, rows))
    return select_answers(collator([sample for (sample,) in rows]))


def _refuse_used_folder(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(
            f"{out} is not empty; choose another --out, or continue the run there with --resume"
        )


def _find_checkpoint(recipe: Recipe) -> Path | None:
    """Find the last whole checkpoint of the recipe's run; None if it was stopped before the first.

    Raises:
        ValueError: There is no run, or it has another recipe.
    """
    described = recipe.out / "recipe.yaml"
    if not described.is_file():
        raise ValueError(f"no run to resume in {recipe.out}: it has no recipe.yaml; check --out")
    before, now = (dataclasses.asdict(each) for each in (load_recipe(described), recipe))
    changed = [
        name for name in now if now[name] != before[name] and name not in MAY_DIFFER_ON_RESUME
    ]
    if changed:
        name = changed[0]
        raise ValueError(
            f"the run in {recipe.out} has {name} {before[name]}, this recipe {now[name]}; resume "
            f"with {described}, or start anew in another --out"
        )
    if is_main():
        mend(recipe.out)
    wait_for_all()
    checkpoint = last_checkpoint(recipe.out)
    if checkpoint is not None:
        check_same_processes(checkpoint)
    return checkpoint


def _state_of(checkpoint: Path | None) -> TrainerState:
    """Read how far a checkpoint got; nowhere without one."""
    if checkpoint is None:
        return TrainerState()
    return TrainerState.load_from_json(str(checkpoint / STATE_FILE))


def _was_stopped(recipe: Recipe, state: TrainerState) -> bool:
    """Whether a checkpoint is that of a run that early stopping has ended."""
    kept = state.stateful_callbacks.get(StopWithCheckpoint.__name__, {})
    waited = kept.get("attributes", {}).get("early_stopping_patience_counter", 0)
    return recipe.early_stopping is not None and waited >= recipe.early_stopping


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


def _write_description(recipe: Recipe, prepared: Prepared) -> None:
    found = versions([*prepared.training, *prepared.validation])
    # Nobody writes before all have looked whether the folder is free.
    check_alike({**dataclasses.asdict(recipe), **found})
    if is_main():
        _write_files(recipe, prepared, found)
    check_folder_is_shared(recipe.out, recipe.out / "recipe.yaml")


def _write_files(recipe: Recipe, prepared: Prepared, found: Mapping[str, str]) -> None:
    recipe.out.mkdir(parents=True, exist_ok=True)
    # First, and never a half: without it a run cannot be resumed.
    replace_text(recipe.out / "recipe.yaml", to_yaml(recipe))
    replace_text(recipe.out / "versions.json", json.dumps(found, indent=2) + "\n")
    write_template(prepared.collator.template, recipe.out / TEMPLATE_FILE)


def _say_what_is_trained(learner: Learner) -> None:
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
