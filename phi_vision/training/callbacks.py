"""Callbacks of the Trainer: checks of every step, the log, and evaluations.

Evaluations compute the loss on all of validation and generate predictions on a part of it. By
default the loss selects the weights to keep: a metric of few predictions is noisy (the accuracy
over 32 samples is known to about ±17 points). Where answers begin with a category its accuracy
does, as the loss there rises with titles that no image shows while the categories still improve.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from phi_vision.data.collator import IGNORED
from phi_vision.data.conversation import prompt_of
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample, shuffle_images
from phi_vision.data.template import Template
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.io.formatting import error_texts, join_few
from phi_vision.metrics.constant_baselines import constant
from phi_vision.metrics.scores import Scores, score
from phi_vision.runs import RunDir
from phi_vision.training import distributed
from phi_vision.training.adapters import TrainableModel, find_broken_weight, save_model
from phi_vision.training.estimate import CHANGES, options_of
from phi_vision.training.gpus import read_machine
from phi_vision.training.recipes import Recipe
from phi_vision.training.setup import Setup, best_metric, max_new_tokens
from phi_vision.training.tracking.tracker import Tracking

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

MAX_LISTED = 8  # samples that an error lists; it counts the rest
OUT_OF_MEMORY = (  # messages of out-of-memory errors that have no class of their own
    r"(can't|Cannot) allocate memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
    r"DataLoader worker .* killed by signal: Killed|Caught MemoryError in DataLoader worker"
)


class StepCheck(TrainerCallback):
    """Stops if a part got no gradient in the first step, or at a loss that is not finite.

    Hooks on the model, inside of DDP or FSDP wrappers, remove the ids of samples from a batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.step, self.has_begun = 1, False
        self.rows: list[str] = []  # samples in each row of the last batch
        self.since_step: list[str] = []  # distinct rows of all batches of this optimizer step
        self._shape, self._has_gradients = "", False
        model.register_forward_pre_hook(self._remove_ids, with_kwargs=True)
        model.register_forward_hook(self._check_output, with_kwargs=True)

    def on_step_begin(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        """Start collecting the samples of a step."""
        self.step, self.has_begun, self.since_step = state.global_step + 1, True, []

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Check the gradients of the first step."""
        if not self._has_gradients:
            check_gradients(self.model)
            self._has_gradients = True

    def on_log(self, _: Any, state: TrainerState, *__: Any, logs: Any, **___: Any) -> None:
        """Check loss and gradient norm of a step before anything of it is saved."""
        for name in ("loss", "grad_norm"):
            if not math.isfinite(value := logs.get(name, 0.0)):
                samples = f" of the samples {_list(self.since_step)}" if self.since_step else ""
                step = state.global_step
                raise failure("diverged", name=name, value=value, step=step, samples=samples)

    def describe(self) -> str:
        """Format the current computation: "step 3, at a batch of 8 rows of 2509 tokens"."""
        return f"step {self.step}" + (f", at a batch of {self._shape}" if self._shape else "")

    def _remove_ids(
        self, model: nn.Module, given: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.rows = list(inputs.get("sample_ids", ()))
        if model.training:
            # DPO shows each sample several times per step.
            self.since_step = [*dict.fromkeys([*self.since_step, *self.rows])]
        if "input_ids" in inputs:
            rows, tokens = inputs["input_ids"].shape
            self._shape = f"{rows} row{'s' * (rows > 1)} of {tokens} tokens"
        return given, {name: value for name, value in inputs.items() if name != "sample_ids"}

    def _check_output(
        self, model: nn.Module, given: tuple[Any, ...], inputs: Mapping[str, Any], output: Any
    ) -> None:
        """Explain a loss that is not finite: by the weights, or by rows of the batch."""
        loss = output.get("loss")
        if loss is None or loss.isfinite().all():
            return
        where = f"in {'' if model.training else 'the evaluation before '}step {self.step}"
        at = {"loss": loss.item(), "where": where}
        if name := find_broken_weight(self.model):
            raise failure("broken_weight", name=name, **at)
        # DPO computes `log_probs`, (B, L - 1), without logits.
        if (log_probs_BL := output.get("log_probs")) is not None:
            broken = (~log_probs_BL.isfinite()).any(dim=1).nonzero()[:, 0].tolist()
        else:
            broken = find_broken_rows(inputs, output["logits"])
        count = len(inputs["labels"])
        if not broken or len(broken) == count > 1:
            raise failure("all_broken", samples=_list(self.rows), **at)
        samples = _list([self.rows[row] if self.rows else f"number {row + 1}" for row in broken])
        # A value that is not finite also spreads to samples beside it that do not attend to it:
        # zero times infinity is not a number either.
        packed = "; without pack_length a row is one sample" if "position_ids" in inputs else ""
        raise failure("some_broken", count=count, samples=samples, packed=packed, **at)


class StepCallback(TrainerCallback):
    """Passes steps to a Tracking, with speeds without padding and evaluations, and the load."""

    def __init__(self, tracking: Tracking, recipe: Recipe) -> None:
        self.tracking = tracking
        # A preference is a chosen and a rejected completion.
        self._per_row = distributed.world_size() / (2 if recipe.objective == "dpo" else 1)

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        """Count the inputs of the model, below wrappers for several processes, from now on."""
        self._padding: int = model.config.pad_token_id
        model.register_forward_pre_hook(self._count, with_kwargs=True)
        read_machine()
        self.on_evaluate()

    def on_optimizer_step(self, *_: Any, optimizer: Any, **__: Any) -> None:
        """Keep the rates of a step, before the schedule sets the next."""
        self._rates = learning_rates(optimizer.param_groups)

    def on_log(self, _: Any, state: TrainerState, *__: Any, logs: Any, **___: Any) -> None:
        """Track a step; evaluations log too, and are tracked by their own callback."""
        if "loss" in logs:
            measured = {**logs, **self._rates, **self.measure_speed(), **read_machine()}
            self.tracking.step(state.global_step, measured)

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Start to measure anew, which excludes evaluations and checkpoints."""
        self._since = time.perf_counter()
        self._samples: Any = 0  # or a tensor: to read it waits for a GPU
        self._tokens: Any = 0

    on_save = on_evaluate

    def measure_speed(self) -> dict[str, float]:
        """Measure the throughput since the last call."""
        samples, tokens = int(self._samples), int(self._tokens)  # may wait: before the clock
        seconds = time.perf_counter() - self._since
        self.on_evaluate()
        return {
            "samples_per_second": round(samples * self._per_row / seconds, 3),
            "tokens_per_second": round(tokens * distributed.world_size() / seconds, 1),
            "seconds": round(seconds, 3),
        }

    def _count(self, model: nn.Module, _: tuple[Any, ...], inputs: Mapping[str, Any]) -> None:
        # Evaluations and the reference model of DPO do not train.
        if model.training and torch.is_grad_enabled():
            real_BL = inputs["input_ids"] != self._padding
            samples: Any = len(real_BL)
            if inputs.get("attention_mask") is None and inputs.get("position_ids") is not None:
                # A packed row: the positions of every sample start from 0.
                samples = ((inputs["position_ids"] == 0) & real_BL).sum()
            self._samples = self._samples + samples
            self._tokens = self._tokens + real_BL.sum()


def learning_rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the learning rates of the optimizer's groups, if they differ.

    Input:  groups of language at 1e-4 and (LoRA+) at 16e-4
    Output: {"learning_rate_language": 1e-4, "learning_rate_language_fast": 16e-4}
    """
    # By their peak rates, since all are zero at the first step of a warm-up.
    rates = {(g.get("name", ""), g.get("initial_lr", g["lr"])): g["lr"] for g in groups}
    named: dict[str, float] = {}
    for (name, _), rate in sorted(rates.items()):
        key = f"learning_rate_{name}"
        named[f"{key}_fast" if key in named else key] = rate
    return named if len(rates) > 1 else {}


class GenerationEvalCallback(TrainerCallback):
    """Adds generated predictions to each evaluation of the Trainer, and keeps the best weights."""

    def __init__(self, recipe: Recipe, setup: Setup, tracking: Tracking) -> None:
        self.recipe, self.tracking = recipe, tracking
        self.trainable, self.template = setup.trainable, setup.collator.template
        self.training = setup.training
        self.samples = choose_samples(setup.validation, recipe.eval_samples)

    def on_step_end(self, _: Any, __: Any, control: TrainerControl, **___: Any) -> None:
        """Announce an evaluation; keep the last weights of a run without one."""
        if control.should_evaluate:
            self.tracking.describe("evaluating")
        elif control.should_training_stop:
            self._save()  # before the last checkpoint, which marks the run as complete

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
        measured |= {name[len("eval_") :]: metrics[name] for name in metrics if "rewards/" in name}
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
        together = distributed.is_sharded(self.trainable.model)
        part = samples if together else distributed.divide(samples)
        batch_size = 2 * self.recipe.per_device_train_batch_size
        texts = generate_texts(self.trainable, self.template, part, batch_size=batch_size)
        texts = texts if together else distributed.gather(texts)
        predicted = [Prediction.parse(text, self.template) for text in texts]
        return score(
            {"model": predicted[:count], **({"shuffled": predicted[count:]} if shuffles else {})},
            self.samples,
            self.template,
            training=self.training,
            baselines={"constant": constant(self.training, self.template, count)},
            seed=seed,
        )


def choose_samples(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Choose `count` samples evenly spread over all: of `a b c d e f` three are `a c e`."""
    count = min(count, len(samples))
    return [samples[place * len(samples) // count] for place in range(count)]


def generate_texts(
    trainable: TrainableModel, template: Template, samples: Sequence[Sample], *, batch_size: int
) -> list[str]:
    """Generate a text for each sample, in the precision of the training; equal inputs once."""
    model, processor, precision = trainable.model, trainable.processor, trainable.precision
    shown = [(prompt_of(processor, template, sample), (*sample.images,)) for sample in samples]
    distinct = dict(zip(shown, samples, strict=True))
    requests = [
        GenerationRequest(
            prompt=prompt,
            images=tuple(sample.open_images()),
            max_new_tokens=max_new_tokens(template),
        )
        for (prompt, _), sample in distinct.items()
    ]
    enabled = precision != torch.float32
    with torch.autocast(model.device.type, dtype=precision, enabled=enabled):
        generations = generate(model, processor, requests, batch_size=batch_size)
    texts = dict(zip(distinct, (each.text for each in generations), strict=True))
    return [texts[each] for each in shown]


def find_broken_rows(inputs: Mapping[str, Any], logits: torch.Tensor) -> list[int]:
    """Find the rows of a batch whose own loss is not finite.

    The logits are those of the positions that `logits_to_keep` (B, L) kept, or (B, L, V) of all.
    """
    following_BL = nn.functional.pad(inputs["labels"], (0, 1), value=IGNORED)[:, 1:]
    has_label_BL = following_BL != IGNORED
    kept_BL = inputs.get("logits_to_keep", torch.ones_like(has_label_BL))
    labelled_NV = logits.reshape(-1, logits.shape[-1])[has_label_BL[kept_BL]]
    losses_N = nn.functional.cross_entropy(
        labelled_NV.float(), following_BL[has_label_BL], reduction="none"
    )
    rows_N = has_label_BL.nonzero()[:, 0]
    return sorted(set(rows_N[~losses_N.isfinite()].tolist()))


def check_gradients(model: nn.Module) -> None:
    """Check that every trainable part got a gradient, or raise ValueError with their names."""
    # A layer's two LoRA matrices are one part: the second is zero at first, and the first without
    # gradient for one step. Biases of CLIP's keys shift all scores of a query alike: no gradient.
    parts, moved = set[str](), set[str]()
    for name, weight in model.named_parameters():
        if weight.requires_grad and not name.endswith("k_proj.bias"):
            part = re.sub(r"\.lora_(A|B|embedding_A|embedding_B)\..*", ".lora", name)
            parts.add(part)
            # Of a sharded gradient every process gathers the whole at the same time.
            whole = weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad
            if whole is not None and whole.any():
                moved.add(part)
    still = sorted({re.sub(r"\.\d+\.", ".*.", part) for part in parts - moved})
    if not parts or still:
        raise failure("no_gradient", parts=", ".join(still) or "anything")


@contextmanager
def explain_out_of_memory(recipe: Recipe, doing: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn out-of-memory errors of a GPU or a CPU into a ValueError with the settings to change."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        is_named = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not (is_named or re.search(OUT_OF_MEMORY, str(error))):
            raise
        where = "on the GPU" if re.search("CUDA|CUBLAS", str(error)) else "in main memory"
        where += f" in {doing()}" if doing else ""
        if found := re.search(r"allocate ([\d.]+ \w+)", str(error)):
            where += f" ({found.group(1)} more requested)"
        run = RunDir(recipe.output_dir)
        file = run.recipe_file if run.is_run(run.path) else "RECIPE"
        changes = [options for name in CHANGES if (options := options_of(name, recipe))]
        if recipe.pack_length is not None:
            changes.append(f"--pack-length to less than {recipe.pack_length}")
        if recipe.sharding == "none":
            changes.append("to several GPUs with --sharding fsdp")
        options = ", ".join(changes or ["to a larger machine"])
        raise failure("out_of_memory", where=where, file=file, options=options) from error


def _list(rows: Sequence[str]) -> str:
    return join_few([*map(repr, rows)], MAX_LISTED)
