"""The last poll, the events and the health of the GPU source -> series."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.gpu import EVENTS, PREFIX, XID_SEVERITY
from vllm_sidecar.exposition import labels_text
from vllm_sidecar.model import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vllm_sidecar.gpu.events import GpuEvent
    from vllm_sidecar.health import Health
    from vllm_sidecar.model import GpuPoll, GpuReading, Value

Samples = dict[str, list[tuple[str, "Value"]]]
Row = tuple[str, "Sequence[str]", float]
"""Signal, all its label values, value."""
MOST_XIDS = 100
"""Codes that get a series of their own for each device; a driver that made them up must not fill a Prometheus."""


@dataclass(slots=True)
class EventLog:
    """Events since the sidecar started; they are shown even while nothing can be polled.

    The counters of kinds and of known codes begin at 0, so that `rate()` sees their first increase.
    """

    kinds: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    xids: dict[tuple[str, str], Counter[int]] = field(default_factory=dict)
    last_xid: dict[tuple[str, str], float] = field(default_factory=dict)

    def know(self, device: tuple[str, str], *, xids_only: bool = False) -> None:
        """Begin to count for a device: its values of the labels gpu and uuid."""
        if device not in self.xids:
            self.xids[device] = Counter(dict.fromkeys(XID_SEVERITY, 0))
            if not xids_only:
                self.kinds[device] = Counter(dict.fromkeys(EVENTS, 0))

    def add(self, event: GpuEvent) -> None:
        """Count one event."""
        device = (event.index, event.uuid)
        self.know(device)
        self.kinds[device][event.kind] += 1
        if event.kind == "xid":
            self.set_xid(device, event.data, self.xids[device][event.data] + 1, event.at)

    def set_xid(self, device: tuple[str, str], code: int, count: int, at: float) -> None:
        """Set how often a code came; its time moves if that is more than before."""
        xids = self.xids[device]
        if (code in xids or len(xids) < MOST_XIDS) and count > xids[code]:
            xids[code] = count
            self.last_xid[device] = at

    def rows(self) -> Iterator[Row]:
        """Yield the series of all events."""
        for device, kinds in self.kinds.items():
            for kind, count in kinds.items():
                yield "events_total", (*device, kind), float(count)
        for device, xids in self.xids.items():
            for code, count in xids.items():
                severity = XID_SEVERITY.get(code, "warning")
                yield "xid_errors_total", (*device, str(code), severity), float(count)
        for device, at in self.last_xid.items():
            yield "xid_last_timestamp_seconds", device, at


def answering(poll: GpuPoll) -> int:
    """Count the devices that answer; of a GPU that is split its instances."""
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
