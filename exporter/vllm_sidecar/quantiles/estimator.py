"""Quantiles of what a histogram observed over the polls of a window: what the rest of the program calls."""

from __future__ import annotations

import sys
from bisect import bisect_left
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.quantiles.buckets import (
    SAME,
    Observed,
    bucket_ending_at,
    counts_of,
    interpolated,
    lower_bound,
    ranks,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    Window = tuple[Sequence[float], Sequence[Observed]]

STEPS = 64
"""Order statistics of one bucket that are looked at; with more observations than these they are evenly spaced."""


class Quantile(NamedTuple):
    """An estimated quantile, and the bounds of the bucket that certainly contains it (`upper` is None for +Inf)."""

    q: float
    value: float
    lower: float
    upper: float | None


class BucketEstimate(NamedTuple):
    """The observations in one bucket."""

    lower: float
    upper: float | None
    """None for +Inf."""
    observations: float
    mean: float | None
    """None without any sum; so are deviation and drift."""
    deviation: float | None
    """Standard deviation of the values."""
    drift: float | None
    """Standard deviation of what all observations of a poll share."""
    exact_ratio: float
    """Share of the values that are known exactly: single observations of a poll, whose sum is their value."""


class Explanation(NamedTuple):
    """How the quantiles of a histogram came about."""

    quantiles: list[Quantile]
    interpolated: list[float]
    """The results of `histogram_quantile`, per quantile."""
    buckets: list[BucketEstimate]
    """The ones that contain anything, ascending."""
    moving_level_belief: float
    """Weight of the lognormal whose level moves from poll to poll, 0 to 1; that of the buckets is the rest."""


def window_quantiles(
    bounds: Sequence[float], polls: Sequence[tuple[Sequence[float], float | None]], qs: Sequence[float]
) -> list[float | None]:
    """Estimate quantiles of what a histogram observed over the polls of a window.

    A quantile q of N observations is the one of rank q N, rounded up, as in Prometheus. It is never outside the bucket
    that contains this rank, grows with q and is finite; it is exact where every poll saw one observation; without any
    sum it is what `histogram_quantile` results in.

    Args:
        bounds: upper bounds of the finite buckets, ascending (n).
        polls: per poll the increments of the n + 1 buckets, the last for +Inf, and the increment of the sum (None if
            it is unknown).
        qs: quantiles within 0..1, ascending.

    Returns:
        One value per quantile in the unit of the bounds; None without observations.
    """
    sparse = [
        Observed(tuple([(bucket, count) for bucket, count in enumerate(counts) if count > 0.0]), total)
        for counts, total in polls
    ]
    found = estimate(bounds, sparse, qs)
    return [quantile.value for quantile in found] if found else [None] * len(qs)


def estimate(bounds: Sequence[float], polls: Sequence[Observed], qs: Sequence[float]) -> list[Quantile]:
    """Estimate quantiles with the bounds of their buckets; empty without observations.

    The arguments are those of `window_quantiles`, with polls that contain only the buckets that grew.
    """
    return estimates([(bounds, polls)], qs)[0]


def estimates(windows: Sequence[Window], qs: Sequence[float]) -> list[list[Quantile]]:
    """Estimate the same quantiles of some histograms, each as `estimate` does alone; together it costs much less.

    `windows` are the bounds of each and its polls.
    """
    asked = [_seen(bounds, polls) for bounds, polls in windows]
    read = [one for one in asked if _is_estimated(one)] if qs else []
    values = iter(_model().values_of(read, qs) if read else ())
    return [_quantiles(one, qs, next(values) if qs and _is_estimated(one) else None) for one in asked]


def explain(bounds: Sequence[float], polls: Sequence[Observed], qs: Sequence[float]) -> Explanation:
    """Estimate quantiles as `estimate` does, and return the estimates of each bucket too."""
    window = _seen(bounds, polls)
    bounds, polls = window
    quantiles = estimate(bounds, polls, qs)
    if not quantiles:
        return Explanation([], [], [], 0.0)
    counts = counts_of(bounds, polls)
    line = [interpolated(bounds, bucket, rank, counts[bucket]) for bucket, rank in ranks(counts, qs)]
    found = _model().found_of([window], qs)[0] if _is_estimated(window) else None
    known = {slot.bucket: slot for slot in found.slots} if found else {}
    buckets = []
    for bucket, count in enumerate(counts):
        if count > 0.0:
            slot = known.get(bucket)
            moments = (slot.mean, slot.deviation, slot.drift, slot.exact) if slot else (None, None, None, 0.0)
            upper = bounds[bucket] if bucket < len(bounds) else None
            buckets.append(BucketEstimate(lower_bound(bounds, bucket), upper, count, *moments))
    return Explanation(quantiles, line, buckets, found.level_belief if found else 0.0)


def count_up_to(bounds: Sequence[float], polls: Sequence[Observed], threshold: float) -> float:
    """Return how many of the observations of the polls are at or below a threshold.

    It is exact if the threshold is a bucket bound, if no observation fell into the bucket of the threshold, and if a
    poll's only observation did (its sum is its value). Otherwise the observations of that bucket are split as their
    estimated distribution says, and without any sum as if they were evenly spread. The result is never outside what the
    buckets certainly contain. `threshold` is in the unit of the bounds.
    """
    counts = counts_of(bounds, polls)
    bucket = bucket_ending_at(bounds, threshold)
    if bucket is not None:
        return sum(counts[: bucket + 1])
    split = bisect_left(bounds, threshold)
    below, inside, whole = sum(counts[:split]), counts[split], sum(counts)
    if not inside:
        return below
    steps = int(min(inside, STEPS)) or 1
    # Half a rank below the whole one, so that no rounding of the floats makes it the next.
    places = [below + max(1.0, round(inside * (step + 0.5) / steps + 0.5)) for step in range(steps)]
    values = [quantile.value for quantile in estimate(bounds, polls, [(rank - 0.5) / whole for rank in places])]
    return below + inside * sum(value <= threshold * (1.0 + SAME) for value in values) / steps


_MODEL = "vllm_sidecar.quantiles.model"


def is_loaded() -> bool:
    """Return whether the model is loaded, or being loaded."""
    return _MODEL in sys.modules


def load() -> None:
    """Load the model, which the first estimate does otherwise: it takes 0.2 s."""
    _model()


def _model() -> ModuleType:
    """Load the model, and numpy with it, when it is first needed: it is a third of the memory of the program."""
    return import_module(_MODEL)


def _seen(bounds: Sequence[float], polls: Sequence[Observed]) -> tuple[tuple[float, ...], list[Observed]]:
    return tuple(bounds), [poll for poll in polls if poll.bins]


def _is_estimated(window: tuple[tuple[float, ...], list[Observed]]) -> bool:
    """Return whether there is anything to read: observations, buckets and sums."""
    bounds, polls = window
    return bool(bounds) and any(poll.has_sum for poll in polls)


def _quantiles(
    window: tuple[tuple[float, ...], list[Observed]], qs: Sequence[float], found: Sequence[tuple[int, float]] | None
) -> list[Quantile]:
    """Return the values that were read, or those of `histogram_quantile`, with the bounds of their buckets."""
    bounds, polls = window
    if not bounds or not polls:
        return []
    if found is None:
        counts = counts_of(bounds, polls)
        found = [(bucket, interpolated(bounds, bucket, rank, counts[bucket])) for bucket, rank in ranks(counts, qs)]
    return [
        Quantile(q, value, lower_bound(bounds, bucket), bounds[bucket] if bucket < len(bounds) else None)
        for q, (bucket, value) in zip(qs, found, strict=True)
    ]
