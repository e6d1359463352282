"""What a request log says about the windows of one moment."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from truth.log import Log, Observation, Step


class Span(NamedTuple):
    """A window: after `since`, until `until`."""

    since: float
    until: float

    @property
    def seconds(self) -> float:
        return self.until - self.since


class Observed:
    """The observations of one engine by name, for fast counts."""

    def __init__(self, found: list[Observation]) -> None:
        self._times: dict[str, list[float]] = {}
        self._values: dict[str, list[float]] = {}
        for each in found:
            self._times.setdefault(each.name, []).append(each.at)
            self._values.setdefault(each.name, []).append(each.value)

    def values(self, name: str, span: Span) -> list[float]:
        times = self._times.get(name, [])
        return self._values.get(name, [])[bisect_right(times, span.since) : bisect_right(times, span.until)]


class Whole:
    """A log with its observations by engine, sorted once."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.observed = {engine: Observed(log.observations(engine)) for engine in log.engines}
        moments = {engine: set[float]() for engine in log.engines}
        for row in log.rows:
            found = (row.ended, *(at for at, _ in row.outputs), *row.preempted)
            moments[row.engine].update(at for at in found if at <= log.seconds)
        self.progress = {engine: sorted(found) for engine, found in moments.items()}
        """When requests of an engine gave tokens, were preempted or ended."""
        self.queued = {
            engine: sorted((row.queued, row.scheduled) for row in log.rows if row.engine == engine)
            for engine in log.engines
        }


@dataclass(frozen=True)
class View:
    """One moment: what is true of the window of each engine and of the server."""

    whole: Whole
    at: float
    spans: Mapping[int, Span]
    """Of the engines that are exposed."""
    server: Span
    """Of the counters that belong to the whole server."""
    counted_from: Mapping[int, float]
    """When the counters of each engine began at 0."""

    @cached_property
    def log(self) -> Log:
        return self.whole.log

    def values(self, engine: int, name: str) -> list[float]:
        """Return the observations of an engine's window."""
        return self.whole.observed[engine].values(name, self.spans[engine])

    def total(self, engine: int, name: str) -> float:
        return sum(self.values(engine, name))

    def ever(self, engine: int, name: str) -> list[float]:
        """Return the observations since the engine's counters began at 0."""
        return self.whole.observed[engine].values(name, Span(self.counted_from[engine], self.at))

    def answers(self, status: str = "") -> int:
        return sum(self.server.since < at <= self.server.until and status in kind for at, kind in self.log.answers)

    def rejected(self) -> int:
        return sum(self.server.since < at <= self.server.until for at in self.log.rejected)

    def step(self, engine: int) -> Step | None:
        """Return the engine's last step."""
        return self.log.step(engine, self.at)

    def gauge(self, engine: int, name: str) -> Iterator[tuple[float, float]]:
        """Yield each value that a gauge had in the window, with the seconds for which it had it."""
        since, until = self.spans[engine]
        steps = self.log.steps[engine]
        start = bisect_right(steps, since, key=lambda step: step.at)
        end = bisect_right(steps, until, key=lambda step: step.at)
        before = self.log.step(engine, since)
        value, at = (float(getattr(before, name)) if before else 0.0), since
        for step in steps[start:end]:
            yield value, step.at - at
            value, at = float(getattr(step, name)), step.at
        yield value, until - at

    def mean(self, engine: int, name: str) -> float:
        """Return the mean of a gauge over time."""
        return sum(value * seconds for value, seconds in self.gauge(engine, name)) / self.spans[engine].seconds

    def peak(self, engine: int, name: str) -> float:
        return max(value for value, _ in self.gauge(engine, name))

    def progress_at(self, engine: int) -> float | None:
        """Return when anything last happened to a request of the engine in this process; None if nothing did."""
        times = self.whole.progress[engine]
        index = bisect_right(times, self.at)
        return times[index - 1] if index and times[index - 1] >= self.log.process(self.at)[0] else None

    def next_wait(self, engine: int) -> float | None:
        """Return how long the next request that reached the engine waited; None if it never ran."""
        queued = self.whole.queued[engine]
        index = bisect_left(queued, (self.at, 0.0))
        if index == len(queued):
            return None
        at, scheduled = queued[index]
        return scheduled - at if scheduled <= self.log.seconds else None
