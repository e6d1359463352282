"""Where values lie in a bucket, as far as the counts of its neighbours tell: a smooth density through all buckets.

Latencies are smooth on a logarithmic axis: on it a lognormal is a parabola of the logarithm of the density, and a
power law a straight line. So for each bucket this is the parabola that agrees with its own count and those of both
neighbours. It is only where the estimate begins: the sums decide.
"""

from __future__ import annotations

from itertools import pairwise
from math import exp, log, sqrt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = 16
"""Pieces of a bucket in which its density is taken for constant."""
GRID = 32
"""Steps of the table of quantiles."""
_MIDDLES = tuple([(2 * i + 1) / STEPS - 1.0 for i in range(STEPS)])
_EDGES = tuple([2 * i / STEPS - 1.0 for i in range(STEPS + 1)])
_NOTHING = 0.1
"""An empty bucket counts as this many observations: its logarithm is needed."""
_FIRST = 1.0
"""Width of the first bucket on the logarithmic axis, on which it has no end: as if it were e times wide."""
_SLOPE = 8.0
_CURVE = 6.0


class Shape(NamedTuple):
    """A density on 0..1, the width of the bucket."""

    mean: float
    variance: float
    quantiles: tuple[float, ...]
    """At GRID + 1 even steps from 0 to 1."""


EVEN = Shape(0.5, 1.0 / 12.0, tuple([i / GRID for i in range(GRID + 1)]))
"""What is taken where neighbours tell nothing: values lie evenly."""


class _Axis(NamedTuple):
    """The buckets on the logarithmic axis; those that begin below 0 are not on it (`first` is the first that is)."""

    first: int
    middles: list[float]
    widths: list[float]
    heights: list[float]
    """Logarithms of observations per width."""


def shapes(bounds: Sequence[float], counts: Sequence[float], buckets: Sequence[int]) -> list[Shape | None]:
    """Return the shape of each of these buckets; None for +Inf, which has none."""
    axis = _axis(bounds, counts)
    return [_shape(bounds, counts, bucket, axis) if bucket < len(bounds) else None for bucket in buckets]


def _axis(bounds: Sequence[float], counts: Sequence[float]) -> _Axis:
    first = next((i for i, bound in enumerate(bounds) if bound > 0.0), len(bounds))
    logs = [log(bound) for bound in bounds[first:]]
    middles = [logs[0] - _FIRST / 2.0] if logs else []
    widths = [_FIRST] if logs else []
    for low, high in pairwise(logs):
        middles.append((low + high) / 2.0)
        widths.append(high - low)
    heights = [
        log((count + _NOTHING) / width) for count, width in zip(counts[first : len(bounds)], widths, strict=True)
    ]
    return _Axis(first, middles, widths, heights)


def _shape(bounds: Sequence[float], counts: Sequence[float], bucket: int, axis: _Axis) -> Shape:
    if bucket < axis.first or (bucket == axis.first and bucket > 0):
        return EVEN
    if bucket == 0:
        return _first(bounds, counts, axis)
    low, high = bounds[bucket - 1], bounds[bucket]
    slope, curve = _parabola(axis, bucket - axis.first)
    weights = [exp((slope + curve * t) * t) for t in _MIDDLES]
    whole = sum(weights)
    half, middle, width = axis.widths[bucket - axis.first] / 2.0, sqrt(low) * sqrt(high), high - low
    places = [(middle * exp(half * t) - low) / width for t in _MIDDLES]
    mean = sum([weight * place for weight, place in zip(weights, places, strict=True)]) / whole
    square = sum([weight * place * place for weight, place in zip(weights, places, strict=True)]) / whole
    edges = [min(1.0, max(0.0, (middle * exp(half * t) - low) / width)) for t in _EDGES]
    return _clean(mean, square - mean * mean, _inverted(edges, weights, whole))


def _clean(mean: float, variance: float, quantiles: tuple[float, ...]) -> Shape:
    """Take values for even where edges are too near for floating point."""
    inside = 0.0 < mean < 1.0 and 0.0 < variance < 0.25
    return Shape(mean, variance, quantiles) if inside else EVEN


def _parabola(axis: _Axis, i: int) -> tuple[float, float]:
    """Return slope and curvature of the logarithm of the density, for t from -1 to 1 over the bucket."""
    z, d = axis.middles, axis.widths
    half = d[i] / 2.0
    if i + 1 >= len(z):
        slope = (axis.heights[i] - axis.heights[i - 1]) / (z[i] - z[i - 1])
        return max(-_SLOPE, min(_SLOPE, slope * half)), 0.0
    left, right = z[i] - z[i - 1], z[i + 1] - z[i]
    given = axis.heights[i - 1 : i + 2]
    heights = given
    slope = curve = 0.0
    for last in (False, False, True):
        before, after = (heights[1] - heights[0]) / left, (heights[2] - heights[1]) / right
        curve = (after - before) / (left + right)
        slope = (before * right + after * left) / (left + right)
        if not last:
            # A bucket's mean density is not that at its middle: to second order they differ by this factor.
            heights = []
            for height, width, off in zip(given, d[i - 1 : i + 2], (-left, 0.0, right), strict=True):
                there = slope + 2.0 * curve * off
                factor = 1.0 + (2.0 * curve + there * there) * width * width / 24.0
                heights.append(height - log(min(4.0, max(0.3, factor))))
    # A bucket with less than both neighbours is rare in truth and common by chance: hardly any hollow is allowed.
    return max(-_SLOPE, min(_SLOPE, slope * half)), max(-_CURVE, min(0.15 * _CURVE, curve * half * half))


def _first(bounds: Sequence[float], counts: Sequence[float], axis: _Axis) -> Shape:
    """Return the shape of the first bucket: a power of the value that meets the density of the second at the edge."""
    height = counts[0] / bounds[0]
    if len(bounds) < 2:
        return EVEN
    density = _NOTHING / (bounds[1] - bounds[0])
    if counts[1] > 0.0:
        slope, curve = _parabola(axis, 1)
        whole = sum([exp((slope + curve * t) * t) for t in _MIDDLES]) / STEPS
        density = counts[1] / axis.widths[1] * exp(curve - slope) / whole / bounds[0]
    power = max(-0.5, min(8.0, density / height - 1.0))
    mean = (power + 1.0) / (power + 2.0)
    quantiles = tuple([(i / GRID) ** (1.0 / (power + 1.0)) for i in range(GRID + 1)])
    return Shape(mean, (power + 1.0) / (power + 3.0) - mean * mean, quantiles)


def _inverted(edges: Sequence[float], weights: Sequence[float], whole: float) -> tuple[float, ...]:
    """Return the quantiles of a piecewise constant density."""
    found = [edges[0]]
    piece, below = 0, 0.0
    for i in range(1, GRID):
        target = whole * i / GRID
        while piece < STEPS - 1 and below + weights[piece] < target:
            below += weights[piece]
            piece += 1
        share = min(1.0, (target - below) / weights[piece])
        found.append(edges[piece] + (edges[piece + 1] - edges[piece]) * share)
    found.append(edges[-1])
    return tuple(found)
