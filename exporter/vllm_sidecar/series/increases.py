"""The increase of one upstream series from poll to poll, without resets, returns and impossible values."""

from __future__ import annotations

from operator import add, ge, sub

from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.quantiles.buckets import Observed
from vllm_sidecar.series.server_process import HOLD

MOST_PER_SECOND = 1e6
"""Observations per second beyond any server's."""

NOTHING = Observed((), None)


class CounterSeries:
    """A counter, or the cumulative buckets of a histogram, at its last poll."""

    __slots__ = ("_fell_at", "_last", "_lost")

    def __init__(self, values: tuple[float, ...]) -> None:
        self._last = values
        self._lost: tuple[float, ...] | None = None
        """By how much it fell; a series that returns to its old value has not increased by that."""
        self._fell_at = 0.0

    def reset(self, at: float) -> None:
        """Continue from 0."""
        self._fall((0.0,) * len(self._last), at)

    def _fall(self, values: tuple[float, ...], at: float) -> None:
        lost = tuple(map(sub, self._last, values))
        if lost[-1] > 0.0:
            self._lost = tuple(map(add, lost, self._lost)) if self._lost else lost
            self._fell_at = at
        self._last = values

    def grow(self, values: tuple[float, ...], at: float, seconds: float) -> tuple[float, ...] | None:
        """Take the values of a poll, `seconds` after the poll before; return their increases.

        None if unknown: the series fell, or rose by more than a server can count (see `vllm.plausible`), and counting
        continues from its new value.
        """
        grown = tuple(map(sub, values, self._last))
        if min(grown) < 0.0:
            self._fall(values, at)
            return None
        if self._lost and at - self._fell_at > HOLD:
            self._lost = None
        if self._lost and all(map(ge, grown, self._lost)):
            grown, self._lost = tuple(map(sub, grown, self._lost)), None
        self._last = values
        return grown if grown[-1] <= MOST_PER_SECOND * max(1.0, seconds) else None


class HistogramSeries:
    """A histogram at its last poll."""

    __slots__ = ("_last", "_series")

    def __init__(self, histogram: Histogram) -> None:
        self._last = histogram
        self._series = CounterSeries(histogram.cumulative)

    def reset(self, at: float) -> None:
        """Continue from 0."""
        self._last = zero(self._last)
        self._series.reset(at)

    def grow(self, new: Histogram, at: float, seconds: float) -> Observed:
        """Take a poll's histogram; return its observations since the poll before, none where they are unknown."""
        old, self._last = self._last, new
        if new is old:
            return NOTHING
        if new.bounds != old.bounds:
            self._series = CounterSeries(new.cumulative)
            return NOTHING
        grown = self._series.grow(new.cumulative, at, seconds)
        if grown is None:
            return NOTHING
        counts = [grown[0], *map(sub, grown[1:], grown)]
        if min(counts) < 0.0:
            return NOTHING
        whole = grown[-1] == new.cumulative[-1] - old.cumulative[-1]
        total = new.total - old.total if whole and new.total is not None and old.total is not None else None
        bins = tuple([(bucket, count) for bucket, count in enumerate(counts) if count > 0.0])
        return Observed(bins, total if total is not None and total >= 0.0 else None)


def zero(histogram: Histogram) -> Histogram:
    """Return a histogram before its first observation."""
    return Histogram(histogram.bounds, (0.0,) * len(histogram.cumulative), 0.0)
