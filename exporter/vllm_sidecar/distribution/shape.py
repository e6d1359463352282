"""Where values lie in a bucket, as far as the counts of its neighbours tell: a smooth density through all buckets.

Latencies are smooth on a logarithmic axis: on it a lognormal is a parabola of the logarithm of the density, and a
power law a straight line. So for each bucket this is the parabola that agrees with its own count and those of both
neighbours. It is only where the estimate begins: the sums decide.
"""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.distribution.evidence import Floats, Places

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


class _Axis(NamedTuple):
    """The buckets on the logarithmic axis; those that begin below 0 are not on it (`first` is the first that is)."""

    first: int
    middles: Floats
    widths: Floats
    heights: Floats
    """Logarithms of observations per width."""


def shapes(
    bounds: Sequence[float],
    counts: Sequence[float],
    buckets: Sequence[int],
    limit: tuple[int, float, float] | None = None,
    beyond: float = 0.0,
) -> Shapes:
    """Return the shapes of these buckets; values lie evenly where neighbours tell nothing.

    `limit` is a bucket whose values lie between two edges inside it, as its neighbours see it. `beyond` is the mean of
    how far values of the +Inf bucket lie beyond its edge, 0 where that is not known.
    """
    d = len(buckets)
    found = Shapes(np.full(d, 0.5), np.full(d, 1.0 / 12.0), np.tile(SHARES, (d, 1)))
    axis = _axis(*_closed(bounds, counts, beyond), limit)
    inner = [slot for slot, bucket in enumerate(buckets) if axis.first < bucket < len(bounds)]
    if inner:
        edges, weights = _pieces(np.array(bounds), axis, np.array([buckets[slot] for slot in inner]))
        _set(found, inner, edges, weights)
    if buckets[0] == 0 and axis.first == 0 and len(bounds) > 1:
        beside = counts[1] / float(axis.widths[1]) / bounds[0]
        power = _power(bounds, counts, beside * float(weights[0, 0] / weights[0].mean()) if beside else 0.0)
        mean = (power + 1.0) / (power + 2.0)
        found.mean[0], found.variance[0] = mean, (power + 1.0) / (power + 3.0) - mean * mean
        found.quantiles[0] = SHARES ** (1.0 / (power + 1.0))
    return found


def _closed(bounds: Sequence[float], counts: Sequence[float], beyond: float) -> tuple[Sequence[float], Sequence[float]]:
    """Return finite buckets: +Inf becomes one up to twice its mean, with what an exponential tail has there."""
    if beyond <= 0.0 or not counts[-1]:
        return bounds, counts[:-1]
    return [*bounds, bounds[-1] + 2.0 * beyond], [*counts[:-1], counts[-1] * _INSIDE]


def _axis(bounds: Sequence[float], counts: Sequence[float], limit: tuple[int, float, float] | None) -> _Axis:
    first = next((i for i, bound in enumerate(bounds) if bound > 0.0), len(bounds))
    if first == len(bounds):
        return _Axis(first, np.empty(0), np.empty(0), np.empty(0))
    logs = np.log(np.array(bounds[first:]))
    lower, upper = np.concatenate([[logs[0] - _FIRST], logs[:-1]]), logs
    if limit:
        upper = logs.copy()
        lower[limit[0] - first], upper[limit[0] - first] = log(limit[1]), log(limit[2])
    widths = np.maximum(_NEAR, upper - lower)
    heights = np.log((np.array(counts[first:]) + _NOTHING) / widths)
    return _Axis(first, (lower + upper) / 2.0, widths, heights)


def _pieces(bounds: Floats, axis: _Axis, buckets: Places) -> tuple[Floats, Floats]:
    """Return where the pieces of buckets end, in widths of them, and how much each piece holds."""
    slope, curve = _parabolas(axis, buckets - axis.first)
    low, high = bounds[buckets - 1][:, None], bounds[buckets][:, None]
    half = axis.widths[buckets - axis.first][:, None] / 2.0
    edges = (np.sqrt(low) * np.sqrt(high) * np.exp(half * _EDGES) - low) / (high - low)
    weights = np.exp((slope[:, None] + curve[:, None] * _MIDDLES) * _MIDDLES)
    return np.maximum(0.0, np.minimum(1.0, edges)), weights


def _set(found: Shapes, slots: list[int], edges: Floats, weights: Floats) -> None:
    """Take over piecewise constant densities, where edges are not too near each other for floating point."""
    shares = weights / weights.sum(1, keepdims=True)
    low, high = edges[:, :-1], edges[:, 1:]
    mean = (shares * (low + high)).sum(1) / 2.0
    variance = (shares * (low * low + low * high + high * high)).sum(1) / 3.0 - mean * mean
    below = np.concatenate([np.zeros((len(slots), 1)), np.cumsum(shares, axis=1)], axis=1)
    for i, slot in enumerate(slots):
        if 0.0 < mean[i] < 1.0 and 1e-6 < variance[i] < 0.25:
            found.mean[slot], found.variance[slot] = mean[i], variance[i]
            found.quantiles[slot] = np.interp(SHARES, below[i], edges[i])


def _parabolas(axis: _Axis, i: Places) -> tuple[Floats, Floats]:
    """Return slope and curvature of the logarithm of the density, for t from -1 to 1 over each bucket."""
    z, d, given = axis.middles, axis.widths, axis.heights
    last = i + 1 >= len(z)
    j = np.where(last, i, i + 1)
    left, right = np.maximum(_NEAR, z[i] - z[i - 1]), np.where(last, 1.0, np.maximum(_NEAR, z[j] - z[i]))
    measured, widths = np.stack([given[i - 1], given[i], given[j]]), np.stack([d[i - 1], d[i], d[j]])
    off = np.stack([-left, np.zeros(len(i)), right])
    hollow = _HOLLOW * _CURVE / (d[i] / 2.0) ** 2
    heights = measured
    for _ in range(_TURNS):
        # A bucket's mean density is not that at its middle; by this factor.
        slope, curve = _through(heights, left, right)
        curve = np.minimum(curve, hollow)
        there = (slope + 2.0 * curve * off)[:, :, None]
        z_off = 0.5 * widths[:, :, None] * _INNER
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
    density = max(beside, _NOTHING / (bounds[1] - bounds[0]))
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
