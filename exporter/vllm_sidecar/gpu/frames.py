"""Frames of the child that calls NVML -> frozen values with the names and units of the catalog."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.gpu_fields import EVENTS, FIELDS_BY_NAME, GROUPS
from vllm_sidecar.catalog.reasons import GPU_REASONS, PollError, Reason
from vllm_sidecar.gpu.polls import GpuDevice, GpuPoll, GpuReading
from vllm_sidecar.gpu.units import decode, to_base_units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.series.readings import Key

INSTANCE_GROUPS = ("memory", "activity")
"""Groups of fields that MIG instances can have."""


@dataclass(frozen=True, slots=True)
class Opened:
    """NVML was initialized; `without_handle` counts GPUs without a handle."""

    driver_version: str
    devices: int
    without_handle: int
    nvml_version: str = ""


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """One event: its device, its kinds (names of the catalog), NVML's data (the code of an XID), and its Unix time."""

    index: str
    uuid: str
    kinds: tuple[str, ...]
    data: int
    at: float


@dataclass(frozen=True, slots=True)
class Note:
    """A change in the availability of events, for the log."""

    what: str
    detail: str
    gpu: str = ""


class Outdated:
    """The child ends because the set of devices has changed since its start."""


Frame = Opened | GpuPoll | GpuEvent | Note | Outdated | PollError


class FrameReader:
    """Reads the frames of one child, and stores the slow tier and the fields of each device, which are not repeated."""

    def __init__(self, *, processes: bool) -> None:
        self._processes = processes
        self._opened = Opened("", 0, 0)
        self._slow: dict[str, Mapping[Key, float]] = {}
        self._available: dict[str, set[str]] = {}

    def read(self, line: bytes) -> Frame:
        """Read one frame.

        Raises:
            ValueError: the frame is invalid.
        """
        try:
            kind, content = json.loads(line)
            return self._read(kind, content)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"an invalid frame: {type(error).__name__}: {error}") from None

    def _read(self, kind: str, content: Mapping[str, Any]) -> Frame:
        match kind:
            case "poll":
                return self._poll(content)
            case "opened":
                self._opened = Opened(
                    str(content["driver"]),
                    int(content["devices"]),
                    int(content["without_handle"]),
                    str(content["nvml"]),
                )
                return self._opened
            case "event":
                kinds = tuple(name for name, bit in EVENTS.items() if int(content["types"]) & bit)
                return GpuEvent(
                    str(content["index"]), str(content["uuid"]), kinds, int(content["data"]), float(content["at"])
                )
            case "note":
                return Note(str(content["what"]), str(content["detail"]), str(content.get("gpu", "")))
            case "outdated":
                return Outdated()
            case "failed":
                reason = Reason(content["reason"])
                return PollError(reason if reason in GPU_REASONS else Reason.INTERNAL, str(content["detail"]))
        raise ValueError(f"unknown kind {kind!r:.40}")

    def _poll(self, content: Mapping[str, Any]) -> GpuPoll:
        anomalies: Counter[str] = Counter()
        return GpuPoll(
            tuple(self._reading(each, anomalies) for each in content["devices"]),
            float(content["at"]),
            float(content["seconds"]),
            {str(tier): int(calls) for tier, calls in content["calls"].items()},
            str(content["chosen_by"]),
            self._opened.driver_version,
            self._opened.nvml_version,
            anomalies,
            int(content["present"]),
        )

    def _reading(self, content: Mapping[str, Any], anomalies: Counter[str]) -> GpuReading:
        index, uuid, name, bus, capability, power_source, parent = content["device"]
        device = GpuDevice(
            str(index), str(uuid), str(name), str(bus), str(capability), str(power_source),
            None if parent is None else str(parent),
        )  # fmt: skip
        available = self._available.setdefault(device.uuid, set())
        fast, slow = (decode(content[tier] or ()) for tier in ("fast", "slow"))
        values = to_base_units(fast, anomalies)
        if content["slow"] is not None:
            self._slow[device.uuid] = to_base_units(slow, anomalies)
        values |= self._slow.get(device.uuid, {})
        if content["lost"]:
            return GpuReading(device, values, {}, lost=True)
        available.update(FIELDS_BY_NAME[key[0]].group for key in (*fast, *slow))
        return GpuReading(device, values, self._capabilities(device, available, events=bool(content["events"])))

    def _capabilities(self, device: GpuDevice, available: set[str], *, events: bool) -> dict[str, bool]:
        """Return group -> whether the device ever had any value of it, for the groups that it can have."""
        if device.parent is not None:
            return {group: group in available for group in INSTANCE_GROUPS}
        given = available | ({"events"} if events else set())
        return {group: group in given for group in GROUPS if group != "processes" or self._processes}
