"""NVML from initialization to shutdown: the devices, the choice of devices, and one poll after the other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_sidecar.gpu.nvml import selection
from vllm_sidecar.gpu.nvml.binding import CallError, GpuLostError, NvmlFailedError, reason_of
from vllm_sidecar.gpu.nvml.device import Device, Gpu
from vllm_sidecar.gpu.nvml.mig import MigInstance, instances, mig_uuids
from vllm_sidecar.gpu.nvml.procfs import environment, family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.gpu.nvml.binding import Nvml, Raw

SEARCHES = 3
"""Searches for vLLM's processes on the GPUs before its environment is used: vLLM may still be loading."""


class DriverSettings(NamedTuple):
    """The devices to read: `wanted` is None for auto, empty for all, otherwise indices or UUIDs."""

    wanted: Sequence[str] | None = None
    slow_interval: float = 60.0
    processes: bool = False


class _Place:
    """One device and whether it was lost at the last poll."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.lost = False


class Driver:
    """Devices and handles of one initialization of NVML.

    Raises:
        NvmlFailedError: NVML cannot be used.
    """

    def __init__(self, nvml: Nvml, settings: DriverSettings) -> None:
        self._nvml, self._settings = nvml, settings
        self.driver_version = self._text("nvmlSystemGetDriverVersion")
        self.nvml_version = self._text("nvmlSystemGetNVMLVersion")
        self.without_handle: list[Device] = []
        """GPUs without a handle."""
        self._count = 0
        self._places = [_Place(gpu) for gpu in self._devices()]
        self.outdated = False
        """The set of devices has changed: a GPU was added or removed, came back, or was split in another way."""
        self._chosen = selection.Choice(frozenset(), "")
        self._searched: tuple[tuple[int, ...], int] = ((), 0)
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
            except CallError as error:  # a GPU without permission belongs to another container
                failures.append(error)
                if isinstance(error, GpuLostError):
                    self.without_handle.append(Device(str(index), ""))
        self._nvml.about = ""
        if not found and failures:
            raise NvmlFailedError(reason_of(failures[0]), str(failures[0]))
        if not found:
            raise NvmlFailedError("no_gpu", "the driver works but shows no GPU to this process")
        return found

    def _device(self, index: int) -> list[Gpu]:
        handle = self._nvml.call("nvmlDeviceGetHandleByIndex", index)
        gpu = Gpu(self._nvml, handle, str(index), processes=self._settings.processes)
        parts: list[Gpu] = list(instances(self._nvml, gpu))
        gpu.split = bool(parts)
        return [gpu, *parts]

    def poll(self, now: float, pids: Sequence[int] = ()) -> dict[str, Any]:
        """Read all chosen devices and return a frame, with the slow tier if it is due, or if vLLM's processes changed.

        `pids` are vLLM's processes on this machine, for choosing devices.

        Raises:
            NvmlFailedError: NVML no longer works, or no device can be read.
        """
        began, calls = time.monotonic(), self._nvml.calls
        slow = now >= self._slow_due or (self._settings.wanted is None and tuple(pids) != self._searched[0])
        if slow:
            self._slow_due = now + self._settings.slow_interval
            self._choose(tuple(pids))
        failures: list[CallError] = []
        self._calls["fast"] = 0
        readings = [self._read(place, failures, slow=slow) for place in self._places if self._is_read(place.gpu)]
        self._nvml.about = ""
        if slow:
            self.outdated = self.outdated or self._is_outdated()
            self._calls["slow"] = self._nvml.calls - calls - self._calls["fast"]
        lost = self._lost_gpus()
        readings += [_reading(device, lost=True) for device in lost]
        if not any(reading["fast"] for reading in readings):
            raise self._no_values(failures, lost)
        return {
            "devices": readings,
            "at": now,
            "seconds": time.monotonic() - began,
            "calls": dict(self._calls),
            "chosen_by": self._chosen.by,
            "present": len(self._places) - sum(place.gpu.split for place in self._places) + len(self.without_handle),
        }

    def _lost_gpus(self) -> list[Device]:
        """Return the GPUs without handle that should be read: they have no UUID, so only an index can select one."""
        if self._chosen.by == "all" or self._settings.wanted == ():
            return self.without_handle
        return [device for device in self.without_handle if device.index in (self._settings.wanted or ())]

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
        """Return whether a GPU has a handle that it lacked at the start."""
        for device in self.without_handle:
            try:
                self._nvml.call("nvmlDeviceGetHandleByIndex", int(device.index))
            except CallError:
                continue
            return True
        return False

    def _no_values(self, failures: Sequence[CallError], lost: Sequence[Device]) -> NvmlFailedError:
        if failures:
            return NvmlFailedError(reason_of(failures[0]), str(failures[0]))
        if lost:
            return NvmlFailedError("gpu_lost", f"GPU {lost[0].index} has no handle")
        if not self._chosen.uuids:
            wanted = ", ".join(self._settings.wanted or ())
            return NvmlFailedError("no_gpu", f"none of the {len(self._places)} devices is {wanted}")
        return NvmlFailedError("nvml_error", "no GPU returns any value")

    def _is_read(self, gpu: Gpu) -> bool:
        """Return whether a GPU is read, also for its chosen instances: power, temperature and faults are the GPU's."""
        uuids = self._chosen.uuids
        if gpu.device.uuid in uuids or (isinstance(gpu, MigInstance) and gpu.parent.device.uuid in uuids):
            return True
        return any(
            isinstance(place.gpu, MigInstance) and place.gpu.parent is gpu and place.gpu.device.uuid in uuids
            for place in self._places
        )

    def _read(self, place: _Place, failures: list[CallError], *, slow: bool) -> dict[str, Any]:
        gpu = place.gpu
        self._nvml.about = f" of GPU {gpu.device.index}"
        if place.lost and not slow:  # a call to a lost GPU may block
            return _reading(gpu.device, lost=True)
        try:
            if place.lost:
                gpu.handle = self._nvml.call("nvmlDeviceGetHandleByUUID", gpu.device.uuid)
            calls = self._nvml.calls
            fast = gpu.read_fast()
            self._calls["fast"] += self._nvml.calls - calls
            rest = gpu.read_slow() if slow else None
        except CallError as error:
            failures.append(error)
            place.lost = isinstance(error, GpuLostError) or place.lost
            return _reading(gpu.device, slow=gpu.last_words() if place.lost else {}, lost=place.lost)
        if not fast and gpu.last_error is not None:
            failures.append(gpu.last_error)
        self.outdated = self.outdated or place.lost  # its events must be registered again
        place.lost = False
        return _reading(gpu.device, fast, rest, events=gpu.events)

    def _choose(self, pids: tuple[int, ...]) -> None:
        """Choose again: vLLM may have started, or moved, meanwhile."""
        devices = [place.gpu.device for place in self._places]
        if self._settings.wanted is None:
            self._chosen = self._automatic(devices, pids)
        elif self._settings.wanted:
            self._chosen = selection.configured(self._settings.wanted, devices)
        else:
            self._chosen = selection.Choice(selection.everything(devices).uuids, "configured")

    def _automatic(self, devices: Sequence[Device], pids: tuple[int, ...]) -> selection.Choice:
        known, searches = self._searched
        if not pids:
            self._searched = (), 0
            return selection.everything(devices)
        if pids != known:
            searches = 0
        elif self._chosen.by == "processes":
            return self._chosen
        self._searched = (pids, searches + 1)
        if searches < SEARCHES:
            ours = frozenset().union(*map(family, pids))
            # For a GPU that is split by MIG, NVML lists the processes of all its instances.
            readable = [place.gpu for place in self._places if not place.lost and not place.gpu.split]
            computing = {gpu.device.uuid: gpu.processes() for gpu in readable}
            found = selection.by_processes(ours, computing)
            if found:
                return found
        choices = [selection.by_environment(environment(pid) or {}, devices) for pid in pids]
        named = [choice for choice in choices if choice is not None]
        if len(named) == len(choices):
            return selection.Choice(frozenset().union(*(choice.uuids for choice in named)), "environment")
        return selection.everything(devices)

    def close(self) -> None:
        """Free NVML's resources of the devices."""
        for place in self._places:
            place.gpu.close()


def _reading(
    device: Device, fast: Raw | None = None, slow: Raw | None = None, *, lost: bool = False, events: bool = False
) -> dict[str, Any]:
    """Return one device's part of a frame; the slow tier is None if it was not read."""
    return {
        "device": device.row(),
        "fast": _rows(fast or {}),
        "slow": None if slow is None else _rows(slow),
        "lost": lost,
        "events": events,
    }


def _rows(raw: Raw) -> list[list[str | float]]:
    return [[*key, value] for key, value in raw.items()]
