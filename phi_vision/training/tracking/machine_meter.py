"""Load of the machine and memory of the process during training.

W&B measures machines by itself; this is for log.jsonl, the plots and TensorBoard.
"""

import ctypes

import psutil
import torch

MIB = 2**20

MACHINE_METRICS = ("cpu_percent", "memory_mib", "gpu_percent", "gpu_memory_mib", "gpu_peak_mib")
"""Keys of `MachineMeter.read`; those of a GPU only if there is one."""


class MachineMeter:
    """Reads utilization since its last reading, and memory at the moment."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._gpu = _find_gpu() if torch.cuda.is_available() else None
        # The first reading only starts psutil's clock.
        psutil.cpu_percent(None)

    def read(self) -> dict[str, float]:
        """Read the machine.

        Output: {"cpu_percent": 98.5, "memory_mib": 2311.2}
                `cpu_percent` is of all cores and programs; `memory_mib` is the RSS of this process,
                without that of its data workers.
        """
        values = {
            "cpu_percent": psutil.cpu_percent(None),
            "memory_mib": round(self._process.memory_info().rss / MIB, 1),
        }
        if torch.cuda.is_available():
            values["gpu_memory_mib"] = round(torch.cuda.memory_allocated() / MIB, 1)
            values["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated() / MIB, 1)
        if self._gpu is not None:
            library, handle = self._gpu
            found = _Utilization()
            failed = library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(found))
            values["gpu_percent"] = float("nan") if failed else float(found.gpu)
        return values


class _Utilization(ctypes.Structure):
    """NVML's `nvmlUtilization_t`: shares of the last second in percent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


def _find_gpu() -> tuple[ctypes.CDLL, ctypes.c_void_p] | None:
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
