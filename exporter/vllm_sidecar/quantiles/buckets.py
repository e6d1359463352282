"""The buckets of a histogram: what a poll observed in them, ranks, and the straight line that Prometheus draws."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate, chain
from math import isclose, isnan
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SAME = 1e-9
"""Bounds are written as decimals: two that differ by less than this share are the same."""


class Observed(NamedTuple):
    """The observations of a histogram between two polls."""

    bins: tuple[tuple[int, float], ...]
    """Buckets that grew, ascending, each with the number of observations it grew by."""
    total: float | None
    """The sum of the observations; None if the server exposes none, or if it fell (a negative observation)."""

    @property
    def has_sum(self) -> bool:
        """Whether the sum can be used."""
        return self.total is not None and not isnan(self.total)


def lower_bound(bounds: Sequence[float], bucket: int) -> float:
    """Return where a bucket begins; the first begins at 0, or is a point if its upper bound is not positive."""
    return bounds[bucket - 1] if bucket else min(0.0, bounds[0])


def bucket_bounds(bounds: Sequence[float], counts: Sequence[float], q: float) -> tuple[float, float | None]:
    """Return the bounds of the bucket that certainly contains a quantile; the upper one is None for +Inf.

    `counts` are those of the n + 1 buckets, and not all 0.
    """
    bucket, _ = next(ranks(counts, (q,)))
    return lower_bound(bounds, bucket), bounds[bucket] if bucket < len(bounds) else None


def bucket_ending_at(bounds: Sequence[float], threshold: float) -> int | None:
    """Return the index of the bucket whose upper bound is the threshold; None if there is none."""
    index = bisect_left(bounds, threshold * (1.0 - SAME))
    return index if index < len(bounds) and isclose(bounds[index], threshold, rel_tol=SAME) else None


def counts_of(bounds: Sequence[float], polls: Sequence[Observed]) -> list[float]:
    """Return the observations of all polls per bucket (n + 1)."""
    counts = [0.0] * (len(bounds) + 1)
    for bucket, count in chain.from_iterable([poll.bins for poll in polls]):
        counts[bucket] += count
    return counts


def ranks(counts: Sequence[float], qs: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Yield for each quantile the bucket that contains its rank, and the rank within this bucket.

    The rank of q among N observations is q N, in the first bucket up to which at least as many were counted: both as in
    Prometheus. `counts` are not all 0, `qs` ascend.
    """
    below = list(accumulate(counts))
    first, last = bisect_right(below, 0.0), bisect_left(below, below[-1])
    for q in qs:
        rank = q * below[-1]
        bucket = max(first, min(last, bisect_left(below, rank)))
        yield bucket, rank - (below[bucket - 1] if bucket else 0.0)


def interpolated(bounds: Sequence[float], bucket: int, rank: float, count: float) -> float:
    """Place a rank linearly within its bucket, as `histogram_quantile` does; in +Inf it is the largest finite bound."""
    if bucket >= len(bounds):
        return bounds[-1]
    lower = lower_bound(bounds, bucket)
    return min(bounds[bucket], lower + (bounds[bucket] - lower) * min(1.0, max(0.0, rank / count)))
