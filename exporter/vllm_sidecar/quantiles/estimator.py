"""Runs the stages of the estimate, and is what the rest of the program calls."""

from __future__ import annotations

from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.evidence import gather, is_told, joined
from vllm_sidecar.quantiles.groups import groups
from vllm_sidecar.quantiles.linear import interpolated, lower_edge, ranks
from vllm_sidecar.quantiles.moments import fit
from vllm_sidecar.quantiles.moving import moving
from vllm_sidecar.quantiles.nodes import nodes
from vllm_sidecar.quantiles.observed import Observed
from vllm_sidecar.quantiles.order import order_statistics
from vllm_sidecar.quantiles.refine import follow, refine
from vllm_sidecar.quantiles.settle import Observations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.quantiles.evidence import Single

    Window = tuple[Sequence[float], Sequence[Observed]]


class Quantile(NamedTuple):
    """An estimated quantile, and the edges of the bucket that certainly holds it (`upper` is None for +Inf)."""

    q: float
    value: float
    lower: float
    upper: float | None


class _Asked(NamedTuple):
    """What is asked of a histogram that observed something."""

    bounds: Sequence[float]
    polls: Sequence[Observed]
    counts: Sequence[float]
    """Per bucket, over all polls."""
    places: Sequence[tuple[int, float]]
    """The bucket that holds each rank, and the rank within it."""
    told: bool
    """Whether any sum is to be trusted."""


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
    return estimates([(bounds, polls)], qs)[0]


def estimates(windows: Sequence[Window], qs: Sequence[float]) -> list[list[Quantile]]:
    """Estimate the same quantiles of some histograms, each as `estimate` does alone; together it costs much less.

    `windows` are the bounds of each and its polls.
    """
    asked = [_asked(bounds, polls, qs) for bounds, polls in windows]
    values = iter(_read([one for one in asked if one and one.told]))
    return [_quantiles(one, qs, next(values) if one.told else None) if one else [] for one in asked]


def bucket_edges(bounds: Sequence[float], counts: Sequence[float], q: float) -> tuple[float, float | None]:
    """Return the edges of the bucket that certainly holds a quantile; the upper is None for +Inf.

    `counts` are those of the n + 1 buckets and not all 0.
    """
    bucket, _ = next(ranks(counts, (q,)))
    return lower_edge(bounds, bucket), bounds[bucket] if bucket < len(bounds) else None


def _asked(bounds: Sequence[float], polls: Sequence[Observed], qs: Sequence[float]) -> _Asked | None:
    """Return what is asked of one histogram; None where there was no observation."""
    counts = [0.0] * (len(bounds) + 1)
    for bucket, count in chain.from_iterable([poll.bins for poll in polls]):
        counts[bucket] += count
    if not bounds or not any(counts):
        return None
    told = any(is_told(poll) and poll.bins for poll in polls)
    return _Asked(bounds, polls, counts, list(ranks(counts, qs)), told)


def _quantiles(asked: _Asked, qs: Sequence[float], values: Sequence[float] | None) -> list[Quantile]:
    """Return the values that were read, or else what `histogram_quantile` gives, with the edges of their buckets."""
    bounds, counts, places = asked.bounds, asked.counts, asked.places
    if values is None:
        values = [interpolated(bounds, bucket, rank, counts[bucket]) for bucket, rank in places]
    return [
        Quantile(q, value, lower_edge(bounds, bucket), bounds[bucket] if bucket < len(bounds) else None)
        for q, (bucket, _), value in zip(qs, places, values, strict=True)
    ]


def _read(asked: Sequence[_Asked]) -> list[list[float]]:
    """Read the ranks off both models, as far as each is believed."""
    parts = [gather(one.bounds, one.polls, one.counts) for one in asked]
    models = [moving(part) for part in parts]
    doubted = [number for number, model in enumerate(models) if not model or model.belief < 1.0]
    fitted = dict(zip(doubted, _fitted([parts[number] for number in doubted]), strict=True)) if doubted else {}
    found = []
    for number, (one, part, model) in enumerate(zip(asked, parts, models, strict=True)):
        read = [_read_off(part, fitted[number], one.places)] if number in fitted else []
        if model:
            read.append(_read_off(part, follow(part, model), one.places))
        belief = model.belief if model else 0.0
        both = len(read) == 2
        found.append([(1.0 - belief) * a + belief * b for a, b in zip(*read, strict=True)] if both else read[0])
    return found


def _fitted(parts: Sequence[Single]) -> Iterator[Observations]:
    """Fit the model of buckets to histograms side by side, and yield the observations of each."""
    evidence = joined(parts)
    moments = fit(evidence, parts)
    found = refine(evidence, moments, groups(evidence, moments, nodes(evidence, moments)))
    first = 0
    for part in parts:
        last = first + len(part.poll)
        yield Observations(found.values[first:last], found.weights[first:last])
        first = last


def _read_off(evidence: Single, observations: Observations, places: Sequence[tuple[int, float]]) -> list[float]:
    """Read the ranks off the observations of their buckets."""
    bounds, slots = evidence.bounds, evidence.slots
    order = np.argsort(evidence.slot, kind="stable")
    starts = np.searchsorted(evidence.slot[order], np.arange(len(slots) + 1)).tolist()
    found = []
    for bucket, same in groupby(places, key=lambda place: place[0]):
        mine = order[starts[slots[bucket]] : starts[slots[bucket] + 1]]
        values, weights = observations.values[mine].ravel(), observations.weights[mine] * evidence.count[mine][:, None]
        lower = lower_edge(bounds, bucket)
        for value in order_statistics(values, weights.ravel(), [rank for _, rank in same], signed=lower < 0.0):
            inside = max(lower, value * evidence.scale)
            found.append(min(bounds[bucket], inside) if bucket < len(bounds) else inside)
    return found
