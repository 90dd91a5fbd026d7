"""What looks while it trains, and stops what has become senseless or impossible.

Gradients that do not arrive, a loss or gradient that is no number, memory that does not suffice:
each error names the samples or the settings. What can be seen before the first step is refused by
`guards.py`; a full disk is the matter of `saving.py`.
"""

import errno
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phi_vision.data.collator import IGNORED
from phi_vision.runs import RunDir
from phi_vision.training.recipes import Recipe
from phi_vision.training.suggestions import CHANGES

MOST_NAMED = 8
"""Samples that an error names before it only counts them."""

LACK_OF_MEMORY = (
    r"can't allocate memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
    r"DataLoader worker .* killed by signal: Killed|Caught MemoryError in DataLoader worker"
)
"""What is said where memory lacks, by errors that have no class of their own."""


class GradientGuard(TrainerCallback):
    """Stops after the first step if a trainable part got no gradient."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.is_checked = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Look at the gradients of the first step."""
        if not self.is_checked:
            check_gradients(self.model)
            self.is_checked = True


class LossGuard(TrainerCallback):
    """Stops at a loss or gradient that is no number, and names the samples that caused it.

    A batch carries the names of its samples, which the model does not know. Hooks on the model take
    them out before each forward pass, and look at the loss after it: before it can reach a weight.
    The model must be the one inside of what distributes it, adapters included.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.step = 1
        self.rows: list[str] = []
        """Samples in each row of the last batch."""
        self.since_step: list[str] = []
        """Rows of all batches that the next optimizer step learns from, each once."""
        self._shape = ""
        model.register_forward_pre_hook(self._take_names, with_kwargs=True)
        model.register_forward_hook(self._check_output, with_kwargs=True)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Forget the samples of the step before."""
        self.step = state.global_step + 1
        self.since_step = []

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Look at what a step was made of, before anything of it is saved."""
        for name in ("loss", "grad_norm"):
            check_finite(name, (logs or {}).get(name, 0.0), state.global_step, self.since_step)

    def describe(self) -> str:
        """Say what is being computed: "step 3, at a batch of 8 rows of 2509 tokens"."""
        return f"step {self.step}" + (f", at a batch of {self._shape}" if self._shape else "")

    def _take_names(
        self, model: nn.Module, given: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.rows = list(inputs.get("sample_ids", ()))
        if model.training:
            # Preferences show each sample several times a step.
            self.since_step = [*dict.fromkeys([*self.since_step, *self.rows])]
        if "input_ids" in inputs:
            rows, tokens = inputs["input_ids"].shape
            self._shape = f"{rows} row{'s' * (rows > 1)} of {tokens} tokens"
        return given, {name: value for name, value in inputs.items() if name != "sample_ids"}

    def _check_output(
        self, model: nn.Module, given: tuple[Any, ...], inputs: Mapping[str, Any], output: Any
    ) -> None:
        loss = output.get("loss")
        if loss is None or bool(torch.isfinite(loss).all()):
            return
        where = "in" if model.training else "in the evaluation before"
        raise ValueError(
            f"the loss is {loss.item()} {where} step {self.step}: "
            + explain_broken_loss(model, self.rows, inputs, output)
        )


def explain_broken_loss(
    model: nn.Module, rows: Sequence[str], inputs: Mapping[str, Any], output: Mapping[str, Any]
) -> str:
    """Find out what broke a loss: the weights, or which rows of the batch, and say what to do.

    Output: "of the 8 rows in the batch only 'p7', 'p9' caused it; look at their images …"
    """
    broken_weight = _find_broken_weight(model)
    if broken_weight:
        return (
            f"{broken_weight} holds values that are no numbers, so the training broke before, and "
            "no sample did; lower learning_rate or raise warmup_steps, and start again"
        )
    if "log_probs" in output:  # Preferences are learnt from these, (B, L - 1), without logits.
        broken = (~output["log_probs"].isfinite()).any(dim=1).nonzero()[:, 0].tolist()
    else:
        broken = find_broken_rows(inputs, output["logits"])
    count = len(inputs["labels"])
    if not broken or len(broken) == count > 1:
        return (
            f"all of its samples are concerned ({_name(rows)}) though every weight is a number, so "
            "values have grown too large; lower learning_rate, or try --no-bf16"
        )
    names = [rows[row] if rows else f"number {row + 1}" for row in broken]
    # A value that is no number also spreads to samples beside it that do not attend to it: what
    # attention takes zero times is no number either.
    packed = "; without pack_length a row is one sample" if "position_ids" in inputs else ""
    return (
        f"of the {count} rows in the batch only {_name(names)} caused it{packed}; look at their "
        "images and values, and mend or remove them, or try --no-bf16"
    )


def find_broken_rows(inputs: Mapping[str, Any], logits: torch.Tensor) -> list[int]:
    """Find the rows of a batch whose own loss is no number.

    Input:  labels (B, L), and logits (positions, V) of those that `logits_to_keep` (B, L) kept, or
            (B, L, V) of all
    Output: [2], the third row
    """
    following_BL = nn.functional.pad(inputs["labels"], (0, 1), value=IGNORED)[:, 1:]
    is_learnt_BL = following_BL != IGNORED
    keep = inputs.get("logits_to_keep")
    if isinstance(keep, torch.Tensor):
        learnt_NV = logits.reshape(-1, logits.shape[-1])[is_learnt_BL[keep]]
    else:
        learnt_NV = logits[is_learnt_BL]
    losses_N = nn.functional.cross_entropy(
        learnt_NV.float(), following_BL[is_learnt_BL], reduction="none"
    )
    rows_N = is_learnt_BL.nonzero()[:, 0]
    return sorted(set(rows_N[~losses_N.isfinite()].tolist()))


def check_finite(name: str, value: float, step: int, rows: Sequence[str]) -> None:
    """Refuse to go on from a figure of a step that is no number.

    Raises:
        ValueError: Names the figure, the step and its samples.
    """
    if math.isfinite(value):
        return
    learnt = f" of the samples {_name(rows)}" if rows else ""
    raise ValueError(
        f"the {name} is {value} at step {step}{learnt}: the training broke; lower learning_rate "
        "or try --no-bf16, and go on from the last checkpoint with --resume"
    )


def check_gradients(model: nn.Module) -> None:
    """Refuse trainable parts that got no gradient.

    A layer's two LoRA matrices are one part: the second is zero at first, which leaves the first
    without gradient for one step. Biases of CLIP's keys shift all scores of a query alike and
    have no gradient by mathematics. Of an embedding only the rows that occurred have one.

    Raises:
        ValueError: Names the parts, layer numbers as `*`.
    """
    moved: dict[str, bool] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad and not name.endswith("k_proj.bias"):
            part = re.sub(r"\.lora_(A|B|embedding_A|embedding_B)\..*", ".lora", name)
            gradient = weight.grad is not None and bool(_whole(weight.grad).any())
            moved[part] = moved.get(part, False) or gradient
    still = sorted(
        {re.sub(r"\.\d+\.", ".*.", part) for part, has_moved in moved.items() if not has_moved}
    )
    if not moved or still:
        raise ValueError(
            f"no gradient reached {', '.join(still) or 'anything'} in the first step, so it would "
            "stay as it is; freeze it (train_vision, train_projector) or give samples that use it"
        )


@contextmanager
def explain_out_of_memory(
    recipe: Recipe, *, doing: Callable[[], str] | None = None
) -> Iterator[None]:
    """Turn what a lack of memory raises on a GPU or a CPU into one clear error.

    Args:
        recipe: Only settings that it does not have yet are advised.
        doing: Says what was being done, such as "step 3, at a batch of 8 rows of 2509 tokens".

    Raises:
        ValueError: Memory did not suffice; names the settings that need less of it.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not _is_lack_of_memory(error):
            raise
        where = "on the GPU" if _is_of_gpu(error) else "in main memory"
        at = f" in {doing()}" if doing else ""
        wished = re.search(r"allocate ([\d.]+ \w+)", str(error))
        amount = f" ({wished.group(1)} more were asked for)" if wished else ""
        described = RunDir(recipe.output_dir).recipe_file
        plan = f"phi-vision plan {described if described.is_file() else 'RECIPE'}"
        raise ValueError(
            f"out of memory {where}{at}{amount}; `{plan}` shows which part takes how much; "
            f"change, in this order: {', '.join(_list_changes(recipe))}"
        ) from error


def _list_changes(recipe: Recipe) -> list[str]:
    """Name the settings that would save memory, as the plan does; those that change least first.

    Output: ["--batch-size 4 --gradient-accumulation 2", "--gradient-checkpointing", …]
    """
    changes = [change(recipe) for change in CHANGES.values()]
    words = [smaller[1] for smaller in changes if smaller is not None]
    if recipe.pack_length is not None:
        words.append(f"--pack-length to less than {recipe.pack_length}")
    if recipe.sharding == "none":
        words.append("to several GPUs with --sharding fsdp")
    return words or ["to a larger machine"]


def _is_lack_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return bool(re.search(LACK_OF_MEMORY, str(error)))


def _is_of_gpu(error: Exception) -> bool:
    return bool(re.search("CUDA|CUBLAS", str(error)))


def _find_broken_weight(model: nn.Module) -> str | None:
    """Name the first weight that is no number. Looks at this process's share of it only."""
    for name, weight in model.named_parameters():
        values = weight.to_local() if isinstance(weight, DTensor) else weight
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            return name
    return None


def _whole(gradient: torch.Tensor) -> torch.Tensor:
    """Gather a gradient that is spread over processes, all of which call this at the same time."""
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def _name(rows: Sequence[str]) -> str:
    """Name samples, the rest as a count: "'a', 'b' and 3 more"."""
    named = ", ".join(map(repr, rows[:MOST_NAMED]))
    return named + (f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else "")
