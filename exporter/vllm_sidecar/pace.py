"""How often to poll: as configured, but so rarely that the server spends little of its time on it."""

from __future__ import annotations

from collections import deque

POLLS = 10
"""Polls whose response times are looked at."""
QUESTIONS = 60
"""Polls over which the time for the introspection's rarer questions is averaged."""


class Pace:
    """Stretches the interval between polls by what they cost the server.

    The response time is the measure, and of the last polls the shortest: vLLM renders its metrics on the event loop
    that also serves requests, so under load most of a response time is waiting for its turn, which costs the server
    nothing. What is left when little is in the way is the time for rendering.
    """

    def __init__(self, interval: float, max_interval: float, server_time_ratio: float) -> None:
        self._interval = interval
        self._max_interval = max_interval
        self._allowed = server_time_ratio
        self._polls: deque[float] = deque(maxlen=POLLS)
        self._questions: deque[float] = deque(maxlen=QUESTIONS)

    def spent(self, poll: float, questions: float = 0.0) -> None:
        """Take the response times of one poll and of the questions asked beside it, in seconds."""
        self._polls.append(poll)
        self._questions.append(questions)

    @property
    def _cost(self) -> float:
        return min(self._polls) + sum(self._questions) / len(self._questions) if self._polls else 0.0

    @property
    def interval(self) -> float:
        """Seconds from the start of one poll to the next."""
        return min(max(self._interval, self._cost / self._allowed), self._max_interval)

    @property
    def server_time_ratio(self) -> float:
        """Share of the server's time that polls and questions take at this interval."""
        return self._cost / self.interval
