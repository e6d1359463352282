"""Service levels: the good observations of a poll."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.quantiles import bucket_ending_at, count_up_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.quantiles.buckets import Observed


class Objective(NamedTuple):
    """One latency objective: observations of `histogram` up to `threshold` (seconds) are good."""

    name: str
    histogram: str
    threshold: float
    model: str | None = None
    """Its model_name; None for all models without an objective of the same name."""


def objectives_of(objectives: Sequence[Objective], model: str) -> list[Objective]:
    """Return the objectives of a model: for each name the one for this model, otherwise the one for all."""
    found: dict[str, Objective] = {}
    for objective in objectives:
        if objective.model == model or (objective.model is None and objective.name not in found):
            found[objective.name] = objective
    return list(found.values())


def is_exact(bounds: Sequence[float], threshold: float) -> bool:
    """Return whether the counts of the buckets alone determine how many observations are good."""
    return bucket_ending_at(bounds, threshold) is not None


def is_certain(bounds: Sequence[float], poll: Observed, threshold: float) -> bool:
    """Return whether a poll itself determines how many of its observations are good.

    It does where the threshold is a bucket bound, where no observation is in the bucket of the threshold, and where
    there is only one observation, whose value is the sum.
    """
    if is_exact(bounds, threshold):
        return True
    _, inside = _around(bounds, [poll], threshold)
    return not inside or len(poll.bins) == 1 == inside


def split(bounds: Sequence[float], recent: Sequence[Observed], threshold: float) -> float | None:
    """Return the good share of the observations in the bucket of a threshold; None without observations.

    It uses the polls of a window, which determine the distribution in a bucket much better than one poll.
    """
    below, inside = _around(bounds, recent, threshold)
    return min(1.0, max(0.0, (count_up_to(bounds, recent, threshold) - below) / inside)) if inside else None


def good_of(bounds: Sequence[float], poll: Observed, threshold: float, share: float | None) -> float:
    """Return how many observations of a poll are at or below a threshold.

    Args:
        bounds: upper bounds of the finite buckets in seconds, ascending.
        poll: the observations since the poll before.
        threshold: in seconds.
        share: the result of `split` for the bucket of the threshold, for a poll that is not certain; with None only the
            poll's own counts and sum are used.
    """
    end = bucket_ending_at(bounds, threshold)
    if end is not None:
        return sum([count for bucket, count in poll.bins if bucket <= end])
    if share is None or is_certain(bounds, poll, threshold):
        return count_up_to(bounds, [poll], threshold)
    below, inside = _around(bounds, [poll], threshold)
    return below + inside * share


def _around(bounds: Sequence[float], polls: Sequence[Observed], threshold: float) -> tuple[float, float]:
    """Return how many observations are in the buckets below that of the threshold, and how many in it."""
    bucket = bisect_left(bounds, threshold)
    bins = [one for poll in polls for one in poll.bins]
    return sum([count for at, count in bins if at < bucket]), sum([count for at, count in bins if at == bucket])
