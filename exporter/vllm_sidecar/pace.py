"""How often to poll: as configured, but so rarely that the server spends little of its time on it."""

from __future__ import annotations

WEIGHT = 0.2
"""Weight of the newest poll in the moving average of what one costs."""


class Pace:
    """Stretches the interval between polls by what they cost the server.

    The response time is the measure: vLLM renders its metrics while it holds the lock that its API server needs for
    everything else. Under load it also counts waiting, so polling steps back when the server is busy.
    """

    def __init__(self, interval: float, max_interval: float, server_time_ratio: float) -> None:
        self._interval = interval
        self._max_interval = max_interval
        self._allowed = server_time_ratio
        self._cost = 0.0

    def spent(self, seconds: float) -> None:
        """Take what one poll cost the server."""
        self._cost = seconds if not self._cost else self._cost + WEIGHT * (seconds - self._cost)

    @property
    def interval(self) -> float:
        """Seconds from the start of one poll to the next."""
        return min(max(self._interval, self._cost / self._allowed), self._max_interval)

    @property
    def server_time_ratio(self) -> float:
        """Share of the server's time that the polls take at this interval."""
        return self._cost / self.interval
