"""Windows that follow the polls of an address, and the polls of a server with one engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from readings import ENGINE, START, TARGET, histogram, readings

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.series.store import WindowStore

if TYPE_CHECKING:
    from readings import Poll

    from vllm_sidecar.series.readings import Group, Readings
    from vllm_sidecar.series.server_process import Change

TOKENS = "generation_tokens_total"
STOP = ("requests_finished_total", "stop")
ERROR = ("requests_finished_total", "error")
POSTS = ("http_requests_total", "/v1/completions", "POST", "2xx")
TTFT = "time_to_first_token_seconds"
DURATION = "request_seconds"
BEGAN = 1.79e9
"""Unix time of the first poll on the server's clock."""


def engine(requests: float) -> Poll:
    """What an engine has counted after so many requests."""
    return {TOKENS: 100 * requests, STOP: requests, TTFT: histogram(requests, 0, 0, 0, total=requests / 2)}


def body(requests: float, started: float | None = BEGAN - 1000, **facts: object) -> Readings:
    """One poll of a server with one engine after so many requests."""
    return readings({ENGINE: engine(requests), TARGET: {POSTS: requests}}, started=started, **facts)  # type: ignore[arg-type]


class FollowedAddress:
    """Windows that follow an address, a poll each second; `clock` is how far the server's is ahead of the true time."""

    def __init__(self, *polls: Readings, skew: float = 0.0) -> None:
        self.windows = WindowStore(60.0, 300.0)
        self.seconds, self.skew = -1.0, skew
        for poll in polls:
            assert self.poll(poll) is not None

    def poll(self, poll: Readings, after: float = 1.0) -> Change | None:
        """Return what is new with a poll; None where several servers answer."""
        self.seconds += after
        try:
            return self.windows.append(START + self.seconds, poll, BEGAN + self.seconds + self.skew)
        except PollError as error:
            if error.reason is not Reason.SEVERAL_SERVERS or not self.windows.several:
                raise
            return None

    def outage(self, polls: int = 5) -> None:
        for _ in range(polls):
            self.seconds += 1.0
            self.windows.missed()

    @property
    def state(self) -> tuple[int, bool]:
        return self.windows.restarts, self.windows.several

    def increase(self, group: Group = ENGINE) -> float | None:
        window = self.windows.get(group)
        return window.increase(STOP) if window else None


def silent(requests: float, **facts: object) -> Readings:
    """A poll of a server that exposes no start time: several API servers, or the Rust front end."""
    return body(requests, None, **facts)
