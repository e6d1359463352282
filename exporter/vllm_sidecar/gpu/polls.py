"""One poll of the GPUs, in base units under the catalog's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.series.readings import Key


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU, or a MIG instance of one: then `parent` is the UUID of its GPU and `index` is GPU:INSTANCE."""

    index: str
    uuid: str
    name: str = ""
    pci_bus_id: str = ""
    compute_capability: str = ""
    power_source: str = ""
    """How its power was measured: instant, average (over a second), or usage (either, by architecture)."""
    parent: str | None = None

    @property
    def labels(self) -> tuple[str, str]:
        """Values of the labels `gpu` and `uuid`."""
        return self.index, self.uuid


@dataclass(frozen=True, slots=True)
class GpuReading:
    """The values of one device at one poll, in base units under the catalog's names."""

    device: GpuDevice
    values: Mapping[Key, float]
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    """Group of fields -> whether this device has any of them."""
    lost: bool = False
    """NVML reports the device as lost; it has no values except the recovery action, if NVML still reports it."""


@dataclass(frozen=True, slots=True)
class GpuPoll:
    """One poll of all devices, in the order of their indices; `at` is monotonic, `seconds` the time that NVML took."""

    readings: tuple[GpuReading, ...]
    at: float
    seconds: float
    calls: Mapping[str, int] = field(default_factory=dict)
    """NVML calls of the last poll of each tier."""
    chosen_by: str = "all"
    """How the devices were chosen: configured, processes, environment, all, or simulator."""
    driver_version: str = ""
    nvml_version: str = ""
    anomalies: Mapping[str, int] = field(default_factory=dict)
    """Values left out at this poll, by kind."""
    present: int = 0
    """Devices that the driver lists, also those that are not read; for a GPU that is split by MIG its instances."""
