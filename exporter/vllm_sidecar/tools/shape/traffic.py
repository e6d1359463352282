"""Successive polls of servers -> the work of each engine between two polls."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.readings import TARGET
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.series.window import EMPTY, between

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vllm_sidecar.quantiles import Observed
    from vllm_sidecar.series.readings import Reading, Readings

    Poll = tuple[float, Reading]

PROMPTS, OUTPUTS = "request_prompt_tokens", "request_generation_tokens"
MAX_TOKENS, COMPUTED = "request_params_max_tokens", "request_prefill_computed_tokens"
TTFT, ITL = "time_to_first_token_seconds", "inter_token_latency_seconds"
HISTOGRAMS = (PROMPTS, OUTPUTS, MAX_TOKENS, COMPUTED, TTFT, ITL)
FINISHED = "requests_finished_total"
HITS, QUERIED = "prefix_cache_hit_tokens_total", "prefix_cache_queried_tokens_total"
RUNNING, WAITING = "requests_running", "requests_waiting"
HTTP = "http_requests_total"
READ = (
    *HISTOGRAMS,
    *(FINISHED, HITS, QUERIED, RUNNING, WAITING, HTTP),
    *("lora_adapter_active", "config_block_size_tokens"),
)  # fmt: skip
"""Signals of a sidecar that a shape reads."""
LONGEST_GAP = 60.0
"""Seconds without a poll after which counters no longer show when something happened."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The work of one engine between two successive polls."""

    model: str
    engine: tuple[int, str]
    """Number of the server, and the engine's label."""
    began: float
    """Seconds since the first poll of the traffic; so is `ended`."""
    ended: float
    open_before: float | None
    """Requests running and waiting; None where the server does not expose both."""
    open_after: float | None
    finished: Mapping[str, float]
    """Finished requests by reason."""
    observed: Mapping[str, Observed]
    """New observations of histograms; those that are unknown are missing."""
    hits: float | None
    queried: float | None

    def count(self, name: str) -> float:
        """Return how many values a histogram observed."""
        found = self.observed.get(name)
        return sum(count for _, count in found.bins) if found else 0.0

    @property
    def ended_requests(self) -> float:
        """Requests that ended with a result."""
        return max(self.count(PROMPTS), sum(self.finished.values()))


@dataclass
class Traffic:
    """The work of all engines of one model in a window."""

    source: str
    origin: float | None = None
    """Time of the first poll on the clock of the source; all other times are seconds since then."""
    started: float | None = None
    """Unix time of the first poll."""
    seconds: float = 0.0
    polls: int = 0
    failed: int = 0
    restarts: int = 0
    intervals: list[Interval] = field(default_factory=list)
    """In order of their end."""
    bounds: dict[str, tuple[float, ...]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    endpoints: Counter[str] = field(default_factory=Counter)
    """Answers by HTTP route."""
    adapters: Counter[str] = field(default_factory=Counter)
    """Polls at which an adapter had requests."""
    adapter_polls: int = 0
    """Polls that exposed the adapters, if only as none."""
    answer_sizes: list[tuple[float, float]] = field(default_factory=list)
    """Number and bytes of the answers of a route between two polls."""
    block_size: int | None = None
    max_model_len: int | None = None
    notes: list[str] = field(default_factory=list)
    """Limits of the source."""

    def only(self, model: str) -> Traffic:
        """Return the traffic of one model."""
        return replace(self, models={model}, intervals=[each for each in self.intervals if each.model == model])

    def observed(self, name: str) -> list[Observed]:
        """Return all observations of a histogram, poll by poll."""
        return [found for each in self.intervals if (found := each.observed.get(name)) and found.bins]


class ServerFollower:
    """Adds the polls of one server to the traffic; restarts and resets are those that the sidecar detects."""

    def __init__(self, traffic: Traffic, number: int, *, longest_gap: float, since: float = 0.0) -> None:
        """`longest_gap` is in seconds; what ended before `since` is left out."""
        self._traffic, self._number, self._since = traffic, number, since
        self._windows = WindowStore(0.0, 0.0)
        self._windows.expect(longest_gap / 2.0)
        self._changed_bounds: set[str] = set()

    def missed(self) -> None:
        """Note a poll without an answer."""
        self._windows.missed()

    def take(self, at: float, readings: Readings, clock: float | None = None) -> None:
        """Take one poll; `at` is in seconds since the start of the source.

        Raises:
            PollError: Several servers answer at the address.
        """
        change = self._windows.append(at, readings, clock)
        traffic = self._traffic
        if at < self._since:
            return
        traffic.origin = at if traffic.origin is None else traffic.origin
        traffic.polls += 1
        traffic.restarts += change.restarted
        self._note_server(readings)
        for group, window in self._windows.of(Scope.ENGINE).items():
            traffic.models.add(group.labels[0])
            polls = [(time, stored.reading()) for time, stored in window.current()]
            if len(polls) == 2 and polls[0][0] >= self._since:
                traffic.intervals.append(self._interval(group.labels, polls[0], polls[1]))
        self._count_endpoints()

    def _note_server(self, readings: Readings) -> None:
        sizes = {each["block_size"] for each in readings.cache_config.values() if each.get("block_size", "").isdigit()}
        self._traffic.block_size = max(map(int, sizes), default=self._traffic.block_size)
        if readings.adapters is not None:
            self._traffic.adapter_polls += 1
            self._traffic.adapters.update({*readings.adapters.running, *readings.adapters.waiting})

    def _interval(self, labels: tuple[str, ...], before: Poll, after: Poll) -> Interval:
        (began, old), (ended, new) = before, after
        observed = {}
        for name in HISTOGRAMS:
            histogram = new.histograms.get(name)
            if histogram is None or self._traffic.bounds.setdefault(name, histogram.bounds) != histogram.bounds:
                if histogram is not None:
                    self._note_bounds(name)
                continue
            found = between(old.histograms.get(name), histogram)
            if found is not None:
                observed[name] = found
        first = self._traffic.origin or 0.0
        return Interval(
            labels[0],
            (self._number, labels[1]),
            began - first,
            ended - first,
            _open(old),
            _open(new),
            {reason: grown for (reason,), grown in _grown(old, new, FINISHED) if grown > 0.0},
            observed,
            _increase(old, new, HITS),
            _increase(old, new, QUERIED),
        )

    def _note_bounds(self, name: str) -> None:
        if name not in self._changed_bounds:
            self._changed_bounds.add(name)
            self._traffic.notes.append(
                f"{name} of engines with other bucket bounds than the first: their requests are left out"
            )

    def _count_endpoints(self) -> None:
        window = self._windows.get(TARGET)
        for (handler, method, _), grown in (window.increases(HTTP) if window else {}).items():
            if method == "POST" and handler.startswith("/v1/") and grown > 0.0:
                self._traffic.endpoints[handler] += round(grown)


def _open(reading: Reading) -> float | None:
    if reading is EMPTY:  # before the first request of an engine
        return 0.0
    running, waiting = reading.gauges.get(RUNNING), reading.gauges.get(WAITING)
    return None if running is None or waiting is None else running + waiting


def _grown(old: Reading, new: Reading, counter: str) -> Iterator[tuple[tuple[str, ...], float]]:
    for key, value in new.counters.items():
        if isinstance(key, tuple) and key[0] == counter:
            yield key[1:], value - old.counters.get(key, 0.0)


def _increase(old: Reading, new: Reading, counter: str) -> float | None:
    value = new.counters.get(counter)
    return None if value is None else max(0.0, value - old.counters.get(counter, 0.0))
