"""Observations of the polls -> exponential histograms: buckets of a constant ratio, much narrower than vLLM's.

The polls since the push before have counts per bucket and a sum each. Their observations are placed as the recent
quantiles are (see `vllm_sidecar.quantiles`): the order statistics of each of vLLM's buckets are estimated, and each of
them stands for the same number of observations. So the counts per bucket of vLLM, the count and the sum are exact, and
the place within a bucket of vLLM is an estimate, which is exact for a poll with one observation.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import ceil, log2
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.quantiles import Observed, estimate
from vllm_sidecar.series.window import between

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vllm_sidecar.exposition.metric_values import Histogram
    from vllm_sidecar.series.stored_reading import StoredReading

FINEST_SCALE = 4
"""Scale at the start: bounds grow by a factor of 2 ** (1 / 16), so by 4.4 %."""
MOST_BUCKETS = 160
"""Most buckets, as in OpenTelemetry's SDKs; with a wider range of values, pairs of buckets are merged."""
MOST_PLACES = 64
"""Most order statistics of one bucket of vLLM that are estimated."""
LEAST = 1e-9
"""Values up to this are counted as 0."""


class Exponential(NamedTuple):
    """One exponential histogram; bucket i holds values above base**i up to base**(i + 1), base = 2**(2**-scale)."""

    scale: int
    zeros: int
    buckets: Mapping[int, int]
    observations: int
    total: float | None
    """None where a poll had no sum."""

    def at_scale(self, scale: int) -> Exponential:
        """Return it with wider buckets."""
        merged: Counter[int] = Counter()
        for index, count in self.buckets.items():
            merged[index >> (self.scale - scale)] += count
        return self._replace(scale=scale, buckets=merged)

    def plus(self, values: Mapping[float, int], total: float | None) -> Exponential:
        """Add observations with these values, whose sum is known exactly or not."""
        buckets = Counter(self.buckets)
        zeros = 0
        for value, count in values.items():
            if value > LEAST:
                buckets[ceil(log2(value) * 2.0**self.scale) - 1] += count
            else:
                zeros += count
        whole = None if self.total is None or total is None else self.total + total
        observations = self.observations + sum(values.values())
        found = Exponential(self.scale, self.zeros + zeros, buckets, observations, whole)
        while found.buckets and max(found.buckets) - min(found.buckets) >= MOST_BUCKETS:
            found = found.at_scale(found.scale - 1)
        return found


EMPTY = Exponential(FINEST_SCALE, 0, {}, 0, 0.0)


class _Followed:
    """One histogram of one engine, since `began`."""

    def __init__(self, at: float, began: float, last: Histogram) -> None:
        self.at, self.began, self.last = at, began, last
        self.value = EMPTY


class NarrowHistograms:
    """Follows histograms from push to push."""

    def __init__(self) -> None:
        self._followed: dict[object, _Followed] = {}

    def keep(self, keys: set[object]) -> None:
        """Forget all others."""
        self._followed = {key: each for key, each in self._followed.items() if key in keys}

    def follow(
        self, key: object, signal: str, history: Sequence[tuple[float, StoredReading]], now: float
    ) -> tuple[Exponential, float] | None:
        """Return what was observed since the first known poll, or since a restart, and the Unix time of that.

        Args:
            key: The series.
            signal: Its signal.
            history: The polls that are stored, by their monotonic times; those of earlier pushes may be among them.
            now: Unix time of the last poll.

        Returns:
            None if no poll has the histogram.
        """
        followed = self._followed.get(key)
        new = [(at, reading) for at, reading in history if followed is None or at > followed.at]
        known = [(at, found) for at, reading in new if (found := reading.histogram(signal)) is not None]
        if followed is None:
            if not known:
                return None
            at, first = known[0]
            followed = self._followed[key] = _Followed(at, now - (known[-1][0] - at), first)
        seen: list[Observed] = []
        for at, found in known:
            observed = between(followed.last, found)
            if observed is None:  # another process, whose counters began at 0
                seen.clear()
                followed.began, followed.value = now - (known[-1][0] - at), EMPTY
                observed = between(None, found) or Observed((), None)
            seen.append(observed)
            followed.at, followed.last = at, found
        filled = [each for each in seen if each.bins]
        if filled:
            totals = [each.total for each in filled if each.total is not None]
            total = sum(totals) if len(totals) == len(filled) else None
            followed.value = followed.value.plus(_placed(followed.last.bounds, filled), total)
        return followed.value, followed.began


def _placed(bounds: Sequence[float], polls: Sequence[Observed]) -> Counter[float]:
    """Return values that represent the observations of polls, each with how many it stands for."""
    counts: Counter[int] = Counter()
    for poll in polls:
        for bucket, count in poll.bins:
            counts[bucket] += round(count)
    whole = sum(counts.values())
    ranks, weights = [], []
    below = 0
    for bucket in sorted(counts):
        for first, after in _steps(counts[bucket]):
            # Half a rank below the whole one, so that no rounding of the floats makes it the next.
            ranks.append((below + (first + after - 1) // 2 + 0.5) / whole)
            weights.append(after - first)
        below += counts[bucket]
    placed: Counter[float] = Counter()
    for quantile, weight in zip(estimate(bounds, polls, ranks), weights, strict=True):
        placed[quantile.value] += weight
    return placed


def _steps(count: int) -> Iterator[tuple[int, int]]:
    """Split ranks from 0 to `count` into at most `MOST_PLACES` parts of nearly the same size."""
    steps = min(count, MOST_PLACES)
    return pairwise(count * step // steps for step in range(steps + 1))
