"""Cumulative values of servers, poll by poll -> what each server did between its polls."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.increases import CounterSeries, HistogramSeries, zero
from vllm_sidecar.tools.compare.measures import ADAPTER_POLLS, COUNTERS, GAUGES, HISTOGRAMS, KV_USAGE, POLLS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.exposition.metric_values import Histogram
    from vllm_sidecar.series.readings import Readings

SIDECAR = "sidecar+"
"""Before the address of a sidecar, where a source is named."""
Key = tuple[str, ...]
"""A signal, followed by the values of its labels beyond those of its engine."""
EngineKey = tuple[tuple[str, ...], Key]
"""The labels of an engine, and one of its series."""


class Values(NamedTuple):
    """The cumulative values of one server at one time."""

    counters: Mapping[EngineKey, float]
    histograms: Mapping[EngineKey, Histogram]
    gauges: Mapping[str, float]
    """Sums over the engines; of usages, the largest."""
    adapters: frozenset[str] | None = None
    """LoRA adapters with requests; None if they are unknown."""


class Grown(NamedTuple):
    """The observations of a histogram between two polls: counts by upper bucket bound, and their sum (or None)."""

    counts: Mapping[float, float]
    total: float | None


class Interval(NamedTuple):
    """The work of one server between two polls, over all its engines; `at` is the time of the later one.

    `seconds` are None where the time is unknown: a single body counts since the start of its server.
    """

    at: float
    seconds: float | None
    counters: Mapping[Key, float]
    histograms: Mapping[str, Grown]
    gauges: Mapping[str, float]


@dataclass
class Observation:
    """One server, or several that are compared as one, while it was observed."""

    name: str
    source: str
    intervals: list[Interval] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    """Version, models, adapters and flags."""
    notes: list[str] = field(default_factory=list)
    """Limits of the comparison that come from this source."""
    bounds: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Bucket bounds by histogram."""
    servers: int = 1
    restarts: int = 0
    """Restarts of the server that were seen."""

    @property
    def seconds(self) -> float | None:
        """The observed time, added up over servers; None if it is unknown or nothing was observed."""
        known = [each.seconds for each in self.intervals if each.seconds is not None]
        return sum(known) if known else None


class Growth:
    """Follows the series of one server from poll to poll; a series that fell has no increase at that poll."""

    def __init__(self) -> None:
        self._counters: dict[EngineKey, CounterSeries] = {}
        self._histograms: dict[EngineKey, HistogramSeries] = {}
        self._engines: frozenset[tuple[str, ...]] = frozenset()
        self._at: float | None = None

    def start_at_zero(self, values: Values, at: float) -> None:
        """Take it that all series were 0 at a time: a server counts from its start."""
        self.take(
            at, Values(dict.fromkeys(values.counters, 0.0), {k: zero(v) for k, v in values.histograms.items()}, {})
        )

    def take(self, at: float, values: Values) -> Interval | None:
        """Take the values of a poll; return the increases since the poll before, None at the first."""
        seconds = at - self._at if self._at is not None else 0.0
        counted = {**self._count(at, seconds, values.counters), **_polls(values.adapters)}
        observed = self._observe(at, seconds, values.histograms)
        first, self._at = self._at is None, at
        self._engines = frozenset(engine for engine, _ in (*values.counters, *values.histograms))
        return None if first or seconds <= 0.0 else Interval(at, seconds, counted, observed, values.gauges)

    def _count(self, at: float, seconds: float, counters: Mapping[EngineKey, float]) -> Mapping[Key, float]:
        counted: dict[Key, float] = defaultdict(float)
        for key, value in counters.items():
            series = self._counters.get(key)
            if series is None:
                # A labeled series is created at its first use; one of an engine that is new counted before.
                series = self._counters[key] = CounterSeries((0.0 if key[0] in self._engines else value,))
            grown = series.grow((value,), at, seconds)
            counted[key[1]] += grown[0] if grown else 0.0
        return counted

    def _observe(self, at: float, seconds: float, histograms: Mapping[EngineKey, Histogram]) -> Mapping[str, Grown]:
        counts: dict[str, dict[float, float]] = {}
        totals: dict[str, float | None] = {}
        for key, histogram in histograms.items():
            series = self._histograms.get(key)
            if series is None:
                series = self._histograms[key] = HistogramSeries(
                    zero(histogram) if key[0] in self._engines else histogram
                )
            seen = series.grow(histogram, at, seconds)
            name = key[1][0]
            mine = counts.setdefault(name, {})
            for bucket, count in seen.bins:
                bound = histogram.bounds[bucket] if bucket < len(histogram.bounds) else inf
                mine[bound] = mine.get(bound, 0.0) + count
            so_far = totals.get(name, 0.0)
            if seen.bins:
                totals[name] = None if so_far is None or not seen.has_sum else so_far + (seen.total or 0.0)
            else:
                totals.setdefault(name, 0.0)
        return {name: Grown(mine, totals[name]) for name, mine in counts.items()}


def values_of(readings: Readings) -> Values:
    """Return the compared values of one poll, of vLLM or of its sidecar."""
    counters: dict[EngineKey, float] = {}
    histograms: dict[EngineKey, Histogram] = {}
    gauges: dict[str, float] = {}
    for group, reading in readings.groups.items():
        if group.scope is not Scope.ENGINE:
            continue
        for key, value in reading.counters.items():
            own = key if isinstance(key, tuple) else (key,)
            if own[0] in COUNTERS:
                counters[group.labels, own] = value
        for name in HISTOGRAMS:
            if name in reading.histograms:
                histograms[group.labels, (name,)] = reading.histograms[name]
        for name in GAUGES:
            if name in reading.gauges:
                known, value = gauges.get(name, 0.0), reading.gauges[name]
                gauges[name] = max(known, value) if name == KV_USAGE else known + value
    used = readings.adapters
    return Values(counters, histograms, gauges, None if used is None else frozenset((*used.running, *used.waiting)))


def _polls(adapters: frozenset[str] | None) -> Mapping[Key, float]:
    """Return what one poll adds to the polls, and to those with an adapter."""
    return {} if adapters is None else {(POLLS,): 1.0, **{(ADAPTER_POLLS, name): 1.0 for name in adapters}}


def bounds_of(values: Values) -> dict[str, tuple[float, ...]]:
    """Return the bucket bounds that all engines of a server share, by histogram."""
    shared: dict[str, set[float]] = {}
    for (_, key), histogram in values.histograms.items():
        shared[key[0]] = shared.get(key[0], set(histogram.bounds)) & set(histogram.bounds)
    return {name: tuple(sorted(bounds)) for name, bounds in shared.items()}
