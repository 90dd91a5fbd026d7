"""GPUs and their speeds (gpus.yaml), the time of an optimizer step on one, and its load."""

import ctypes
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import psutil
import torch

from phi_vision.io.formatting import GIB, read_yaml
from phi_vision.model.checkpoint import fast_dtype
from phi_vision.training.memory import Cost
from phi_vision.training.recipes import Recipe

# Share of the peak in matrix products that such a training reaches: of a GPU's nominal one (0.3-0.5
# is usual), and of the products that are timed on a CPU.
GPU_UTILIZATION, CPU_UTILIZATION = 0.4, 0.75
# Time that PyTorch takes to launch one operation; small models are bound by it.
SECONDS_PER_DISPATCH, SECONDS_PER_CPU_DISPATCH = 10e-6, 4e-6
# Share of the operations that read and write whole hidden states. This and the other numbers of a
# CPU are fitted to steps of 0.4, 7 and 25 million weights, float32 and bf16: all within 30 %.
HIDDEN_SHARE = 0.3

MIB = 2**20


class Gpu(NamedTuple):
    """The memory and speeds of a GPU, or of the machine without one."""

    name: str
    memory: float  # bytes available to a process; on a CPU the main memory
    bf16: float  # floating-point operations per second in bf16; 0 without native bf16
    fp32: float  # the same in float32, without TF32
    bandwidth: float | None  # bytes per second from and to memory; None for a CPU


def seconds_per_step(
    gpu: Gpu, recipe: Recipe, cost: Cost, precision: torch.dtype, shape: tuple[int, int] = (1, 1)
) -> float:
    """Estimate the time of one optimizer step, whose hidden states have this shape.

    Products or dispatch, whichever takes longer, plus reading and writing weights, gradients and
    optimizer state: 1e14 operations at 3e14 per second, and 0.1 s: 1e14 / (0.4 * 3e14) + 0.1 = 0.93
    """
    if gpu.bandwidth is None:
        return _cpu_seconds_per_step(cost, precision, shape)
    speed = gpu.bf16 if precision == torch.bfloat16 and gpu.bf16 else gpu.fp32
    # Read the weight, its gradient and two moments; write all but the gradient.
    moved = cost.trained * (7 * 4 if "8bit" not in recipe.optim else 3 * 4 + 4)
    products = cost.flops / (GPU_UTILIZATION * speed)
    return max(products, cost.operations * SECONDS_PER_DISPATCH) + moved / gpu.bandwidth


def _cpu_seconds_per_step(cost: Cost, precision: torch.dtype, shape: tuple[int, int]) -> float:
    # A small model spends most of a step outside of products: other operations read and write
    # hidden states, and in bf16 cast them.
    hidden = torch.ones(shape, dtype=precision)
    weight = torch.ones(shape[1], 3 * shape[1], dtype=precision)
    speed = 2 * hidden.numel() * 3 * shape[1] / best_seconds(lambda: hidden @ weight)
    one = best_seconds(lambda: (hidden * hidden).float())
    per_operation = HIDDEN_SHARE * one + SECONDS_PER_CPU_DISPATCH
    return cost.flops / (CPU_UTILIZATION * speed) + cost.operations * per_operation


def find_gpu(name: str) -> Gpu:
    """Find a GPU of `GPUS` by name, or raise ValueError; `cpu` is this machine."""
    by_name = {known.lower(): gpu for known, gpu in GPUS.items()}
    if name.lower() not in by_name.keys() | {"cpu"}:
        raise ValueError(f"no GPU {name!r}; choose one of cpu, {', '.join(GPUS)} for --gpu")
    return by_name.get(name.lower()) or this_machine()


def this_machine() -> Gpu:
    """Measure this machine's GPU, or its CPU, by timing a few products."""
    gpu = torch.cuda.get_device_properties() if torch.cuda.is_available() else None
    device, side = (torch.device("cuda"), 4096) if gpu else (torch.device("cpu"), 1024)

    def product_speed(dtype: torch.dtype) -> float:
        left = torch.ones(side, side, dtype=dtype, device=device)
        return 2 * side**3 / best_seconds(lambda: left @ left)

    copied = torch.ones(64 * 2**20 if gpu else 1, device=device)
    return Gpu(
        name=gpu.name if gpu else "cpu",
        memory=float(gpu.total_memory if gpu else psutil.virtual_memory().total),
        bf16=product_speed(torch.bfloat16) if fast_dtype(device) == torch.bfloat16 else 0.0,
        fp32=product_speed(torch.float32),
        bandwidth=2 * copied.nbytes / best_seconds(copied.clone) if gpu else None,
    )


def best_seconds(work: Callable[[], object]) -> float:
    """Measure the shortest of three times, after a warm-up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def read_machine() -> dict[str, float]:
    """Read utilization since the last call, of all cores and programs, and memory at the moment.

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


_YAML = read_yaml(__file__, "gpus.yaml")
GPUS = {
    name: Gpu(name, memory * GIB, bf16 * 1e12, fp32 * 1e12, bandwidth * 1e9)
    for name, (memory, bf16, fp32, bandwidth) in _YAML.items()
}
"""Name -> GPU, by memory."""
