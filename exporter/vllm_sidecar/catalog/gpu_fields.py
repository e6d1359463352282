"""Fields that are read from each GPU, with NVML call, unit, tier, and how a missing value is reported."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import Kind, Scope, Signal, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "gpu_"
"""Signals of GPUs begin with it; the simulator's fields are named without it."""


class Tier(StrEnum):
    """How often a field is read: at every poll, or at every `gpu.slow_interval`."""

    FAST = "fast"
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class GpuField:
    """A signal that is read from each GPU.

    A raw value times `factor` is the value in base units. `least` and `most` limit the possible values, in base units;
    others are sentinels or errors of the driver, and are left out. `group` is the label under which its capability is
    exported.
    """

    signal: Signal
    group: str
    tier: Tier
    call: str
    """NVML functions, the best first; FI is a field of nvmlDeviceGetFieldValues, GPM of nvmlGpmMetricsGet."""
    raw: str
    """NVML's unit."""
    unsupported: str
    """How NVML reports that a GPU does not support it, and which other values are left out."""
    factor: float = 1.0
    most: float = 2.0**63
    least: float = 0.0
    zero_is_wrong: bool = False
    """Some drivers return 0 with SUCCESS where the value is unknown."""


NOT_SUPPORTED = "NOT_SUPPORTED"
PER_ELEMENT = "nvmlReturn of the element"
OLD = "FUNCTION_NOT_FOUND (older driver)"

THROTTLE_BITS: Mapping[str, int] = MappingProxyType(
    {
        "idle": 0x1,
        "application_clocks": 0x2,
        "sw_power_cap": 0x4,
        "hw_slowdown": 0x8,
        "sync_boost": 0x10,
        "sw_thermal": 0x20,
        "hw_thermal": 0x40,
        "hw_power_brake": 0x80,
        "display_clocks": 0x100,
    }
)
"""Reason for clocks below their maximum -> NVML's bit; idle and sw_power_cap are normal states."""
RECOVERY_ACTIONS = (
    "none",
    "gpu_reset",
    "node_reboot",
    "drain_p2p",
    "drain_and_reset",
    "recover_imex_domain",
    "bus_reset",
    "system_reboot",
)
"""Actions that the driver requests, by NVML's number."""
FABRIC_STATES = ("not_supported", "not_started", "in_progress", "completed")
FABRIC_CHECKS: Mapping[str, int] = MappingProxyType(
    {"degraded_bandwidth": 0, "route_recovery": 2, "route_unhealthy": 4, "access_timeout_recovery": 6}
)
"""The first of two bits in the health mask for each check: 0 not reported, 1 true, 2 false."""
EVENTS: Mapping[str, int] = MappingProxyType(
    {
        "single_bit_ecc": 0x1,
        "double_bit_ecc": 0x2,
        "xid": 0x8,
        "single_bit_ecc_storm": 0x200,
        "dram_retirement": 0x400,
        "dram_retirement_failure": 0x800,
        "poison": 0x1000,
        "fatal_poison": 0x2000,
        "gpu_unavailable": 0x4000,
        "recovery_action": 0x8000,
    }
)
"""Events that are counted -> NVML's bit."""
XID_SEVERITY: Mapping[int, str] = MappingProxyType(
    {
        # The GPU, its GSP or its links need a reset, a reboot or another machine.
        **dict.fromkeys((48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 145, 149), "critical"),
        # Contained: only the process that used the memory ended.
        94: "warning",
        # 13, 31, 43 and 45 come from the application. 63 and 92 are corrected errors; the counters of remapped rows and
        # of ECC show when there are too many.
        **dict.fromkeys((13, 31, 43, 45, 63, 92), "info"),
    }
)
"""Severity of an XID, a first guess before the recovery action is known; an XID that is not listed is a warning."""


def _field(
    name: str, group: str, unit: Unit, tier: Tier, call: str, raw: str, unsupported: str, text: str, *labels: str,
    factor: float = 1.0, most: float = 2.0**63, least: float = 0.0, zero_is_wrong: bool = False,
) -> GpuField:  # fmt: skip
    kind = Kind.COUNTER if name.endswith("_total") else Kind.GAUGE
    signal = Signal(PREFIX + name, kind, unit, text, Scope.GPU, labels)
    return GpuField(signal, group, tier, call, raw, unsupported, factor, most, least, zero_is_wrong)


FAST, SLOW = Tier.FAST, Tier.SLOW
MILLI, MEGA, PERCENT = 1e-3, 1e6, 0.01
_GPM = "not supported before Hopper; absent after one poll"

GPU_FIELDS: tuple[GpuField, ...] = (
    _field("utilization_ratio", "utilization", Unit.RATIO, FAST, "nvmlDeviceGetUtilizationRates gpu", "%",
           f"{NOT_SUPPORTED} (MIG, some vGPU)",
           "Share of the last sample period in which any kernel was resident; a dead collective spins at 1.",
           factor=PERCENT, most=1.0),
    _field("memory_used_bytes", "memory", Unit.BYTES, FAST, "nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetMemoryInfo", "B",
           f"{NOT_SUPPORTED} (GB10, Jetson)",
           "Memory in use, without reserved memory, unless the driver only has the first version of the call.",
           most=1e15),
    _field("memory_reserved_bytes", "memory", Unit.BYTES, FAST, "nvmlDeviceGetMemoryInfo_v2", "B",
           f"{NOT_SUPPORTED}, {OLD}", "Memory reserved by driver and firmware.", most=1e15),
    _field("memory_total_bytes", "memory", Unit.BYTES, FAST, "nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetMemoryInfo", "B",
           f"{NOT_SUPPORTED} (GB10, Jetson), 0", "Memory of the GPU.", most=1e15, zero_is_wrong=True),
    _field("power_watts", "power", Unit.WATTS, FAST, "FI 186 (instant), FI 185 (average), nvmlDeviceGetPowerUsage", "mW",
           f"{PER_ELEMENT}, {NOT_SUPPORTED}, 0",
           "Power drawn now; `power_source` of gpu_info shows whether it is an instant or a mean over a second.",
           factor=MILLI, most=1e5, zero_is_wrong=True),
    _field("energy_joules_total", "energy", Unit.JOULES, FAST, "nvmlDeviceGetTotalEnergyConsumption", "mJ",
           f"{NOT_SUPPORTED} (before Volta, vGPU), 0", "Energy used since the driver was loaded.", factor=MILLI,
           zero_is_wrong=True),
    _field("sm_clock_hertz", "clocks", Unit.HERTZ, FAST, "nvmlDeviceGetClockInfo SM", "MHz", NOT_SUPPORTED,
           "Clock of the streaming multiprocessors.", factor=MEGA, most=1e11),
    _field("memory_clock_hertz", "clocks", Unit.HERTZ, FAST, "nvmlDeviceGetClockInfo MEM", "MHz", NOT_SUPPORTED,
           "Clock of the memory.", factor=MEGA, most=1e11),
    _field("throttled", "throttle", Unit.NONE, FAST,
           "nvmlDeviceGetCurrentClocksEventReasons, nvmlDeviceGetCurrentClocksThrottleReasons", "bits",
           f"{NOT_SUPPORTED} (vGPU)",
           "1 for each reason that reduces clocks now; idle and sw_power_cap are normal states.", "reason"),
    _field("throttle_seconds_total", "throttle_time", Unit.SECONDS, FAST,
           "FI 74, 269, 270, 271, nvmlDeviceGetViolationStatus", "ns", f"{PER_ELEMENT}, {NOT_SUPPORTED}",
           "Time for which a reason reduced clocks; counts between polls too.", "reason", factor=1e-9),
    _field("temperature_celsius", "temperature", Unit.CELSIUS, FAST,
           "nvmlDeviceGetTemperatureV, nvmlDeviceGetTemperature", "°C", f"{NOT_SUPPORTED} (vGPU)",
           "Temperature of the GPU.", most=200.0),
    _field("temperature_margin_celsius", "temperature_margin", Unit.CELSIUS, FAST, "nvmlDeviceGetMarginTemperature",
           "°C", f"{NOT_SUPPORTED}, {OLD}", "How much warmer the GPU may get before it slows down; below 0 it does.", most=200.0,
           least=-200.0),
    _field("memory_temperature_celsius", "memory_temperature", Unit.CELSIUS, FAST, "FI 82", "°C",
           f"{PER_ELEMENT} (GeForce and many others), 0", "Temperature of the memory.", most=200.0),
    _field("sm_active_ratio", "activity", Unit.RATIO, FAST, "GPM 2", "%", _GPM,
           "Share of the SMs that were busy since the last poll.", factor=PERCENT, most=1.0),
    _field("tensor_active_ratio", "activity", Unit.RATIO, FAST, "GPM 5", "%", _GPM,
           "Share of the time since the last poll in which tensor cores worked.", factor=PERCENT, most=1.0),
    _field("dram_active_ratio", "activity", Unit.RATIO, FAST, "GPM 10", "%", _GPM,
           "Share of the GPU's memory bandwidth that was used since the last poll.", factor=PERCENT, most=1.0),
    _field("power_limit_watts", "power_limit", Unit.WATTS, SLOW, "nvmlDeviceGetEnforcedPowerLimit", "mW",
           f"{NOT_SUPPORTED} (laptops, GB10), 0", "Power limit in force.", factor=MILLI, most=1e5, zero_is_wrong=True),
    _field("power_default_limit_watts", "power_limit", Unit.WATTS, SLOW, "FI 189", "mW", PER_ELEMENT,
           "Default power limit of the GPU; a lower limit was set by an administrator.", factor=MILLI, most=1e5,
           zero_is_wrong=True),
    _field("sm_clock_max_hertz", "clocks", Unit.HERTZ, SLOW, "nvmlDeviceGetMaxClockInfo SM", "MHz", NOT_SUPPORTED,
           "Highest clock of the streaming multiprocessors.", factor=MEGA, most=1e11),
    _field("memory_clock_max_hertz", "clocks", Unit.HERTZ, SLOW, "nvmlDeviceGetMaxClockInfo MEM", "MHz", NOT_SUPPORTED,
           "Highest clock of the memory.", factor=MEGA, most=1e11),
    _field("ecc_volatile_errors_total", "ecc", Unit.NONE, SLOW, "nvmlDeviceGetTotalEccErrors volatile", "",
           f"{NOT_SUPPORTED} (ECC off, GeForce)", "ECC errors since the driver was loaded.", "error"),
    _field("ecc_aggregate_errors_total", "ecc", Unit.NONE, SLOW, "nvmlDeviceGetTotalEccErrors aggregate", "",
           f"{NOT_SUPPORTED} (ECC off, GeForce)", "ECC errors in the GPU's lifetime.", "error"),
    _field("remapped_rows_total", "row_remap", Unit.NONE, SLOW, "nvmlDeviceGetRemappedRows", "",
           f"{NOT_SUPPORTED} (before Ampere)", "Memory rows remapped in the GPU's lifetime.", "error"),
    _field("row_remap_pending", "row_remap", Unit.NONE, SLOW, "nvmlDeviceGetRemappedRows", "",
           f"{NOT_SUPPORTED} (before Ampere)", "1 while a remapped row waits for a reset of the GPU.", most=1.0),
    _field("row_remap_failure", "row_remap", Unit.NONE, SLOW, "nvmlDeviceGetRemappedRows", "",
           f"{NOT_SUPPORTED} (before Ampere)", "1 once a row could not be remapped: replace the GPU.", most=1.0),
    _field("retired_pages_pending", "retired_pages", Unit.NONE, SLOW, "FI 31", "", f"{PER_ELEMENT} (Ampere and later)",
           "1 while a memory page waits for a reset of the GPU to be retired, before Ampere.", most=1.0),
    _field("recovery_action", "recovery", Unit.NONE, SLOW, "FI 230", "number", f"{PER_ELEMENT} (older driver)",
           "1 for the action that the driver requests; a state, so it is seen even if the sidecar missed the event.", "action"),
    _field("nvlink_links", "nvlink", Unit.NONE, SLOW, "FI 91, nvmlDeviceGetNvLinkState", "",
           f"{PER_ELEMENT}, {NOT_SUPPORTED}, INVALID_ARGUMENT beyond the last link", "NVLinks of the GPU.", most=1e3),
    _field("nvlink_active_links", "nvlink", Unit.NONE, SLOW, "nvmlDeviceGetNvLinkState", "",
           f"{NOT_SUPPORTED}, INVALID_ARGUMENT beyond the last link", "NVLinks that are up.", most=1e3),
    _field("nvlink_errors_total", "nvlink_errors", Unit.NONE, SLOW,
           "FI 206 to 208, 211 to 214, 219, 221; before Hopper FI 38, 45, 52, 59", "",
           f"{PER_ELEMENT}; the older fields are not read on Hopper and later, where they return SUCCESS and 0",
           "Errors and recoveries over all NVLinks by kind.", "error"),
    _field("nvlink_transmitted_bytes_total", "nvlink_throughput", Unit.BYTES, SLOW, "FI 138 of each link", "KiB",
           PER_ELEMENT, "Data sent over all NVLinks.", factor=1024.0),
    _field("nvlink_received_bytes_total", "nvlink_throughput", Unit.BYTES, SLOW, "FI 139 of each link", "KiB",
           PER_ELEMENT, "Data received over all NVLinks.", factor=1024.0),
    _field("pcie_link_generation", "pcie", Unit.NONE, SLOW, "nvmlDeviceGetCurrPcieLinkGeneration", "",
           f"{NOT_SUPPORTED}; left out on GB10, which returns 1", "PCIe generation now; an idle link steps down by design.",
           most=20.0),
    _field("pcie_link_max_generation", "pcie", Unit.NONE, SLOW, "nvmlDeviceGetMaxPcieLinkGeneration", "",
           f"{NOT_SUPPORTED}; left out on GB10", "PCIe generation that GPU and slot can reach.", most=20.0),
    _field("pcie_link_width", "pcie", Unit.NONE, SLOW, "nvmlDeviceGetCurrPcieLinkWidth", "",
           f"{NOT_SUPPORTED}; left out on GB10, which returns 1", "PCIe lanes in use.", most=64.0),
    _field("pcie_link_max_width", "pcie", Unit.NONE, SLOW, "nvmlDeviceGetMaxPcieLinkWidth", "",
           f"{NOT_SUPPORTED}; left out on GB10", "PCIe lanes that GPU and slot have.", most=64.0),
    _field("pcie_replays_total", "pcie_errors", Unit.NONE, SLOW, "FI 94", "", f"{PER_ELEMENT}; left out on GB10",
           "PCIe packets that had to be sent again."),
    _field("pcie_transmitted_bytes_total", "pcie_throughput", Unit.BYTES, SLOW, "FI 197", "B", f"{PER_ELEMENT}; left out on GB10",
           "Data sent over PCIe, from a counter; nvmlDeviceGetPcieThroughput would block while it samples."),
    _field("pcie_received_bytes_total", "pcie_throughput", Unit.BYTES, SLOW, "FI 198", "B", f"{PER_ELEMENT}; left out on GB10",
           "Data received over PCIe, from a counter."),
    _field("mig_enabled", "mig", Unit.NONE, SLOW, "nvmlDeviceGetMigMode", "", f"{NOT_SUPPORTED} (no MIG)",
           "1 while the GPU is split into MIG instances.", most=1.0),
    _field("fabric_state", "fabric", Unit.NONE, SLOW, "nvmlDeviceGetGpuFabricInfoV state", "number",
           f"{NOT_SUPPORTED} or state 0 (no NVSwitch)", "1 for the state of the registration with the NVLink fabric.",
           "state"),
    _field("fabric_unhealthy", "fabric", Unit.NONE, SLOW, "nvmlDeviceGetGpuFabricInfoV healthMask", "bits",
           f"{NOT_SUPPORTED}; a check that is not reported is absent", "1 for each check of the NVLink fabric that fails.",
           "check"),
    _field("processes", "processes", Unit.NONE, SLOW, "nvmlDeviceGetComputeRunningProcesses_v3", "",
           f"{NOT_SUPPORTED}; only with gpu.processes", "Processes that compute on the GPU.", most=1e6),
)  # fmt: skip

GROUPS: tuple[str, ...] = (*dict.fromkeys(entry.group for entry in GPU_FIELDS), "events")
"""Groups of fields, each with an exported capability."""


def _gpu(name: str, kind: Kind, text: str, *labels: str, unit: Unit = Unit.NONE, scope: Scope = Scope.GPU) -> Signal:
    return Signal(PREFIX + name, kind, unit, text, scope, labels)


GPU_STATE: tuple[Signal, ...] = (
    _gpu("info", Kind.INFO, "Identity of a GPU or MIG instance; the UUID is the key to join by, the index may change.",
         "name", "pci_bus_id", "compute_capability", "driver_version", "nvml_version", "power_source", "parent"),
    _gpu("lost", Kind.GAUGE, "1 while NVML reports the GPU as lost or waiting for a reset; its other series end, except its recovery action."),
    _gpu("capability", Kind.GAUGE, "1 for each group of fields that the GPU supports, 0 for the others.",
         "group"),
    _gpu("xid_errors_total", Kind.COUNTER,
         "XID errors since the sidecar started, by code; severity is a first guess, the recovery action decides.",
         "xid", "severity"),
    _gpu("xid_last_timestamp_seconds", Kind.GAUGE, "Unix time of the last XID; absent before the first.",
         unit=Unit.TIMESTAMP),
    _gpu("events_total", Kind.COUNTER, "Events that NVML sent since the sidecar started, by kind.", "event"),
    _gpu("devices", Kind.GAUGE, "GPUs that answer; instances of a GPU that is split by MIG.", scope=Scope.SIDECAR),
    _gpu("expected_devices", Kind.GAUGE,
         "GPUs of this machine that should answer: gpu.expected, otherwise those that the servers here use by their "
         "parallel sizes, otherwise the largest number that ever answered.",
         scope=Scope.SIDECAR),
    _gpu("missing_devices", Kind.GAUGE, "Expected GPUs that do not answer.", scope=Scope.SIDECAR),
    _gpu("selection_info", Kind.INFO,
         "How the GPUs were chosen: configured, processes or environment of vLLM, all if neither is known, or simulator.",
         "chosen_by", scope=Scope.SIDECAR),
    _gpu("failing", Kind.GAUGE, "1 with the reason while the GPUs as a whole cannot be read; absent while they can.",
         "reason", scope=Scope.SIDECAR),
    _gpu("driver_opens_total", Kind.COUNTER, "Number of times that NVML was initialized; each after the first is a recovery.",
         scope=Scope.SIDECAR),
    _gpu("poll_calls", Kind.GAUGE, "NVML calls that the last poll of each tier took.", "tier", scope=Scope.SIDECAR),
)  # fmt: skip
"""Signals of GPUs that are not fields of NVML."""

FIELDS_BY_NAME: Mapping[str, GpuField] = MappingProxyType(
    {entry.signal.name.removeprefix(PREFIX): entry for entry in GPU_FIELDS}
)
