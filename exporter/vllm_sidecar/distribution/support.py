"""Where values end inside a bucket: latencies that have a least or a largest value, which no smooth density shows.

A bucket beside an empty one holds the tail of the latency, or its end: no time to the first token is below that of the
prefill, and a limit cuts off what is above it. If it is the end, the density of the neighbours goes on up to where it
has used up the count of the bucket. Both are held against the sums, and mixed by how likely these make them.
"""

from __future__ import annotations

from math import exp, expm1, isfinite, log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.distribution.shape import Shapes, power_law, shapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.distribution.evidence import Evidence, Floats

_FEW = 0.02
"""Share of a bucket's count up to which its neighbour is taken for empty."""
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
    clear: float
    """How far it is from the end of the bucket, 0 to 1: at 0 there is none."""
    mean: float
    variance: float
    quantiles: Floats


def suggested(evidence: Evidence) -> Shapes:
    """Return the shapes of the slots, with ends as far as the sums speak for them."""
    bounds, counts = evidence.bounds, evidence.counts
    found = shapes(bounds, counts, evidence.buckets)
    ends = [] if evidence.infinite else list(_ends(evidence))
    if not ends or not evidence.trusted.any():
        return found
    table = evidence.table(evidence.count)[evidence.trusted]
    sums = evidence.total[evidence.trusted]
    before = _likelihood(evidence, table, sums, found)
    for end in sorted(ends, key=lambda end: -counts[evidence.buckets[end.slot]]):
        other = _with(found, end, 1.0)
        after = _likelihood(evidence, table, sums, other)
        odds = max(-50.0, min(50.0, after - before + _ODDS))
        share = end.clear / (1.0 + exp(-odds))
        found = _with(found, end, share)
        before = _likelihood(evidence, table, sums, found)
    return found


def _with(found: Shapes, end: _End, share: float) -> Shapes:
    """Mix the shape of one slot with that of an end."""
    mixed = Shapes(found.mean.copy(), found.variance.copy(), found.quantiles.copy())
    for old, new in zip(mixed, (end.mean, end.variance, end.quantiles), strict=True):
        old[end.slot] += share * (new - old[end.slot])
    return mixed


def _likelihood(evidence: Evidence, table: Floats, sums: Floats, found: Shapes) -> float:
    """Return the logarithm of the density of the sums, the means of the buckets being as doubtful as shapes are."""
    lower, width = evidence.lower, evidence.width
    variance = table @ (width * width * found.variance) + _TINY
    residual = sums - table @ (lower + width * found.mean)
    weighted = table / variance[:, None]
    doubt = (_DOUBT * width) ** 2
    matrix = np.eye(len(width)) + doubt[:, None] * (weighted.T @ table)
    moved = weighted.T @ residual
    explained = float(moved @ np.linalg.solve(matrix, doubt * moved))
    unexplained = float((residual * residual / variance).sum()) - explained
    return -0.5 * (unexplained + float(np.log(variance).sum()) + float(np.linalg.slogdet(matrix)[1]))


def _ends(evidence: Evidence) -> Iterator[_End]:
    """Yield the buckets in which values would end, if the density beside them went on."""
    bounds, counts = evidence.bounds, evidence.counts
    for slot, bucket in enumerate(evidence.buckets):
        if bucket == 0 or bucket == len(bounds):
            continue
        for step in (-1, 1):
            near, beyond = bucket + step, bucket - step
            inside = 1 <= near < len(bounds) and bounds[min(near, bucket) - 1] > _APART * bounds[max(near, bucket)]
            empty = 0 <= beyond < len(bounds) and counts[beyond] < _FEW * counts[bucket]
            if inside and empty and counts[near] > 0.0:
                end = _end(bounds, counts, bucket, step)
                if end:
                    yield _End(slot, *end)


def _end(
    bounds: Sequence[float], counts: Sequence[float], bucket: int, step: int
) -> tuple[float, float, float, Floats] | None:
    """Return how clear an end is, and the shape of a bucket into which the density of its neighbour at `step` goes on.

    None where it fills the bucket.
    """
    near, far = bucket + step, bucket + 2 * step
    bounds = [bound / bounds[bucket] for bound in bounds]
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
    mean, variance, quantiles = power_law(lower, upper, power, *((start, stop) if step < 0 else (stop, start)))
    left = (upper - stop if step < 0 else stop - lower) / (upper - lower)
    return min(1.0, left / _CLEAR), mean, max(variance, 1e-12), quantiles


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
    apart = log((bounds[near - 1] + bounds[near]) / (bounds[far - 1] + bounds[far]))
    wanted = log(counts[near] / counts[far])
    power = 0.0
    for _ in range(4):
        held = log(_held(power, bounds[near - 1], bounds[near]) / _held(power, bounds[far - 1], bounds[far]))
        power = max(-_STEEPEST, min(_STEEPEST, power + (wanted - held) / apart))
    return power
