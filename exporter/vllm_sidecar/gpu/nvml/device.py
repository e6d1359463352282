"""One GPU or MIG instance: its supported fields, and their raw values, tier by tier."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vllm_sidecar.gpu.nvml.binding import CallError, GpuLostError, UnsupportedError, error_of
from vllm_sidecar.gpu.nvml.gpm import Activity
from vllm_sidecar.gpu.nvml.nvlink import Links

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.gpu.nvml.binding import FieldId, Nvml, Raw

HOPPER = 9
"""Lowest major compute capability whose legacy NVLink counters return SUCCESS and 0."""
NO_PCIE = ("GB10",)
"""Products with invented PCIe values: the GPU is part of the chip."""

POWER_INSTANT, POWER_AVERAGE = 186, 185
MEMORY_TEMPERATURE = 82
RECOVERY_ACTION = 230
THROTTLE_TIME = {74: "sw_power_cap", 269: "sw_thermal", 270: "hw_thermal", 271: "hw_power_brake"}
VIOLATIONS = {"sw_power_cap": 0, "thermal": 1}
"""Violation counters of older drivers, by NVML's number of the policy."""
SIMPLE_SLOW = {
    189: "power_default_limit_watts",
    31: "retired_pages_pending",
    94: "pcie_replays_total",
    197: "pcie_transmitted_bytes_total",
    198: "pcie_received_bytes_total",
}
"""Field -> signal, of fields without further requirements."""


class Device:
    """A GPU, or a MIG instance of one: then `parent` is the UUID of its GPU and `index` is GPU:INSTANCE."""

    def __init__(self, index: str, uuid: str, parent: str | None = None) -> None:
        self.index, self.uuid, self.parent = index, uuid, parent
        self.name = self.pci_bus_id = self.compute_capability = ""
        self.power_source = ""
        """How its power was measured: instant, average or usage."""

    def row(self) -> list[str | None]:
        """Return its part of a frame."""
        return [
            self.index, self.uuid, self.name, self.pci_bus_id, self.compute_capability, self.power_source, self.parent
        ]  # fmt: skip


class Gpu:
    """Reads one device; an unsupported call is made once and not again until NVML is initialized again."""

    def __init__(self, nvml: Nvml, handle: Any, index: str, *, processes: bool = False) -> None:
        self.handle = handle
        self._nvml = nvml
        self._processes = processes
        self._lacks: set[object] = set()
        self.major = 0
        self.last_error: CallError | None = None
        """Error of a call that failed for now: the reason if there are no values."""
        self.split = False
        """Its MIG instances are read as well."""
        self.events = False
        """It delivers events."""
        self.device = Device(index, str(self._must("nvmlDeviceGetUUID")))
        self._identify()
        self._activity = Activity(nvml, handle)
        self._links = Links(self, legacy=0 < self.major < HOPPER)

    def _must(self, function: str, *arguments: object) -> Any:
        return self._nvml.call(function, self.handle, *arguments)

    def _constant(self, name: str) -> Any:
        """Return an item of nvidia-ml-py that is not a function; None if this release of it is too old."""
        try:
            return self._nvml.constant(name)
        except UnsupportedError:
            return None

    def query(self, function: str, *arguments: object) -> Any:
        """Call a function for this device; None if it is not supported or failed for now."""
        key = (function, *(each for each in arguments if isinstance(each, int)))
        if key in self._lacks:
            return None
        try:
            return self._nvml.call(function, self.handle, *arguments)
        except GpuLostError:
            raise
        except UnsupportedError:
            self._lacks.add(key)
        except CallError as error:
            self.last_error = error
        return None

    def fields(self, ids: Sequence[FieldId]) -> dict[FieldId, float]:
        """Read fields in one call; unsupported or failed fields are left out.

        The call succeeds regardless of its elements, and a failed element reads 0, so each must be checked.
        """
        wanted = [each for each in ids if each not in self._lacks]
        if not wanted:
            return {}
        answers = self.query("nvmlDeviceGetFieldValues", tuple(wanted))
        if answers is None:
            return {}
        found = {}
        for each, answer in zip(wanted, answers, strict=True):
            if answer.nvmlReturn == 0:
                found[each] = _number(answer)
                continue
            error = error_of(answer.nvmlReturn, f"field {each} of GPU {self.device.index}")
            if isinstance(error, UnsupportedError):
                self._lacks.add(each)
            elif not isinstance(error, CallError) or isinstance(error, GpuLostError):
                raise error
        return found

    def _identify(self) -> None:
        name = str(self._must("nvmlDeviceGetName"))
        pci = self.query("nvmlDeviceGetPciInfo_v3")
        capability = self.query("nvmlDeviceGetCudaComputeCapability")
        self.major = capability[0] if capability else 0
        version = f"{capability[0]}.{capability[1]}" if capability else ""
        bus = str(pci.busId) if pci else ""
        self.device.name, self.device.pci_bus_id, self.device.compute_capability = name, bus, version

    def read_fast(self) -> Raw:
        """Return the raw values of the fast tier.

        Raises:
            GpuLostError: the device is lost.
            NvmlFailedError: NVML no longer works.
        """
        raw: Raw = {}
        rates = self.query("nvmlDeviceGetUtilizationRates")
        if rates is not None:
            raw["utilization_ratio",] = rates.gpu
        self._memory(raw)
        fields = self.fields((*self._power_fields(), *THROTTLE_TIME, MEMORY_TEMPERATURE))
        self._power(raw, fields)
        self._put(raw, ("energy_joules_total",), self.query("nvmlDeviceGetTotalEnergyConsumption"))
        self._put(raw, ("sm_clock_hertz",), self.query("nvmlDeviceGetClockInfo", 1))
        self._put(raw, ("memory_clock_hertz",), self.query("nvmlDeviceGetClockInfo", 2))
        self._throttling(raw, fields)
        temperature = self.query("nvmlDeviceGetTemperatureV", 0)
        if temperature is None:
            temperature = self.query("nvmlDeviceGetTemperature", 0)
        self._put(raw, ("temperature_celsius",), temperature)
        self._put(raw, ("temperature_margin_celsius",), self.query("nvmlDeviceGetMarginTemperature"))
        if fields.get(MEMORY_TEMPERATURE):
            raw["memory_temperature_celsius",] = fields[MEMORY_TEMPERATURE]
        raw.update(self._activity.read())
        return raw

    @staticmethod
    def _put(raw: Raw, key: tuple[str, ...], value: float | None) -> None:
        if value is not None:
            raw[key] = value

    def _memory(self, raw: Raw) -> None:
        if self.split:  # the memory of its instances is read instead
            return
        version = self._constant("nvmlMemory_v2")
        memory = self.query("nvmlDeviceGetMemoryInfo", version) if version else None
        if memory is not None:
            raw["memory_reserved_bytes",] = memory.reserved
        else:
            memory = self.query("nvmlDeviceGetMemoryInfo")
        if memory is not None:
            raw["memory_used_bytes",] = memory.used
            raw["memory_total_bytes",] = memory.total

    def _power_fields(self) -> tuple[int, ...]:
        known = {"instant": (POWER_INSTANT,), "average": (POWER_AVERAGE,), "usage": ()}
        return known.get(self.device.power_source, (POWER_INSTANT, POWER_AVERAGE))

    def _power(self, raw: Raw, fields: dict[FieldId, float]) -> None:
        """Drop 0, with which some drivers report an unavailable field: a running GPU always draws power."""
        for field, source in ((POWER_INSTANT, "instant"), (POWER_AVERAGE, "average")):
            if fields.get(field):
                raw["power_watts",], self.device.power_source = fields[field], source
                return
        if self.device.power_source in ("", "usage"):
            usage = self.query("nvmlDeviceGetPowerUsage")
            if usage is not None:
                raw["power_watts",], self.device.power_source = usage, "usage"

    def _throttling(self, raw: Raw, fields: dict[FieldId, float]) -> None:
        bits = self.query("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:
            bits = self.query("nvmlDeviceGetCurrentClocksThrottleReasons")
        self._put(raw, ("throttled",), bits)
        times = {reason: fields[field] for field, reason in THROTTLE_TIME.items() if field in fields}
        thermal = "sw_thermal" in times or "hw_thermal" in times
        for reason, policy in VIOLATIONS.items():
            known = thermal if reason == "thermal" else reason in times
            violation = None if known else self.query("nvmlDeviceGetViolationStatus", policy)
            if violation is not None:
                times[reason] = violation.violationTime
        for reason, nanoseconds in times.items():
            raw["throttle_seconds_total", reason] = nanoseconds

    def read_slow(self) -> Raw:
        """Return the raw values of the slow tier; raises the same errors as `read_fast`."""
        raw: Raw = {}
        self._put(raw, ("power_limit_watts",), self.query("nvmlDeviceGetEnforcedPowerLimit"))
        self._put(raw, ("sm_clock_max_hertz",), self.query("nvmlDeviceGetMaxClockInfo", 1))
        self._put(raw, ("memory_clock_max_hertz",), self.query("nvmlDeviceGetMaxClockInfo", 2))
        fields = self.fields((*SIMPLE_SLOW, RECOVERY_ACTION))
        for field, name in SIMPLE_SLOW.items():
            if not (name.startswith("pcie") and self._made_up_pcie):
                self._put(raw, (name,), fields.get(field))
        self._put(raw, ("recovery_action",), fields.get(RECOVERY_ACTION))
        self._errors(raw)
        raw.update(self._links.read())
        self._pcie(raw)
        mode = self.query("nvmlDeviceGetMigMode")
        self._put(raw, ("mig_enabled",), float(mode[0]) if mode else None)
        self._fabric(raw)
        if self._processes:
            self._count_processes(raw)
        return raw

    def last_words(self) -> Raw:
        """Return the recovery action, which the driver may still report for a lost GPU."""
        raw: Raw = {}
        with suppress(CallError):
            self._put(raw, ("recovery_action",), self.fields((RECOVERY_ACTION,)).get(RECOVERY_ACTION))
        return raw

    def _errors(self, raw: Raw) -> None:
        for kind, error in enumerate(("corrected", "uncorrected")):
            for counter, name in enumerate(("ecc_volatile_errors_total", "ecc_aggregate_errors_total")):
                self._put(raw, (name, error), self.query("nvmlDeviceGetTotalEccErrors", kind, counter))
        rows = self.query("nvmlDeviceGetRemappedRows")
        if rows is not None:
            raw["remapped_rows_total", "corrected"], raw["remapped_rows_total", "uncorrected"] = rows[0], rows[1]
            raw["row_remap_pending",], raw["row_remap_failure",] = rows[2], rows[3]

    @property
    def _made_up_pcie(self) -> bool:
        return any(product in self.device.name for product in NO_PCIE)

    def _pcie(self, raw: Raw) -> None:
        if self._made_up_pcie:
            return
        for function, name in (
            ("nvmlDeviceGetCurrPcieLinkGeneration", "pcie_link_generation"),
            ("nvmlDeviceGetMaxPcieLinkGeneration", "pcie_link_max_generation"),
            ("nvmlDeviceGetCurrPcieLinkWidth", "pcie_link_width"),
            ("nvmlDeviceGetMaxPcieLinkWidth", "pcie_link_max_width"),
        ):
            self._put(raw, (name,), self.query(function))

    def _fabric(self, raw: Raw) -> None:
        structure = self._constant("c_nvmlGpuFabricInfoV_t")
        info = structure() if structure else None
        # The version of an NVML structure contains its size; nvidia-ml-py 12.560 has a wrong size and reads nonsense.
        if info is None or info.version & 0xFFFFFF != ctypes.sizeof(info):
            return
        if self.query("nvmlDeviceGetGpuFabricInfoV", ctypes.byref(info)) is None or not info.state:
            return
        raw["fabric_state",], raw["fabric_unhealthy",] = info.state, info.healthMask

    def _count_processes(self, raw: Raw) -> None:
        running = self._running()
        if running is not None:
            raw["processes",] = float(len(running))

    def processes(self) -> frozenset[int]:
        """Return the ids of compute processes, as far as NVML shows them."""
        return frozenset(process.pid for process in self._running() or ())

    def _running(self) -> Any:
        """List the processes; twice if one started in between and the list was too short."""
        found = self.query("nvmlDeviceGetComputeRunningProcesses_v3")
        return self.query("nvmlDeviceGetComputeRunningProcesses_v3") if found is None else found

    def close(self) -> None:
        """Free NVML's resources of this device."""
        self._activity.close()


def _number(answer: Any) -> float:
    """Return a field's value from its union."""
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    kind = answer.valueType
    return float(getattr(answer.value, members[kind] if kind < len(members) else "ullVal"))
