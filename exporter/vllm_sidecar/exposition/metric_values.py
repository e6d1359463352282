"""Values of a series besides plain numbers: cumulative histograms, and summaries of a window."""

from __future__ import annotations

from typing import NamedTuple


class Histogram(NamedTuple):
    """One cumulative histogram at one poll."""

    bounds: tuple[float, ...]
    """Upper bounds of the finite buckets, ascending (n)."""
    cumulative: tuple[float, ...]
    """Observations at or below each bound, the last for +Inf (n + 1), which is the count."""
    total: float | None
    """Sum of all observations; None if the server exposes none."""


class Summary(NamedTuple):
    """Quantiles over the window, with the cumulative sum and count of all observations."""

    quantiles: tuple[tuple[float, float], ...]
    total: float | None
    observations: float
    bounds: tuple[tuple[float, float | None], ...] = ()
    """Bounds of the bucket that certainly contains each quantile; None for +Inf."""
    recent: float = 0.0
    """Observations in the window, from which the quantiles are computed."""


Value = float | Histogram | Summary
"""Possible values of a series of an exported family; an info metric has its content in labels and the value 1."""
