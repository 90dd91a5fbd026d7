"""What a run needs before it starts: tokens, steps, memory by part, time, GPUs that it fits.

    phi-vision plan lora --model microsoft/Phi-3.5-vision-instruct --data catalog --gpu L4

Loads no weights and decodes no images: sizes are read from texts and image headers, memory.py runs
a step on fake tensors, gpus.py knows the speeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from phi_vision.data.collator import CompletionCollator
from phi_vision.data.packing import original_context
from phi_vision.data.samples import Sample, image_size
from phi_vision.io.formatting import GIB, format_duration, format_gib
from phi_vision.model.checkpoint import adapter_base, load_config, load_processor, resolve
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor, resized_size
from phi_vision.training import setup
from phi_vision.training.adapters import choose_precision
from phi_vision.training.distributed import world_size
from phi_vision.training.gpus import GPUS, Gpu, find_gpu, seconds_per_step, this_machine
from phi_vision.training.memory import BatchShape, Cost, Setting, evaluation_cost, training_cost
from phi_vision.training.recipes import Recipe, lora

CUDA_CONTEXT = 0.7 * GIB
"""CUDA's own context and the kernels of PyTorch, before the first tensor."""

GPU_FRAGMENTATION = 1.05
"""A GPU's memory is allocated in blocks, of which a few per cent stay unused."""

WEIGHT_FRAGMENTATION = 0.7
"""Memory that a CPU's allocator (glibc) holds in gaps, as a share of the weights. Like the next
fitted to trainings of 7, 133 and 169 million weights (benchmarks/plan_memory.py, docs/log.md).
MALLOC_MMAP_THRESHOLD_=1048576 avoids it, at half the speed of small models."""

ACTIVATION_FRAGMENTATION = {
    (False, False): 0.15,
    (False, True): 0.7,  # Gradients are allocated between recomputed activations.
    (True, False): 0.0,
    (True, True): 0.3,
}
"""Weights in 4 bits, gradient checkpointing -> the same as a share of the stored activations."""

LOADED_AT_FIRST_STEP, LOADED_WITH_CHECKPOINTING = 60 * 2**20, 30 * 2**20
"""Memory of libraries that load only with the first step, further ones with gradient checkpointing
(CPU)."""


class SampleSize(NamedTuple):
    """The size of one sample in a batch."""

    image_tokens: int
    text_tokens: int
    supervised: int
    """How many of the text tokens have labels."""
    images: tuple[tuple[int, int], ...]
    """Height and width of its images in pixels, padded to whole crops."""

    @property
    def length(self) -> int:
        """All its tokens."""
        return self.image_tokens + self.text_tokens


Rows = Sequence[Sequence[SampleSize]]
"""Rows of one sample each, or of several packed."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The measured samples and rows of a run, and the config of its model."""

    config: Phi3VConfig
    training: Sequence[SampleSize]
    validation: Sequence[SampleSize]
    rows: Rows
    shared_groups: int


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


class Change(NamedTuple):
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
    steps: setup.Steps
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
        environment = Environment(
            loader=PackageLoader("phi_vision.training"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        return environment.get_template("plan.txt.j2").render(
            plan=self,
            load=self.load,
            need=self.need,
            cost=self.need.cost,
            bfloat16=torch.bfloat16,
            distribution=describe_distribution,
            duration=format_duration,
            gib=format_gib,
        )


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
    steps = setup.count_steps(recipe, len(load.rows))
    typical = typical_batch(load.rows, recipe.per_device_train_batch_size)
    return Plan(
        load=load,
        need=need,
        steps=steps,
        utilization=min(1.0, sum(map(_length, load.rows)) / len(load.rows) / typical.length),
        gpu=target,
        seconds=steps.total * seconds_per_step(target, recipe, need.cost, need.precision),
        fits=[g.name for g in GPUS.values() if estimator.estimate(recipe, g).memory <= g.memory],
        changes=_find_changes(recipe, estimator, target),
    )


class NeedEstimator:
    """Estimates the needs of a workload on GPUs, computing each setting once."""

    def __init__(self, load: Workload) -> None:
        self.load = load
        self._peak = cache(self._find_peak)
        self._cost = cache(training_cost)

    def estimate(self, recipe: Recipe, gpu: Gpu) -> Need:
        """Estimate the peak of a run with arithmetic and attention as `load_trainable` chooses."""
        has_bf16 = gpu.bf16 is not None
        precision = choose_precision(has_bf16 if recipe.bf16 is None else recipe.bf16)
        setting = Setting(
            recipe=recipe,
            config=self.load.config,
            precision=precision,
            attention="eager" if gpu.is_cpu and precision == torch.bfloat16 else "sdpa",
            is_on_cpu=gpu.is_cpu,
        )
        moment, parts = self._peak(setting)
        typical = typical_batch(self.load.rows, recipe.per_device_train_batch_size)
        cost = self._cost(setting, _paired(recipe, typical))
        sharded = ("weights", "gradients", "optimizer") if recipe.sharding == "fsdp" else ()
        per_process = {
            part: size / (world_size() if part in sharded else 1)
            for part, size in parts.items()
            if size
        }
        if gpu.is_cpu:
            per_process |= _cpu_overhead(recipe, cost, parts)
        else:
            per_process = {part: GPU_FRAGMENTATION * size for part, size in per_process.items()}
            per_process["CUDA"] = CUDA_CONTEXT
        return Need(parts=per_process, moment=moment, precision=precision, cost=cost)

    def _find_peak(self, setting: Setting) -> tuple[str, dict[str, int]]:
        recipe = setting.recipe
        largest = largest_batch(self.load.rows, recipe.per_device_train_batch_size)
        cost = self._cost(setting, _paired(recipe, largest))
        moments = {"a training step": cost.parts}
        if self.load.validation:
            alone = [[size] for size in self.load.validation]
            shape = _paired(recipe, largest_batch(alone, setup.eval_batch_size(recipe)))
            generates = recipe.eval_samples > 0
            moments["an evaluation"] = evaluation_cost(setting, shape, generates=generates)
        worst = max(moments, key=lambda name: sum(moments[name].values()))
        parts = dict(moments[worst])
        if cost.packed and setting.is_on_cpu:
            # Weights that are not packed lie in the mapped file, which stays open: the pages read
            # for packing stay with it, until the machine needs them.
            parts["mapped file"] = cost.packed * setting.stored_dtype.itemsize
        if recipe.objective == "dpo" and recipe.method == "full":
            parts["reference"] = parts["weights"]
        return worst, parts


@cache
def resident_bytes() -> int:
    """Measure the RSS of this process: a training has imported the same, and read the same data."""
    return int(psutil.Process().memory_info().rss)


def measure_data(recipe: Recipe) -> Workload:
    """Load and check the samples as training does, and measure them.

    Raises:
        ValueError: They cannot be trained with.
    """
    training, validation = setup.load_split(recipe)
    config = load_config(adapter_base(resolve(recipe.model)) or recipe.model)
    collator = CompletionCollator(
        processor=load_processor(recipe.model),
        template=setup.choose_template(recipe),
        max_length=recipe.max_length,
    )
    setup.check_samples(collator, [*training, *validation])
    sizes = {id(sample): measure(collator, sample) for sample in (*training, *validation)}
    lengths = [sizes[id(sample)].length for sample in training]
    rows = setup.make_rows(recipe, training, lengths, split_at=original_context(config))
    return Workload(
        config=config,
        training=[sizes[id(sample)] for sample in training],
        validation=[sizes[id(sample)] for sample in validation],
        rows=[[sizes[id(sample)] for sample in row] for row in rows],
        shared_groups=len({s.group for s in training} & {s.group for s in validation}),
    )


def measure(collator: CompletionCollator, sample: Sample) -> SampleSize:
    """Measure a sample without decoding its images.

    Raises:
        ValueError: An image cannot be read or is too thin, or the record lacks a field.
    """
    image_tokens, text_tokens = collator.count_tokens(sample)
    supervised = [piece.text for piece in collator.segments(sample) if piece.is_supervised]
    ids = collator.processor.tokenizer(supervised, add_special_tokens=False)["input_ids"]
    cutter = collator.processor.image_processor
    return SampleSize(
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        supervised=sum(map(len, ids)),
        images=tuple(_padded(image_size(encoded), cutter) for encoded in sample.images),
    )


def largest_batch(rows: Rows, count: int) -> BatchShape:
    """Return the shape of the `count` longest rows: the worst batch of a run."""
    return batch_shape(sorted(rows, key=_length, reverse=True)[:count])


def typical_batch(rows: Rows, count: int) -> BatchShape:
    """Return the shape of `count` rows evenly spread over all lengths, as shuffling gives them."""
    ordered = sorted(rows, key=_length)
    count = min(count, len(ordered))
    return batch_shape([ordered[(2 * at + 1) * len(ordered) // (2 * count)] for at in range(count)])


def batch_shape(rows: Rows) -> BatchShape:
    """Return the shape of a batch of rows."""
    return BatchShape(
        rows=len(rows),
        length=max(map(_length, rows)),
        supervised=sum(size.supervised for row in rows for size in row),
        images=tuple(image for row in rows for size in row for image in size.images),
    )


def describe_distribution(numbers: Sequence[int]) -> str:
    """Format a distribution: 1 2 … 100 -> "mean 50, median 50, 95 % up to 95, max 100"."""
    return (
        f"mean {np.mean(numbers):.0f}, median {np.median(numbers):.0f}, "
        f"95 % up to {np.percentile(numbers, 95, method='inverted_cdf')}, max {max(numbers)}"
    )


def _length(row: Sequence[SampleSize]) -> int:
    return sum(size.length for size in row)


def _padded(size: tuple[int, int], cutter: Phi3VImageProcessor) -> tuple[int, int]:
    """Return height and width of an image after it was resized and padded to whole crops.

    Input:  500 wide, 333 high, at most 4 crops of 336
    Output: (672, 672)
    """
    width, height = size
    side = cutter.crop_size
    long, short = resized_size(max(size), min(size), cutter.num_crops, side)
    short = math.ceil(short / side) * side
    return (long, short) if height > width else (short, long)


def _paired(recipe: Recipe, batch: BatchShape) -> BatchShape:
    """Double the rows of a batch of pairs, which share their images."""
    if recipe.objective == "sft":
        return batch
    return replace(batch, rows=2 * batch.rows, supervised=2 * batch.supervised)


def _cpu_overhead(recipe: Recipe, cost: Cost, parts: Mapping[str, int]) -> dict[str, float]:
    is_packed, recomputes = recipe.quantization is not None, recipe.gradient_checkpointing
    # Weights in 4 bits are few large tensors.
    weights = cost.scattered if is_packed else parts["weights"]
    share = ACTIVATION_FRAGMENTATION[is_packed, recomputes]
    loaded = LOADED_AT_FIRST_STEP + recomputes * LOADED_WITH_CHECKPOINTING
    return {
        "fragmentation": WEIGHT_FRAGMENTATION * weights + share * parts["activations"],
        "libraries": resident_bytes() + loaded,
    }


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


def _change(
    options: str, helps: Callable[[Recipe], bool], **fields: Any
) -> Callable[[Recipe], Smaller]:
    return lambda recipe: (replace(recipe, **fields), options) if helps(recipe) else None


ADAPTER_FIELDS = (
    "method random_weights r lora_alpha lora_dropout target_modules train_language train_vision "
    "vision_learning_rate train_projector projector_learning_rate"
)

CHANGES: dict[str, Callable[[Recipe], Smaller]] = {
    "batch": _accumulate,
    "checkpointing": _change(
        "--gradient-checkpointing",
        lambda recipe: not recipe.gradient_checkpointing,
        gradient_checkpointing=True,
    ),
    "optimizer": _change(
        "--optim adamw_8bit", lambda recipe: "8bit" not in recipe.optim, optim="adamw_8bit"
    ),
    "adapters": _change(
        "the recipe to lora",
        lambda recipe: recipe.method == "full",
        **{name: getattr(lora(), name) for name in ADAPTER_FIELDS.split()},
    ),
    "bits": _change(
        "the recipe to qlora (--quantization nf4)",
        lambda recipe: recipe.method == "lora" and not recipe.quantization,
        quantization="nf4",
    ),
}
"""Name -> change, those first that change least of the training."""
