"""NVML from initialisation to shutdown: the devices, which of them are read, and one poll after the other."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.gpu import Tier
from vllm_sidecar.gpu import choose
from vllm_sidecar.gpu.device import Gpu
from vllm_sidecar.gpu.mig import MigInstance, instances, mig_uuids
from vllm_sidecar.gpu.normalise import normalise
from vllm_sidecar.gpu.nvml import NO_PERMISSION, CallError, GoneError, Nvml, NvmlFailedError
from vllm_sidecar.gpu.processes import environment, family
from vllm_sidecar.model import GpuDevice, GpuPoll, GpuReading, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vllm_sidecar.model import Key

LOOKS = 3
"""Times that vLLM's processes are looked for on the GPUs before its environment is believed: it may still load."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read: `wanted` is None for auto, empty for all, else indices or UUIDs."""

    wanted: tuple[str, ...] | None = None
    slow_interval: float = 60.0
    processes: bool = False


@dataclass(slots=True)
class _Place:
    """One device and what is remembered of it between polls."""

    gpu: Gpu
    slow: Mapping[Key, float]
    lost: bool = False


class Driver:
    """Devices and handles of one initialisation of NVML.

    `server_pids` is asked for the vLLM processes of this machine, for choosing devices.

    Raises:
        NvmlFailedError: NVML cannot be used.
    """

    def __init__(self, nvml: Nvml, plan: Plan, server_pids: Callable[[], Sequence[int]] = tuple) -> None:
        self._nvml, self._plan, self._server_pids = nvml, plan, server_pids
        self.driver_version = self._text("nvmlSystemGetDriverVersion")
        self.nvml_version = self._text("nvmlSystemGetNVMLVersion")
        self.gone: list[GpuDevice] = []
        """GPUs that did not even give a handle."""
        self._count = 0
        self._places = [_Place(gpu, {}) for gpu in self._devices()]
        self.outdated = False
        """There are other devices now: a GPU was added or removed, came back, or was split in another way."""
        self._chosen = choose.Choice(frozenset(), "")
        self._looked: tuple[tuple[int, ...], int] = ((), 0)
        self._slow_due = 0.0
        self._calls: dict[str, int] = {}

    @property
    def devices(self) -> list[Gpu]:
        """All devices, GPUs before their instances."""
        return [place.gpu for place in self._places]

    def _text(self, function: str) -> str:
        try:
            return str(self._nvml.call(function))
        except CallError:
            return ""

    def _devices(self) -> list[Gpu]:
        try:
            count = self._nvml.call("nvmlDeviceGetCount")
        except CallError as error:
            raise NvmlFailedError(reason_of(error), str(error)) from None
        found: list[Gpu] = []
        failures: list[CallError] = []
        self._count = count
        for index in range(count):
            self._nvml.about = f" of GPU {index}"
            try:
                found += self._device(index)
            except CallError as error:  # without permission it is another container's
                failures.append(error)
                if isinstance(error, GoneError):
                    self.gone.append(GpuDevice(str(index), ""))
        self._nvml.about = ""
        if not found and failures:
            raise NvmlFailedError(reason_of(failures[0]), str(failures[0]))
        if not found:
            raise NvmlFailedError(Reason.NO_GPU, "the driver runs and has no GPU for this process")
        return found

    def _device(self, index: int) -> list[Gpu]:
        handle = self._nvml.call("nvmlDeviceGetHandleByIndex", index)
        gpu = Gpu(self._nvml, handle, str(index), processes=self._plan.processes)
        parts: list[Gpu] = list(instances(self._nvml, gpu))
        gpu.split = bool(parts)
        return [gpu, *parts]

    def poll(self, now: float) -> GpuPoll:
        """Read all chosen devices; those of the slow tier's fields that are not due keep their values.

        Raises:
            NvmlFailedError: NVML does not work any more, or no device can be read.
        """
        began, calls = time.monotonic(), self._nvml.calls
        slow = now >= self._slow_due or (self._plan.wanted is None and tuple(self._server_pids()) != self._looked[0])
        if slow:
            self._slow_due = now + self._plan.slow_interval
            self._choose()
        anomalies: Counter[str] = Counter()
        failures: list[CallError] = []
        self._calls["fast"] = 0
        readings = [
            self._read(place, anomalies, failures, slow=slow) for place in self._places if self._is_read(place.gpu)
        ]
        self._nvml.about = ""
        if slow:
            self.outdated = self.outdated or self._is_outdated()
            self._calls["slow"] = self._nvml.calls - calls - self._calls["fast"]
        readings += [GpuReading(device, {}, lost=True) for device in self.gone]
        if not any(reading.values and not reading.lost for reading in readings):
            raise self._nothing(failures)
        return GpuPoll(
            tuple(readings),
            now,
            time.monotonic() - began,
            dict(self._calls),
            self._chosen.by,
            self.driver_version,
            self.nvml_version,
            anomalies,
        )

    def _is_outdated(self) -> bool:
        try:
            if self._nvml.call("nvmlDeviceGetCount") != self._count:
                return True
            whole = [place.gpu for place in self._places if not (place.lost or isinstance(place.gpu, MigInstance))]
            return any(mig_uuids(self._nvml, gpu) != self._parts(gpu) for gpu in whole) or self._came_back()
        except CallError:
            return False

    def _parts(self, gpu: Gpu) -> list[str]:
        return [
            place.gpu.device.uuid
            for place in self._places
            if isinstance(place.gpu, MigInstance) and place.gpu.parent is gpu
        ]

    def _came_back(self) -> bool:
        """Tell whether a GPU gives a handle that gave none at the start."""
        for device in self.gone:
            try:
                self._nvml.call("nvmlDeviceGetHandleByIndex", int(device.index))
            except CallError:
                continue
            return True
        return False

    def _nothing(self, failures: Sequence[CallError]) -> NvmlFailedError:
        if failures:
            return NvmlFailedError(reason_of(failures[0]), str(failures[0]))
        if not self._chosen.uuids:
            wanted = ", ".join(self._plan.wanted or ())
            return NvmlFailedError(Reason.NO_GPU, f"none of the {len(self._places)} devices here is {wanted}")
        return NvmlFailedError(Reason.NVML_ERROR, "no GPU gives any value")

    def _is_read(self, gpu: Gpu) -> bool:
        """Of a MIG instance that is chosen its GPU is read too: power, temperature and faults are there only."""
        uuids = self._chosen.uuids
        if gpu.device.uuid in uuids or (isinstance(gpu, MigInstance) and gpu.parent.device.uuid in uuids):
            return True
        return any(
            isinstance(place.gpu, MigInstance) and place.gpu.parent is gpu and place.gpu.device.uuid in uuids
            for place in self._places
        )

    def _read(self, place: _Place, anomalies: Counter[str], failures: list[CallError], *, slow: bool) -> GpuReading:
        gpu = place.gpu
        self._nvml.about = f" of GPU {gpu.device.index}"
        if place.lost and not slow:  # a call to a lost GPU may block
            return GpuReading(gpu.identity, place.slow, {}, lost=True)
        try:
            if place.lost:
                gpu.handle = self._nvml.call("nvmlDeviceGetHandleByUUID", gpu.device.uuid)
            calls = self._nvml.calls
            values = normalise(gpu.read(Tier.FAST), anomalies)
            self._calls["fast"] += self._nvml.calls - calls
            if slow:
                place.slow = normalise(gpu.read(Tier.SLOW), anomalies)
        except CallError as error:
            failures.append(error)
            place.lost = isinstance(error, GoneError) or place.lost
            place.slow = normalise(gpu.last_words(), anomalies) if place.lost else {}
            return GpuReading(gpu.identity, place.slow, {}, lost=place.lost)
        if not values and gpu.last_error is not None:
            failures.append(gpu.last_error)
        self.outdated = self.outdated or place.lost  # its events have to be registered again
        place.lost = False
        return GpuReading(gpu.identity, {**values, **place.slow}, gpu.capabilities)

    def _choose(self) -> None:
        """Choose again: vLLM may have started, or have moved, since."""
        devices = [place.gpu.device for place in self._places]
        if self._plan.wanted is None:
            self._chosen = self._automatic(devices)
        elif self._plan.wanted:
            self._chosen = choose.configured(self._plan.wanted, devices)
        else:
            self._chosen = choose.Choice(choose.everything(devices).uuids, "configured")

    def _automatic(self, devices: Sequence[GpuDevice]) -> choose.Choice:
        pids = tuple(self._server_pids())
        known, looks = self._looked
        if not pids:
            self._looked = (), 0
            return choose.everything(devices)
        if pids != known:
            looks = 0
        elif self._chosen.by == "processes":
            return self._chosen
        self._looked = (pids, looks + 1)
        if looks < LOOKS:
            ours = frozenset().union(*map(family, pids))
            # Of a GPU that is split NVML lists the processes of all its instances.
            asked = [place.gpu for place in self._places if not place.lost and not place.gpu.split]
            computing = {gpu.device.uuid: gpu.processes() for gpu in asked}
            found = choose.by_processes(ours, computing)
            if found:
                return found
        told = [choose.by_environment(environment(pid) or {}, devices) for pid in pids]
        named = [choice for choice in told if choice is not None]
        if len(named) == len(told):
            return choose.Choice(frozenset().union(*(choice.uuids for choice in named)), "environment")
        return choose.everything(devices)

    def close(self) -> None:
        """Free what NVML keeps for the devices."""
        for place in self._places:
            place.gpu.close()


def reason_of(error: CallError) -> Reason:
    """Name the reason that a failed call stands for."""
    if isinstance(error, GoneError):
        return Reason.GPU_LOST
    return Reason.NO_PERMISSION if error.code == NO_PERMISSION else Reason.NVML_ERROR
