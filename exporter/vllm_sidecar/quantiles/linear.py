"""Ranks in buckets, and the answer of Prometheus: the straight line through the bucket that holds the rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def lower_edge(bounds: Sequence[float], bucket: int) -> float:
    """Return where a bucket begins; the first begins at 0, or is a point where its bound is not positive."""
    return bounds[bucket - 1] if bucket else min(0.0, bounds[0])


def ranks(counts: Sequence[float], qs: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Yield for each quantile the bucket that holds its rank, and the rank within it.

    The rank of q among N observations is q N, and it falls into the first bucket up to which at least as many were
    counted: both as in Prometheus. `counts` hold something, `qs` ascend.
    """
    whole = sum(counts)
    last = max(i for i, count in enumerate(counts) if count > 0.0)
    bucket, below = 0, 0.0
    for q in qs:
        rank = q * whole
        while bucket < last and (below + counts[bucket] < rank or counts[bucket] <= 0.0):
            below += counts[bucket]
            bucket += 1
        yield bucket, rank - below


def interpolated(bounds: Sequence[float], bucket: int, rank: float, count: float) -> float:
    """Place a rank evenly within its bucket; the +Inf bucket gives the largest finite bound."""
    if bucket >= len(bounds):
        return bounds[-1]
    lower = lower_edge(bounds, bucket)
    share = min(1.0, max(0.0, rank / count))
    return min(bounds[bucket], lower + (bounds[bucket] - lower) * share)
