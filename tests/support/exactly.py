"""What a histogram sees of values, as evidence too, and their exact quantiles."""

from __future__ import annotations

from bisect import bisect_left
from math import ceil
from typing import TYPE_CHECKING

from vllm_sidecar.quantiles.evidence import Single, gather
from vllm_sidecar.quantiles.observed import Observed

if TYPE_CHECKING:
    from collections.abc import Container, Sequence


def counted(values: Sequence[float], bounds: Sequence[float]) -> tuple[list[float], float]:
    """Return what one poll sees of values: counts per bucket and the sum."""
    counts = [0.0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1.0
    return counts, sum(values)


def polled(counts: Sequence[float], total: float | None) -> Observed:
    """Return a poll by the buckets that grew."""
    return Observed(tuple((bucket, count) for bucket, count in enumerate(counts) if count), total)


def exact(values: Sequence[float], q: float) -> float:
    """Return the value of rank q N, rounded up."""
    return sorted(values)[max(0, ceil(q * len(values)) - 1)]


def gathered(polls: Sequence[Sequence[float]], bounds: Sequence[float], untrusted: Container[int] = ()) -> Single:
    """Return the evidence of polls that saw these values; the sums of some are not to be trusted."""
    observed, counts = [], [0.0] * (len(bounds) + 1)
    for number, values in enumerate(polls):
        mine, total = counted(values, bounds)
        observed.append(polled(mine, None if number in untrusted else total))
        counts = [a + b for a, b in zip(counts, mine, strict=True)]
    return gather(bounds, observed, counts)
