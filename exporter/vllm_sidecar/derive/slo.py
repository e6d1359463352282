"""Service levels: which of the observations of a poll are good."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.distribution import count_up_to, edge_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.model import Observed

AVAILABILITY = "availability"
"""Name of the objective that is counted from how requests end."""


class Objective(NamedTuple):
    """One latency objective: observations of `histogram` up to `threshold` (seconds) are good."""

    name: str
    histogram: str
    threshold: float
    model: str | None = None
    """The model_name that it is for; None for all that none of the same name is for."""


def objectives_of(objectives: Sequence[Objective], model: str) -> list[Objective]:
    """Return the objectives of a model: for each name the one for this model, else the one for all."""
    found: dict[str, Objective] = {}
    for objective in objectives:
        if objective.model == model or (objective.model is None and objective.name not in found):
            found[objective.name] = objective
    return list(found.values())


def is_exact(bounds: Sequence[float], threshold: float) -> bool:
    """Tell whether the counts of the buckets alone say how many observations are good."""
    return edge_of(bounds, threshold) is not None


def good_of(bounds: Sequence[float], poll: Observed, recent: Sequence[Observed], threshold: float) -> float:
    """Return how many observations of a poll are at or below a threshold.

    Exact where the threshold is a bucket edge, and for a poll of one observation, whose sum is its value. Else the
    bucket that holds the threshold is split as the polls of the window, of which this is the last, say together: they
    know much better than one poll how values lie in it.

    Args:
        bounds: upper edges of the finite buckets in seconds, ascending.
        poll: what was observed since the poll before.
        recent: what was observed at the polls of the window, this one included; empty right after a restart.
        threshold: in seconds.
    """
    below, inside = _around(bounds, [poll], threshold)
    if is_exact(bounds, threshold) or not inside or len(poll.bins) == 1 == inside:
        return count_up_to(bounds, [poll], threshold)
    under, held = _around(bounds, recent, threshold)
    if held < inside:
        return count_up_to(bounds, [poll], threshold)
    return below + inside * min(1.0, max(0.0, (count_up_to(bounds, recent, threshold) - under) / held))


def _around(bounds: Sequence[float], polls: Sequence[Observed], threshold: float) -> tuple[float, float]:
    """Return how many observations lie in the buckets below the one that holds the threshold, and how many in it."""
    split = bisect_left(bounds, threshold)
    bins = [one for poll in polls for one in poll.bins]
    return sum([count for bucket, count in bins if bucket < split]), sum([n for bucket, n in bins if bucket == split])
