"""What a histogram sees of values, as evidence too, and their exact quantiles."""

from __future__ import annotations

from bisect import bisect_left
from math import ceil
from typing import TYPE_CHECKING

from vllm_sidecar.quantiles.buckets import Observed
from vllm_sidecar.quantiles.evidence import Evidence

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


def observed(
    polls: Sequence[Sequence[float]], bounds: Sequence[float], untrusted: Container[int] = ()
) -> list[Observed]:
    """Return what polls see of these values; the sums of some are unknown."""
    seen = [polled(*counted(values, bounds)) for values in polls]
    return [each._replace(total=None) if number in untrusted else each for number, each in enumerate(seen)]


def gathered(polls: Sequence[Sequence[float]], bounds: Sequence[float], untrusted: Container[int] = ()) -> Evidence:
    """Return the evidence of polls that saw these values; the sums of some are unknown."""
    return Evidence([(tuple(bounds), [each for each in observed(polls, bounds, untrusted) if each.bins])])
