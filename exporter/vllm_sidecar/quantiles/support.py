"""Where values end inside a bucket: latencies that have a least or a largest value, which no smooth density shows.

A bucket beside an empty one holds the tail of the latency, or its end: no time to the first token is below that of the
prefill, and a limit cuts off what is above it. If it is the end, the density of the neighbours goes on up to where it
has used up the count of the bucket, and it has no slope towards it. Both are held against the sums, and mixed by how
likely these make them.
"""

from __future__ import annotations

from math import exp, expm1, isfinite, log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.shape import Outline, Shapes, power_law, shapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.quantiles.evidence import Evidence, Floats, Single

_FEW = 0.02
"""Share of a bucket's count up to which its neighbour is taken for empty."""
_LEAST, _SHARE = 8.0, 0.01
"""Observations, and their share of all, from which on a bucket is looked at: fewer hardly move a quantile."""
_ODDS = -1.0
"""Logarithm of the odds of an end, before the sums have spoken."""
_DOUBT = 0.05
"""Deviation of a bucket's mean from what a shape suggests, in widths of the bucket."""
_STEEPEST = 6.0
"""Largest power of a density."""
_APART = 1e-6
"""Least ratio of edges that a density is taken to go on over."""
_CLEAR = 0.1
"""Share of a bucket that is left beyond a clear end."""
_TINY = 1e-30


class _End(NamedTuple):
    """The shape of a bucket in which values end."""

    slot: int
    near: int
    """The slot beside it that is not empty."""
    begin: float
    stop: float
    clear: float
    """How far it is from the end of the bucket, 0 to 1: at 0 there is none."""
    mean: float
    variance: float
    quantiles: Floats


def suggested(parts: Sequence[Single]) -> Shapes:
    """Return the shapes of the slots of some histograms side by side, with ends as far as the sums speak for them."""
    found = shapes(*(Outline(part.bounds, part.counts, part.buckets) for part in parts))
    first = 0
    for part in parts:
        mine = slice(first, first + len(part.buckets))
        own = _ended(part, Shapes(*(each[mine] for each in found)))
        for whole, each in zip(found, own, strict=True):
            whole[mine] = each
        first = mine.stop
    return found


def _ended(evidence: Single, found: Shapes) -> Shapes:
    """Return the shapes of the slots with what the sums tell of the +Inf bucket and of ends."""
    bounds, counts, buckets = evidence.bounds, evidence.counts, evidence.buckets
    if evidence.infinite:
        found = shapes(Outline(bounds, counts, buckets, beyond=_beyond(evidence, found)))
    ends = list(_ends(evidence))
    if not ends or not evidence.trusted.any():
        return found
    table = evidence.table(evidence.count)[evidence.trusted]
    before = _likelihood(evidence, table, found)
    for end in sorted(ends, key=lambda end: -counts[buckets[end.slot]]):
        other = _with(evidence, found, end)
        odds = max(-50.0, min(50.0, _likelihood(evidence, table, other) - before + _ODDS))
        share = end.clear / (1.0 + exp(-odds))
        found = Shapes(*(a + share * (b - a) for a, b in zip(found, other, strict=True)))
        before = _likelihood(evidence, table, found)
    return found


def expected(evidence: Evidence, found: Shapes) -> tuple[Floats, Floats]:
    """Return mean and variance per slot as the shapes suggest them; that of +Inf is what the others leave."""
    lower, width, endless = evidence.lower, evidence.width, evidence.endless
    means, variances = lower + width * found.mean, width * width * found.variance
    if endless.any():
        last = endless[evidence.slot]
        others = evidence.per_poll(np.where(last, 0.0, evidence.count * means[evidence.slot]))
        left = (evidence.total - others)[evidence.poll]
        told = last & ~np.isnan(left)
        seen = evidence.per_slot(np.where(told, evidence.count, 0.0))
        mean = evidence.per_slot(np.where(told, left, 0.0)) / np.maximum(seen, _TINY)
        mean = np.maximum(lower + 0.01 * width, np.minimum(lower + 0.99 * width, mean))
        means = np.where(seen > 0.0, mean, means)
        variances = np.where(endless, (means - lower) ** 2, variances)
    return means, variances


def _beyond(evidence: Single, found: Shapes) -> float:
    """Return the mean of how far values lie beyond the last bound, in the unit of the bounds."""
    means, _ = expected(evidence, found)
    return evidence.scale * float(means[-1] - evidence.lower[-1])


def _with(evidence: Single, found: Shapes, end: _End) -> Shapes:
    """Return the shapes with an end."""
    limit = evidence.buckets[end.slot], end.begin, end.stop
    beyond = _beyond(evidence, found) if evidence.infinite else 0.0
    near = evidence.buckets[end.near : end.near + 1]
    beside = shapes(Outline(evidence.bounds, evidence.counts, near, limit, beyond))
    mixed = Shapes(found.mean.copy(), found.variance.copy(), found.quantiles.copy())
    mixed.mean[end.slot], mixed.variance[end.slot], mixed.quantiles[end.slot] = end.mean, end.variance, end.quantiles
    mixed.mean[end.near], mixed.variance[end.near] = beside.mean[0], beside.variance[0]
    mixed.quantiles[end.near] = beside.quantiles[0]
    return mixed


def _likelihood(evidence: Single, table: Floats, found: Shapes) -> float:
    """Return the logarithm of the density of the sums, the means of the buckets being as doubtful as shapes are."""
    width = evidence.width
    means, variances = expected(evidence, found)
    variance = table @ variances + _TINY
    residual = evidence.total[evidence.trusted] - table @ means
    weighted = table / variance[:, None]
    doubt: Floats = (_DOUBT * width) ** 2
    if evidence.infinite:
        doubt[-1] = variances[-1]
    matrix = np.eye(len(width)) + doubt[:, None] * (weighted.T @ table)
    moved = weighted.T @ residual
    explained = float(moved @ np.linalg.solve(matrix, doubt * moved))
    unexplained = float((residual * residual / variance).sum()) - explained
    return -0.5 * (unexplained + float(np.log(variance).sum()) + float(np.linalg.slogdet(matrix)[1]))


def _ends(evidence: Single) -> Iterator[_End]:
    """Yield the buckets in which values would end, if the density beside them went on."""
    bounds, counts = evidence.bounds, evidence.counts
    least = max(_LEAST, _SHARE * sum(counts))
    for slot, bucket in enumerate(evidence.buckets):
        if bucket in (0, len(bounds)) or counts[bucket] < least or bounds[bucket - 1] >= bounds[bucket]:
            continue
        for step in (-1, 1):
            near, beyond = bucket + step, bucket - step
            inside = 1 <= near < len(bounds) and bounds[min(near, bucket) - 1] > _APART * bounds[max(near, bucket)]
            empty = 0 <= beyond < len(bounds) and counts[beyond] < _FEW * counts[bucket]
            if inside and empty and counts[near] > 0.0 and bounds[near - 1] < bounds[near]:
                end = _end(evidence, slot, step)
                if end:
                    yield end


def _end(evidence: Single, slot: int, step: int) -> _End | None:
    """Return the end in a bucket into which the density of its neighbour at `step` goes on; None where it fills it."""
    bucket, counts = evidence.buckets[slot], evidence.counts
    unit = evidence.bounds[bucket]
    bounds = [bound / unit for bound in evidence.bounds]
    near, far = bucket + step, bucket + 2 * step
    lower, upper, count = bounds[bucket - 1], bounds[bucket], counts[bucket]
    # The farther one is not used where it may hold an end itself.
    inner = 0 <= far + step < len(bounds) and far >= 1 and bounds[far - 1] > _APART * bounds[far]
    known = inner and counts[far] > 0.0 and counts[far + step] > 0.0
    power = _slope(bounds, counts, near, far) if known else 0.0
    height = counts[near] / _held(power, bounds[near - 1], bounds[near])
    if height * _held(power, lower, upper) <= count:
        return None
    start = lower if step < 0 else upper
    stop = _reached(power, start, -step * count / height)
    if not isfinite(stop) or not lower < stop < upper:
        return None
    left = (upper - stop if step < 0 else stop - lower) / (upper - lower)
    begin, stop = (start, stop) if step < 0 else (stop, start)
    mean, variance, quantiles = power_law(lower, upper, power, begin, stop)
    clear = min(1.0, left / _CLEAR)
    return _End(slot, slot + step, begin * unit, stop * unit, clear, mean, max(variance, 1e-12), quantiles)


def _held(power: float, begin: float, end: float) -> float:
    """Return the integral of x ** power over begin..end, both positive."""
    whole, ratio = power + 1.0, log(end / begin)
    return float(begin**whole) * (expm1(whole * ratio) / whole if whole else ratio)


def _reached(power: float, start: float, held: float) -> float:
    """Return the end of the range from `start` that holds so much of x ** power; a negative amount goes down."""
    whole = power + 1.0
    if not whole:
        return start * exp(held)
    left = 1.0 + held * whole / start**whole
    return start * float(left ** (1.0 / whole)) if left > 0.0 else float("nan")


def _slope(bounds: Sequence[float], counts: Sequence[float], near: int, far: int) -> float:
    """Return the power whose density holds the counts of two buckets, by Newton's method."""
    if min(bounds[near] / bounds[near - 1], bounds[far] / bounds[far - 1]) < 1.0 + _APART:
        return 0.0
    apart = log((bounds[near - 1] + bounds[near]) / (bounds[far - 1] + bounds[far]))
    wanted = log(counts[near] / counts[far])
    power = 0.0
    for _ in range(4):
        held = log(_held(power, bounds[near - 1], bounds[near]) / _held(power, bounds[far - 1], bounds[far]))
        power = max(-_STEEPEST, min(_STEEPEST, power + (wanted - held) / apart))
    return power
