"""The last poll, the events and the health of the GPU source -> series."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.gpu_fields import EVENTS, PREFIX, XID_SEVERITY
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.exposition import labels_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vllm_sidecar.exposition.metric_values import Value
    from vllm_sidecar.gpu.frames import GpuEvent
    from vllm_sidecar.gpu.polls import GpuPoll, GpuReading
    from vllm_sidecar.series.health import Health

Samples = dict[str, list[tuple[str, "Value"]]]
Row = tuple[str, "Sequence[str]", float]
"""Signal, all its label values, value."""
MOST_XIDS = 100
"""Most codes with a series per device; a faulty driver could otherwise create any number of series."""
MOST_DEVICES = 200
"""Most devices, MIG instances included, whose events are counted; each split of a GPU creates new UUIDs."""


@dataclass(slots=True)
class EventLog:
    """Events since the sidecar started, by UUID; they are exported even while polls fail.

    The counters of kinds and of known codes begin at 0, so that `rate()` sees their first increase. The label gpu is
    the latest index: after a restart of the driver a GPU may have another one, and must have only one series.
    """

    indices: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    xids: dict[str, Counter[int]] = field(default_factory=dict)
    last_xid: dict[str, float] = field(default_factory=dict)

    def register(self, index: str, uuid: str, *, xids_only: bool = False) -> None:
        """Start to count for a device with its current index; a device without UUID has no events."""
        if not uuid or (uuid not in self.indices and len(self.indices) >= MOST_DEVICES):
            return
        self.indices[uuid] = index
        if uuid not in self.xids:
            self.xids[uuid] = Counter(dict.fromkeys(XID_SEVERITY, 0))
            if not xids_only:
                self.kinds[uuid] = Counter(dict.fromkeys(EVENTS, 0))

    def add(self, event: GpuEvent) -> None:
        """Count one event."""
        self.register(event.index, event.uuid)
        kinds = self.kinds.get(event.uuid)
        if kinds is None:
            return
        kinds.update(event.kinds)
        if "xid" in event.kinds:
            self.set_xid(event.uuid, event.data, self.xids[event.uuid][event.data] + 1, event.at)

    def set_xid(self, uuid: str, code: int, count: int, at: float) -> None:
        """Set the count of a code; its time changes if the count grew."""
        xids = self.xids[uuid]
        if (code in xids or len(xids) < MOST_XIDS) and count > xids[code]:
            xids[code] = count
            self.last_xid[uuid] = at

    def rows(self) -> Iterator[Row]:
        """Yield the series of all events."""
        for uuid, index in self.indices.items():
            for kind, count in self.kinds.get(uuid, {}).items():
                yield "events_total", (index, uuid, kind), float(count)
            for code, count in self.xids[uuid].items():
                severity = XID_SEVERITY.get(code, "warning")
                yield "xid_errors_total", (index, uuid, str(code), severity), float(count)
            if uuid in self.last_xid:
                yield "xid_last_timestamp_seconds", (index, uuid), self.last_xid[uuid]


def answering(poll: GpuPoll) -> int:
    """Count the devices that answer; of a GPU that is split by MIG its instances."""
    split = {reading.device.parent for reading in poll.readings}
    alive = (reading for reading in poll.readings if reading.values and not reading.lost)
    return sum(reading.device.uuid not in split for reading in alive)


def make(poll: GpuPoll | None, health: Health, events: EventLog, opens: int, expected: int) -> Samples:
    """Make all series; `poll` is None while the source is down, `expected` is how many devices should answer."""
    samples: Samples = defaultdict(list)
    for name, labels, value in _rows(poll, health, events, opens, expected):
        names = SIGNALS[name].label_names
        samples[name].append((labels_text(tuple(zip(names, labels, strict=True))), value))
    if poll is not None:
        _values(poll, samples)
    return samples


def _rows(poll: GpuPoll | None, health: Health, events: EventLog, opens: int, expected: int) -> Iterable[Row]:
    yield from health.samples()
    yield from health.failure_samples()
    if health.reason is not None:
        yield PREFIX + "failing", (health.reason.value,), 1.0
    yield PREFIX + "driver_opens_total", (), float(opens)
    for name, labels, value in events.rows():
        yield PREFIX + name, labels, value
    if poll is None:
        return
    yield PREFIX + "devices", (), float(answering(poll))
    yield PREFIX + "expected_devices", (), float(expected)
    yield PREFIX + "missing_devices", (), float(max(0, expected - answering(poll)))
    yield PREFIX + "selection_info", (poll.chosen_by,), 1.0
    for tier, calls in poll.calls.items():
        yield PREFIX + "poll_calls", (tier,), float(calls)
    for reading in poll.readings:
        yield from _state(reading, poll)


def _state(reading: GpuReading, poll: GpuPoll) -> Iterator[Row]:
    device = reading.device
    about = (device.name, device.pci_bus_id, device.compute_capability, poll.driver_version, poll.nvml_version)
    yield PREFIX + "info", (*device.labels, *about, device.power_source, device.parent or ""), 1.0
    yield PREFIX + "lost", device.labels, float(reading.lost)
    for group, given in reading.capabilities.items():
        yield PREFIX + "capability", (*device.labels, group), float(given)


def _values(poll: GpuPoll, samples: Samples) -> None:
    for reading in poll.readings:
        scoped = tuple(zip(Scope.GPU.labels, reading.device.labels, strict=True))
        whole = labels_text(scoped)
        for key, value in reading.values.items():
            if isinstance(key, str):
                samples[key].append((whole, value))
            else:
                own = zip(SIGNALS[key[0]].labels, key[1:], strict=True)
                samples[key[0]].append((labels_text((*scoped, *own)), value))
