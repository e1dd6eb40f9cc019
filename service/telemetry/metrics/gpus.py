"""Memory and utilisation of the GPUs as NVML has them; none where there is no driver or no nvidia-ml-py."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from typing import Any

from service.telemetry.metrics import families
from service.telemetry.metrics.families import Gauge

logger = logging.getLogger(__name__)


class GPUs:
    """The GPUs of the machine, looked for when they are first asked for, in the process that asks."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: dict[str, Any] | None = None

    def gauges(self) -> list[Gauge]:
        """Return the current gauges of each GPU."""
        if self._handles is None:
            self._handles = self._find()
        return [gauge for uuid, handle in self._handles.items() for gauge in self._look(uuid, handle)]

    def _find(self) -> dict[str, Any]:
        try:
            self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            handles = map(self._nvml.nvmlDeviceGetHandleByIndex, range(self._nvml.nvmlDeviceGetCount()))
            return {_text(self._nvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
        except ImportError:
            return {}
        except self._nvml.NVMLError as error:
            logger.debug("no metrics of GPUs: %s", error)
            return {}

    def _look(self, uuid: str, handle: Any) -> Iterator[Gauge]:
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            yield families.GPU_MEMORY_USED, (uuid,), float(memory.used)
            yield families.GPU_MEMORY_TOTAL, (uuid,), float(memory.total)
            yield families.GPU_UTILIZATION, (uuid,), self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except self._nvml.NVMLError as error:  # it is lost, or a slice of one, which has no utilisation of its own
            logger.debug("not all metrics of %s: %s", uuid, error)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
