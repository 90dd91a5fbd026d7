"""Metrics of a step beside its loss: throughput, learning rates, load of the machine.

W&B measures machines by itself; this is for log.jsonl, the plots and TensorBoard.
"""

import ctypes
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import psutil
import torch
from torch import nn

MIB = 2**20

MACHINE_METRICS = ("cpu_percent", "memory_mib", "gpu_percent", "gpu_memory_mib", "gpu_peak_mib")
"""Keys of `read_machine`; those of a GPU only if there is one."""


class Throughput:
    """Counts samples and tokens per second of training, without padding and evaluations.

    Args:
        rows_per_sample: 2 for preferences: a chosen and a rejected completion.
        processes: Processes that train together; all are assumed to be as fast as this one.
    """

    def __init__(self, *, rows_per_sample: int = 1, processes: int = 1) -> None:
        self.rows_per_sample = rows_per_sample
        self.processes = processes
        self.restart()

    def watch(self, model: Any) -> None:
        """Count the inputs of a model from now on, below wrappers for several processes."""
        self._padding: int = model.config.pad_token_id
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def restart(self) -> None:
        """Start a lap now."""
        self._since = time.perf_counter()
        self._samples: torch.Tensor | int = 0
        self._tokens: torch.Tensor | int = 0

    def lap(self) -> dict[str, float]:
        """End a lap and start the next.

        Output: {"samples_per_second": 5.2, "tokens_per_second": 4012.7, "seconds": 3.077}
        """
        # Reading the counts waits for a GPU, so they are read before the clock is.
        samples, tokens = int(self._samples) / self.rows_per_sample, int(self._tokens)
        seconds = time.perf_counter() - self._since
        self.restart()
        return {
            "samples_per_second": round(self.processes * samples / seconds, 3),
            "tokens_per_second": round(self.processes * tokens / seconds, 1),
            "seconds": round(seconds, 3),
        }

    def _count(self, model: nn.Module, _: tuple[Any, ...], inputs: Mapping[str, Any]) -> None:
        # Evaluations and the reference model of DPO do not train.
        if model.training and torch.is_grad_enabled():
            samples, tokens = count_tokens(inputs, self._padding)
            self._samples = self._samples + samples
            self._tokens = self._tokens + tokens


def count_tokens(
    inputs: Mapping[str, Any], padding: int
) -> tuple[torch.Tensor | int, torch.Tensor]:
    """Count the samples of a batch and its tokens without padding.

    Input:  `input_ids`     5 6 7 0      Input:  `input_ids`     5 6 7 8 9 0   (0 is padding)
                            8 9 0 0              `position_ids`  0 1 2 0 1 0
    Output: 2 samples, 5 tokens          Output: 2 samples, 5 tokens
    """
    ids_BL = inputs["input_ids"]
    real_BL = ids_BL != padding
    if inputs.get("attention_mask") is None and inputs.get("position_ids") is not None:
        # A packed row: the positions of every sample start from 0.
        return ((inputs["position_ids"] == 0) & real_BL).sum(), real_BL.sum()
    return len(ids_BL), real_BL.sum()


def learning_rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the learning rates of the optimizer's groups, if they differ.

    Input:  groups of language at 1e-4 and (LoRA+) 16e-4, of vision at 1e-5
    Output: {"learning_rate_language": 1e-4, "learning_rate_language_fast": 16e-4,
             "learning_rate_vision": 1e-5}
    """
    # By their peak rates, since all are zero at the first step of a warm-up.
    rates = {
        (group.get("name", ""), group.get("initial_lr", group["lr"])): group["lr"]
        for group in groups
    }
    named: dict[str, float] = {}
    for (name, _), rate in sorted(rates.items()):
        key = f"learning_rate_{name}"
        named[f"{key}_fast" if key in named else key] = rate
    return named if len(rates) > 1 else {}


def read_machine() -> dict[str, float]:
    """Read utilization since the last call, and memory at the moment.

    Output: {"cpu_percent": 98.5, "memory_mib": 2311.2}
            `cpu_percent` is of all cores and programs; `memory_mib` is the RSS of this process,
            without that of its data workers.
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
    """Open NVML, the driver's own library, for the GPU in use.

    By its UUID, as NVML also counts GPUs that CUDA_VISIBLE_DEVICES hides.
    """
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:  # a driver without the library, as on some embedded boards
        return None
    uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    handle = ctypes.c_void_p()
    failed = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(
        uuid.encode(), ctypes.byref(handle)
    )
    return None if failed else (library, handle)
