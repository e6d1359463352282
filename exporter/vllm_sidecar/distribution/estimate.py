"""Runs the stages of the estimate, and is what the rest of the program calls."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.distribution.evidence import gather
from vllm_sidecar.distribution.groups import groups
from vllm_sidecar.distribution.linear import interpolated, lower_edge, ranks
from vllm_sidecar.distribution.moments import fit
from vllm_sidecar.distribution.moving import moving
from vllm_sidecar.distribution.nodes import nodes
from vllm_sidecar.distribution.order import order_statistics
from vllm_sidecar.distribution.refine import follow, refine
from vllm_sidecar.model import Observed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.distribution.evidence import Evidence
    from vllm_sidecar.distribution.refine import Observations


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
    found = []
    if belief < 1.0:
        moments = fit(evidence)
        usual = groups(evidence, moments, nodes(evidence, moments))
        found.append(_read_off(evidence, refine(evidence, moments, usual), places))
    if model:
        found.append(_read_off(evidence, follow(evidence, model), places))
    if len(found) == 1:
        return found[0]
    return [(1.0 - belief) * a + belief * b for a, b in zip(*found, strict=True)]


def _read_off(
    evidence: Evidence, observations: Observations, places: Sequence[tuple[float, tuple[int, float]]]
) -> list[float]:
    """Read the ranks off the observations of their buckets."""
    bounds = evidence.bounds
    found = []
    for bucket, same in groupby(places, key=lambda place: place[1][0]):
        mine = evidence.slot == evidence.slots[bucket]
        weights = evidence.count[mine][:, None] * observations.weights[mine]
        values = observations.values[mine] * evidence.scale
        for value in order_statistics(values.ravel(), weights.ravel(), [rank for _, (_, rank) in same]):
            inside = max(lower_edge(bounds, bucket), value)
            found.append(min(bounds[bucket], inside) if bucket < len(bounds) else inside)
    return found
