"""All windows of one target; they restart after a process restart, a counter reset or a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.front_end import FrontEnd
from vllm_sidecar.series.readings import TARGET
from vllm_sidecar.series.restarts import Restarts
from vllm_sidecar.series.server_process import NOTHING as UNCHANGED
from vllm_sidecar.series.window import EMPTY, Window
from vllm_sidecar.slices import at_once

if TYPE_CHECKING:
    from collections.abc import Generator

    from vllm_sidecar.series.readings import Group, Readings
    from vllm_sidecar.series.server_process import Change


class WindowStore:
    """All windows of one target, and the restarts of its server.

    Windows restart if no poll has succeeded for longer than their length, or twice the expected interval between polls.
    """

    def __init__(self, length: float, keep: float) -> None:
        self._length = length
        self._keep = keep
        self._gap = length
        self._at: float | None = None
        self._groups: dict[Group, Window] = {}
        self._restarts = Restarts()
        self.change = UNCHANGED
        """Result of the last poll about the process."""
        self.now = 0.0
        """Monotonic time of the last poll."""
        self.front_end = FrontEnd()
        """Signs of waiting clients."""
        self.in_flight: float | None = None
        """Open requests in the last value of `/load`; None if it does not count them."""
        self._adapters: dict[str, float] = {}
        self.gaps = 0
        """How often the windows restarted because no poll had succeeded for too long."""

    @property
    def restarts(self) -> int:
        """Restarts of the server."""
        return self._restarts.count

    @property
    def recent_restarts(self) -> int:
        """Restarts of the server in the last 15 minutes."""
        return self._restarts.recent(self.now)

    @property
    def adapters_in_use(self) -> int:
        """Different LoRA adapters that had requests at a poll of the window."""
        return len(self._adapters)

    @property
    def several(self) -> bool:
        """Several servers answer at the address, so none is followed."""
        return self._restarts.several

    def resize(self, length: float, keep: float) -> None:
        """Take other lengths; polls within both remain."""
        self._gap = max(length, self._gap)
        self._length, self._keep = length, keep
        for window in self._groups.values():
            window.resize(length, keep)

    def expect(self, interval: float) -> None:
        """Set the expected seconds between polls: those of a slow server may be further apart than a window is long."""
        self._gap = max(self._length, 2.0 * interval)

    def missed(self) -> None:
        """Note a poll without an answer."""
        self._restarts.missed()

    def append(self, at: float, readings: Readings, clock: float | None = None) -> Change:
        """Take the readings of one poll without a pause; see `steps`."""
        return at_once(self.steps(at, readings, clock))

    def steps(self, at: float, readings: Readings, clock: float | None = None) -> Generator[None, None, Change]:
        """Take the readings of one poll, and the server's Unix time if it is known; return the changes.

        Pauses after each group. The groups are those of the poll before until the last step, and each window is whole
        at every pause. A computation that was begun must be finished: what restarted is known only to it.

        Raises:
            PollError: Several servers answer at the address; the poll is not taken.
        """
        change = self._restarts.follow(at, readings, clock)
        yield
        gap = self._at is not None and at - self._at > self._gap
        anew = change.restarted or change.resumed or gap
        began = self._at if not (change.restarted or gap) else None
        groups: dict[Group, Window] = {}
        for group, reading in readings.groups.items():
            window = None if anew or group in change.broken else self._groups.get(group)
            if window is None:
                window = Window(self._length, self._keep)
                # v0 creates an engine's series, and vLLM its HTTP counters, with the first request: they began at 0.
                if began is not None and group in change.fresh - change.broken:
                    window.append(began, EMPTY)
            window.append(at, reading)
            groups[group] = window
            yield
        self.gaps += gap and not (change.restarted or change.resumed)
        self._use(at, readings, change, groups)
        return change

    def _use(self, at: float, readings: Readings, change: Change, groups: dict[Group, Window]) -> None:
        if all(groups.get(group) is not window for group, window in self._groups.items()):
            self.front_end = FrontEnd()
        self._groups, self.change = groups, change
        trackers = [window.progress for window in self.of(Scope.ENGINE).values()]
        self.front_end.follow(at, readings.groups.get(TARGET, EMPTY), trackers, self.in_flight)
        self._follow_adapters(at, readings)
        self._at = self.now = at

    def _follow_adapters(self, at: float, readings: Readings) -> None:
        if readings.adapters is not None:
            self._adapters |= dict.fromkeys((*readings.adapters.running, *readings.adapters.waiting), at)
        if self._adapters:
            self._adapters = {name: seen for name, seen in self._adapters.items() if at - seen <= self._length}

    def get(self, group: Group) -> Window | None:
        """Return the window of a group; None if the last poll did not have it."""
        return self._groups.get(group)

    def of(self, scope: Scope) -> dict[Group, Window]:
        """Return the windows of all groups of a scope."""
        return {group: window for group, window in self._groups.items() if group.scope is scope}
