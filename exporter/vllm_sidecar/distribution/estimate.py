"""Runs the stages of the estimate, and is what the rest of the program calls."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.distribution.evidence import gather
from vllm_sidecar.distribution.linear import interpolated, lower_edge, ranks
from vllm_sidecar.distribution.moments import fit
from vllm_sidecar.distribution.moving import moving
from vllm_sidecar.distribution.sample import sample
from vllm_sidecar.model import Observed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.distribution.evidence import Evidence
    from vllm_sidecar.distribution.moments import Moments


class Quantile(NamedTuple):
    """An estimated quantile, and the edges of the bucket that certainly holds it (`upper` is None for +Inf)."""

    q: float
    value: float
    lower: float
    upper: float | None


def window_quantiles(
    bounds: Sequence[float],
    polls: Sequence[tuple[Sequence[float], float | None]],
    qs: Sequence[float],
) -> list[float | None]:
    """Estimate quantiles of what a histogram observed over the polls of a window.

    A quantile q of N observations is the one of rank q N, rounded up, as in Prometheus. It is never outside the bucket
    that holds this rank, grows with q and is finite; it is exact where every poll saw one observation; without any sum
    it is what `histogram_quantile` gives.

    Args:
        bounds: upper edges of the finite buckets, ascending (n).
        polls: per poll the increments of the n + 1 buckets, the last for +Inf, and the increment of the sum (None
        where it is not to be trusted).
        qs: quantiles within 0..1, ascending.

    Returns:
        One value per quantile in the unit of the bounds; None where there was no observation.
    """
    sparse = [
        Observed(tuple([(bucket, count) for bucket, count in enumerate(counts) if count > 0.0]), total)
        for counts, total in polls
    ]
    found = estimate(bounds, sparse, qs)
    return [quantile.value for quantile in found] if found else [None] * len(qs)


def estimate(bounds: Sequence[float], polls: Sequence[Observed], qs: Sequence[float]) -> list[Quantile]:
    """Estimate quantiles with the edges of their buckets; empty where there was no observation.

    The arguments are those of `window_quantiles`, with polls that hold only the buckets that grew.
    """
    counts = [0.0] * (len(bounds) + 1)
    for poll in polls:
        for bucket, count in poll.bins:
            counts[bucket] += count
    if not bounds or not any(counts):
        return []
    places = list(zip(qs, ranks(counts, qs), strict=True))
    if all(poll.total is None or not poll.bins for poll in polls):
        values = [interpolated(bounds, bucket, rank, counts[bucket]) for _, (bucket, rank) in places]
    else:
        values = _read(bounds, polls, counts, places)
    return [
        Quantile(q, value, lower_edge(bounds, bucket), bounds[bucket] if bucket < len(bounds) else None)
        for (q, (bucket, _)), value in zip(places, values, strict=True)
    ]


def bucket_edges(bounds: Sequence[float], counts: Sequence[float], q: float) -> tuple[float, float | None]:
    """Return the edges of the bucket that certainly holds a quantile; the upper is None for +Inf.

    `counts` are those of the n + 1 buckets and not all 0.
    """
    bucket, _ = next(ranks(counts, (q,)))
    return lower_edge(bounds, bucket), bounds[bucket] if bucket < len(bounds) else None


def _read(
    bounds: Sequence[float],
    polls: Sequence[Observed],
    counts: Sequence[float],
    places: Sequence[tuple[float, tuple[int, float]]],
) -> list[float]:
    """Read the ranks off both models, as far as each is believed."""
    evidence = gather(bounds, polls, counts)
    model = moving(evidence)
    belief = model.belief if model else 0.0
    usual = _read_off(evidence, fit(evidence), places) if belief < 1.0 else []
    moved = _read_off(evidence, fit(evidence, model), places) if belief > 0.0 else []
    if not moved or not usual:
        return moved or usual
    return [(1.0 - belief) * a + belief * b for a, b in zip(usual, moved, strict=True)]


def _read_off(evidence: Evidence, moments: Moments, places: Sequence[tuple[float, tuple[int, float]]]) -> list[float]:
    """Read the ranks off the samples of their buckets."""
    bounds, counts = evidence.bounds, evidence.counts
    samples: dict[int, list[float]] = {}
    values = []
    for _, (bucket, rank) in places:
        if bucket not in samples:
            samples[bucket] = sample(evidence, moments, evidence.slots[bucket])
        value = _order_statistic(samples[bucket], rank, counts[bucket]) * evidence.scale
        value = max(lower_edge(bounds, bucket), value)
        values.append(min(bounds[bucket], value) if bucket < len(bounds) else value)
    return values


def _order_statistic(values: Sequence[float], rank: float, count: float) -> float:
    """Return the value of a rank, rounded up, where the sorted values stand for `count` observations."""
    level = min(max(ceil(rank), 1.0), max(count, 1.0)) - 0.5
    place = max(0.0, level * len(values) / count - 0.5)
    index = min(int(place), len(values) - 1)
    if index + 1 >= len(values):
        return values[-1]
    low, high = values[index], values[index + 1]
    return min(high, low + (high - low) * (place - index))
