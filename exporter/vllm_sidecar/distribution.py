"""Stage 4: windowed histograms -> quantiles.

The one function here is the interface that the windows use; how it estimates may change, what it promises may not: a
quantile is never outside the bucket that holds its rank, it grows with q, and it is None where nothing can be said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def window_quantiles(
    bounds: Sequence[float],
    polls: Sequence[tuple[Sequence[float], float | None]],
    qs: Sequence[float],
) -> list[float | None]:
    """Estimate quantiles of what a histogram observed over the polls of a window.

    Linear interpolation within the bucket, as Prometheus's `histogram_quantile` does: values lie evenly in a bucket,
    the first begins at 0, and a rank in the +Inf bucket gives the largest finite bound.

    Args:
        bounds: upper edges of the finite buckets, ascending (n).
        polls: per poll the increments of the n + 1 buckets, the last for +Inf, and the increment of the sum (None
        where it is not to be trusted).
        qs: quantiles within 0..1, ascending.

    Returns:
        One value per quantile in the unit of the bounds; None where there was no observation.
    """
    counts = polls[0][0] if len(polls) == 1 else [sum(column) for column in zip(*(p[0] for p in polls), strict=True)]
    whole = sum(counts)
    if not bounds or whole <= 0.0:
        return [None] * len(qs)
    result: list[float | None] = []
    index, below = 0, 0.0
    for q in qs:
        rank = q * whole
        while index < len(bounds) and (below + counts[index] < rank or counts[index] <= 0.0):
            below += counts[index]
            index += 1
        result.append(_interpolate(bounds, index, rank - below, counts))
    return result


def _interpolate(bounds: Sequence[float], index: int, rank: float, counts: Sequence[float]) -> float:
    """Place a rank within its bucket; the +Inf bucket and what floating point leaves over give the last bound."""
    if index >= len(bounds):
        return bounds[-1]
    lower = bounds[index - 1] if index else min(0.0, bounds[0])
    share = min(1.0, max(0.0, rank / counts[index]))
    return min(bounds[index], lower + (bounds[index] - lower) * share)
