"""What the estimator is given: the observations of a histogram between two polls."""

from __future__ import annotations

from typing import NamedTuple


class Observed(NamedTuple):
    """What was observed in a histogram between two polls."""

    bins: tuple[tuple[int, float], ...]
    """Buckets that grew, ascending, with the observations that they grew by."""
    total: float | None
    """The sum of the observations; None where the server gives none, or it fell (a negative observation)."""
