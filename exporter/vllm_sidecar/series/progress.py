"""State of one group from poll to poll: its last progress, admission and wait, and its requests that left."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.upstream import ABORTED, FAILED

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Key, Reading

PROGRESS_COUNTERS = ("generation_tokens_total", "prompt_tokens_total")
PROGRESS_GAUGES = ("kv_cache_usage_ratio",)
PROGRESS_HISTOGRAMS = ("iteration_tokens", "request_seconds", "time_to_first_token_seconds")
"""Signals that change with an engine's progress, besides finished requests. None is sufficient alone: the histogram of
engine steps misses steps without output, such as a part of a long prompt; KV usage shows them."""

FINISHED = "requests_finished_total"
UNSUCCESSFUL = ABORTED | FAILED
"""Reasons for which a request may finish without a first token."""

SETTLE_SECONDS = 10.0
"""Most seconds between the last progress and the end of requests whose clients left: an abort reaches engines late."""
QUEUE_SECONDS = 5.0
"""Requests that wait for less than this arrived since the last step, and are not a queue."""


class RiseSinceProgress:
    """The rise of a number above its lowest value around the time of an engine's last progress."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque()
        self._lowest = self._now = 0.0
        self.soon = 0.0
        """The largest rise up to `SETTLE_SECONDS` after that time."""

    def follow(self, at: float, value: float, since: float) -> None:
        """Take a newer value; `since` is the start of the time without progress, or this poll."""
        recent = self._recent
        recent.append((at, value))
        while recent[0][0] < at - SETTLE_SECONDS:
            recent.popleft()
        self._now = value
        if since >= at:
            self._lowest, self.soon = min(value for _, value in recent), 0.0
        if at - since <= SETTLE_SECONDS:
            self.soon = max(self.soon, self.so_far)

    @property
    def so_far(self) -> float:
        """Its current rise above its lowest value."""
        return self._now - self._lowest


class ProgressTracker:
    """Follows one group between process restarts; all times are monotonic."""

    def __init__(self) -> None:
        self._progress_values: tuple[float | None, ...] | None = None
        self._running = 0.0
        self._first_tokens = self._first_tokens_before = 0.0
        self._finished: list[Key] = []
        self._known = 0
        self._left: deque[tuple[float, float]] = deque()
        self.first_at: float | None = None
        """Time of the first reading."""
        self.progress_at = 0.0
        """Time of the last change of a progress signal; of the first reading before there was one."""
        self.waiting_at_progress = 0.0
        """Waiting requests at that time."""
        self.admission_at = 0.0
        """Time of the last admission: a new first token, or more running requests."""
        self.waiting_since: float | None = None
        """Time since which requests have been waiting without a break; None while none waits."""
        self.busy_since: float | None = None
        """Time since which requests have been running or waiting without a break; None while there are none."""
        self.completed = 0.0
        """Requests that finished since the server's start, without those that their clients aborted."""
        self.seats = 0.0
        """The most requests that ran while others waited for capacity; 0 if none did, or more ran without a queue."""
        self.departed = RiseSinceProgress()
        """Requests of the whole server that ended without being finished by an engine, counted by `FrontEnd`."""
        self.aborted = RiseSinceProgress()
        """Requests that this engine counted as aborted."""

    def follow(self, at: float, reading: Reading, start: float) -> None:
        """Take a newer reading; `start` is the time of the oldest one in the window."""
        counters, gauges, histograms = reading
        self.first_at = at if self.first_at is None else self.first_at
        waiting, running = gauges.get("requests_waiting", 0.0), gauges.get("requests_running", 0.0)
        aborted, self.completed = self._count_finished(reading)
        values = (
            *(found.cumulative[-1] if (found := histograms.get(x)) else None for x in PROGRESS_HISTOGRAMS),
            *map(counters.get, PROGRESS_COUNTERS),
            *map(gauges.get, PROGRESS_GAUGES),
            self.completed,
        )
        first = histograms.get("time_to_first_token_seconds")
        tokens = first.cumulative[-1] if first else self._first_tokens
        if self._progress_values is None or tokens > self._first_tokens or running > self._running:
            self.admission_at = at
        if values != self._progress_values:
            self._progress_values, self.progress_at, self.waiting_at_progress = values, at, waiting
        if waiting <= 0.0:
            self.waiting_since = None
        elif self.waiting_since is None:
            self.waiting_since, self._first_tokens_before = at, tokens
        if waiting + running <= 0.0:
            self.busy_since = None
        elif self.busy_since is None:
            self.busy_since = at
        self._learn_seats(at, running, gauges.get(("requests_waiting", "capacity"), waiting))
        self._running, self._first_tokens = running, tokens
        self.aborted.follow(at, aborted, self.still_since)
        inside = running + min(waiting, counters.get("preemptions_total", 0.0))
        self._count_left(at, reading, inside, start)

    @property
    def still_since(self) -> float:
        """Time since which there was work but no progress: an idle engine is not expected to make progress."""
        return self.progress_at if self.busy_since is None else max(self.progress_at, self.busy_since)

    @property
    def may_be_old(self) -> bool:
        """The gauges show the same work since the first reading, without progress: its clients may have left before."""
        return self.first_at is not None and self.still_since <= self.first_at

    def _count_finished(self, reading: Reading) -> tuple[float, float]:
        """Return the aborted and the other finished requests; without finish reasons all count as others."""
        counters = reading.counters
        if len(counters) != self._known:  # until a restart, counters only appear
            self._known = len(counters)
            self._finished = [key for key in counters if key[0] == FINISHED]
        if not self._finished:
            ended = reading.histograms.get("request_seconds")
            return 0.0, ended.cumulative[-1] if ended else 0.0
        by_reason = [(key[1], counters.get(key, 0.0)) for key in self._finished]
        aborted = sum([count for reason, count in by_reason if reason in ABORTED])
        return aborted, sum([count for _, count in by_reason]) - aborted

    def _learn_seats(self, at: float, running: float, blocked: float) -> None:
        """Learn how many requests fit, from runs with a queue; more that run without a queue disprove the number."""
        if running > self.seats:
            queue = blocked > 0.0 and self.waiting_since is not None and at - self.waiting_since >= QUEUE_SECONDS
            self.seats = running if queue else 0.0

    def _count_left(self, at: float, reading: Reading, inside: float, start: float) -> None:
        """Record the largest number, at any poll, of requests with a first token that were neither finished nor inside.

        Some requests inside (running, or waiting again after a preemption) may not have a first token yet, so the
        number is never more than the requests that left. Requests that left do not return, so the largest number
        remains valid.
        """
        counters, left = reading.counters, self._left
        succeeded = sum([counters.get(key, 0.0) for key in self._finished if key[1] not in UNSUCCESSFUL])
        least = self._first_tokens - succeeded - inside
        if not left or least > left[-1][1]:
            left.append((at, least))
        while len(left) > 1 and left[1][0] <= start:
            left.popleft()

    @property
    def left_unfinished(self) -> float:
        """Fewest requests that left in the window after their first token without having finished.

        They were aborted or failed. Exact once all requests inside have their first token.
        """
        return self._left[-1][1] - self._left[0][1] if self._left else 0.0

    @property
    def admitted_while_waiting(self) -> float:
        """First tokens since requests have been waiting without a break; 0 while none waits."""
        return 0.0 if self.waiting_since is None else self._first_tokens - self._first_tokens_before
