"""One MIG instance with its own memory and activity; power, temperature, clocks, throttling and ECC are its GPU's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_sidecar.gpu.nvml.binding import CallError, GpuLostError
from vllm_sidecar.gpu.nvml.device import Gpu
from vllm_sidecar.gpu.nvml.gpm import Activity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.gpu.nvml.binding import Nvml, Raw


class MigInstance(Gpu):
    """Reads one instance; not utilization, which NVML does not have for MIG, and which some tools show as 0."""

    def __init__(self, nvml: Nvml, handle: Any, parent: Gpu, number: int) -> None:
        super().__init__(nvml, handle, f"{parent.device.index}:{number}")
        self.parent = parent
        self.device.parent, self.device.pci_bus_id = parent.device.uuid, parent.device.pci_bus_id
        self.instance: int | None = self.query("nvmlDeviceGetGpuInstanceId")
        self._activity = Activity(nvml, parent.handle, self.instance if self.instance is not None else -1)
        self._activity.supported = self._activity.supported and self.instance is not None

    def read_fast(self) -> Raw:
        """Return the raw values of the fast tier."""
        raw: Raw = {}
        self._memory(raw)
        raw.update(self._activity.read())
        return raw

    def read_slow(self) -> Raw:
        """Return no values: an instance has none in the slow tier."""
        return {}


def instances(nvml: Nvml, gpu: Gpu) -> Iterator[MigInstance]:
    """Yield the MIG instances of a GPU; none if MIG is off or not supported."""
    for number, handle in _handles(nvml, gpu):
        yield MigInstance(nvml, handle, gpu, number)


def mig_uuids(nvml: Nvml, gpu: Gpu) -> list[str]:
    """Return the UUIDs of the current MIG instances of a GPU."""
    return [str(nvml.call("nvmlDeviceGetUUID", handle)) for _, handle in _handles(nvml, gpu)]


def _handles(nvml: Nvml, gpu: Gpu) -> Iterator[tuple[int, Any]]:
    mode = gpu.query("nvmlDeviceGetMigMode")
    if not mode or not mode[0]:
        return
    for number in range(gpu.query("nvmlDeviceGetMaxMigDeviceCount") or 0):
        try:
            handle = nvml.call("nvmlDeviceGetMigDeviceHandleByIndex", gpu.handle, number)
        except GpuLostError:
            raise
        except CallError:  # instance numbers have gaps
            continue
        yield number, handle
