"""Reads every GPU with nvidia-ml-py alone and prints it as JSON: what the sidecar's values are held against.

Shares no code with the sidecar, so that a mistake of one is not made by the other. Values are in base units, by the
name of the sidecar's metric without its prefix, and the value of its label after a bar.
"""

from __future__ import annotations

import ctypes
import json
import time
from typing import Any

import pynvml as nvml

THROTTLE = {
    "idle": 1, "application_clocks": 2, "sw_power_cap": 4, "hw_slowdown": 8, "sync_boost": 16, "sw_thermal": 32,
    "hw_thermal": 64, "hw_power_brake": 128, "display_clocks": 256,
}  # fmt: skip
RECOVERY = ("none", "gpu_reset", "node_reboot", "drain_p2p", "drain_and_reset", "recover_imex_domain", "bus_reset",
            "system_reboot")  # fmt: skip
NVLINK_ERRORS = {
    206: "malformed_packet", 207: "buffer_overrun", 208: "receive", 211: "link_integrity", 212: "transmit_discard",
    213: "link_recovered", 214: "link_recovery_failed", 219: "effective", 221: "symbol",
}  # fmt: skip
GPM = {2: "sm_active_ratio", 5: "tensor_active_ratio", 10: "dram_active_ratio"}
GPM_SECONDS = 1.0


def ask(function: str, *arguments: object) -> Any:
    """Call NVML; None where it has no answer."""
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def field(handle: Any, number: int, scope: int = 0) -> float | None:
    """Read one field; None where it is not supported."""
    answers = ask("nvmlDeviceGetFieldValues", handle, [(number, scope)])
    if not answers or answers[0].nvmlReturn != 0:
        return None
    member = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")[answers[0].valueType]
    return float(getattr(answers[0].value, member))


def gauges(handle: Any) -> dict[str, float | None]:
    """Return what changes all the time."""
    rates = ask("nvmlDeviceGetUtilizationRates", handle)
    memory = ask("nvmlDeviceGetMemoryInfo", handle, nvml.nvmlMemory_v2) or ask("nvmlDeviceGetMemoryInfo", handle)
    bits = ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
    found = {
        "utilization_ratio": rates and rates.gpu / 100.0,
        "memory_used_bytes": memory and memory.used,
        "memory_reserved_bytes": getattr(memory, "reserved", None),
        "memory_total_bytes": memory and memory.total,
        "power_watts": scaled(ask("nvmlDeviceGetPowerUsage", handle), 1e-3),
        "sm_clock_hertz": scaled(ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM), 1e6),
        "memory_clock_hertz": scaled(ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM), 1e6),
        "temperature_celsius": ask("nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        "temperature_margin_celsius": ask("nvmlDeviceGetMarginTemperature", handle),
        "memory_temperature_celsius": field(handle, 82) or None,
        "pcie_link_generation": ask("nvmlDeviceGetCurrPcieLinkGeneration", handle),
        "pcie_link_width": ask("nvmlDeviceGetCurrPcieLinkWidth", handle),
    }
    if bits is not None:
        found |= {f"throttled|{reason}": float(bool(bits & bit)) for reason, bit in THROTTLE.items()}
    return found


def counters(handle: Any) -> dict[str, float | None]:
    """Return what only grows."""
    replays = ask("nvmlDeviceGetPcieReplayCounter", handle)
    found = {
        "energy_joules_total": scaled(ask("nvmlDeviceGetTotalEnergyConsumption", handle), 1e-3),
        "pcie_replays_total": field(handle, 94) if replays is None else replays,
        "pcie_transmitted_bytes_total": field(handle, 197),
        "pcie_received_bytes_total": field(handle, 198),
    }
    times = {"sw_power_cap": 74, "sw_thermal": 269, "hw_thermal": 270, "hw_power_brake": 271}
    found |= {f"throttle_seconds_total|{name}": scaled(field(handle, each), 1e-9) for name, each in times.items()}
    for error, kind in (("corrected", nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
                        ("uncorrected", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)):  # fmt: skip
        for name, counter in (("volatile", nvml.NVML_VOLATILE_ECC), ("aggregate", nvml.NVML_AGGREGATE_ECC)):
            value = ask("nvmlDeviceGetTotalEccErrors", handle, kind, counter)
            found[f"ecc_{name}_errors_total|{error}"] = value
    return found


def states(handle: Any) -> dict[str, float | None]:
    """Return what hardly changes."""
    rows = ask("nvmlDeviceGetRemappedRows", handle) or (None, None, None, None)
    mig = ask("nvmlDeviceGetMigMode", handle)
    processes = ask("nvmlDeviceGetComputeRunningProcesses_v3", handle)
    found = {
        "power_limit_watts": scaled(ask("nvmlDeviceGetEnforcedPowerLimit", handle), 1e-3),
        "power_default_limit_watts": scaled(ask("nvmlDeviceGetPowerManagementDefaultLimit", handle), 1e-3)
        or scaled(field(handle, 189), 1e-3),
        "sm_clock_max_hertz": scaled(ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM), 1e6),
        "memory_clock_max_hertz": scaled(ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM), 1e6),
        "remapped_rows_total|corrected": rows[0],
        "remapped_rows_total|uncorrected": rows[1],
        "row_remap_pending": rows[2],
        "row_remap_failure": rows[3],
        "retired_pages_pending": field(handle, 31),
        "pcie_link_max_generation": ask("nvmlDeviceGetMaxPcieLinkGeneration", handle),
        "pcie_link_max_width": ask("nvmlDeviceGetMaxPcieLinkWidth", handle),
        "mig_enabled": mig and float(mig[0]),
        "processes": None if processes is None else len(processes),
    }
    action = field(handle, 230)
    if action is not None:
        found |= {f"recovery_action|{name}": float(action == number) for number, name in enumerate(RECOVERY)}
    return found | fabric(handle) | nvlink(handle)


def fabric(handle: Any) -> dict[str, float | None]:
    """Return the state of the registration with the NVLink fabric."""
    structure = getattr(nvml, "c_nvmlGpuFabricInfoV_t", None)
    info = structure() if structure else None
    if info is None or ask("nvmlDeviceGetGpuFabricInfoV", handle, ctypes.byref(info)) is None or not info.state:
        return {}
    names = ("not_started", "in_progress", "completed")
    found: dict[str, float | None] = {f"fabric_state|{name}": float(info.state == i) for i, name in enumerate(names, 1)}
    checks = {"degraded_bandwidth": 0, "route_recovery": 2, "route_unhealthy": 4, "access_timeout_recovery": 6}
    told = {name: info.healthMask >> shift & 3 for name, shift in checks.items()}
    return found | {f"fabric_unhealthy|{name}": float(value == 1) for name, value in told.items() if value}


def nvlink(handle: Any) -> dict[str, float | None]:
    """Return links and their counters, summed over the links."""
    links = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        state = ask("nvmlDeviceGetNvLinkState", handle, link)
        if state is None:
            break
        links.append(state)
    if not links:
        return {}
    found: dict[str, float | None] = {"nvlink_links": len(links), "nvlink_active_links": sum(links)}
    for number, name, unit in ((138, "transmitted", 1024.0), (139, "received", 1024.0)):
        found[f"nvlink_{name}_bytes_total"] = over_links(handle, number, len(links), unit)
    for number, error in NVLINK_ERRORS.items():
        found[f"nvlink_errors_total|{error}"] = over_links(handle, number, len(links), 1.0)
    return found


def over_links(handle: Any, number: int, count: int, unit: float) -> float | None:
    """Add a field up over all links."""
    known = [value for link in range(count) if (value := field(handle, number, link)) is not None]
    return sum(known) * unit if known else None


def activity(handles: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return GPM's ratios over a second, by UUID; empty where there is none."""
    support = {uuid: ask("nvmlGpmQueryDeviceSupport", handle) for uuid, handle in handles.items()}
    able = {uuid: handles[uuid] for uuid, found in support.items() if found and found.isSupportedDevice}
    samples = {uuid: (nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()) for uuid in able}
    for place in (0, 1):
        for uuid, handle in able.items():
            ask("nvmlGpmSampleGet", handle, samples[uuid][place])
        time.sleep(GPM_SECONDS * (1 - place))
    found: dict[str, dict[str, float | None]] = {}
    for uuid, (first, second) in samples.items():
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(GPM)
        request.sample1, request.sample2 = first, second
        for place, number in enumerate(GPM):
            request.metrics[place].metricId = number
        ask("nvmlGpmMetricsGet", request)
        answers = zip(GPM.values(), request.metrics, strict=False)
        found[uuid] = {name: each.value / 100.0 for name, each in answers if each.nvmlReturn == 0}
    return found


def scaled(value: float | None, factor: float) -> float | None:
    """Return a value in base units."""
    return None if value is None else value * factor


def main() -> None:
    """Print a reading of every GPU."""
    nvml.nvmlInit()
    handles: dict[str, Any] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        handles[str(nvml.nvmlDeviceGetUUID(handle))] = handle
    busy = activity(handles)
    found = {
        uuid: {**gauges(handle), **counters(handle), **states(handle), **busy.get(uuid, {})}
        for uuid, handle in handles.items()
    }
    print(json.dumps({u: {name: v for name, v in each.items() if v is not None} for u, each in found.items()}))
    nvml.nvmlShutdown()


if __name__ == "__main__":
    main()
