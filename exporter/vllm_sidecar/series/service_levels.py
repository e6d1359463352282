"""Service levels: which of the observations of a poll are good."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.quantiles import count_up_to, edge_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.quantiles.observed import Observed


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


def is_certain(bounds: Sequence[float], poll: Observed, threshold: float) -> bool:
    """Tell whether a poll itself says how many of its observations are good.

    It does where the threshold is a bucket edge, where nothing fell into the bucket that holds the threshold, and where
    it has one observation, whose value is the sum.
    """
    _, inside = _around(bounds, [poll], threshold)
    return is_exact(bounds, threshold) or not inside or len(poll.bins) == 1 == inside


def split(bounds: Sequence[float], recent: Sequence[Observed], threshold: float) -> float | None:
    """Return which share of the observations in the bucket that holds a threshold is good; None where there are none.

    It takes the polls of a window: they know much better than one how values lie in a bucket.
    """
    below, inside = _around(bounds, recent, threshold)
    return min(1.0, max(0.0, (count_up_to(bounds, recent, threshold) - below) / inside)) if inside else None


def good_of(bounds: Sequence[float], poll: Observed, threshold: float, share: float | None) -> float:
    """Return how many observations of a poll are at or below a threshold.

    Args:
        bounds: upper edges of the finite buckets in seconds, ascending.
        poll: what was observed since the poll before.
        threshold: in seconds.
        share: what `split` says of the bucket that holds the threshold, for a poll that is not certain; None leaves it
            to the poll's own counts and sum.
    """
    if share is None or is_certain(bounds, poll, threshold):
        return count_up_to(bounds, [poll], threshold)
    below, inside = _around(bounds, [poll], threshold)
    return below + inside * share


def _around(bounds: Sequence[float], polls: Sequence[Observed], threshold: float) -> tuple[float, float]:
    """Return how many observations lie in the buckets below the one that holds the threshold, and how many in it."""
    bucket = bisect_left(bounds, threshold)
    bins = [one for poll in polls for one in poll.bins]
    return sum([count for at, count in bins if at < bucket]), sum([count for at, count in bins if at == bucket])
