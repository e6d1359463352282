"""A small model of a vLLM server for field cases: engines, a front end, and the body of /metrics at each second.

Requests are planned when they are admitted: from the rate, the seats and the times of prefill and decode follow the
times of their first token and of their end. What goes wrong is set from outside: an engine that is `frozen` does
nothing and keeps its gauges, one that is `deaf` never sees what arrives.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
REQUEST = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
HISTOGRAMS: Mapping[str, tuple[float, ...]] = {
    "time_to_first_token_seconds": TTFT,
    "inter_token_latency_seconds": ITL,
    "request_time_per_output_token_seconds": ITL,
    "e2e_request_latency_seconds": REQUEST,
    "request_queue_time_seconds": REQUEST,
    "request_prefill_time_seconds": REQUEST,
    "request_decode_time_seconds": REQUEST,
    "request_inference_time_seconds": REQUEST,
    "request_prompt_tokens": TOKENS,
    "request_generation_tokens": TOKENS,
    "iteration_tokens_total": TOKENS,
}
REASONS = ("stop", "length", "abort", "error")
ALMOST_NO_WAIT = 0.0005
"""What the queue time of a request that did not wait is."""


class Histogram:
    """Cumulative counts of the buckets of one histogram."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def rows(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield suffix, further labels and value of each sample."""
        below = 0
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            yield "_bucket", {"le": bound}, below
        yield "_count", {}, below
        yield "_sum", {}, self.sum


@dataclass
class Request:
    """An admitted request, with the times that follow from its admission."""

    arrived: float
    scheduled: float
    first: float
    end: float
    tokens: int = 0


@dataclass(eq=False)
class Engine:
    """One engine; `rate` is requests a second, `kv_each` the share of the KV cache that a request holds."""

    labels: Mapping[str, str]
    rate: float = 2.0
    prompt: int = 400
    answer: int = 100
    step: float = 0.02
    prefill: float = 0.06
    seats: int = 64
    kv_each: float = 0.01
    kv_held: float = 0.0
    """Share of the KV cache that nobody gives back."""
    frozen: bool = False
    deaf: bool = False
    now: float = 0.0
    waiting: list[float] = field(default_factory=list)
    """When each arrived."""
    running: list[Request] = field(default_factory=list)
    shown: tuple[int, int, float] = (0, 0, 0.0)
    """Running, waiting and KV usage as the last step wrote them."""
    reasons: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(
        ("prompt_tokens", "generation_tokens", "num_preemptions", "prefix_cache_queries", "prefix_cache_hits"), 0))  # fmt: skip
    histograms: dict[str, Histogram] = field(default_factory=lambda: {x: Histogram(b) for x, b in HISTOGRAMS.items()})
    _owed: float = 0.0
    _busy_until: list[float] = field(default_factory=list)
    """Heap of the ends of the requests that have a seat."""

    @property
    def finished(self) -> int:
        """Requests that finished so far."""
        return sum(self.reasons.values())

    def advance(self, until: float) -> int:
        """Live until a time; return how many requests arrived."""
        arrivals = list(self._arrivals(until))
        lost, self.now = until - self.now, until
        if not self.deaf:
            self.waiting += arrivals
        if self.frozen:
            self._push_back(lost)
            return len(arrivals)
        self._admit()
        moved = sum(map(self._work, list(self.running)))
        if moved:
            self.histograms["iteration_tokens_total"].observe(moved)
        if moved or self.running or self.waiting or not self.deaf:
            self.publish()
        return len(arrivals)

    def publish(self) -> None:
        """Write the gauges, as a step does."""
        used = min(1.0, len(self.running) * self.kv_each + self.kv_held)
        self.shown = (len(self.running), len(self.waiting), used)

    def _arrivals(self, until: float) -> Iterator[float]:
        self._owed += self.rate * (until - self.now)
        count, self._owed = int(self._owed), self._owed % 1.0
        for number in range(count):
            yield self.now + (until - self.now) * (number + 1) / (count + 1)

    def _push_back(self, seconds: float) -> None:
        """Put off all that was planned: no step was done."""
        for request in self.running:
            request.first += seconds * (request.tokens == 0)
            request.end += seconds
        self._busy_until = [end + seconds for end in self._busy_until]

    def _admit(self) -> None:
        while self.waiting:
            full = len(self._busy_until) >= self.seats
            scheduled = max(self.waiting[0], self._busy_until[0] if full else 0.0)
            if scheduled > self.now:
                return
            if full:
                heapq.heappop(self._busy_until)
            first = scheduled + self.prefill
            request = Request(self.waiting.pop(0), scheduled, first, first + max(0, self.answer - 1) * self.step)
            heapq.heappush(self._busy_until, request.end)
            self.running.append(request)
            self.counters["prefix_cache_queries"] += self.prompt
            self.counters["prefix_cache_hits"] += self.prompt // 4

    def _work(self, request: Request) -> int:
        """Do what was due of one request; return the tokens that it took."""
        moved = 0
        if request.first > self.now:
            return 0
        if not request.tokens and self.answer:
            moved, request.tokens = 1, 1
        due = min(self.answer, 1 + int((self.now - request.first) / self.step + 1e-6)) if self.answer else 0
        gaps, request.tokens = max(0, due - max(1, request.tokens)), max(due, request.tokens)
        self.histograms["inter_token_latency_seconds"].observe(self.step, gaps)
        if moved or not self.answer:
            self.histograms["time_to_first_token_seconds"].observe(request.first - request.arrived)
            self.counters["prompt_tokens"] += self.prompt
            moved += self.prompt
        self.counters["generation_tokens"] += gaps + (moved > 0 and self.answer > 0)
        if request.end <= self.now:
            self._finish(request)
        return moved + gaps

    def _finish(self, request: Request) -> None:
        self.running.remove(request)
        self.reasons["stop"] += 1
        decode = request.end - request.first
        for name, value in (
            ("e2e_request_latency_seconds", request.end - request.arrived),
            ("request_queue_time_seconds", max(ALMOST_NO_WAIT, request.scheduled - request.arrived)),
            ("request_prefill_time_seconds", self.prefill),
            ("request_decode_time_seconds", decode),
            ("request_inference_time_seconds", request.end - request.scheduled),
            ("request_prompt_tokens", self.prompt),
            ("request_generation_tokens", self.answer),
            ("request_time_per_output_token_seconds", self.step if self.answer > 1 else 0.0),
        ):
            self.histograms[name].observe(value)

    def families(self) -> Iterator[tuple[str, str, list[tuple[str, dict[str, str], float]]]]:
        """Yield name, type and rows (suffix, further labels, value) of each family."""
        gauges = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        for name, value in zip(gauges, self.shown, strict=True):
            yield name, "gauge", [("", {}, value)]
        for name, value in self.counters.items():
            yield name, "counter", [("_total", {}, value)]
        ends = [("_total", {"finished_reason": reason}, float(count)) for reason, count in self.reasons.items()]
        yield "request_success", "counter", ends
        for name, histogram in self.histograms.items():
            yield name, "histogram", list(histogram.rows())


@dataclass(eq=False)
class FrontEnd:
    """What the API server says of itself: HTTP counters, open files and the start of its process."""

    started: float
    handler: str = "/v1/chat/completions"
    files: float = 36.0
    posts: int = 0
    """Requests that were answered."""
    open: int = 0
    """Requests that are not, each on a connection of its own."""

    def text(self) -> str:
        """Write its part of the body."""
        return (
            '# TYPE python_info gauge\npython_info{implementation="CPython",major="3",minor="12"} 1.0\n'
            f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {self.started!r}\n"
            f"# TYPE process_open_fds gauge\nprocess_open_fds {self.files + self.open!r}\n"
            "# TYPE http_requests_total counter\n"
            f'http_requests_total{{handler="{self.handler}",method="POST",status="2xx"}} {float(self.posts)!r}\n'
        )


@dataclass(eq=False)
class World:
    """Engines and their front end; `script` is asked before each second what changes.

    Requests come in with the engines of `enters` and are answered with those of `leaves`: all, unless said.
    """

    engines: list[Engine]
    front: FrontEnd | None = None
    script: Callable[[World, float], None] | None = None
    enters: tuple[Engine, ...] = ()
    leaves: tuple[Engine, ...] = ()
    skip: frozenset[str] = frozenset()
    """Families that this server does not have."""
    before: Callable[[World], str] = lambda _: ""
    after: Callable[[World], str] = lambda _: ""
    """Further text of the body, before and after the families of the engines."""
    fault: float | None = None
    """When it fell ill; None while it is well. The script says so."""

    def advance(self, now: float) -> None:
        """Live until a time."""
        if self.script:
            self.script(self, now)
        for engine in self.engines:
            before = engine.finished
            arrived = engine.advance(now)
            if self.front and engine in (self.enters or self.engines):
                self.front.open += arrived
            if self.front and engine in (self.leaves or self.engines):
                self.front.posts += engine.finished - before
                self.front.open -= engine.finished - before

    @property
    def finished(self) -> int:
        """Requests that were finished so far."""
        return sum(engine.finished for engine in self.leaves or self.engines)

    def body(self) -> str:
        """Return what /metrics shows now."""
        front = self.front.text() if self.front else ""
        return front + self.before(self) + exposition(self.engines, self.skip) + self.after(self)


def exposition(engines: Iterable[Engine], skip: frozenset[str] = frozenset()) -> str:
    """Write the families of engines, each with one TYPE line."""
    families: dict[tuple[str, str], list[str]] = {}
    for engine in engines:
        for name, kind, rows in engine.families():
            if name not in skip:
                lines = families.setdefault((name, kind), [])
                lines += [f"vllm:{name}{suffix}{_text({**engine.labels, **more})} {float(value)!r}\n"
                          for suffix, more, value in rows]  # fmt: skip
    heads = ((name + "_total" if kind == "counter" else name, kind, lines) for (name, kind), lines in families.items())
    return "".join(f"# TYPE vllm:{name} {kind}\n{''.join(lines)}" for name, kind, lines in heads)


def _text(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""
