"""What a run needs before it starts: tokens, steps, memory by part, time, GPUs that it fits.

    phi-vision plan lora --model microsoft/Phi-3.5-vision-instruct --data catalog --gpu L4

Loads no weights: memory.py runs a step on fake tensors, gpus.py knows the speeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from phi_vision.io.formatting import GIB, format_duration, format_gib
from phi_vision.training.adapters import choose_precision
from phi_vision.training.distributed import world_size
from phi_vision.training.gpus import GPUS, Gpu, find_gpu, seconds_per_step, this_machine
from phi_vision.training.lengths import (
    Workload,
    describe_distribution,
    largest_batch,
    measure_data,
    typical_batch,
)
from phi_vision.training.memory import (
    BatchShape,
    Cost,
    Setting,
    evaluation_cost,
    training_cost,
)
from phi_vision.training.recipes import Recipe, lora
from phi_vision.training.setup import Steps, count_steps, eval_batch_size

CUDA_CONTEXT = 0.7 * GIB
"""CUDA's own context and the kernels of PyTorch, before the first tensor."""

GPU_FRAGMENTATION = 1.05
"""A GPU's memory is allocated in blocks, of which a few per cent stay unused."""

WEIGHT_FRAGMENTATION = 0.7
"""Memory that a CPU's allocator (glibc) holds in gaps, as a share of the weights. Like the next
three fitted to trainings of 7, 133 and 169 million weights (benchmarks/plan_memory.py,
docs/log.md). MALLOC_MMAP_THRESHOLD_=1048576 avoids it, at half the speed of small models."""

ACTIVATION_FRAGMENTATION = 0.15
"""The same as a share of the activations stored for the backward pass."""

CHECKPOINTING_FRAGMENTATION = 0.7
"""The same with gradient checkpointing: gradients are allocated between recomputed activations."""

FOUR_BIT_FRAGMENTATION = 0.3
"""The same with gradient checkpointing and weights in 4 bits."""

LOADED_AT_FIRST_STEP = 60 * 2**20
"""Memory of libraries that load only with the first step (CPU)."""

LOADED_WITH_CHECKPOINTING = 30 * 2**20
"""Further memory of libraries with gradient checkpointing (CPU)."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """The memory of a run at its peak."""

    parts: Mapping[str, float]
    """Part -> bytes at the peak of their sum."""
    moment: str
    """When that is: `a training step` or `an evaluation`."""
    cost: Cost
    """Of a typical step."""
    precision: torch.dtype

    @property
    def memory(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


class NeedEstimator:
    """Estimates the needs of a workload on GPUs, computing each setting once."""

    def __init__(self, load: Workload) -> None:
        self.load = load
        self._peak = cache(self._find_peak)
        self._cost = cache(training_cost)

    def estimate(self, recipe: Recipe, gpu: Gpu) -> Need:
        """Estimate the peak of a run on a GPU."""
        setting = choose_setting(recipe, self.load, gpu)
        moment, parts = self._peak(setting)
        typical = typical_batch(self.load.rows, recipe.per_device_train_batch_size)
        cost = self._cost(setting, _paired(recipe, typical))
        sharded = ("weights", "gradients", "optimizer") if recipe.sharding == "fsdp" else ()
        per_process = {
            part: size / (world_size() if part in sharded else 1)
            for part, size in parts.items()
            if size
        }
        return Need(
            parts=_add_overhead(recipe, gpu, per_process, _fragmentation(recipe, cost, parts)),
            moment=moment,
            precision=setting.precision,
            cost=cost,
        )

    def _find_peak(self, setting: Setting) -> tuple[str, dict[str, int]]:
        recipe = setting.recipe
        largest = largest_batch(self.load.rows, recipe.per_device_train_batch_size)
        cost = self._cost(setting, _paired(recipe, largest))
        moments = {"a training step": cost.parts}
        if self.load.validation:
            alone = [[size] for size in self.load.validation]
            shape = _paired(recipe, largest_batch(alone, eval_batch_size(recipe)))
            generates = recipe.eval_samples > 0
            moments["an evaluation"] = evaluation_cost(setting, shape, generates=generates)
        worst = max(moments, key=lambda name: sum(moments[name].values()))
        parts = moments[worst]
        if cost.packed and setting.is_on_cpu:
            # Weights that are not packed lie in the mapped file, which stays open: the pages read
            # for packing stay with it, until the machine needs them.
            stored = self.load.config.dtype or torch.float32
            parts = {**parts, "mapped file": cost.packed * stored.itemsize}
        if recipe.objective == "dpo" and recipe.method == "full":
            parts = {**parts, "reference": parts["weights"]}
        return worst, parts


@dataclass(frozen=True, kw_only=True)
class Change:
    """A setting that reduces the memory of a run."""

    options: str
    """The options to set, such as `--gradient-checkpointing`."""
    memory: float
    """Bytes with this change and those before it."""
    saved: float
    """Bytes less than before it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The result of `phi-vision plan`, also printed by `train --dry-run`."""

    load: Workload
    need: Need
    steps: Steps
    utilization: float
    """Share of a typical batch's positions that is not padding."""
    gpu: Gpu
    seconds: float
    """Of all steps on that GPU, without evaluations."""
    fits: Sequence[str]
    """GPUs that the run fits."""
    changes: Sequence[Change]
    """Settings to change, in this order, if it does not fit."""

    @property
    def is_fitting(self) -> bool:
        """Whether the run fits its GPU."""
        return self.need.memory <= self.gpu.memory

    def as_text(self) -> str:
        """Format the plan.

        Output: samples         2432 training, 304 validation, 0 groups in both
                image tokens    mean 757, median 757, 95 % up to 757, max 757
                …
        """
        load, need = self.load, self.need
        rows, samples = len(load.rows), len(load.training)
        packed = "" if rows == samples else f" instead of {samples}, packed"
        answer = "yes" if self.is_fitting else "NO"
        lines = {
            "samples": f"{samples} training, {len(load.validation)} validation, "
            f"{load.shared_groups} groups in both",
            "image tokens": describe_distribution([size.image_tokens for size in load.training]),
            "text tokens": describe_distribution([size.text_tokens for size in load.training]),
            "rows": f"{rows} per epoch{packed}; {self.utilization:.0%} of a typical batch is not "
            "padding",
            "steps": f"{self.steps.total}, {self.steps.per_epoch} per epoch",
            "parameters": f"{need.cost.trained:,} of {need.cost.parameters:,} are trained "
            f"({need.cost.trained / need.cost.parameters:.2%})",
            "precision": "bf16" if need.precision == torch.bfloat16 else "fp32",
            "memory": f"{format_gib(need.memory)} at the peak, in {need.moment}",
            **{f"  {part}": format_gib(size) for part, size in need.parts.items()},
            "time": f"about {format_duration(self.seconds)} for the steps on {self.gpu.name}, "
            "plus evaluations",
            "fits": f"{answer}, {self.gpu.name} has {format_gib(self.gpu.memory)}; "
            f"GPUs that it fits: {', '.join(self.fits) or 'none'}",
        }
        text = "".join(f"{name:<15} {words}\n" for name, words in lines.items())
        return text + "".join(f"  {line}\n" for line in self._advice())

    def _advice(self) -> list[str]:
        if self.is_fitting:
            return []
        lines = [
            f"change {change.options}: {format_gib(change.memory)}, {format_gib(change.saved)} less"
            for change in self.changes
        ]
        if not self.changes or self.changes[-1].memory > self.gpu.memory:
            lines.append("even so it does not fit: use a GPU with more memory")
        return lines


def make_plan(recipe: Recipe, gpu: str | None = None) -> Plan:
    """Measure the data as training would, and run a step without weights. Writes nothing.

    Args:
        recipe: The run.
        gpu: A name of `GPUS`, or cpu; by default this machine's.

    Raises:
        ValueError: As `trainer.train` before its first step, or there is no such GPU.
    """
    target = this_machine() if gpu is None else find_gpu(gpu)
    load = measure_data(recipe)
    resident_bytes()
    estimator = NeedEstimator(load)
    need = estimator.estimate(recipe, target)
    steps = count_steps(recipe, len(load.rows))
    typical = typical_batch(load.rows, recipe.per_device_train_batch_size)
    tokens = sum(size.length for row in load.rows for size in row)
    needs = {each.name: estimator.estimate(recipe, each).memory for each in GPUS.values()}
    return Plan(
        load=load,
        need=need,
        steps=steps,
        utilization=min(1.0, tokens / len(load.rows) / typical.length),
        gpu=target,
        seconds=steps.total * seconds_per_step(target, recipe, need.cost, need.precision),
        fits=[each.name for each in GPUS.values() if needs[each.name] <= each.memory],
        changes=_find_changes(recipe, estimator, target),
    )


def choose_setting(recipe: Recipe, load: Workload, gpu: Gpu) -> Setting:
    """Choose arithmetic and attention as `adapters.load_trainable` would on that GPU."""
    if recipe.bf16 is None:
        precision = torch.float32 if gpu.bf16 is None else torch.bfloat16
    else:
        precision = choose_precision(recipe.bf16)
    return Setting(
        recipe=recipe,
        config=load.config,
        precision=precision,
        attention="eager" if gpu.is_cpu and precision == torch.bfloat16 else "sdpa",
        is_on_cpu=gpu.is_cpu,
    )


@cache
def resident_bytes() -> float:
    """Measure the RSS of this process: a training has imported the same, and read the same data."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * 4096)


def _paired(recipe: Recipe, batch: BatchShape) -> BatchShape:
    """Double the rows of a batch of pairs, which share their images."""
    if recipe.objective == "sft":
        return batch
    return replace(batch, rows=2 * batch.rows, supervised=2 * batch.supervised)


def _add_overhead(
    recipe: Recipe, gpu: Gpu, parts: Mapping[str, float], fragmentation: float
) -> dict[str, float]:
    if not gpu.is_cpu:
        scaled = {part: GPU_FRAGMENTATION * size for part, size in parts.items()}
        return {**scaled, "CUDA": CUDA_CONTEXT}
    libraries = resident_bytes() + LOADED_AT_FIRST_STEP
    if recipe.gradient_checkpointing:
        libraries += LOADED_WITH_CHECKPOINTING
    return {**parts, "fragmentation": fragmentation, "libraries": libraries}


def _fragmentation(recipe: Recipe, cost: Cost, parts: Mapping[str, int]) -> float:
    """Estimate the gaps of a CPU's allocator; weights in 4 bits are few large tensors."""
    recomputes = recipe.gradient_checkpointing
    if recipe.quantization is not None:
        share, weights = FOUR_BIT_FRAGMENTATION if recomputes else 0.0, cost.scattered
    else:
        share = CHECKPOINTING_FRAGMENTATION if recomputes else ACTIVATION_FRAGMENTATION
        weights = parts["weights"]
    return WEIGHT_FRAGMENTATION * weights + share * parts["activations"]


def _find_changes(recipe: Recipe, estimator: NeedEstimator, gpu: Gpu) -> list[Change]:
    """Apply one change after the other, each on top of those that helped, until the run fits."""
    changes: list[Change] = []
    before = estimator.estimate(recipe, gpu).memory
    for change in CHANGES.values():
        while before > gpu.memory and (smaller := change(recipe)) is not None:
            changed, options = smaller
            memory = estimator.estimate(changed, gpu).memory
            if memory >= before:
                break
            changes.append(Change(options=options, memory=memory, saved=before - memory))
            recipe, before = changed, memory
    return changes


Smaller = tuple[Recipe, str] | None
"""A recipe that needs less memory and the options that make it; None if there is no effect."""


def _accumulate(recipe: Recipe) -> Smaller:
    """Halve the batch and accumulate gradients over twice as many: trains alike."""
    batch = recipe.per_device_train_batch_size
    if batch == 1:
        return None
    size = batch // 2
    times = -(-batch * recipe.gradient_accumulation_steps // size)
    smaller = replace(recipe, per_device_train_batch_size=size, gradient_accumulation_steps=times)
    return smaller, f"--per-device-train-batch-size {size} --gradient-accumulation-steps {times}"


def _checkpoint_gradients(recipe: Recipe) -> Smaller:
    if recipe.gradient_checkpointing:
        return None
    return replace(recipe, gradient_checkpointing=True), "--gradient-checkpointing"


def _use_8_bit_optimizer(recipe: Recipe) -> Smaller:
    if "8bit" in recipe.optim:
        return None
    return replace(recipe, optim="adamw_8bit"), "--optim adamw_8bit"


def _use_adapters(recipe: Recipe) -> Smaller:
    if recipe.method == "lora":
        return None
    start = lora()
    smaller = replace(
        recipe,
        method="lora",
        random_weights=False,
        r=start.r,
        lora_alpha=start.lora_alpha,
        lora_dropout=start.lora_dropout,
        target_modules=start.target_modules,
        train_language=True,
        train_vision=False,
        vision_learning_rate=None,
        train_projector=False,
        projector_learning_rate=None,
    )
    return smaller, "the recipe to lora"


def _quantize(recipe: Recipe) -> Smaller:
    if recipe.method != "lora" or recipe.quantization:
        return None
    return replace(recipe, quantization="nf4"), "the recipe to qlora (--quantization nf4)"


CHANGES: dict[str, Callable[[Recipe], Smaller]] = {
    "batch": _accumulate,
    "checkpointing": _checkpoint_gradients,
    "optimizer": _use_8_bit_optimizer,
    "adapters": _use_adapters,
    "bits": _quantize,
}
"""Name -> change, those first that change least of the training."""
