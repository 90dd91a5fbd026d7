"""Recipe -> run: one path for every way to train, on transformers' Trainer.

    recipe -> samples, split -> model, frozen or with adapters -> guards -> steps -> OUT/model

A run folder holds recipe.yaml, template.yaml, versions.json, log.jsonl, checkpoints/ and the best
weights in model/. The Trainer is used as it is: what differs is in the collator and in callbacks.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerState, TrainingArguments, set_seed
from transformers.utils import logging as hf_logging

from phi_vision.data.collate import AnswerCollator, Batch, select_answers
from phi_vision.data.loading import available_splits, load_samples, split_by_group
from phi_vision.data.sample import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template, find_template, write_template
from phi_vision.train import guards
from phi_vision.train.examiner import Examiner
from phi_vision.train.learner import Learner, make_learner
from phi_vision.train.recipes import Recipe, load_recipe, to_yaml
from phi_vision.train.tracking import StepCallback, Tracking, versions

VALIDATION_FRACTION = 0.1
"""Held out where the data has no `validation` split of its own."""

STATE_FILE = "trainer_state.json"
"""How far a checkpoint got. The Trainer writes it last: a checkpoint without it is not whole."""

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

    best_loss: float | None
    """The lowest validation loss, that of `model`; None where nothing was held out."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything a training needs, checked: what a dry run looks at and a run goes on with."""

    learner: Learner
    collator: AnswerCollator
    training: Sequence[Sample]
    validation: Sequence[Sample]
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
            After the first step: a part did not learn, or the loss broke.
    """
    if not resume:
        _refuse_used_folder(recipe.out)
    checkpoint = _find_checkpoint(recipe) if resume else None
    prepared = prepare(recipe)
    _write_description(recipe, prepared)
    state = _state_of(checkpoint)
    if state.global_step < prepared.steps:
        with (
            _quiet_transformers(),
            Tracking(recipe, first_step=state.global_step, total_steps=prepared.steps) as tracking,
        ):
            trainer = _make_trainer(recipe, prepared, tracking)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            state = trainer.state
    return Run(
        folder=recipe.out,
        model=recipe.out / "model",
        steps=state.global_step,
        best_loss=state.best_metric,
    )


def prepare(recipe: Recipe) -> Prepared:
    """Load data and model and put every guard in front of the first step. Writes nothing."""
    _refuse_several_devices()
    training, validation = load_split(recipe)
    set_seed(recipe.seed)
    learner = make_learner(recipe)
    collator = AnswerCollator(
        processor=learner.processor,
        template=choose_template(recipe),
        max_length=recipe.max_length,
    )
    _guard(recipe, learner, collator, [*training, *validation])
    batches = math.ceil(len(training) / recipe.batch_size)
    steps_per_epoch = math.ceil(batches / recipe.gradient_accumulation)
    steps = math.ceil(recipe.epochs * steps_per_epoch)
    return Prepared(
        learner=learner,
        collator=collator,
        training=training,
        validation=validation,
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


class SampleDataset(Dataset[Sample]):
    """Samples as PyTorch's DataLoader wants them; pictures are decoded by the collator."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Sample:
        return self.samples[place]


def _guard(
    recipe: Recipe, learner: Learner, collator: AnswerCollator, samples: Sequence[Sample]
) -> None:
    """Look at all samples' words and sizes, and at the very first batch."""
    guards.check_samples(collator, samples)
    first = samples[: recipe.batch_size]
    batch = collator(first)
    guards.check_images_are_shown(batch, first, learner.processor)
    guards.check_supervision(batch)
    guards.check_prompt_is_inference_prompt(collator, first[0], batch)


def _make_trainer(recipe: Recipe, prepared: Prepared, tracking: Tracking) -> Trainer:
    learner = prepared.learner
    trainer = Trainer(
        model=learner.model,
        args=_training_arguments(recipe, prepared),
        train_dataset=SampleDataset(prepared.training),
        eval_dataset=SampleDataset(prepared.validation) if prepared.validation else None,
        data_collator=functools.partial(_collate, prepared.collator),
        callbacks=[
            guards.GradientGuard(learner.model),
            StepCallback(tracking, recipe.batch_size * recipe.gradient_accumulation),
            Examiner(
                recipe,
                learner,
                prepared.collator.template,
                tracking,
                training=prepared.training,
                validation=prepared.validation,
            ),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _training_arguments(recipe: Recipe, prepared: Prepared) -> TrainingArguments:
    held_out = bool(prepared.validation)
    return TrainingArguments(
        output_dir=str(recipe.out / "checkpoints"),
        max_steps=prepared.steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=2 * recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.warmup_fraction * prepared.steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=prepared.learner.precision == torch.bfloat16,
        activation_checkpointing=recipe.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps" if held_out else "no",
        eval_steps=(recipe.eval_every or prepared.steps_per_epoch) if held_out else None,
        metric_for_best_model="eval_loss" if held_out else None,
        greater_is_better=False if held_out else None,
        prediction_loss_only=True,
        save_steps=recipe.save_every or prepared.steps_per_epoch,
        save_total_limit=KEPT_CHECKPOINTS,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=recipe.num_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
        seed=recipe.seed,
    )


def _collate(collator: AnswerCollator, samples: Sequence[Sample]) -> Batch:
    """Collate and select; a function of the module, so that worker processes can be given it."""
    return select_answers(collator(samples))


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
    whole = [file.parent for file in (recipe.out / "checkpoints").glob(f"*/{STATE_FILE}")]
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _state_of(checkpoint: Path | None) -> TrainerState:
    """Read how far a checkpoint got; nowhere without one."""
    if checkpoint is None:
        return TrainerState()
    return TrainerState.load_from_json(str(checkpoint / STATE_FILE))


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and remarks on saved files out of our progress bar."""
    had_bars, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if had_bars:
            hf_logging.enable_progress_bar()


def _write_description(recipe: Recipe, prepared: Prepared) -> None:
    recipe.out.mkdir(parents=True, exist_ok=True)
    found = versions([*prepared.training, *prepared.validation])
    (recipe.out / "versions.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (recipe.out / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    write_template(prepared.collator.template, recipe.out / TEMPLATE_FILE)


def _refuse_several_devices() -> None:
    """Refuse what would silently become something else: the Trainer would cut batches apart."""
    if torch.cuda.device_count() > 1:
        raise ValueError(
            f"found {torch.cuda.device_count()} GPUs, and training on several is not built yet; "
            "set CUDA_VISIBLE_DEVICES to one of them"
        )
