"""What a run needs before it starts: tokens, steps, memory by part, time, GPUs that it fits.

    phi-vision plan lora --model microsoft/Phi-3.5-vision-instruct --data catalog --gpu L4

Loads no weights: memory.py runs a step on fake tensors, gpus.py knows the speeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from jinja2 import StrictUndefined, Template

from phi_vision.data.collator import CompletionCollator
from phi_vision.data.parquet_rows import HELD_BYTES
from phi_vision.data.samples import Sample, SampleRows, join_samples
from phi_vision.io import formatting
from phi_vision.io.formatting import GIB
from phi_vision.io.image_decoding import image_size
from phi_vision.model.blockwise_attention import BLOCKWISE
from phi_vision.model.checkpoint import adapter_base, load_config, load_processor, resolve
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.image_processing_phi3_v import count_crops, padded_size
from phi_vision.training import gpus, memory, setup
from phi_vision.training.adapters import choose_precision
from phi_vision.training.distributed import world_size
from phi_vision.training.memory import BatchShape
from phi_vision.training.recipes import Recipe, change, loader_workers, lora

# CUDA's own context and the kernels of PyTorch, before the first tensor; and a factor, as a GPU's
# memory is allocated in blocks, of which a few per cent stay unused.
CUDA_CONTEXT, GPU_FRAGMENTATION = 0.7 * GIB, 1.05

# Memory that a CPU's allocator (glibc) holds in gaps, as a share of the weights. Like the next
# fitted to trainings of 7, 133 and 169 million weights (benchmarks/plan_memory.py, docs/log.md).
# MALLOC_MMAP_THRESHOLD_=1048576 avoids it, at half the speed of small models.
WEIGHT_FRAGMENTATION = 0.7
# Weights in 4 bits, gradient checkpointing -> the same as a share of the stored activations: with
# checkpointing, gradients are allocated between recomputed activations.
ACTIVATION_FRAGMENTATION = {(0, 0): 0.15, (0, 1): 0.7, (1, 0): 0.0, (1, 1): 0.3}
# Memory of libraries (CPU) that load only with the first step, and with checkpointing.
LOADED_AT_FIRST_STEP, LOADED_WITH_CHECKPOINTING = 60 * 2**20, 30 * 2**20

# Memory of a process that prepares batches: pages that it does not share with the training, and the
# row groups that it holds (docs/log.md). The batches that are ready come on top.
WORKER_BYTES, READY_BATCHES = 48 * 2**20 + HELD_BYTES, 2

MAX_LOADED = 4  # samples that are loaded to measure the time that it takes


class RowSize(NamedTuple):
    """The size of a row of a batch, of one sample or of several packed: see `BatchShape`."""

    image_tokens: int
    text_tokens: int
    supervised: int
    images: tuple[tuple[int, int], ...]

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return self.image_tokens + self.text_tokens


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The measured samples and rows of a run, and the config of its model."""

    config: Phi3VConfig
    training: Sequence[RowSize]
    validation: Sequence[RowSize]
    rows: Sequence[RowSize]
    shared_groups: int
    new_tokens: int  # of the predictions that evaluations generate, at most
    loading: float  # seconds to read, decode and resize the images of one sample


@dataclass(frozen=True, kw_only=True)
class Need:
    """The memory of a run at its peak, and the cost of a step with a typical batch."""

    parts: Mapping[str, float]  # part -> bytes
    moment: str
    typical: BatchShape
    cost: memory.Cost
    precision: torch.dtype

    @property
    def memory(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


class Change(NamedTuple):
    """Options that reduce the memory of a run, the bytes with them, and the bytes they save."""

    options: str
    memory: float
    saved: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The result of `phi-vision plan`, also printed by `train --dry-run`."""

    load: Workload
    need: Need
    steps: setup.Steps
    utilization: float  # share of a typical batch's positions that is not padding
    gpu: gpus.Gpu
    seconds: float  # of all steps on the GPU, without evaluations
    workers: int  # processes that prepare batches
    worker_memory: float  # bytes of all of them, in the memory of the machine
    fits: Sequence[str]
    changes: Sequence[Change]  # settings to change, in this order, if it does not fit

    def as_text(self) -> str:
        """Format the plan as a table: `samples         2432 training, 304 validation, …`."""
        text = (Path(__file__).parent / "templates" / "plan.txt.j2").read_text(encoding="utf-8")
        template: Template = Template(text, trim_blocks=True, undefined=StrictUndefined)
        return template.render(plan=self, distribution=describe_distribution, fmt=formatting)


def make_plan(recipe: Recipe, gpu: str | None = None) -> Plan:
    """Measure the data and run a step without weights, for a GPU of `GPUS`, cpu or this machine."""
    target = gpus.this_machine() if gpu is None else gpus.find_gpu(gpu)
    load = measure_data(recipe)
    resident_bytes()
    need = estimate_need(recipe, load, target)
    steps = setup.count_steps(recipe, len(load.rows))
    shape = (need.typical.rows * need.typical.length, load.config.hidden_size)
    per_step = gpus.seconds_per_step(target, recipe, need.cost, need.precision, shape)
    # The last batches of an epoch may not be full.
    rows = len(load.rows) / steps.per_epoch / world_size()
    batch_size = min(len(load.rows), recipe.per_device_train_batch_size)
    per_step *= min(1.0, rows / batch_size / recipe.gradient_accumulation_steps)
    # Workers load beside the steps.
    loading = load.loading * rows * len(load.training) / len(load.rows)
    on_gpu = target.bandwidth is not None
    workers = loader_workers(recipe, on_gpu=on_gpu)
    per_step = max(per_step, loading / workers) if workers else per_step + loading
    mean_length = sum(row.length for row in load.rows) / len(load.rows)
    return Plan(
        load=load,
        need=need,
        steps=steps,
        utilization=min(1.0, mean_length / need.typical.length),
        gpu=target,
        seconds=steps.total * per_step,
        workers=workers,
        worker_memory=worker_bytes(recipe, load, on_gpu=on_gpu),
        fits=[n for n, g in gpus.GPUS.items() if estimate_need(recipe, load, g).memory <= g.memory],
        changes=_find_changes(recipe, load, target),
    )


def estimate_need(recipe: Recipe, load: Workload, gpu: gpus.Gpu) -> Need:
    """Estimate the peak of a run with arithmetic and attention as `load_trainable` chooses."""
    batch_size = recipe.per_device_train_batch_size
    precision = choose_precision(bool(gpu.bf16) if recipe.bf16 is None else recipe.bf16)
    on_cpu = gpu.bandwidth is None
    attention = BLOCKWISE if on_cpu else "sdpa"
    setting = memory.Setting(recipe, load.config, precision, attention)
    largest = _paired(recipe, largest_batch(load.rows, batch_size))
    moments = {"a training step": memory.training_cost(setting, largest).parts}
    if load.validation:
        largest = largest_batch(load.validation, setup.eval_batch_size(recipe))
        moments["an evaluation"] = memory.evaluation_cost(
            setting, _paired(recipe, largest), new_tokens=load.new_tokens
        )
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    parts: dict[str, float] = {part: size for part, size in moments[moment].items() if size}
    typical = _paired(recipe, typical_batch(load.rows, batch_size))
    cost = memory.training_cost(setting, typical)
    overhead = _cpu_overhead(setting, cost, parts) if on_cpu else {}
    if on_cpu and (workers := worker_bytes(recipe, load, on_gpu=False)):
        overhead["workers"] = workers
    if recipe.objective == "dpo" and recipe.method == "full":
        parts["reference"] = parts["weights"]
    if recipe.sharding == "fsdp":
        for part in parts.keys() & {"weights", "gradients", "optimizer"}:
            parts[part] /= world_size()
    if not on_cpu:
        parts = {part: GPU_FRAGMENTATION * size for part, size in parts.items()}
        overhead = {"CUDA": CUDA_CONTEXT}
    parts |= overhead
    return Need(parts=parts, moment=moment, typical=typical, cost=cost, precision=precision)


def worker_bytes(recipe: Recipe, load: Workload, *, on_gpu: bool) -> float:
    """Estimate the memory of the processes that prepare batches."""
    side = load.config.tower.image_size
    largest = largest_batch(load.rows, recipe.per_device_train_batch_size)
    crops = sum(count_crops(*size, side) for size in largest.images)
    ready = READY_BATCHES * crops * 3 * side**2 * 4  # pixels in float32
    return float(loader_workers(recipe, on_gpu=on_gpu) * (WORKER_BYTES + ready))


def _cpu_overhead(
    setting: memory.Setting, cost: memory.Cost, parts: Mapping[str, float]
) -> dict[str, float]:
    is_packed, recomputes = bool(cost.packed), setting.recipe.gradient_checkpointing
    weights = cost.scattered if is_packed else parts["weights"]  # in 4 bits: few large tensors
    share = ACTIVATION_FRAGMENTATION[is_packed, recomputes]
    # Weights that are not packed lie in the mapped file, which stays open: the pages read for
    # packing stay with it, until the machine needs them.
    mapped = {"mapped file": cost.packed * setting.stored_dtype.itemsize} if is_packed else {}
    gaps = WEIGHT_FRAGMENTATION * weights + share * parts["activations"]
    loaded = LOADED_AT_FIRST_STEP + recomputes * LOADED_WITH_CHECKPOINTING
    return {**mapped, "fragmentation": gaps, "libraries": resident_bytes() + loaded}


@cache
def resident_bytes() -> int:
    """Measure the RSS of this process: a training has imported the same, and read the same data."""
    return int(psutil.Process().memory_info().rss)


def measure_data(recipe: Recipe) -> Workload:
    """Load and measure the samples, or raise ValueError if they cannot be trained with."""
    recipe = replace(recipe, streaming=False, augmentation=())  # all rows, images as they are
    training, validation = setup.load_split(recipe)
    config = load_config(adapter_base(resolve(recipe.model)) or recipe.model)
    template = setup.choose_template(recipe, training)
    processor, limit = load_processor(recipe.model), recipe.max_length
    cutter = processor.image_processor
    cutter.num_crops = recipe.num_crops or cutter.num_crops
    collator = CompletionCollator(processor=processor, template=template, max_length=limit)
    lengths = setup.check_samples(collator, join_samples(training, validation))
    count = len(training)
    training, training_lengths = setup.leave_out_long(recipe, config, training, lengths[:count])
    validation, _ = setup.leave_out_long(recipe, config, validation, lengths[count:])
    sizes = [measure(collator, sample) for sample in training]
    few = [*training[:: -(-len(training) // MAX_LOADED)]]
    rows = setup.make_rows(recipe, config, training, training_lengths)
    assert isinstance(rows, SampleRows)
    return Workload(
        config=config,
        training=sizes,
        validation=[measure(collator, sample) for sample in validation],
        rows=[pack_sizes([sizes[place] for place in row]) for row in rows.places or ()] or sizes,
        shared_groups=len({s.group for s in training} & {s.group for s in validation}),
        new_tokens=setup.max_new_tokens(template) if recipe.eval_samples else 0,
        loading=gpus.best_seconds(lambda: collator(few)) / len(few),
    )


def measure(collator: CompletionCollator, sample: Sample) -> RowSize:
    """Measure a sample that passed the checks, without decoding its images."""
    image_tokens, text_tokens = collator.count_tokens(sample)
    segments = collator.segments(sample)
    pieces = zip(segments, collator.tokenize(segments), strict=True)
    cutter = collator.processor.image_processor
    side, limit = cutter.crop_size, cutter.num_crops
    images = tuple(padded_size(*image_size(encoded), limit, side) for encoded in sample.images)
    supervised = sum(len(tokens) for segment, tokens in pieces if segment.is_supervised)
    return RowSize(image_tokens, text_tokens, supervised, images)


def pack_sizes(sizes: Sequence[RowSize]) -> RowSize:
    """Add the sizes of samples that share a row."""
    return RowSize(
        image_tokens=sum(size.image_tokens for size in sizes),
        text_tokens=sum(size.text_tokens for size in sizes),
        supervised=sum(size.supervised for size in sizes),
        images=tuple(image for size in sizes for image in size.images),
    )


def largest_batch(rows: Sequence[RowSize], count: int) -> BatchShape:
    """Return the shape of the `count` longest rows: the worst batch of a run."""
    return batch_shape(sorted(rows, key=attrgetter("length"), reverse=True)[:count])


def typical_batch(rows: Sequence[RowSize], count: int) -> BatchShape:
    """Return the shape of `count` rows evenly spread over all lengths, as shuffling gives them."""
    ordered = sorted(rows, key=attrgetter("length"))
    count = min(count, len(ordered))
    return batch_shape([ordered[(2 * at + 1) * len(ordered) // (2 * count)] for at in range(count)])


def batch_shape(rows: Sequence[RowSize]) -> BatchShape:
    """Return the shape of a batch of rows."""
    together, length = pack_sizes(rows), max(row.length for row in rows)
    return BatchShape(len(rows), length, together.supervised, together.images)


def describe_distribution(numbers: Sequence[int]) -> str:
    """Format a distribution: 1 2 … 100 -> "mean 50, median 50, 95 % up to 95, max 100"."""
    return (
        f"mean {np.mean(numbers):.0f}, median {np.median(numbers):.0f}, "
        f"95 % up to {np.percentile(numbers, 95, method='inverted_cdf')}, max {max(numbers)}"
    )


def _paired(recipe: Recipe, batch: BatchShape) -> BatchShape:
    """Double the rows of a batch of pairs, which share their images."""
    if recipe.objective == "sft":
        return batch
    return batch._replace(rows=2 * batch.rows, supervised=2 * batch.supervised)


def _find_changes(recipe: Recipe, load: Workload, gpu: gpus.Gpu) -> list[Change]:
    """Apply one change after the other, each on top of those that helped, until the run fits."""
    changes: list[Change] = []
    before = estimate_need(recipe, load, gpu).memory
    for name in CHANGES:
        while before > gpu.memory and (options := options_of(name, recipe)):
            smaller = CHANGES[name][1](recipe)
            after = estimate_need(smaller, load, gpu).memory
            if after >= before:
                break
            changes.append(Change(options=options, memory=after, saved=before - after))
            recipe, before = smaller, after
    return changes


def options_of(name: str, recipe: Recipe) -> str | None:
    """Format the options of one of `CHANGES`; None if a recipe excludes it or stays the same."""
    options, apply = CHANGES[name]
    try:
        smaller = apply(recipe)
    except ValueError:
        return None
    return None if smaller == recipe else options.format(**vars(smaller))


def _accumulate(recipe: Recipe) -> Recipe:
    """Halve the batch and accumulate gradients over twice as many: trains alike."""
    batch = recipe.per_device_train_batch_size
    size = max(1, batch // 2)
    times = -(-batch * recipe.gradient_accumulation_steps // size)
    return replace(recipe, per_device_train_batch_size=size, gradient_accumulation_steps=times)


def _use_adapters(recipe: Recipe) -> Recipe:
    fields = "method random_weights r lora_alpha lora_dropout target_modules"
    fields += " train_language train_vision train_projector"
    return change(recipe, {name: getattr(lora(), name) for name in fields.split()})


CHANGES: dict[str, tuple[str, Callable[[Recipe], Recipe]]] = {
    "batch": (
        "--per-device-train-batch-size {per_device_train_batch_size} "
        "--gradient-accumulation-steps {gradient_accumulation_steps}",
        _accumulate,
    ),
    "checkpointing": (
        "--gradient-checkpointing",
        lambda recipe: replace(recipe, gradient_checkpointing=True),
    ),
    "optimizer": (
        "--optim {optim}",
        lambda recipe: recipe if "8bit" in recipe.optim else replace(recipe, optim="adamw_8bit"),
    ),
    "adapters": (
        "the recipe to lora",
        lambda recipe: _use_adapters(recipe) if recipe.method == "full" else recipe,
    ),
    "bits": (
        "the recipe to qlora (--quantization nf4)",
        lambda recipe: replace(recipe, quantization="nf4") if recipe.method == "lora" else recipe,
    ),
}
"""Name -> options and the recipe with them, those first that change least of the training."""
