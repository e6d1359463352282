"""Observations between two polls, from the values that were observed."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from readings import BOUNDS

from vllm_sidecar.quantiles.buckets import Observed


def poll(*values: float, bounds: tuple[float, ...] = BOUNDS, summed: bool = True) -> Observed:
    """What a histogram tells of these values."""
    bins = Counter(bisect_left(bounds, value) for value in values)
    counts = tuple([(bucket, float(count)) for bucket, count in sorted(bins.items())])
    return Observed(counts, sum(values) if summed else None)
