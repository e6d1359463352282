"""The polls of the last minutes of each device: increases, means, and restarts after counter resets."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.types import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_sidecar.gpu.polls import GpuDevice, GpuPoll
    from vllm_sidecar.series.readings import Key


class GpuWindow:
    """The recent values of one device; restarts when one of its counters fell (the driver was loaded again)."""

    def __init__(self, device: GpuDevice, length: float) -> None:
        self.device = device
        self._length = length
        self._polls: deque[tuple[float, Mapping[Key, float]]] = deque()

    def resize(self, length: float) -> None:
        """Take another length; older polls are dropped."""
        self._length = length
        self._cut()

    def append(self, at: float, values: Mapping[Key, float]) -> None:
        """Take newer values; `at` is monotonic seconds."""
        polls = self._polls
        if polls and any(_fell(key, before, values) for key, before in polls[-1][1].items()):
            polls.clear()
        polls.append((at, values))
        self._cut()

    def _cut(self) -> None:
        polls = self._polls
        while len(polls) > 2 and polls[1][0] <= polls[-1][0] - self._length:
            polls.popleft()

    @property
    def latest(self) -> Mapping[Key, float]:
        """The newest values."""
        return self._polls[-1][1] if self._polls else {}

    @property
    def since(self) -> float:
        """Monotonic time of the oldest poll."""
        return self._polls[0][0] if self._polls else 0.0

    @property
    def seconds(self) -> float:
        """Time between the first and the last poll; 0 after one."""
        return self._polls[-1][0] - self._polls[0][0] if self._polls else 0.0

    def increase(self, key: Key) -> float | None:
        """Return the increase of a counter; None if one end lacks it, or after one poll only."""
        if len(self._polls) < 2:
            return None
        first, last = self._polls[0][1].get(key), self._polls[-1][1].get(key)
        return None if first is None or last is None else last - first

    def mean(self, key: Key, since: float = 0.0) -> float | None:
        """Return the mean of a gauge over the polls since a time; None if none of them has it."""
        values = [value for at, found in self._polls if at >= since and (value := found.get(key)) is not None]
        return sum(values) / len(values) if values else None

    def joules(self) -> float | None:
        """Return the energy used in the window: from the counter, otherwise mean power times time; None if unknown."""
        energy = self.increase("gpu_energy_joules_total")
        if energy is not None:
            return energy
        power = self.mean("gpu_power_watts")
        return power * self.seconds if power is not None and self.seconds > 0.0 else None


def _fell(key: Key, before: float, values: Mapping[Key, float]) -> bool:
    now = values.get(key)
    name = key if isinstance(key, str) else key[0]
    return now is not None and now < before and SIGNALS[name].kind is Kind.COUNTER


class GpuWindows:
    """The windows of all devices that the last poll had."""

    def __init__(self, length: float) -> None:
        self._length = length
        self._by_uuid: dict[str, GpuWindow] = {}

    def append(self, poll: GpuPoll) -> None:
        """Take a poll; a device that is lost, or no longer read, loses its window."""
        alive = {reading.device.uuid: reading for reading in poll.readings if reading.values and not reading.lost}
        for uuid in self._by_uuid.keys() - alive.keys():
            del self._by_uuid[uuid]
        for uuid, reading in alive.items():
            window = self._by_uuid.setdefault(uuid, GpuWindow(reading.device, self._length))
            window.device = reading.device  # its index may have changed with the last initialization of NVML
            window.append(poll.at, reading.values)

    def resize(self, length: float) -> None:
        """Take another length of all windows."""
        self._length = length
        for window in self._by_uuid.values():
            window.resize(length)

    def clear(self) -> None:
        """Drop all polls: the source was unreadable for too long."""
        self._by_uuid.clear()

    def all(self) -> Sequence[GpuWindow]:
        """Return the windows in the order of the devices."""
        return tuple(self._by_uuid.values())
