"""Values that a series can have besides a number: cumulative histograms, and summaries of a window."""

from __future__ import annotations

from typing import NamedTuple


class Histogram(NamedTuple):
    """One cumulative histogram at one poll."""

    bounds: tuple[float, ...]
    """Upper edges of the finite buckets, ascending (n)."""
    cumulative: tuple[float, ...]
    """Observations at or below each edge, the last for +Inf (n + 1): it is the count."""
    total: float | None
    """Sum of all observations; None where the server gives none."""


class Summary(NamedTuple):
    """Quantiles over the window beside the cumulative sum and count of all observations."""

    quantiles: tuple[tuple[float, float], ...]
    total: float | None
    observations: float
    bounds: tuple[tuple[float, float | None], ...] = ()
    """Edges of the bucket that certainly holds each quantile; None for +Inf."""
    recent: float = 0.0
    """Observations in the window, which the quantiles are those of."""


Value = float | Histogram | Summary
"""What a series of an exported family can be; the labels of an info metric say all, its value is 1."""
