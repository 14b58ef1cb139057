"""Use, memory and power of NVIDIA's GPUs, by NVML. Without its library (nvidia-ml-py) or its driver there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpc_dl.monitor.records import Gpu, GpuKind


class Gpus:
    """The GPUs that this process may see."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        try:
            import pynvml
        except ImportError:
            return
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:  # no driver, or no GPU
            self._handles = []

    def kinds(self) -> list[GpuKind]:
        """Return what each GPU is."""
        found = []
        for handle in self._handles:
            name = self._ask(self._nvml.nvmlDeviceGetName, handle) or ""
            memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
            found.append(GpuKind(name.decode() if isinstance(name, bytes) else name, memory.total if memory else 0))
        return found

    def look(self) -> list[Gpu]:
        """Return what each GPU does now."""
        return [self._one(handle) for handle in self._handles]

    def _one(self, handle: Any) -> Gpu:
        use = self._ask(self._nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        milliwatts = self._ask(self._nvml.nvmlDeviceGetPowerUsage, handle)
        return Gpu(
            use=None if use is None else use.gpu / 100,
            memory=None if memory is None else memory.used,
            power=None if milliwatts is None else milliwatts / 1000,
        )

    def _ask(self, function: Callable[[Any], Any], handle: Any) -> Any:
        """Return what NVML tells of a GPU; None if this one does not tell it."""
        try:
            return function(handle)
        except self._nvml.NVMLError:
            return None
