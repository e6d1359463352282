"""One MIG instance: memory and activity are its own; power, temperature, clocks, throttling and ECC are its GPU's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.gpu import FIELDS_BY_NAME, Tier
from vllm_sidecar.gpu.activity import Activity
from vllm_sidecar.gpu.device import Gpu
from vllm_sidecar.gpu.nvml import CallError, GoneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.gpu.normalise import Raw
    from vllm_sidecar.gpu.nvml import Nvml

GROUPS = ("memory", "activity")


class MigInstance(Gpu):
    """Asks one instance; utilisation is not asked for: NVML has none for MIG, and some tools show 0 instead."""

    def __init__(self, nvml: Nvml, handle: Any, parent: Gpu, number: int) -> None:
        super().__init__(nvml, handle, f"{parent.device.index}:{number}")
        self.parent = parent
        self.device = replace(self.device, parent=parent.device.uuid, pci_bus_id=parent.device.pci_bus_id)
        self.instance: int | None = self.ask("nvmlDeviceGetGpuInstanceId")
        self._activity = Activity(nvml, parent.handle, self.instance if self.instance is not None else -1)
        self._activity.supported = self._activity.supported and self.instance is not None

    @property
    def capabilities(self) -> dict[str, bool]:
        """Group -> whether the instance gave any of it, for those that an instance can have."""
        return {group: group in self._gives for group in GROUPS}

    def read(self, tier: Tier) -> Raw:
        """Return the raw values of a tier; there are none in the slow one."""
        raw: Raw = {}
        if tier is Tier.FAST:
            self._memory(raw)
            raw.update(self._activity.read())
            self._gives.update(FIELDS_BY_NAME[key[0]].group for key in raw)
        return raw


def instances(nvml: Nvml, gpu: Gpu) -> Iterator[MigInstance]:
    """Yield the MIG instances of a GPU; none where MIG is off or not supported."""
    for number, handle in _handles(nvml, gpu):
        yield MigInstance(nvml, handle, gpu, number)


def mig_uuids(nvml: Nvml, gpu: Gpu) -> list[str]:
    """Return the UUIDs of the MIG instances that a GPU has now."""
    return [str(nvml.call("nvmlDeviceGetUUID", handle)) for _, handle in _handles(nvml, gpu)]


def _handles(nvml: Nvml, gpu: Gpu) -> Iterator[tuple[int, Any]]:
    mode = gpu.ask("nvmlDeviceGetMigMode")
    if not mode or not mode[0]:
        return
    for number in range(gpu.ask("nvmlDeviceGetMaxMigDeviceCount") or 0):
        try:
            handle = nvml.call("nvmlDeviceGetMigDeviceHandleByIndex", gpu.handle, number)
        except GoneError:
            raise
        except CallError:  # instances are numbered with gaps
            continue
        yield number, handle
