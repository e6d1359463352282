"""GPM: activity of the SMs, tensor cores and memory between two polls, for GPUs since Hopper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_sidecar.gpu.nvml.binding import CallError, GpuLostError, NvmlFailedError, UnsupportedError

if TYPE_CHECKING:
    from vllm_sidecar.gpu.nvml.binding import Nvml, Raw

METRICS = {2: "sm_active_ratio", 5: "tensor_active_ratio", 10: "dram_active_ratio"}
"""NVML's number of a metric -> field."""


class Activity:
    """Two samples of one device, used in turn.

    `instance` is the id of a MIG instance of the device, whose samples are read from the GPU.
    """

    def __init__(self, nvml: Nvml, handle: Any, instance: int | None = None) -> None:
        self._nvml, self._handle, self._instance = nvml, handle, instance
        self._samples: list[Any] = []
        self._request: Any = None
        self._taken = False
        try:
            self.supported = bool(nvml.call("nvmlGpmQueryDeviceSupport", handle).isSupportedDevice)
        except GpuLostError:
            raise
        except CallError:
            self.supported = False

    def read(self) -> Raw:
        """Return raw values since the last call; empty at the first, and if GPM is not supported."""
        if not self.supported:
            return {}
        try:
            return self._read()
        except GpuLostError:
            raise
        except UnsupportedError:
            self.supported = False
        except CallError:
            self._taken = False
        return {}

    def _read(self) -> Raw:
        nvml = self._nvml
        while len(self._samples) < 2:
            self._samples.append(nvml.call("nvmlGpmSampleAlloc"))
        self._samples.reverse()
        before, now = self._samples
        if self._instance is None:
            nvml.call("nvmlGpmSampleGet", self._handle, now)
        else:
            nvml.call("nvmlGpmMigSampleGet", self._handle, self._instance, now)
        had, self._taken = self._taken, True
        return self._between(before, now) if had else {}

    def _between(self, before: Any, now: Any) -> Raw:
        request = self._request
        if request is None:
            request = self._request = self._nvml.constant("c_nvmlGpmMetricsGet_t")()
            request.version = self._nvml.constant("NVML_GPM_METRICS_GET_VERSION")
            request.numMetrics = len(METRICS)
            for place, number in enumerate(METRICS):
                request.metrics[place].metricId = number
        request.sample1, request.sample2 = before, now
        self._nvml.call("nvmlGpmMetricsGet", request)
        answers = (request.metrics[place] for place in range(len(METRICS)))
        return {
            (name,): answer.value
            for name, answer in zip(METRICS.values(), answers, strict=True)
            if answer.nvmlReturn == 0
        }

    def close(self) -> None:
        """Free the samples."""
        for sample in self._samples:
            try:
                self._nvml.call("nvmlGpmSampleFree", sample)
            except (CallError, NvmlFailedError):
                return
        self._samples.clear()
