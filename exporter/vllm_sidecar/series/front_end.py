"""Signs of waiting clients, from the front end's metrics from poll to poll, and since when no engine has answered.

The gauges of engines cannot show it: they freeze when all requests are aborted at once (vllm#22545), and remain at 0
while an engine admits nothing. A mass abort ends as many requests as were open; a hang ends none, or only those whose
clients give up.

Each sign is measured since the last progress of any engine, from its lowest value since then. Earlier values
therefore have no effect: connections of a pool, requests that `/load` never removes, answers that are read slowly.
"""

from __future__ import annotations

from math import exp, inf
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.routes import HOLDING, RELEASING, reaches_an_engine
from vllm_sidecar.series.progress import SETTLE_SECONDS
from vllm_sidecar.series.readings import drop_absent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_sidecar.series.progress import ProgressTracker
    from vllm_sidecar.series.readings import Key, Reading

HTTP_REQUESTS = "http_requests_total"
OPEN_FDS = "server_open_fds"
SUCCESS, CLIENT_ERROR = "2xx", "4xx"

FEWEST_CONNECTIONS = 8.0
"""Fewest new connections that mean waiting requests, if they arrived as requests did before."""
SLOWEST_SHARE = 0.7
"""Lowest rate of new connections, as a share of the rate at which requests ended."""
SOONEST_SECONDS = 60.0
"""Latest start of new connections after the last progress; those of a pool, a leak or a health check start anytime."""
FEWEST_RISES = 5
"""Fewest polls with new connections; a pool is opened all at once."""
MOST_LATE = 2.0
"""Most requests that may still end after the last progress; more are clients that left, and not clients that wait."""
FEWEST_ENDED = 3
"""Fewest unanswered HTTP requests; fewer may have been canceled before an engine saw them."""
RECENT_SECONDS = 90.0
"""Longest time between two unanswered requests, and since the last one, for which they count as continuing."""
RATE_SECONDS = 60.0
"""Time constant of the remembered request rate."""


class FrontEnd:
    """Follows one server between restarts; all times are monotonic."""

    def __init__(self) -> None:
        self._counts: dict[Key, float] = {}
        self._rate = self._succeeded = 0.0
        self._recent_succeeded = self._recent_seconds = 0.0
        self._held_at = 0.0
        self._excess = 0.0
        self._completed = 0.0
        self._ended = 0.0
        self._lowest_load, self._ended_at_lowest = inf, 0.0
        self._lowest_files_at = 0.0
        self._lowest_files: float | None = None
        self._rises = 0
        self.now = 0.0
        """Time of the last poll."""
        self.progress_at = 0.0
        """Time of the last progress of any engine."""
        self.measured = False
        """Requests to engines are counted when they end: some have ended since the server's start."""
        self.requests_per_post = 1.0
        """Requests in the engines per HTTP request: more than 1 with lists of prompts, or n above 1."""
        self.unanswered = 0
        """Successive HTTP requests that ended with 2xx too late to be explained by the last progress."""
        self.unanswered_first = self.unanswered_last = 0.0
        """Times of the first and the last of them."""
        self.gave_up = 0
        """HTTP requests since the server's start whose clients gave up while no engine answered."""
        self.connections = 0.0
        """Open files above their lowest number since the last progress."""
        self.connections_since: float | None = None
        """Time since which there are so many, and arrived so fast, that requests wait on them."""
        self.in_flight_since: float | None = None
        """Time since which `/load` exceeds its lowest value since the last progress, less requests that ended."""
        self.on_hold = False
        """The server was paused or put to sleep, and not yet resumed."""

    def follow(self, at: float, reading: Reading, trackers: Iterable[ProgressTracker], in_flight: float | None) -> None:
        """Take a newer reading of the server, after those of its engines; `in_flight` is the last value of `/load`."""
        trackers = list(trackers)
        succeeded = self._count(at, reading)
        completed = sum(progress.completed for progress in trackers)
        # A client that left is counted with 2xx; a 5xx may never have reached an engine that refuses or fails requests.
        self._excess += succeeded - max(0.0, completed - self._completed) / self.requests_per_post
        self._completed = completed
        for progress in trackers:
            progress.departed.follow(at, self._excess, progress.still_since)
        self._succeeded += succeeded
        if max((progress.progress_at for progress in trackers), default=at) >= at:
            self._progressed(at)
        elif succeeded > 0.0 and self.now - self.progress_at > SETTLE_SECONDS:
            if not self.unanswered or at - self.unanswered_last > RECENT_SECONDS:
                self.unanswered, self.unanswered_first = 0, at
            known = self.unanswered if self.unanswered >= FEWEST_ENDED else 0
            self.unanswered_last = at
            self.unanswered += round(succeeded)
            self.gave_up += self.unanswered - known if self.unanswered >= FEWEST_ENDED else 0
        self._follow_load(at, in_flight)
        self._follow_files(at, reading.gauges.get(OPEN_FDS))
        self.now = at

    @property
    def ends_unanswered(self) -> bool:
        """Requests still end with 2xx though no engine finished one or sent a first token: their clients give up."""
        return self.unanswered >= FEWEST_ENDED and self.now - self.unanswered_last <= RECENT_SECONDS

    def _progressed(self, at: float) -> None:
        """Start over: requests that are open now had an answer, or may still get one."""
        seconds = at - self.progress_at if self.now else 0.0
        if seconds > 0.0:
            kept = exp(-seconds / RATE_SECONDS)
            self._recent_succeeded = self._recent_succeeded * kept + self._succeeded
            self._recent_seconds = self._recent_seconds * kept + seconds
            self._rate = self._recent_succeeded / self._recent_seconds
        if self._ended:
            self.requests_per_post = max(1.0, self._completed / self._ended)
        if at - self._held_at > SETTLE_SECONDS:
            self.on_hold = False
        self.progress_at, self._succeeded = at, 0.0
        self.unanswered = 0
        self.connections_since = self.in_flight_since = self._lowest_files = None
        self._lowest_load = inf

    def _count(self, at: float, reading: Reading) -> float:
        """Count the requests to engines that ended since the last poll; return how many of them ended with 2xx."""
        succeeded = 0.0
        holds: dict[bool, float] = {}
        drop_absent(self._counts, reading.counters)
        for key, value in reading.counters.items():
            if not isinstance(key, tuple) or key[0] != HTTP_REQUESTS:
                continue
            _, handler, method, status = key
            known, self._counts[key] = self._counts.get(key), value
            whole = max(0.0, value - (known or 0.0))
            # A new series began at 0; before the first poll it is unknown when its requests ended.
            grown = whole if known is not None or self.now else 0.0
            if not reaches_an_engine(handler, method):
                hold = handler in HOLDING
                if grown and status == SUCCESS and (hold or handler in RELEASING):
                    holds[hold] = grown
            elif status != CLIENT_ERROR:
                self.measured = True
                self._ended += whole
                succeeded += grown if status == SUCCESS else 0.0
        if holds:
            self.on_hold, self._held_at = False not in holds, at
        return succeeded

    def _follow_load(self, at: float, in_flight: float | None) -> None:
        """Follow `/load`: requests that ended meanwhile are not open, and some versions never remove them."""
        if in_flight is None:
            self.in_flight_since = None
            return
        if in_flight <= self._lowest_load:
            self._lowest_load, self._ended_at_lowest = in_flight, self._ended
        if in_flight - self._lowest_load - (self._ended - self._ended_at_lowest) <= 0.0:
            self.in_flight_since = None
        elif self.in_flight_since is None:
            self.in_flight_since = at

    def _follow_files(self, at: float, files: float | None) -> None:
        """Follow the open files: each connection is one, and a connection that waits for an answer remains open."""
        if files is None:
            self.connections, self.connections_since = 0.0, None
            return
        if self._lowest_files is None or files <= self._lowest_files:
            self._lowest_files, self._lowest_files_at, self._rises = files, at, 0
        before, self.connections = self.connections, files - self._lowest_files
        self._rises += self.connections > before
        if self.connections < FEWEST_CONNECTIONS:
            self.connections_since = None
        elif self.connections_since is None and self._came_like_requests(at):
            self.connections_since = self._lowest_files_at

    def _came_like_requests(self, at: float) -> bool:
        """Return whether connections arrived as soon and as fast as requests did, unlike those of a growing pool.

        A front end counts a request only at its end, so connections are the only sign of clients that wait for long.
        But an idle server has connections, too, and gets more from each client that only reads its metrics.
        """
        soon = at - self.progress_at <= SOONEST_SECONDS and self._rate * SOONEST_SECONDS >= FEWEST_CONNECTIONS
        as_requests = self._rises >= FEWEST_RISES and self._succeeded <= MOST_LATE
        expected = self._rate * (at - self._lowest_files_at)
        return soon and as_requests and self.connections >= SLOWEST_SHARE * expected
