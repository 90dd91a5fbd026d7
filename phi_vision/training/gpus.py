"""GPUs and their speeds (gpus.yaml), and the time of an optimizer step on one."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
import yaml

from phi_vision.io.formatting import GIB
from phi_vision.model.checkpoint import fast_dtype
from phi_vision.training.memory import Cost
from phi_vision.training.recipes import Recipe

GPU_UTILIZATION, CPU_UTILIZATION = 0.4, 0.5
"""Share of the peak in matrix products that such a training reaches: of a GPU's nominal one
(0.3-0.5 is usual), and of the products that `cpu_seconds_per_step` times on a CPU."""

SECONDS_PER_DISPATCH = 10e-6
"""Time that PyTorch takes to launch one operation on a GPU; small models are bound by it."""


class Gpu(NamedTuple):
    """The memory and speeds of a GPU, or of the machine without one."""

    name: str
    memory: float
    """Bytes available to a process; on a CPU the main memory."""
    bf16: float
    """Floating-point operations per second in bf16; 0 without native bf16."""
    fp32: float
    """The same in float32, without TF32."""
    bandwidth: float | None
    """Bytes per second from and to memory; None for a CPU, which is measured as a whole."""


def seconds_per_step(
    gpu: Gpu, recipe: Recipe, cost: Cost, precision: torch.dtype, shape: tuple[int, int] = (1, 1)
) -> float:
    """Estimate the time of one optimizer step.

    Matrix products at the usual utilization or the dispatch of all operations, whichever takes
    longer; plus reading and writing weights, gradients and optimizer state once: 1e14 operations at
    3e14 per second, and weights that take 0.1 s, are 1e14 / (0.4 * 3e14) + 0.1 = 0.93 s.
    """
    if gpu.bandwidth is None:
        return cpu_seconds_per_step(cost, precision, shape)
    speed = gpu.bf16 if precision == torch.bfloat16 and gpu.bf16 else gpu.fp32
    # Read the weight, its gradient and two moments; write all but the gradient.
    moved = cost.trained * (7 * 4 if "8bit" not in recipe.optim else 3 * 4 + 4)
    products = cost.flops / (GPU_UTILIZATION * speed)
    return max(products, cost.operations * SECONDS_PER_DISPATCH) + moved / gpu.bandwidth


def cpu_seconds_per_step(cost: Cost, precision: torch.dtype, shape: tuple[int, int]) -> float:
    """Estimate the time of a step on this CPU, by timing operations on hidden states of this shape.

    A small model spends most of it outside of products: every other operation reads and writes
    hidden states, and in bf16 casts them.
    """
    hidden = torch.ones(shape, dtype=precision)
    weight = torch.ones(shape[1], 3 * shape[1], dtype=precision)
    speed = 2 * hidden.numel() * 3 * shape[1] / _best_seconds(lambda: hidden @ weight)
    one = _best_seconds(lambda: (hidden * hidden).float())
    return cost.flops / (CPU_UTILIZATION * speed) + cost.operations * one


def find_gpu(name: str) -> Gpu:
    """Find a GPU of `GPUS` by name, or raise ValueError; `cpu` is this machine."""
    if name.lower() == "cpu":
        return this_machine()
    by_name = {known.lower(): gpu for known, gpu in GPUS.items()}
    if name.lower() not in by_name:
        raise ValueError(f"no GPU {name!r}; choose one of cpu, {', '.join(GPUS)}")
    return by_name[name.lower()]


def this_machine() -> Gpu:
    """Measure this machine's GPU, or its CPU, by timing a few products."""
    gpu = torch.cuda.get_device_properties() if torch.cuda.is_available() else None
    device, side = (torch.device("cuda"), 4096) if gpu else (torch.device("cpu"), 1024)

    def product_speed(dtype: torch.dtype) -> float:
        left = torch.ones(side, side, dtype=dtype, device=device)
        return 2 * side**3 / _best_seconds(lambda: left @ left)

    copied = torch.ones(64 * 2**20 if gpu else 1, device=device)
    return Gpu(
        name=gpu.name if gpu else "cpu",
        memory=float(gpu.total_memory if gpu else psutil.virtual_memory().total),
        bf16=product_speed(torch.bfloat16) if fast_dtype(device) == torch.bfloat16 else 0.0,
        fp32=product_speed(torch.float32),
        bandwidth=2 * copied.nbytes / _best_seconds(copied.clone) if gpu else None,
    )


def _best_seconds(work: Callable[[], object]) -> float:
    """Measure the shortest of three times, after a warm-up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


GPUS = {
    name: Gpu(name, memory * GIB, bf16 * 1e12, fp32 * 1e12, bandwidth * 1e9)
    for name, (memory, bf16, fp32, bandwidth) in yaml.safe_load(
        Path(__file__).with_name("gpus.yaml").read_text(encoding="utf-8")
    ).items()
}
"""Name -> GPU, by memory."""
