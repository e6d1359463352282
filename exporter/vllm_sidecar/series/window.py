"""Windows of readings on a monotonic clock: increases, extents and gaps.

A window never spans a process restart, a counter reset or a gap: `WindowStore` starts a new one. Within a window
counters only grow, so an increase is the difference of its ends.

Memory: a window stores every poll of its length and, older than that, one poll per `COARSE` seconds of its history,
compressed: with the defaults 60 + 48 readings, about 0.2 MiB per engine under load. Polls without a change use none.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from operator import sub
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.quantiles.buckets import Observed
from vllm_sidecar.series.progress import ProgressTracker
from vllm_sidecar.series.readings import Reading
from vllm_sidecar.series.step_costs import StepCosts
from vllm_sidecar.series.stored_reading import StoredReading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vllm_sidecar.series.readings import Key

COARSE = 5.0
"""Seconds between the polls that are stored beyond the window, for charts."""

Made = TypeVar("Made")

EMPTY = Reading({}, {}, {})
NOT_POLLED = StoredReading.of(EMPTY)
NOTHING = Observed((), None)


class Increase(NamedTuple):
    """The observations of a histogram during a window."""

    bounds: tuple[float, ...]
    counts: list[float]
    """Observations per bucket, not cumulative (n + 1)."""
    observations: float
    total: float | None
    """Their sum; None if the server's `_sum` fell (a negative observation) or does not exist."""


class Extent(NamedTuple):
    """Largest, mean, first and last value of a gauge over the polls of a window."""

    peak: float
    mean: float
    first: float
    last: float


class Window:
    """The recent readings of one group since the last restart, reset or gap."""

    def __init__(self, length: float, keep: float) -> None:
        self._length = length
        self._keep = keep
        self._polls: deque[tuple[float, StoredReading]] = deque()
        self._older: deque[tuple[float, StoredReading]] = deque()
        self._base = NOT_POLLED
        self._values: dict[Key, deque[float | None]] = {}
        self._extents: dict[Key, Extent | None] = {}
        self._increases: dict[str, Increase | None] = {}
        self._observed_by_poll: dict[str, deque[Observed | None]] = {}
        self._made: dict[str, tuple[Histogram | None, Histogram | None, object]] = {}
        self._labelled: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
        self._indexed = 0
        self._torn_at: float | None = None
        self.latest = EMPTY
        """The newest reading."""
        self.now = 0.0
        """Monotonic time of the newest reading."""
        self.seconds = 0.0
        """Time between the first and the last reading of the window; 0 after the first poll."""
        self.polls = 0
        """Number of readings in the window."""
        self.progress = ProgressTracker()
        """State from poll to poll."""
        self.step_costs = StepCosts()
        """The durations of an engine's steps, learned beyond the window."""

    @property
    def oldest(self) -> StoredReading:
        """The first reading of the window."""
        return self._base

    def current(self) -> Iterable[tuple[float, StoredReading]]:
        """Return the readings of the window, oldest first, with their monotonic times."""
        return self._polls

    def history(self) -> Iterator[tuple[float, StoredReading]]:
        """Yield all stored readings, oldest first, with their monotonic times."""
        yield from self._older
        yield from self._polls

    def append(self, at: float, reading: Reading) -> None:
        """Take a newer reading."""
        polls = self._polls
        polls.append((at, polls[-1][1].followed_by(reading) if polls else StoredReading.of(reading)))
        for gauge, values in self._values.items():
            values.append(reading.gauges.get(gauge))
        for name, seen in self._observed_by_poll.items():
            seen.append(between(self.latest.histograms.get(name), reading.histograms.get(name)))
        if not self.latest.histograms.keys() <= reading.histograms.keys():
            self._torn_at = at
        self.latest, self.now = reading, at
        self._cut()
        self.progress.follow(at, reading, polls[0][0])
        self.step_costs.follow(at, reading)

    def resize(self, length: float, keep: float) -> None:
        """Rebuild the window from the stored polls; polls that were thinned out do not return."""
        self._length, self._keep = length, keep
        self._polls, self._older = deque(self.history()), deque()
        self._values.clear()
        self._observed_by_poll.clear()
        self._made.clear()
        if self._polls:
            self._cut()

    def _cut(self) -> None:
        """Drop polls that are older than the window, and the values computed from them."""
        polls, older = self._polls, self._older
        while len(polls) > 2 and polls[1][0] <= self.now - self._length:
            oldest = polls.popleft()
            for values in self._values.values():
                values.popleft()
            for seen in self._observed_by_poll.values():
                seen.popleft()
            if not older or oldest[0] - older[-1][0] >= COARSE:
                older.append((oldest[0], oldest[1].compressed()))
        while older and older[0][0] < self.now - self._keep:
            older.popleft()
        start, self._base = polls[0]
        self.seconds, self.polls = self.now - start, len(polls)
        self._extents.clear()
        self._increases.clear()

    def increase(self, key: Key) -> float | None:
        """Return the increase of a counter during the window; None if it is not exposed, or after one poll only.

        A counter that appeared during the window began at 0: prometheus_client creates labeled series at their first
        use.
        """
        value = self.latest.counters.get(key)
        return None if value is None or self.polls < 2 else value - (self._base.counter(key) or 0.0)

    def increases(self, signal: str) -> dict[tuple[str, ...], float]:
        """Return the increases of all series of a labeled counter by label values; empty without series."""
        if self.polls < 2:
            return {}
        now, base = self.latest.counters, self._base
        return {labels: now[key] - (base.counter(key) or 0.0) for key, labels in self._series(signal) if key in now}

    def _series(self, signal: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Keys of a labeled counter, each with its label values."""
        counters = self.latest.counters
        if len(counters) != self._indexed:  # series appear, and may be left out of a body
            self._labelled.clear()
            self._indexed = len(counters)
            for key in counters:
                if isinstance(key, tuple):
                    self._labelled.setdefault(key[0], []).append((key, key[1:]))
        return self._labelled.get(signal, [])

    def increase_since(self, at: float, key: Key) -> float | None:
        """Return the increase of a counter since the last reading not after `at` (or since the oldest one)."""
        value = self.latest.counters.get(key)
        if value is None:
            return None
        base: StoredReading | None = None
        for time, reading in self.history():
            if base is not None and time > at:
                break
            base = reading
        return value - ((base.counter(key) if base else None) or 0.0)

    def observed(self, name: str) -> Increase | None:
        """Return the observations of a histogram during the window; None if unknown.

        They are unknown if the server does not expose it, after one poll only, if bounds changed or a bucket fell, and
        in a window that begins where a body left out the histogram.
        """
        if name not in self._increases:
            self._increases[name] = self._observed(name)
        return self._increases[name]

    def _observed(self, name: str) -> Increase | None:
        new = self.latest.histograms.get(name)
        if new is None or self.polls < 2:
            return None
        old = self._base.histogram(name)
        if old == new:
            return Increase(new.bounds, [0.0] * len(new.cumulative), 0.0, 0.0 if new.total is not None else None)
        if old is None:
            if self._torn_at is not None and self._torn_at >= self.now - self.seconds:
                return None
            old = Histogram(new.bounds, (0.0,) * len(new.cumulative), 0.0)
        elif old.bounds != new.bounds:
            return None
        grown = list(map(sub, new.cumulative, old.cumulative))
        counts = [grown[0], *map(sub, grown[1:], grown)]
        if min(counts) < 0.0:
            return None
        total = new.total - old.total if new.total is not None and old.total is not None else None
        # Negative observations make a sum fall (queue times of streaming input), which makes its mean meaningless.
        return Increase(new.bounds, counts, grown[-1], total if total is not None and total >= 0.0 else None)

    def observed_by_poll(self, name: str) -> list[Observed]:
        """Return the observations of a histogram between successive polls, oldest first, without empty polls.

        They add up to `observed`; empty where that is None.
        """
        whole = self.observed(name)
        if whole is None:
            return []
        seen = self._observed_by_poll.get(name)
        if seen is None:  # updated from now on, as with `values`
            found = [reading.histogram(name) for _, reading in self._polls]
            seen = self._observed_by_poll[name] = deque(map(between, found, found[1:]))
        polls = [poll for poll in seen if poll is None or poll.bins]
        if None in polls:  # left out of a body, or a bucket that fell and rose again: only the total is known
            bins = tuple([(bucket, count) for bucket, count in enumerate(whole.counts) if count > 0.0])
            return [Observed(bins, whole.total)]
        return polls  # type: ignore[return-value]

    def each_once(self, names: Sequence[str], make: Callable[[Sequence[str]], Iterable[Made]]) -> dict[str, Made]:
        """Return the result of `make` for each histogram's observations, calling it once for all that have changed.

        Unchanged results are reused: if both ends are the same, only polls without observations came or went.
        """
        ends = {name: (self._base.histogram(name), self.latest.histograms.get(name)) for name in names}
        changed = [name for name, (base, latest) in ends.items() if not self._is_made_of(name, base, latest)]
        if changed:
            for name, made in zip(changed, make(changed), strict=True):
                self._made[name] = (*ends[name], made)
        return {name: cast("Made", self._made[name][2]) for name in names}

    def _is_made_of(self, name: str, base: Histogram | None, latest: Histogram | None) -> bool:
        known = self._made.get(name)
        return known is not None and known[0] == base and known[1] == latest

    def values(self, gauge: Key) -> Sequence[float | None]:
        """Return a gauge at each poll of the window, oldest first; None at polls without it."""
        values = self._values.get(gauge)
        if values is None:  # updated from now on: a value that is used once is used at every poll
            values = self._values[gauge] = deque(reading.gauge(gauge) for _, reading in self._polls)
        return values

    def extent(self, gauge: Key) -> Extent | None:
        """Return the extent of a gauge over the polls that have it; None if the newest does not."""
        if gauge not in self._extents:
            self._extents[gauge] = self._extent(gauge)
        return self._extents[gauge]

    def _extent(self, gauge: Key) -> Extent | None:
        if gauge not in self.latest.gauges:
            return None
        values = [value for value in self.values(gauge) if value is not None]
        return Extent(max(values), sum(values) / len(values), values[0], values[-1])


FEW = 2
"""Most buckets of a poll whose bins are shared: those of one or two requests occur again, those of busy polls never."""


@lru_cache(maxsize=1024)
def _shared(bins: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    """Return the same object for equal bins."""
    return bins


def between(old: Histogram | None, new: Histogram | None) -> Observed | None:
    """Return the observations of a histogram between two readings; None if unknown."""
    if new == old:
        return NOTHING
    if new is None:
        return None
    if old is None:
        old = Histogram(new.bounds, (0.0,) * len(new.cumulative), 0.0)
    if old.bounds != new.bounds:
        return None
    bins, below = [], 0.0
    for bucket, grown in enumerate(map(sub, new.cumulative, old.cumulative)):
        if grown != below:
            if grown < below:
                return None
            bins.append((bucket, grown - below))
            below = grown
    total = new.total - old.total if new.total is not None and old.total is not None else None
    found = _shared(tuple(bins)) if len(bins) <= FEW else tuple(bins)
    return Observed(found, total if total is not None and total >= 0.0 else None)
