"""What a histogram sees of values, and their exact quantiles."""

from __future__ import annotations

from bisect import bisect_left
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def counted(values: Sequence[float], bounds: Sequence[float]) -> tuple[list[float], float]:
    """Return what one poll sees of values: counts per bucket and the sum."""
    counts = [0.0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1.0
    return counts, sum(values)


def exact(values: Sequence[float], q: float) -> float:
    """Return the value of rank q N, rounded up."""
    return sorted(values)[max(0, ceil(q * len(values)) - 1)]
