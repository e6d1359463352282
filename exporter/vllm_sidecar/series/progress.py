"""Stage 4: what must be remembered from poll to poll of one group: its last progress, admission, wait and leavers."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.upstream import ABORTED, FAILED

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Key, Reading

PROGRESS_COUNTERS = ("generation_tokens_total", "prompt_tokens_total")
PROGRESS_GAUGES = ("kv_cache_usage_ratio",)
PROGRESS_HISTOGRAMS = ("iteration_tokens", "request_seconds", "time_to_first_token_seconds")
"""What changes when the engine gets something done, beside requests that finish. No single one will do: the histogram
of engine steps does not see a step without output, such as a part of a long prompt; KV usage does."""

FINISHED = "requests_finished_total"
UNSUCCESSFUL = ABORTED | FAILED
"""Reasons for which a request may finish without a first token."""

SETTLE_SECONDS = 10.0
"""Requests whose clients left end so long at most before or after the last progress: an abort reaches engines late."""
QUEUE_SECONDS = 5.0
"""Requests that wait for less than this are those that arrived since the last step, and not a queue."""


class Rise:
    """How far a number rose above its lowest value around the time since which an engine stands still."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque()
        self._lowest = self._now = 0.0
        self.soon = 0.0
        """The most that it rose up to `SETTLE_SECONDS` after that time."""

    def follow(self, at: float, value: float, since: float) -> None:
        """Take a newer value; `since` is when the engine began to stand still, or this poll."""
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
        """How far it is above its lowest value now."""
        return self._now - self._lowest


class ProgressTracker:
    """Follows one group within one life of the server; all times are monotonic."""

    def __init__(self) -> None:
        self._progress_values: tuple[float | None, ...] | None = None
        self._running = 0.0
        self._first_tokens = self._first_tokens_before = 0.0
        self._finished: list[Key] = []
        self._known = 0
        self._gone: deque[tuple[float, float]] = deque()
        self.progress_at = 0.0
        """When the heartbeat changed last."""
        self.waiting_at_progress = 0.0
        """Requests that waited then."""
        self.admission_at = 0.0
        """When a request was admitted last: a first token came, or more requests ran."""
        self.waiting_since: float | None = None
        """Since when requests have been waiting without a break; None while none waits."""
        self.busy_since: float | None = None
        """Since when requests have been running or waiting without a break; None while there are none."""
        self.completed = 0.0
        """Requests that finished since the server started, without those that their clients aborted."""
        self.seats = 0.0
        """The most requests that ran while others waited for capacity; 0 if none did, or more ran without a queue."""
        self.departed = Rise()
        """Requests of the whole server that ended without an engine having finished them, which `FrontEnd` counts."""
        self.aborted = Rise()
        """Requests that this engine counted as aborted."""

    def follow(self, at: float, reading: Reading, start: float) -> None:
        """Take a newer reading; `start` is the time of the oldest one in the window."""
        counters, gauges, histograms = reading
        waiting, running = gauges.get("requests_waiting", 0.0), gauges.get("requests_running", 0.0)
        aborted, self.completed = self._count_finished(reading)
        heartbeat = (
            *(found.cumulative[-1] if (found := histograms.get(x)) else None for x in PROGRESS_HISTOGRAMS),
            *map(counters.get, PROGRESS_COUNTERS),
            *map(gauges.get, PROGRESS_GAUGES),
            self.completed,
        )
        first = histograms.get("time_to_first_token_seconds")
        tokens = first.cumulative[-1] if first else self._first_tokens
        if self._progress_values is None or tokens > self._first_tokens or running > self._running:
            self.admission_at = at
        if heartbeat != self._progress_values:
            self._progress_values, self.progress_at, self.waiting_at_progress = heartbeat, at, waiting
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
        self._count_gone(at, reading, inside, start)

    @property
    def still_since(self) -> float:
        """Since when nothing moved though there was work: an idle engine is not expected to make progress."""
        return self.progress_at if self.busy_since is None else max(self.progress_at, self.busy_since)

    def _count_finished(self, reading: Reading) -> tuple[float, float]:
        """Return the aborted and the other finished requests; all are others where no reason is given."""
        counters = reading.counters
        if len(counters) != self._known:  # within one life counters only come up
            self._known = len(counters)
            self._finished = [key for key in counters if key[0] == FINISHED]
        if not self._finished:
            ended = reading.histograms.get("request_seconds")
            return 0.0, ended.cumulative[-1] if ended else 0.0
        by_reason = [(key[1], counters.get(key, 0.0)) for key in self._finished]
        aborted = sum([count for reason, count in by_reason if reason in ABORTED])
        return aborted, sum([count for _, count in by_reason]) - aborted

    def _learn_seats(self, at: float, running: float, blocked: float) -> None:
        """Learn how many requests fit, where others wait because of them; more that run without a queue disprove it."""
        if running > self.seats:
            queue = blocked > 0.0 and self.waiting_since is not None and at - self.waiting_since >= QUEUE_SECONDS
            self.seats = running if queue else 0.0

    def _count_gone(self, at: float, reading: Reading, inside: float, start: float) -> None:
        """Keep the most requests that, at any poll, had got a first token and were neither finished nor inside.

        Of those inside (running, or put back after a preemption) some may still wait for their first token, so this is
        never more than are gone; and who is gone stays gone, so the most at any poll still holds.
        """
        counters, gone = reading.counters, self._gone
        succeeded = sum([counters.get(key, 0.0) for key in self._finished if key[1] not in UNSUCCESSFUL])
        least = self._first_tokens - succeeded - inside
        if not gone or least > gone[-1][1]:
            gone.append((at, least))
        while len(gone) > 1 and gone[1][0] <= start:
            gone.popleft()

    @property
    def gone(self) -> float:
        """How many requests, at least, left in the window after their first token without having finished.

        They were aborted or failed. Exact as soon as all requests inside have got their first token.
        """
        return self._gone[-1][1] - self._gone[0][1] if self._gone else 0.0

    @property
    def admitted_while_waiting(self) -> float:
        """How many first tokens came since requests have been waiting without a break; 0 while none waits."""
        return 0.0 if self.waiting_since is None else self._first_tokens - self._first_tokens_before
