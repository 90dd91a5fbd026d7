"""GPUs and their speeds, and the time of an optimizer step on one.

The figures are the makers' own: dense matrix products (without sparsity) with sums in float32.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import psutil
import torch

from phi_vision.io.formatting import GIB
from phi_vision.model.checkpoint import fast_dtype
from phi_vision.training.memory import Cost
from phi_vision.training.recipes import Recipe

GPU_UTILIZATION = 0.4
"""Share of a GPU's peak in matrix products that such a training reaches; 0.3-0.5 is usual."""

CPU_UTILIZATION = 0.5
"""The same for a CPU, compared with the large products that `this_machine` times."""

SECONDS_PER_DISPATCH = 10e-6
"""Time that PyTorch takes to launch one operation on a GPU; small models are bound by it."""


class Gpu(NamedTuple):
    """The memory and speeds of a GPU, or of the machine without one."""

    name: str
    memory: float
    """Bytes available to a process; on a CPU the main memory."""
    bf16: float | None
    """Floating-point operations per second in bf16; None without native bf16."""
    fp32: float
    """The same in float32, without TF32."""
    bandwidth: float | None
    """Bytes per second from and to memory; None for a CPU, which is measured as a whole."""

    @property
    def is_cpu(self) -> bool:
        """Whether this is the machine itself."""
        return self.bandwidth is None


def seconds_per_step(gpu: Gpu, recipe: Recipe, cost: Cost, precision: torch.dtype) -> float:
    """Estimate the time of one optimizer step.

    Matrix products at the usual utilization or the dispatch of all operations, whichever takes
    longer; plus reading and writing weights, gradients and optimizer state once.

    Input:  1e14 operations of products on a GPU of 3e14 per second, weights that take 0.1 s
    Output: 1e14 / (0.4 * 3e14) + 0.1 = 0.93
    """
    speed = gpu.bf16 if precision == torch.bfloat16 and gpu.bf16 else gpu.fp32
    if gpu.bandwidth is None:
        return cost.flops / (CPU_UTILIZATION * speed)
    # Read the weight, its gradient and two moments; write all but the gradient.
    moved = cost.trained * (7 * 4 if "8bit" not in recipe.optim else 3 * 4 + 4)
    products = cost.flops / (GPU_UTILIZATION * speed)
    return max(products, cost.operations * SECONDS_PER_DISPATCH) + moved / gpu.bandwidth


def find_gpu(name: str) -> Gpu:
    """Find a GPU by name; `cpu` is this machine.

    Raises:
        ValueError: There is no GPU of that name in `GPUS`.
    """
    if name.lower() == "cpu":
        return this_machine()
    by_name = {known.lower(): gpu for known, gpu in GPUS.items()}
    if name.lower() not in by_name:
        raise ValueError(f"no GPU {name!r}; choose one of cpu, {', '.join(GPUS)}")
    return by_name[name.lower()]


def this_machine() -> Gpu:
    """Measure this machine's GPU, or its CPU, by timing a few products."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    side = 4096 if on_gpu else 1024

    def product_speed(dtype: torch.dtype) -> float:
        left = torch.ones(side, side, dtype=dtype, device=device)
        return 2 * side**3 / _best_seconds(lambda: left @ left)

    copied = torch.ones(64 * 2**20 if on_gpu else 1, device=device)
    found = torch.cuda.get_device_properties(device) if on_gpu else None
    return Gpu(
        name=found.name if found else "cpu",
        memory=float(found.total_memory if found else psutil.virtual_memory().total),
        bf16=product_speed(torch.bfloat16) if fast_dtype(device) == torch.bfloat16 else None,
        fp32=product_speed(torch.float32),
        bandwidth=2 * copied.nbytes / _best_seconds(copied.clone) if on_gpu else None,
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


GPUS: dict[str, Gpu] = {
    name: Gpu(name, gib * GIB, bf16 and bf16 * 1e12, fp32 * 1e12, bandwidth * 1e9)
    for name, gib, bf16, fp32, bandwidth in (
        # name        GiB    bf16    fp32   GB/s
        ("T4", 14.6, None, 8.1, 320),
        ("V100-16GB", 15.8, None, 15.7, 900),
        ("L4", 22.0, 121, 30.3, 300),
        ("A10G", 22.1, 70, 31.2, 600),
        ("A10", 22.1, 125, 31.2, 600),
        ("RTX-3090", 23.6, 71, 35.6, 936),
        ("RTX-4090", 23.5, 165, 82.6, 1008),
        ("RTX-5090", 31.4, 209, 104.8, 1792),
        ("A100-40GB", 39.4, 312, 19.5, 1555),
        ("L40S", 44.4, 362, 91.6, 864),
        ("RTX-A6000", 47.4, 155, 38.7, 768),
        ("A100-80GB", 79.2, 312, 19.5, 2039),
        ("H100", 79.1, 989, 67.0, 3350),
        ("H200", 139.8, 989, 67.0, 4800),
        ("B200", 178.4, 2250, 75.0, 8000),
    )
}
"""Name -> GPU, by memory. Another one is one line here."""
