"""The share of what a histogram observed that lies at or below a threshold: the quantile function read backwards."""

from __future__ import annotations

from bisect import bisect_left
from math import isclose
from typing import TYPE_CHECKING

from vllm_sidecar.quantiles.estimator import estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.quantiles.observed import Observed

STEPS = 64
"""Order statistics of one bucket that are looked at; with more observations than these they lie evenly."""
_SAME = 1e-9
"""Edges are written as decimals: one that differs by less than this share is the same."""


def edge_of(bounds: Sequence[float], threshold: float) -> int | None:
    """Return the index of the bucket that ends at the threshold; None where none does."""
    index = bisect_left(bounds, threshold * (1.0 - _SAME))
    return index if index < len(bounds) and isclose(bounds[index], threshold, rel_tol=_SAME) else None


def count_up_to(bounds: Sequence[float], polls: Sequence[Observed], threshold: float) -> float:
    """Return how many of the observations of the polls are at or below a threshold.

    It is exact where the threshold is a bucket edge, where no observation fell into the bucket that holds the
    threshold, and where a poll's only observation did (its sum is its value). Else the observations of that bucket are
    split as the estimate of their distribution says (see `estimate`), and without any sum as if they lay evenly. The
    result is never outside what the buckets certainly hold.

    Args:
        bounds: upper edges of the finite buckets in seconds, ascending (n).
        polls: what was observed, by bucket, with sums.
        threshold: in the unit of the bounds.
    """
    counts = [0.0] * (len(bounds) + 1)
    for poll in polls:
        for bucket, count in poll.bins:
            counts[bucket] += count
    edge = edge_of(bounds, threshold)
    if edge is not None:
        return sum(counts[: edge + 1])
    split = bisect_left(bounds, threshold)
    below, inside = sum(counts[:split]), counts[split]
    return below + inside * _share(bounds, polls, threshold, below, inside, sum(counts)) if inside else below


def _share(
    bounds: Sequence[float], polls: Sequence[Observed], threshold: float, below: float, inside: float, whole: float
) -> float:
    """Return the share of a bucket's observations up to the threshold, from evenly spaced order statistics of it."""
    steps = int(min(inside, STEPS)) or 1
    # Half a rank below the whole one, so that no rounding of the floats makes it the next.
    ranks = [below + max(1.0, round(inside * (step + 0.5) / steps + 0.5)) for step in range(steps)]
    values = [quantile.value for quantile in estimate(bounds, polls, [(rank - 0.5) / whole for rank in ranks])]
    return sum(value <= threshold * (1.0 + _SAME) for value in values) / steps
