"""How long the event loop was held: the time in which neither a poll nor a scrape could continue.

The loop calls the selector once per turn. The time from one call's return to the next call is the time for which the
tasks of that turn held the loop, measured exactly and without a timer of its own.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections import deque
from typing import TYPE_CHECKING

from vllm_sidecar.vllm.waiting import use_waiting_clock

if TYPE_CHECKING:
    from collections.abc import Callable

SLOT_SECONDS = 10.0
SLOTS = 6
"""The longest hold is that of the last minute, in slots of ten seconds."""


class LoopTime:
    """Measures the turns of the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._longest: deque[tuple[int, float]] = deque(maxlen=SLOTS)
        self.busy_seconds = 0.0
        """Time in which tasks ran, since the start."""

    def turn(self, held: float, late: float) -> None:
        """Note one turn: how long its tasks ran, and by how much the machine woke the program too late for it."""
        self.busy_seconds += held
        slot, lag = int(self._clock() // SLOT_SECONDS), max(held, late)
        if self._longest and self._longest[-1][0] == slot:
            if lag > self._longest[-1][1]:
                self._longest[-1] = (slot, lag)
        else:
            self._longest.append((slot, lag))

    @property
    def lag_seconds(self) -> float:
        """The longest turn of the last minute."""
        oldest = int(self._clock() // SLOT_SECONDS) - SLOTS + 1
        return max((lag for slot, lag in self._longest if slot >= oldest), default=0.0)


class TimedSelector(selectors.DefaultSelector):
    """The selector of the event loop, which measures the time between its calls."""

    def __init__(self, times: LoopTime) -> None:
        super().__init__()
        self._times = times
        self._returned: float | None = None
        self.waited = 0.0
        """Seconds in which the loop had nothing to do."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for files or for `timeout` seconds."""
        called = time.monotonic()
        ready = super().select(timeout)
        now = time.monotonic()
        self.waited += now - called
        if self._returned is not None:
            late = now - called - timeout if timeout is not None and not ready else 0.0
            self._times.turn(called - self._returned, late)
        self._returned = now
        return ready


def loop_factory(times: LoopTime) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes an event loop whose turns are measured."""

    def make() -> asyncio.AbstractEventLoop:
        selector = TimedSelector(times)
        loop = asyncio.SelectorEventLoop(selector)
        use_waiting_clock(loop, lambda: selector.waited)
        return loop

    return make
