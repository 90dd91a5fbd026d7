"""Callbacks of every step: checks that stop a broken training, and the log.

Missing gradients, a loss or gradient that is not finite, memory that does not suffice: each error
has the samples or the settings to change. setup.py covers everything before the first step,
trainer.py a full disk.
"""

import ctypes
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import psutil
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerState

from phi_vision.data.collator import IGNORED
from phi_vision.runs import RunDir
from phi_vision.training.distributed import world_size
from phi_vision.training.estimate import CHANGES
from phi_vision.training.recipes import Recipe
from phi_vision.training.tracking.tracker import Tracking

MIB = 2**20

MAX_LISTED = 8
"""Samples that an error lists; it counts the rest."""

OUT_OF_MEMORY = (
    r"(can't|Cannot) allocate memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
    r"DataLoader worker .* killed by signal: Killed|Caught MemoryError in DataLoader worker"
)
"""Messages of out-of-memory errors that have no class of their own."""


class StepCheck(TrainerCallback):
    """Stops if a part got no gradient in the first step, or at a loss that is not finite.

    A batch carries the ids of its samples, which the model does not take. Hooks on the model remove
    them before each forward pass, and check the loss after it: before it can reach a weight. The
    model must be the one inside of DDP or FSDP wrappers, adapters included.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.step = 1
        self.has_begun = False
        self.rows: list[str] = []  # samples in each row of the last batch
        self.since_step: list[str] = []  # distinct rows of all batches of this optimizer step
        self._shape = ""
        self._has_gradients = False
        model.register_forward_pre_hook(self._remove_ids, with_kwargs=True)
        model.register_forward_hook(self._check_output, with_kwargs=True)

    def on_step_begin(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        """Start collecting the samples of a step."""
        self.step = state.global_step + 1
        self.has_begun = True
        self.since_step = []

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Check the gradients of the first step."""
        if not self._has_gradients:
            check_gradients(self.model)
            self._has_gradients = True

    def on_log(self, _: Any, state: TrainerState, *__: Any, logs: Any, **___: Any) -> None:
        """Check loss and gradient norm of a step before anything of it is saved."""
        for name in ("loss", "grad_norm"):
            value = logs.get(name, 0.0)
            if not math.isfinite(value):
                samples = f" of the samples {_list(self.since_step)}" if self.since_step else ""
                raise ValueError(
                    f"the {name} is {value} at step {state.global_step}{samples}: the training "
                    "diverged; lower learning_rate or try --no-bf16, and resume from the last "
                    "checkpoint with --resume"
                )

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
        loss = output.get("loss")
        if loss is not None and not torch.isfinite(loss).all():
            where = "in" if model.training else "in the evaluation before"
            raise ValueError(
                f"the loss is {loss.item()} {where} step {self.step}: "
                + explain_broken_loss(model, self.rows, inputs, output)
            )


class StepCallback(TrainerCallback):
    """Passes each step of the Trainer to a Tracking, with its speed and the machine's load.

    Samples and tokens per second are those of training, without padding and evaluations; all
    processes are assumed to be as fast as this one.
    """

    def __init__(self, tracking: Tracking, recipe: Recipe) -> None:
        self.tracking = tracking
        # A preference is a chosen and a rejected completion.
        self._per_row = world_size() / (2 if recipe.objective == "dpo" else 1)

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        """Count the inputs of the model, below wrappers for several processes, from now on."""
        self._padding: int = model.config.pad_token_id
        model.register_forward_pre_hook(self._count, with_kwargs=True)
        read_machine()
        self.on_evaluate()

    def on_log(
        self, _: Any, state: TrainerState, *__: Any, logs: Any, optimizer: Any = None, **___: Any
    ) -> None:
        """Track a step; evaluations log too, and are tracked by their own callback."""
        if "loss" in logs:
            rates = {} if optimizer is None else learning_rates(optimizer.param_groups)
            measured = {**logs, **rates, **self.measure_speed(), **read_machine()}
            self.tracking.step(state.global_step, measured)

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Start to measure anew, which excludes evaluations and checkpoints."""
        self._since = time.perf_counter()
        self._samples: torch.Tensor | int = 0
        self._tokens: torch.Tensor | int = 0

    on_save = on_evaluate

    def measure_speed(self) -> dict[str, float]:
        """Measure the throughput since the last call.

        Output: {"samples_per_second": 5.2, "tokens_per_second": 4012.7, "seconds": 3.077}
        """
        # Reading the counts waits for a GPU, so they are read before the clock is.
        samples, tokens = int(self._samples) * self._per_row, int(self._tokens) * world_size()
        seconds = time.perf_counter() - self._since
        self.on_evaluate()
        return {
            "samples_per_second": round(samples / seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
            "seconds": round(seconds, 3),
        }

    def _count(self, model: nn.Module, _: tuple[Any, ...], inputs: Mapping[str, Any]) -> None:
        # Evaluations and the reference model of DPO do not train.
        if model.training and torch.is_grad_enabled():
            real_BL = inputs["input_ids"] != self._padding
            samples: torch.Tensor | int = len(real_BL)
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


def read_machine() -> dict[str, float]:
    """Read utilization since the last call, of all cores and programs, and memory at the moment:
    the RSS of this process, without that of its data workers.

    Output: {"cpu_percent": 98.5, "memory_mib": 2311.2}
    """
    values = {
        "cpu_percent": psutil.cpu_percent(None),
        "memory_mib": round(psutil.Process().memory_info().rss / MIB, 1),
    }
    if torch.cuda.is_available():
        values["gpu_memory_mib"] = round(torch.cuda.memory_allocated() / MIB, 1)
        values["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated() / MIB, 1)
        if (found := _open_gpu()) is not None:
            library, handle = found
            shares = (ctypes.c_uint * 2)()  # of the last second in percent: computing, memory
            failed = library.nvmlDeviceGetUtilizationRates(handle, shares)
            values["gpu_percent"] = float("nan") if failed else float(shares[0])
    return values


@cache
def _open_gpu() -> tuple[ctypes.CDLL, ctypes.c_void_p] | None:
    """Open NVML for the GPU in use, by UUID: it also counts GPUs that are hidden from CUDA."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:  # a driver without the library, as on some embedded boards
        return None
    uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    handle = ctypes.c_void_p()
    of_uuid = (uuid.encode(), ctypes.byref(handle))
    failed = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(*of_uuid)
    return None if failed else (library, handle)


def explain_broken_loss(
    model: nn.Module, rows: Sequence[str], inputs: Mapping[str, Any], output: Mapping[str, Any]
) -> str:
    """Explain a loss that is not finite: by the weights, or by rows of the batch."""
    for name, weight in model.named_parameters():
        values = weight.to_local() if isinstance(weight, DTensor) else weight
        if values.is_floating_point() and not values.isfinite().all():
            return (
                f"{name} holds values that are not finite, so the training diverged before, and no "
                "sample did it; lower learning_rate or raise warmup_steps, and start again"
            )
    if "log_probs" in output:  # DPO computes these, (B, L - 1), without logits.
        broken = (~output["log_probs"].isfinite()).any(dim=1).nonzero()[:, 0].tolist()
    else:
        broken = find_broken_rows(inputs, output["logits"])
    count = len(inputs["labels"])
    if not broken or len(broken) == count > 1:
        return (
            f"all of its samples are concerned ({_list(rows)}) though every weight is finite, so "
            "values have grown too large; lower learning_rate, or try --no-bf16"
        )
    samples = [rows[row] if rows else f"number {row + 1}" for row in broken]
    # A value that is not finite also spreads to samples beside it that do not attend to it:
    # zero times infinity is not a number either.
    packed = "; without pack_length a row is one sample" if "position_ids" in inputs else ""
    return (
        f"of the {count} rows in the batch only {_list(samples)} caused it{packed}; look at their "
        "images and values, and fix or remove them, or try --no-bf16"
    )


def find_broken_rows(inputs: Mapping[str, Any], logits: torch.Tensor) -> list[int]:
    """Find the rows of a batch whose own loss is not finite.

    The logits are those of the positions that `logits_to_keep` (B, L) kept, or (B, L, V) of all.
    """
    following_BL = nn.functional.pad(inputs["labels"], (0, 1), value=IGNORED)[:, 1:]
    has_label_BL = following_BL != IGNORED
    keep = inputs.get("logits_to_keep")
    if isinstance(keep, torch.Tensor):
        labelled_NV = logits.reshape(-1, logits.shape[-1])[has_label_BL[keep]]
    else:
        labelled_NV = logits[has_label_BL]
    losses_N = nn.functional.cross_entropy(
        labelled_NV.float(), following_BL[has_label_BL], reduction="none"
    )
    rows_N = has_label_BL.nonzero()[:, 0]
    return sorted(set(rows_N[~losses_N.isfinite()].tolist()))


def check_gradients(model: nn.Module) -> None:
    """Check that every trainable part got a gradient, or raise ValueError with their names.

    A layer's two LoRA matrices are one part: the second is zero at first, which leaves the first
    without gradient for one step. Biases of CLIP's keys shift all scores of a query alike and
    have no gradient by mathematics. Of an embedding only the rows that occurred have one.
    """
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
        raise ValueError(
            f"no gradient reached {', '.join(still) or 'anything'} in the first step, so it would "
            "stay as it is; freeze it (train_vision, train_projector) or give samples that use it"
        )


@contextmanager
def explain_out_of_memory(
    recipe: Recipe, *, doing: Callable[[], str] | None = None
) -> Iterator[None]:
    """Turn out-of-memory errors of a GPU or a CPU into one clear error.

    It is a ValueError with the settings that need less memory and are not in the recipe. `doing`
    formats the current computation: "step 3, at a batch of 8 rows of 2509 tokens".
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        is_named = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not (is_named or re.search(OUT_OF_MEMORY, str(error))):
            raise
        where = "on the GPU" if re.search("CUDA|CUBLAS", str(error)) else "in main memory"
        at = f" in {doing()}" if doing else ""
        found = re.search(r"allocate ([\d.]+ \w+)", str(error))
        amount = f" ({found.group(1)} more requested)" if found else ""
        file = RunDir(recipe.output_dir).recipe_file
        plan = f"phi-vision plan {file if file.is_file() else 'RECIPE'}"
        options = [smaller[1] for change in CHANGES.values() if (smaller := change(recipe))]
        if recipe.pack_length is not None:
            options.append(f"--pack-length to less than {recipe.pack_length}")
        if recipe.sharding == "none":
            options.append("to several GPUs with --sharding fsdp")
        raise ValueError(
            f"out of memory {where}{at}{amount}; `{plan}` shows which part takes how much; "
            f"change, in this order: {', '.join(options or ['to a larger machine'])}"
        ) from error


def _list(rows: Sequence[str]) -> str:
    listed = ", ".join(map(repr, rows[:MAX_LISTED]))
    return listed + (f" and {len(rows) - MAX_LISTED} more" if len(rows) > MAX_LISTED else "")
