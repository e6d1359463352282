"""A server with clients, second by second, of which only what `/metrics` and `/load` show reaches the windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from readings import ENGINE, START, TARGET, histogram, readings

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.derive.inputs import DeriveSettings, EngineInputs, ServerInputs
from vllm_sidecar.derive.stalls import clients_left, gauges_stale, stall_corroborated, stalled
from vllm_sidecar.series.store import WindowStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_sidecar.series.readings import Group

COMPLETIONS = ("http_requests_total", "/v1/completions", "POST", "2xx")
FILES = 36.0
PAGE = 150.0
"""The alert waits for half a minute, so that it pages within stall_after and a minute."""


@dataclass
class Backend:
    """One engine: what it works at, and what its gauges say, which only a step writes."""

    open: list[list[float]] = field(default_factory=list)
    """Requests that it works at: when each arrived, and when it is done."""
    left: list[float] = field(default_factory=list)
    """When it notices of requests that their clients have left: it goes on with them until then."""
    finished: float = 0
    tokens: float = 0
    usage: float = 0.0
    running: float = 0
    waiting: float = 0
    hung: bool = False
    deaf: bool = False
    """Nothing that arrives reaches it."""
    more: dict[object, float] = field(default_factory=dict)
    """Other gauges."""

    def step(self, at: float) -> float:
        """Work for a second; return how many requests finished."""
        if self.hung:
            return 0
        done = [request for request in self.open if request[1] <= at]
        self.open = [request for request in self.open if request[1] > at]
        self.left = [noticed for noticed in self.left if noticed > at]
        self.finished += len(done)
        inside = len(self.open) + len(self.left)
        self.tokens += 50 * (inside + len(done))
        if inside or done:  # else there is no step, and the gauges stay at what they were
            self.running, self.usage = inside, 0.01 * inside
        return len(done)

    def poll(self) -> dict:
        """Return what its part of `/metrics` says."""
        return {
            "requests_running": self.running,
            "requests_waiting": self.waiting,
            "kv_cache_usage_ratio": self.usage,
            "generation_tokens_total": self.tokens,
            "prompt_tokens_total": 10 * self.finished,
            ("requests_finished_total", "stop"): self.finished,
            ("requests_finished_total", "abort"): 0,
            "time_to_first_token_seconds": histogram(self.finished, 0, 0, 0),
            **self.more,
        }


class Clients:
    """Clients that send requests at a steady rate, and leave when they have waited for too long."""

    def __init__(
        self,
        engines: Mapping[Group, Backend] | None = None,
        *,
        rate: float = 1.0,
        seconds: float = 3.0,
        patience: float = inf,
        shows: str = "posts files",
    ) -> None:
        self.engines = dict(engines or {ENGINE: Backend()})
        self.rate, self.seconds, self.patience, self.shows = rate, seconds, patience, shows.split()
        self.posts, self.load, self.idle_files = 500.0, 0.0, 0.0
        """Requests that ended, what /load says, and connections without a request."""
        self.http: dict[object, float] = {}
        """Other HTTP counters."""
        self._owed = 0.0
        self._turn = 0
        self._stuck: list[float] = []
        """When those arrived that no engine works at."""
        self.windows = WindowStore(60.0, 300.0)
        self.at = 0.0
        for backend in self.engines.values():
            backend.finished = 500 / len(self.engines)

    @property
    def open(self) -> int:
        """Requests that clients wait for."""
        return len(self._stuck) + sum(len(backend.open) for backend in self.engines.values())

    def second(self) -> None:
        """Live for a second and poll."""
        self.at += 1.0
        self._owed += self.rate
        while self._owed >= 1.0:
            self._owed -= 1.0
            self._arrive()
        self.posts += sum(backend.step(self.at) for backend in self.engines.values())
        late = self.at - self.patience
        gone = [arrived for arrived in self._stuck if arrived <= late]
        self._stuck = [arrived for arrived in self._stuck if arrived > late]
        for backend in self.engines.values():
            if backend.hung:
                gone += [arrived for arrived, _ in backend.open if arrived <= late]
                backend.open = [request for request in backend.open if request[0] > late]
        self.posts += len(gone)
        self.load = float(self.open)
        self.poll()

    def _arrive(self) -> None:
        backends = [backend for backend in self.engines.values() if not backend.hung or len(self.engines) == 1]
        self._turn += 1
        backend = backends[self._turn % len(backends)]
        if backend.deaf or backend.hung:
            self._stuck.append(self.at)
        else:
            backend.open.append([self.at, self.at + self.seconds])

    def abort(self) -> None:
        """Let all clients leave at once: the engines do no further step, so their gauges stay."""
        self.posts += self.open
        self._stuck, self.rate = [], 0.0
        for backend in self.engines.values():
            backend.open = []

    def cancel(self, noticed: float) -> None:
        """Let one client leave, which its engine notices after some seconds."""
        for backend in self.engines.values():
            if backend.open:
                backend.open.pop()
                backend.left.append(self.at + noticed)
                self.posts += 1
                return

    def poll(self) -> None:
        """Hand what `/metrics` and `/load` show to the windows."""
        front: dict = dict(self.http)
        if "posts" in self.shows:
            front[COMPLETIONS] = self.posts
        if "files" in self.shows:
            front["server_open_fds"] = FILES + self.open + self.idle_files
        groups = {group: backend.poll() for group, backend in self.engines.items()}
        self.windows.in_flight = self.load if "load" in self.shows else None
        self.windows.append(START + self.at, readings({**groups, TARGET: front} if front else groups))

    def run(self, seconds: float, each: Callable[[float], object] | None = None) -> None:
        """Live for some seconds; `each` gets those that have passed before every one."""
        for passed in range(int(seconds)):
            if each:
                each(float(passed))
            self.second()

    def view(self, group: Group = ENGINE, **facts: object) -> EngineInputs:
        """Return the view of an engine after the last poll."""
        engines = {found.labels: window for found, window in self.windows.of(Scope.ENGINE).items()}
        load = self.windows.in_flight
        made = ServerInputs(
            self.windows.get(TARGET), {}, None, load, DeriveSettings(**facts), engines, None, self.windows.front_end  # type: ignore[arg-type]
        )  # fmt: skip
        return EngineInputs(group.labels[0], engines[group.labels], made)

    def says(self, group: Group = ENGINE) -> str:
        """Return what the sidecar says of an engine: stalled, idle (its clients left), stale or fine."""
        view = self.view(group)
        if stalled(view):
            return "stalled"
        return "idle" if clients_left(view) else "stale" if gauges_stale(view) else "fine"

    def when(self, seconds: float, group: Group = ENGINE, each: Callable[[float], object] | None = None) -> dict:
        """Live for some seconds; return after how many each verdict came first."""
        found: dict[str, float] = {}
        for passed in range(int(seconds)):
            if each:
                each(float(passed))
            self.second()
            found.setdefault(self.says(group), passed + 1.0)
        return found


def busy(**more: object) -> Clients:
    """Return a server that has worked for two minutes."""
    made = Clients(**more)  # type: ignore[arg-type]
    made.run(120)
    return made


def corroborated(server: Clients, group: object = ENGINE) -> set[str]:
    return {name for name, said in stall_corroborated(server.view(group)).items() if said}  # type: ignore[arg-type]


def asleep(backend: Backend) -> None:
    backend.more[("engine_sleep_state", "weights_offloaded")] = 1.0
