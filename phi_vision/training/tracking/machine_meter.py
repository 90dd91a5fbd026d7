"""How busy the machine is while it trains, and how much memory that takes.

W&B measures machines by itself; this is for log.jsonl, the plots and TensorBoard.
"""

import ctypes

import psutil
import torch

MIB = 2**20

MACHINE_FIGURES = ("cpu_percent", "memory_mib", "gpu_percent", "gpu_memory_mib", "gpu_peak_mib")
"""What `MachineMeter.read` gives; those of a GPU only where there is one."""


class MachineMeter:
    """Reads utilisation since its last reading, and memory at the moment."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._card = _find_card() if torch.cuda.is_available() else None
        # The first reading only starts psutil's clock.
        psutil.cpu_percent(None)

    def read(self) -> dict[str, float]:
        """Read the machine.

        Output: {"cpu_percent": 98.5, "memory_mib": 2311.2}
                `cpu_percent` is of all cores, of all programs; `memory_mib` is what this process
                holds in main memory, without that of its data workers.
        """
        figures = {
            "cpu_percent": psutil.cpu_percent(None),
            "memory_mib": round(self._process.memory_info().rss / MIB, 1),
        }
        if torch.cuda.is_available():
            figures["gpu_memory_mib"] = round(torch.cuda.memory_allocated() / MIB, 1)
            figures["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated() / MIB, 1)
        if self._card is not None:
            figures["gpu_percent"] = self._card.busy_percent()
        return figures


class _Utilization(ctypes.Structure):
    """NVML's `nvmlUtilization_t`: shares of the last second in percent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Card:
    """One GPU as the driver's own library knows it (NVML, no package of its own)."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._library = library
        self._handle = handle

    def busy_percent(self) -> float:
        """Read in how much of the last second something ran on the card; NaN if it does not say."""
        found = _Utilization()
        failed = self._library.nvmlDeviceGetUtilizationRates(self._handle, ctypes.byref(found))
        return float("nan") if failed else float(found.gpu)


def _find_card() -> _Card | None:
    """Find the GPU in use by its UUID, as NVML counts cards that CUDA_VISIBLE_DEVICES hides."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:  # a driver without the library, as on some embedded boards
        return None
    uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    handle = ctypes.c_void_p()
    failed = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(
        uuid.encode(), ctypes.byref(handle)
    )
    return None if failed else _Card(library, handle)
