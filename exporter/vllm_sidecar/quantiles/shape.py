"""Where values lie in a bucket, as far as the counts of its neighbours tell: a smooth density through all buckets.

Latencies are smooth on a logarithmic axis: on it a lognormal is a parabola of the logarithm of the density, and a
power law a straight line. So for each bucket this is the parabola that agrees with its own count and those of both
neighbours. It is only where the estimate begins: the sums decide.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.quantiles.evidence import Flags, Floats, Places

STEPS = 16
"""Pieces of a bucket in which its density is taken for constant."""
NODES = 48
"""Values that stand for a bucket."""
SHARES = (np.arange(NODES) + 0.5) / NODES
"""The share of the bucket's observations below each, and half of its own."""
_EDGES = np.arange(STEPS + 1) * 2.0 / STEPS - 1.0
_MIDDLES = (_EDGES[1:] + _EDGES[:-1]) / 2.0
_NOTHING = 0.1
"""An empty bucket counts as this many observations: its logarithm is needed."""
_FIRST = 1.0
"""Width of the first bucket on the logarithmic axis, on which it has no end: as if it were e times wide."""
_SLOPE = 8.0
_CURVE = 6.0
_HOLLOW = 0.15
"""A bucket with less than both neighbours is rare in truth and common by chance: this share of a curve is allowed."""
_INSIDE = 1.0 - exp(-2.0)
"""Share of an exponential tail up to twice its mean."""
_TURNS = 3
"""Turns in which densities at the middles of buckets are told from their means."""
_INNER = np.array([-0.875, -0.625, -0.375, -0.125, 0.125, 0.375, 0.625, 0.875])
_STEEP = 20.0
"""Largest logarithm of the ratio of two densities in a bucket."""
_NARROW = 1e-300
"""Least width of a bucket."""
_NEAR = 1e-12
"""Least distance of two edges on the logarithmic axis."""


class Shapes(NamedTuple):
    """Densities on 0..1, the width of a bucket; +Inf has none, and an even one stands for it."""

    mean: Floats
    """(d)"""
    variance: Floats
    """(d)"""
    quantiles: Floats
    """(d, NODES) at SHARES."""


class Outline(NamedTuple):
    """The buckets of a histogram whose shapes are asked for, and what is known of them."""

    bounds: Sequence[float]
    """All finite bounds (m)."""
    counts: Sequence[float]
    """Observations per bucket (m + 1)."""
    buckets: Sequence[int]
    """Those that are asked for, ascending (d)."""
    limit: tuple[int, float, float] | None = None
    """A bucket whose values lie between two edges inside it, as its neighbours see it."""
    beyond: float = 0.0
    """The mean of how far values of the +Inf bucket lie beyond its edge, 0 where that is not known."""


class _Axis(NamedTuple):
    """The buckets of a histogram on the logarithmic axis; those that begin below 0 are not on it."""

    first: int
    """The first one that is."""
    middles: Floats
    widths: Floats
    counts: Sequence[float]


class _Inner(NamedTuple):
    """Finite buckets with one below, of all histograms (k)."""

    slot: Places
    place: Places
    """Among the buckets of all axes."""
    last: Flags
    """Whether it is the last one of its axis."""
    low: Floats
    high: Floats


def shapes(*outlines: Outline) -> Shapes:
    """Return the shapes of buckets, histogram after histogram; values lie evenly where neighbours tell nothing."""
    d = sum([len(outline.buckets) for outline in outlines])
    found = Shapes(np.full(d, 0.5), np.full(d, 1.0 / 12.0), np.tile(SHARES, (d, 1)))
    axes = [_axis(outline) for outline in outlines]
    inner = _inner(outlines, axes)
    at_edge = {}
    if inner:
        edges, weights = _pieces(axes, inner)
        _set(found, inner.slot, edges, weights)
        at_edge = dict(zip(inner.slot.tolist(), (weights[:, 0] / weights.mean(1)).tolist(), strict=True))
    slot = 0
    for (bounds, counts, buckets, _, _), axis in zip(outlines, axes, strict=True):
        if buckets[0] == 0 and axis.first == 0 and len(bounds) > 1:
            beside = counts[1] / float(axis.widths[1]) / bounds[0]
            _set_first(found, slot, _power(bounds, counts, beside * at_edge[slot + 1] if beside else 0.0))
        slot += len(buckets)
    return found


def _axis(outline: Outline) -> _Axis:
    bounds, counts, _, limit, beyond = outline
    finite: Sequence[float] = counts[:-1]
    if beyond > 0.0 and counts[-1]:
        # +Inf becomes a bucket up to twice its mean, with what an exponential tail has there.
        finite = [*finite, counts[-1] * _INSIDE]
        first, middles, widths = _logarithmic((*bounds, bounds[-1] + 2.0 * beyond))
    else:
        first, middles, widths = _known(tuple(bounds))
    if limit:
        bucket, begin, end = limit[0] - first, log(limit[1]), log(limit[2])
        middles, widths = middles.copy(), widths.copy()
        middles[bucket], widths[bucket] = (begin + end) / 2.0, max(_NEAR, end - begin)
    return _Axis(first, middles, widths, finite[first:])


@lru_cache(maxsize=64)
def _known(bounds: tuple[float, ...]) -> tuple[int, Floats, Floats]:
    """Return the same for bounds that are asked for again and again."""
    found = _logarithmic(bounds)
    for each in found[1:]:
        each.setflags(write=False)  # shared by all that ask
    return found


def _logarithmic(bounds: tuple[float, ...]) -> tuple[int, Floats, Floats]:
    """Return the first bucket that has logarithms, and the middles and widths of it and those above."""
    first = next((i for i, bound in enumerate(bounds) if bound > 0.0), len(bounds))
    upper = np.log(np.array(bounds[first:]))
    lower = np.concatenate([upper[:1] - _FIRST, upper[:-1]])
    return first, (lower + upper) / 2.0, np.maximum(_NEAR, upper - lower)


def _inner(outlines: Sequence[Outline], axes: Sequence[_Axis]) -> _Inner | None:
    rows = []
    slots = places = 0
    for (bounds, _, buckets, _, _), axis in zip(outlines, axes, strict=True):
        for slot, bucket in enumerate(buckets, slots):
            if axis.first < bucket < len(bounds):
                place = bucket - axis.first
                last = place + 1 == len(axis.widths)
                rows.append((slot, places + place, last, bounds[bucket - 1], bounds[bucket]))
        slots, places = slots + len(buckets), places + len(axis.widths)
    return _Inner(*(np.array(column) for column in zip(*rows, strict=True))) if rows else None


def _pieces(axes: Sequence[_Axis], inner: _Inner) -> tuple[Floats, Floats]:
    """Return where the pieces of buckets end, in widths of them, and how much each piece holds."""
    widths = np.concatenate([axis.widths for axis in axes])
    counts = np.array([count for axis in axes for count in axis.counts])
    middles, heights = np.concatenate([axis.middles for axis in axes]), np.log((counts + _NOTHING) / widths)
    slope, curve = _parabolas(middles, widths, heights, inner)
    low, high = inner.low[:, None], inner.high[:, None]
    half = widths[inner.place][:, None] / 2.0
    edges = (np.sqrt(low) * np.sqrt(high) * np.exp(half * _EDGES) - low) / np.maximum(_NARROW, high - low)
    weights = np.exp((slope[:, None] + curve[:, None] * _MIDDLES) * _MIDDLES)
    return np.maximum(0.0, np.minimum(1.0, edges)), weights


def _set(found: Shapes, slots: Places, edges: Floats, weights: Floats) -> None:
    """Take over piecewise constant densities, where edges are not too near each other for floating point."""
    shares = weights / weights.sum(1, keepdims=True)
    low, high = edges[:, :-1], edges[:, 1:]
    mean = (shares * (low + high)).sum(1) / 2.0
    variance = (shares * (low * low + low * high + high * high)).sum(1) / 3.0 - mean * mean
    clear = (mean > 0.0) & (mean < 1.0) & (variance > 1e-6) & (variance < 0.25)
    found.mean[slots[clear]], found.variance[slots[clear]] = mean[clear], variance[clear]
    # One after the other, 2 apart, so that one line holds them all.
    apart = 2.0 * np.arange(len(slots))[:, None]
    below = np.concatenate([np.zeros((len(slots), 1)), np.cumsum(shares, axis=1)], axis=1) + apart
    quantiles = np.interp(SHARES + apart, below.ravel(), edges.ravel())
    found.quantiles[slots[clear]] = quantiles[clear]


def _set_first(found: Shapes, slot: int, power: float) -> None:
    """Take over the density of a first bucket, a power of the value."""
    mean = (power + 1.0) / (power + 2.0)
    found.mean[slot], found.variance[slot] = mean, (power + 1.0) / (power + 3.0) - mean * mean
    found.quantiles[slot] = SHARES ** (1.0 / (power + 1.0))


def _parabolas(z: Floats, d: Floats, given: Floats, inner: _Inner) -> tuple[Floats, Floats]:
    """Return slope and curvature of the logarithm of the density, for t from -1 to 1 over each bucket.

    Those of all axes have middles z, widths d and heights that are given, the logarithms of observations per width.
    """
    i, last = inner.place, inner.last
    j = np.where(last, i, i + 1)
    left, right = np.maximum(_NEAR, z[i] - z[i - 1]), np.where(last, 1.0, np.maximum(_NEAR, z[j] - z[i]))
    measured, widths = np.stack([given[i - 1], given[i], given[j]]), np.stack([d[i - 1], d[i], d[j]])
    off = np.stack([-left, np.zeros(len(i)), right])
    hollow = _HOLLOW * _CURVE / (d[i] / 2.0) ** 2
    heights = measured
    z_off = 0.5 * widths[:, :, None] * _INNER
    for _ in range(_TURNS):
        # A bucket's mean density is not that at its middle; by this factor.
        slope, curve = _through(heights, left, right)
        curve = np.minimum(curve, hollow)
        there = (slope + 2.0 * curve * off)[:, :, None]
        rise = np.maximum(-_STEEP, np.minimum(_STEEP, (there + curve[:, None] * z_off) * z_off))
        heights = measured - np.log(np.exp(rise).mean(2))
    slope, curve = _through(heights, left, right)
    slope = np.where(last, (measured[1] - measured[0]) / left, slope)
    curve = np.where(last, 0.0, curve)
    half = d[i] / 2.0
    return (
        np.maximum(-_SLOPE, np.minimum(_SLOPE, slope * half)),
        np.maximum(-_CURVE, np.minimum(_HOLLOW * _CURVE, curve * half * half)),
    )


def _through(heights: Floats, left: Floats, right: Floats) -> tuple[Floats, Floats]:
    before, after = (heights[1] - heights[0]) / left, (heights[2] - heights[1]) / right
    return (before * right + after * left) / (left + right), (after - before) / (left + right)


def _power(bounds: Sequence[float], counts: Sequence[float], beside: float) -> float:
    """Return the power of the value in the first bucket whose density meets that beside its edge."""
    density = max(beside, _NOTHING / max(_NARROW, bounds[1] - bounds[0]))
    return max(-0.5, min(8.0, density / (counts[0] / bounds[0]) - 1.0))


def power_law(lower: float, upper: float, power: float, begin: float, end: float) -> tuple[float, float, Floats]:
    """Return mean, variance and quantiles of a density like x ** power on begin..end, in widths of lower..upper."""
    whole = power + 1.0
    if abs(whole) < 1e-6:
        values = begin * np.exp(SHARES * log(end / begin))
    else:
        ratio = (end / begin) ** whole
        values = begin * (1.0 + SHARES * (ratio - 1.0)) ** (1.0 / whole)
    places = np.maximum(0.0, np.minimum(1.0, (values - lower) / (upper - lower)))
    return float(places.mean()), float(places.var()), places


def gaps(values: Floats) -> Floats:
    """Return half of how far the neighbours of ascending values are apart (d, n); at both ends, how far the next is."""
    found = np.empty_like(values)
    found[:, 1:-1] = 0.5 * (values[:, 2:] - values[:, :-2])
    found[:, 0], found[:, -1] = values[:, 1] - values[:, 0], values[:, -1] - values[:, -2]
    return found
