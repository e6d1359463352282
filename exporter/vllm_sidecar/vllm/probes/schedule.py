"""The time of a source's next probe: its interval, longer if probes cost the server much time or fail.

Schedules do not depend on each other, nor on the polls: a slow or failing probe delays only itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from vllm_sidecar.vllm.throttle import Throttle

MAX_INTERVAL: Final = 600.0
"""Longest interval of a probe in seconds, stretched or backed off, unless a longer one is configured."""

CLOSED_INTERVALS: Final = 10.0
UNREACHED_INTERVALS: Final = 0.1


class Failure(Enum):
    """The consequence of a failed probe for the next one."""

    CLOSED = auto()
    """The endpoint does not exist: unlikely to change, so it is left alone for ten intervals."""
    UNREACHED = auto()
    """Nothing listens: the probe cost the server nothing, and the server should be found soon after its start."""
    COSTLY = auto()
    """The server may have worked on it, or hangs: each such failure in a row doubles the interval."""
    UNUSABLE = auto()
    """The answer was not from vLLM: the next one may be, so the interval stays the same."""


@dataclass(frozen=True, slots=True)
class ProbeHealth:
    """The health of the probes of one source."""

    interval: float
    """Seconds from the start of the last probe to the next."""
    server_time_ratio: float = 0.0
    """Share of the server's time that they take."""
    failures: int = 0
    last_success: float | None = None
    """Unix time."""
    seconds: float | None = None
    """Response time of the last success."""


class Schedule:
    """Decides when one source is probed next; times are monotonic seconds.

    `interval` is the shortest time between two probes, `usual` that of most sources, the unit of the back-off.
    """

    def __init__(self, interval: float, usual: float, server_time_ratio: float) -> None:
        self._shortest, self._usual, self._allowed = interval, usual, server_time_ratio
        self._failures = 0
        self._last_success: float | None = None
        self._seconds: float | None = None
        self.restart()

    @property
    def due(self) -> float:
        """When to send the next probe; minus infinity means at once."""
        return self._sent + self._interval

    @property
    def keeps_failing(self) -> bool:
        """The last probe was at least the second in a row with a costly failure."""
        return self._failed_in_a_row > 1

    @property
    def health(self) -> ProbeHealth:
        """The health of the probes so far."""
        ratio = self._throttle.server_time_ratio
        return ProbeHealth(self._interval, ratio, self._failures, self._last_success, self._seconds)

    def restart(self) -> None:
        """Make the probe due at once and reset its cost: the server is a new process."""
        self._sent = -math.inf
        self._interval = self._shortest
        self._failed_in_a_row = 0
        self._throttle = Throttle(self._shortest, max(self._shortest, MAX_INTERVAL), self._allowed)

    def sent(self, now: float) -> None:
        """Note that a probe is sent now."""
        self._sent = now

    def answered(self, seconds: float, wall: float) -> None:
        """Note a usable answer: its response time, and the Unix time."""
        self._failed_in_a_row = 0
        self._throttle.spent(seconds)
        self._interval = self._throttle.interval
        self._seconds, self._last_success = seconds, wall

    def failed(self, failure: Failure, seconds: float | None = None) -> None:
        """Note a probe without a usable answer; `seconds` is the response time if the answer was complete."""
        self._failures += 1
        if seconds is not None:
            self._throttle.spent(seconds)
        self._failed_in_a_row = self._failed_in_a_row + 1 if failure is Failure.COSTLY else 0
        self._interval = self._interval_after(failure)

    def _interval_after(self, failure: Failure) -> float:
        if failure is Failure.CLOSED:
            return CLOSED_INTERVALS * self._usual
        if failure is Failure.UNREACHED:
            return UNREACHED_INTERVALS * self._usual
        shortest = self._throttle.interval
        if failure is Failure.UNUSABLE:
            return shortest
        doubled = shortest * 2.0 ** min(self._failed_in_a_row, 32)
        return min(doubled, max(self._shortest, MAX_INTERVAL))
