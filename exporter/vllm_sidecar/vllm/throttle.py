"""Intervals between requests of one kind: as configured, but longer where requests cost the server much time."""

from __future__ import annotations

from collections import deque

RECENT = 10
"""Number of recent answers whose response times are used."""


class Throttle:
    """Lengthens the interval between requests of one kind by their cost to the server only.

    The cost is the shortest of the recent response times. vLLM answers on the event loop that also serves requests, so
    under load most of a response time is waiting, which costs the server nothing; the shortest is mainly the time for
    making the answer. The interval does not change before `answers_needed` answers, because a single answer may have
    waited.
    """

    def __init__(
        self, interval: float, max_interval: float, server_time_ratio: float, *, answers_needed: int = 1
    ) -> None:
        self._interval = interval
        self._max_interval = max_interval
        self._allowed = server_time_ratio
        self._needed = answers_needed
        self._recent: deque[float] = deque(maxlen=RECENT)

    def spent(self, seconds: float) -> None:
        """Take the response time of one request."""
        self._recent.append(seconds)

    @property
    def interval(self) -> float:
        """Seconds from the start of one request to the next."""
        if len(self._recent) < self._needed:
            return self._interval
        return min(max(self._interval, self._cost / self._allowed), self._max_interval)

    @property
    def server_time_ratio(self) -> float:
        """Share of the server's time that the requests take at this interval."""
        return self._cost / self.interval

    @property
    def _cost(self) -> float:
        return min(self._recent, default=0.0)
