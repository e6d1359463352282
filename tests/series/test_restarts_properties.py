"""Whatever answers in whatever order, requests are counted as they ran, or not at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from readings import START, TARGET, histogram, readings

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.good_observations import Objective
from vllm_sidecar.series.readings import Group
from vllm_sidecar.series.server_process import FORGET, FRESH_PER_SECOND
from vllm_sidecar.series.slo_counters import SloCounters
from vllm_sidecar.series.store import WindowStore

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings

TTFT = "time_to_first_token_seconds"
WALL = 1.79e9
"""Unix time at the monotonic time 0, on a clock that is right."""
LONGEST_STEP = 5.0
"""Seconds that a step takes beyond its number."""
Count = tuple[float, float]


@dataclass
class Server:
    """A vLLM server whose engines come and go; each has finished `counted` requests in this process."""

    started: float | None
    counted: Counter[int] = field(default_factory=Counter)
    there: set[int] = field(default_factory=lambda: {0})

    served: int = 0
    """Requests that ran since the sidecar began."""

    def serve(self, engine: int, requests: int) -> None:
        self.counted[engine] += requests
        self.served += requests

    def body(self) -> Readings:
        groups = {
            Group(Scope.ENGINE, ("m", str(engine))): {
                ("requests_finished_total", "stop"): (n := self.counted[engine]),
                "generation_tokens_total": 50 * n,
                "prompt_tokens_total": 70 * n,
                TTFT: histogram(n, 0, 0, 0, total=n / 2),
                "request_seconds": histogram(0, 0, 0, n, total=9 * n),
                "requests_running": 5,
            }
            for engine in self.there
        }
        posts = {("http_requests_total", "/v1/completions", "POST", "2xx"): self.counted.total()}
        return readings({**groups, TARGET: posts}, started=self.started)


class Sidecar:
    """What follows an address: windows and the counters of service levels."""

    def __init__(self, skew: float = 0.0) -> None:
        self.counters = SloCounters((Objective("ttft", TTFT, 2.0),), availability=True)
        self.windows = WindowStore(60.0, 300.0)
        self.at, self.skew = START, skew

    @property
    def server_clock(self) -> float:
        return WALL + self.at + self.skew

    def poll(self, body: Readings | None, after: float = 1.0) -> bool:
        """Tell whether a poll was taken; None is one that fails."""
        self.at += after
        if body is None:
            self.windows.missed()
            return False
        try:
            self.windows.append(self.at, body, self.server_clock)
        except PollError:
            return False
        self.counters.follow(body, self.windows)
        return True

    def counted(self) -> tuple[float, float]:
        """Return the requests that were counted by latency and by how they ended."""
        total = {"ttft": 0.0, "availability": 0.0}
        for name, labels, value in self.counters.rows(up=True):
            if name == "slo_requests_total":
                total[labels[-1]] += value
        return total["ttft"], total["availability"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("serve"), st.integers(0, 2), st.integers(0, 9)),
        st.tuples(st.just("poll"), st.just(0), st.sampled_from([1, 1, 1, 3, 30, 90])),
        st.tuples(st.just("miss"), st.just(0), st.integers(1, 70)),
        st.tuples(st.just("leave"), st.integers(1, 2), st.just(0)),
        st.tuples(st.just("join"), st.integers(1, 2), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.integers(10, 90)),
    ),
    max_size=60,
)
"""What happens to one server and its polls: action, engine, how many (requests, or seconds)."""


@given(steps=STEPS, skew=st.sampled_from([0.0, 3600.0, -3600.0]), exposed=st.booleans(), past=st.integers(0, 10_000))
@examples(300)
def test_requests_are_counted_once_over_engines_outages_and_restarts(
    steps: list[tuple[str, int, int]], skew: float, exposed: bool, past: int
) -> None:
    """The truth: what the polls of each process saw it count, from when it was followed on.

    An engine that comes up with more requests than a new one can have (`FRESH_PER_SECOND`) is followed from there on;
    one that is gone for `FORGET` seconds is forgotten, so all that is played takes less.
    """
    sidecar, restarts = Sidecar(skew), 0
    # Without a start time a process must have counted something for its end to be seen.
    server = Server(sidecar.server_clock - 5000 if exposed else None, Counter({0: past + 1000}))
    sidecar.poll(server.body())
    base, seen, before = Counter(server.counted), Counter(server.counted), 0
    known, answered = set(server.there), sidecar.at

    def poll(after: float = 1.0) -> None:
        nonlocal answered
        if not sidecar.poll(server.body(), after=after):
            return
        most = FRESH_PER_SECOND * max(1.0, sidecar.at - answered)
        old = {engine: server.counted[engine] for engine in server.there - known if server.counted[engine] > most}
        base.update(old)
        seen.update({engine: server.counted[engine] - seen[engine] for engine in server.there})
        known.update(server.there)
        answered = sidecar.at

    for action, which, number in steps:
        if sidecar.at + number + LONGEST_STEP > START + FORGET:
            break
        if action == "serve" and which in server.there:
            server.serve(which, number)
        elif action == "leave":
            if server.counted[which] > seen[which]:
                poll()  # the front end answers what no poll sees an engine finish: as requests that were given up
            server.there.discard(which)
        elif action == "join":
            server.there.add(which)
        elif action == "miss":
            for _ in range(number):
                sidecar.poll(None)
        elif action == "poll":
            poll(after=number)
        elif action == "restart":
            poll()
            before += (seen - base).total()
            server.serve(0, 3)  # after the last poll: nobody can know of them
            for _ in range(number):
                sidecar.poll(None)
            server = Server(sidecar.server_clock - 2 if exposed else None, there=set(server.there))
            sidecar.poll(server.body())
            server.serve(0, 90)
            for _ in range(3):
                sidecar.poll(server.body())
            base, seen, restarts = Counter(), Counter(server.counted), restarts + 1
            known, answered = set(server.there), sidecar.at
    expected = before + (seen - base).total()
    assert sidecar.counted() == (expected, expected)
    assert (sidecar.windows.restarts, sidecar.windows.several) == (restarts, False)


PASTS = st.sampled_from([0, 2, 40, 500, 1_000_000])


@given(
    pasts=st.lists(PASTS, min_size=2, max_size=4),
    ages=st.lists(st.integers(20, 100_000), min_size=4, max_size=4, unique=True),
    turns=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=40),
    skew=st.sampled_from([0.0, 3600.0, -3600.0]),
)
@examples(200)
def test_replicas_behind_one_address_are_never_counted_above_the_truth(
    pasts: list[int], ages: list[int], turns: list[tuple[int, int, int]], skew: float
) -> None:
    sidecar = Sidecar(skew)
    servers = [
        Server(sidecar.server_clock - age, Counter({0: past})) for past, age in zip(pasts, ages, strict=False)
    ]  # fmt: skip
    _balance(sidecar, servers, turns)


@given(
    pasts=st.permutations([1_000_000, 50_000, 700, 3]).flatmap(
        lambda pasts: st.integers(2, 4).map(lambda n: sorted(pasts[:n], reverse=True))
    ),
    turns=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=40),
)
@examples(200)
def test_so_are_replicas_without_a_start_time_of_which_the_one_that_counted_most_answers_first(
    pasts: list[int], turns: list[tuple[int, int, int]]
) -> None:
    """One that counted less may, at first, be taken for a server that suddenly did more.

    Each turn is another server's and shorter than `CONFIRM`: one that answers alone for longer is what there is.
    """
    sidecar, which = Sidecar(), 0
    servers = [Server(None, Counter({0: past})) for past in pasts]
    _balance(sidecar, servers, [(0, 2, 1)])
    for step, *turn in turns:
        which += min(step, len(servers) - 1)
        _balance(sidecar, servers, [(which, *turn)])


def _balance(sidecar: Sidecar, servers: list[Server], turns: list[tuple[int, int, int]]) -> None:
    """Let servers answer one after the other: which, how many polls, and how many requests each serves meanwhile."""
    for turn, polls, requests in turns:
        for _ in range(polls):
            for server in servers:
                server.serve(0, requests)
            sidecar.poll(servers[turn % len(servers)].body())
            assert max(sidecar.counted()) <= sum(server.served for server in servers)
            assert sidecar.windows.restarts == 0
