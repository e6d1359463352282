"""Stage 4: rings of readings on a monotonic clock; increases, extents and the age of the last progress.

A window never reaches over a restart or a gap: `Windows` begins anew there. Within a window counters only grow, so
an increase is the difference of its ends.

Memory: a window keeps every poll of its length and, older than that, one poll each `COARSE` seconds for as long as
it keeps
history: with the defaults 60 + 48 readings of about 8 KiB under load, so below 1 MiB per engine. What did not change
between two polls is the same object and costs nothing.
"""

from __future__ import annotations

from collections import deque
from operator import sub
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.model import Reading, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vllm_sidecar.model import Group, Key, Readings

COARSE = 5.0
"""Seconds between the polls that are kept beyond the window, for charts."""

HEARTBEAT_COUNTERS = ("generation_tokens_total", "prompt_tokens_total")
HEARTBEAT_GAUGES = ("kv_cache_usage_ratio",)
HEARTBEAT_HISTOGRAMS = ("iteration_tokens", "request_seconds")
"""What changes when the engine gets something done. No single one will do: the histogram of engine steps does not
see a step without output, such as a part of a long prompt; KV usage does."""

EMPTY = Reading({}, {}, {})


class Increase(NamedTuple):
    """What was observed in a histogram during a window."""

    bounds: tuple[float, ...]
    counts: list[float]
    """Observations per bucket, not cumulative (n + 1)."""
    observations: float
    total: float | None
    """Their sum; None where the server's `_sum` fell (a negative observation) or there is none."""


class Extent(NamedTuple):
    """Largest and mean value of a gauge over the polls of a window, and its first and last."""

    peak: float
    mean: float
    first: float
    last: float


class Window:
    """The recent readings of one group within one life of the server."""

    def __init__(self, length: float, keep: float) -> None:
        self._length = length
        self._keep = keep
        self._polls: deque[tuple[float, Reading]] = deque()
        self._older: deque[tuple[float, Reading]] = deque()
        self._extents: dict[Key, Extent | None] = {}
        self._increases: dict[str, Increase | None] = {}
        self._labelled: dict[str, list[tuple[str, ...]]] = {}
        self._indexed = 0
        self._heartbeat: tuple[float | None, ...] = ()
        self._first_tokens: float | None = None
        self.progress_at = 0.0
        """Monotonic time of the last change of the heartbeat."""
        self.waiting_at_progress = 0.0
        """Requests that waited then."""
        self.admission_at = 0.0
        """Monotonic time of the last admission: a first token came, or more requests ran."""
        self.waiting_since: float | None = None
        """Since when requests have been waiting without a break; None while none waits."""

    @property
    def latest(self) -> Reading:
        """The newest reading."""
        return self._polls[-1][1]

    @property
    def now(self) -> float:
        """Monotonic time of the newest reading."""
        return self._polls[-1][0]

    @property
    def seconds(self) -> float:
        """Time between the first and the last reading of the window; 0 after the first poll."""
        return self._polls[-1][0] - self._polls[0][0]

    @property
    def polls(self) -> int:
        """Number of readings in the window."""
        return len(self._polls)

    def current(self) -> Iterable[tuple[float, Reading]]:
        """Return the readings of the window, oldest first, with their monotonic times."""
        return self._polls

    def history(self) -> Iterator[tuple[float, Reading]]:
        """Yield all readings that are kept, oldest first, with their monotonic times."""
        yield from self._older
        yield from self._polls

    def append(self, at: float, reading: Reading) -> None:
        """Take a newer reading."""
        polls, older = self._polls, self._older
        before = polls[-1][1] if polls else EMPTY
        polls.append((at, reading))
        while len(polls) > 2 and polls[1][0] <= at - self._length:
            gone = polls.popleft()
            if not older or gone[0] - older[-1][0] >= COARSE:
                older.append(gone)
        while older and older[0][0] < at - self._keep:
            older.popleft()
        self._extents.clear()
        self._increases.clear()
        self._follow(at, before, reading)

    def _follow(self, at: float, before: Reading, reading: Reading) -> None:
        counters, gauges = reading.counters, reading.gauges
        waiting = gauges.get("requests_waiting", 0.0)
        heartbeat = (
            *(found.cumulative[-1] if (found := reading.histograms.get(x)) else None for x in HEARTBEAT_HISTOGRAMS),
            *map(counters.get, HEARTBEAT_COUNTERS),
            *map(gauges.get, HEARTBEAT_GAUGES),
        )
        if heartbeat != self._heartbeat:
            self._heartbeat, self.progress_at, self.waiting_at_progress = heartbeat, at, waiting
        first = reading.histograms.get("time_to_first_token_seconds")
        tokens = first.cumulative[-1] if first else None
        more_run = gauges.get("requests_running", 0.0) > before.gauges.get("requests_running", 0.0)
        if tokens != self._first_tokens or more_run or not self.admission_at:
            self._first_tokens, self.admission_at = tokens, at
        if waiting <= 0.0:
            self.waiting_since = None
        elif self.waiting_since is None:
            self.waiting_since = at

    def increase(self, key: Key) -> float | None:
        """Return what a counter grew by during the window; None where it is not given, or after one poll only.

        A counter that came up during the window began at 0: prometheus_client makes labelled series at their first use.
        """
        value = self.latest.counters.get(key)
        if value is None or len(self._polls) < 2:
            return None
        return value - self._polls[0][1].counters.get(key, 0.0)

    def increases(self, signal: str) -> dict[tuple[str, ...], float]:
        """Return the increases of all series of a labelled counter by label values; empty where there are none."""
        counters = self.latest.counters
        if len(counters) != self._indexed:  # within one life counters only come up
            self._labelled.clear()
            self._indexed = len(counters)
            for key in counters:
                if isinstance(key, tuple):
                    self._labelled.setdefault(key[0], []).append(key)
        keys = self._labelled.get(signal, ())
        return {key[1:]: increase for key in keys if (increase := self.increase(key)) is not None}

    def increase_since(self, at: float, key: Key) -> float | None:
        """Return what a counter grew by since the last reading not after `at` (the oldest kept, if all are)."""
        value = self.latest.counters.get(key)
        if value is None:
            return None
        base = None
        for time, reading in self.history():
            if base is not None and time > at:
                break
            base = reading
        return value - (base or EMPTY).counters.get(key, 0.0)

    def observed(self, name: str) -> Increase | None:
        """Return what a histogram observed during the window; None where nothing can be said.

        That is: the server does not give it, one poll only, bounds that changed, or a bucket that fell.
        """
        if name not in self._increases:
            self._increases[name] = self._observed(name)
        return self._increases[name]

    def _observed(self, name: str) -> Increase | None:
        new = self.latest.histograms.get(name)
        if new is None or len(self._polls) < 2:
            return None
        old = self._polls[0][1].histograms.get(name)
        if old is new:
            return Increase(new.bounds, [0.0] * len(new.cumulative), 0.0, 0.0 if new.total is not None else None)
        if old is None:
            grown, before = list(new.cumulative), 0.0
        elif old.bounds != new.bounds:
            return None
        else:
            grown = list(map(sub, new.cumulative, old.cumulative))
            before = old.total if old.total is not None else float("nan")
        counts = list(map(sub, grown, (0.0, *grown)))
        if min(counts) < 0.0:
            return None
        total = new.total - before if new.total is not None else None
        # Negative observations make a sum fall (queue times of streaming input): its mean would be nonsense.
        return Increase(new.bounds, counts, grown[-1], total if total is not None and total >= 0.0 else None)

    def extent(self, key: Key) -> Extent | None:
        """Return the extent of a gauge over the polls that have it; None where the newest has not."""
        if key not in self._extents:
            values = [value for _, reading in self._polls if (value := reading.gauges.get(key)) is not None]
            known = key in self.latest.gauges
            self._extents[key] = (
                Extent(max(values), sum(values) / len(values), values[0], values[-1]) if known and values else None
            )
        return self._extents[key]


class Windows:
    """All windows of one target, and the lives of its server."""

    def __init__(self, length: float, keep: float) -> None:
        self._length = length
        self._keep = keep
        self._before: Readings | None = None
        self._at = 0.0
        self._groups: dict[Group, Window] = {}
        self.restarts = 0
        """New lives of the server that were seen after the first."""
        self.gaps = 0
        """Times at which the windows began anew because too long no poll had succeeded."""

    def append(self, at: float, readings: Readings) -> bool:
        """Take the readings of one poll; return True where a new life of the server begins with them."""
        before, self._before = self._before, readings
        restarted = before is not None and is_new_life(before, readings)
        if restarted:
            self.restarts += 1
            self._groups.clear()
        elif before is not None and at - self._at > self._length:
            self.gaps += 1
            self._groups.clear()
        self._at = at
        for group in self._groups.keys() - readings.groups.keys():
            del self._groups[group]
        for group, reading in readings.groups.items():
            window = self._groups.get(group)
            if window is None:
                window = self._groups[group] = Window(self._length, self._keep)
            window.append(at, reading)
        return restarted

    def get(self, group: Group) -> Window | None:
        """Return the window of a group; None where the last poll did not have it."""
        return self._groups.get(group)

    def of(self, scope: Scope) -> dict[Group, Window]:
        """Return the windows of all groups of a scope."""
        return {group: window for group, window in self._groups.items() if group.scope is scope}


def is_new_life(before: Readings, after: Readings) -> bool:
    """Tell whether the server, or its set of counters, was made anew between two polls.

    Looked at: the process start, the creation time of counters (elastic expert parallelism makes new ones in the
    same process), the KV-cache
    configuration, and any counter that fell or went away. A `_sum` does not count: negative observations make it fall.
    """
    if before.started is not None and after.started is not None and before.started != after.started:
        return True
    if any(after.created.get(group, made) != made for group, made in before.created.items()):
        return True
    if before.cache_config is not after.cache_config and _changed(before.cache_config, after.cache_config):
        return True
    return any(_fell(old, new) for group, old in before.groups.items() if (new := after.groups.get(group)) is not None)


def _changed(before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]) -> bool:
    return any(after.get(engine, labels) != labels for engine, labels in before.items())


def _fell(old: Reading, new: Reading) -> bool:
    now = new.counters.get
    if any(now(key, -1.0) < value for key, value in old.counters.items()):
        return True
    return any(
        name in new.histograms and new.histograms[name].cumulative[-1] < histogram.cumulative[-1]
        for name, histogram in old.histograms.items()
    )
