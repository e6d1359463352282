"""Where values are in a bucket before any sum is read: what the counts of the neighboring buckets suggest.

Latencies are smooth on a logarithmic axis: a lognormal is a parabola of the log density, a power law a straight line.
So the prior of each bucket is the parabola through the log densities of itself and both neighbors.
"""

from __future__ import annotations

from functools import lru_cache
from math import pi, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.evidence import NARROW, TINY, added, layout_of

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Bounds, Evidence, Flags, Floats, Layout, Places

NODES = 24
"""Values that represent the observations of a bin. With 16 the suite is 0.15 points worse, with 48 not better."""
_ANGLES = (np.arange(NODES) + 0.5) * pi / NODES
SHARES = 0.5 - 0.5 * np.cos(_ANGLES)
"""The share of the observations below each, denser at both ends, where a p99 is read (Chebyshev nodes)."""
WEIGHTS = np.sin(_ANGLES) / np.sin(_ANGLES).sum()
"""The share that each represents."""
NORMAL = np.array([NormalDist().inv_cdf(share) for share in SHARES])
NORMAL /= sqrt(float(WEIGHTS @ NORMAL**2))

MISFIT = 0.02
"""Standard deviation of a bucket's mean from its prior, in widths; its tails are heavy (see fit)."""
_EMPTY = 0.1
"""An empty bucket counts as this many observations: its logarithm is needed."""
_SLOPE, _CURVE, _HOLLOW = 8.0, 6.0, 0.9
"""Largest slope, curvature and upward curvature of the log density, over half a bucket. A bucket with less than both
neighbors is rare in reality and common by chance, so it is rarely hollow."""
_TAIL = 0.865
"""Share of an exponential tail up to twice its mean: 1 - exp(-2)."""
_STEEPEST = 6.0
"""Largest logarithm of the ratio of the densities at both bounds of a bucket, and largest power of a density."""
_CLEAR = 0.1
"""Share of a bucket that is empty beyond a clear end of the values."""
_EVEN = (0.5, 1.0 / 12.0)
"""Mean and variance of an even density on 0..1."""
_PIECES = 8
"""Parts of a bucket in which its density is taken as constant."""
_ENDS = np.linspace(-1.0, 1.0, _PIECES + 1)
_MIDDLES = 0.5 * (_ENDS[1:] + _ENDS[:-1])
_QUARTERS = np.array([-0.75, -0.25, 0.25, 0.75])


class Prior(NamedTuple):
    """Mean and variance of each slot (d), and the shape of its density."""

    mean: Floats
    variance: Floats
    reach: Floats
    """Over how much of the bucket values seem to spread: its width, but less in a first bucket of small values."""
    shape: Floats
    """Quantiles at SHARES, less the mean, in standard deviations (d, NODES)."""


class _Geometry:
    """Everything that the prior derives from the bounds of some slots alone."""

    def __init__(self, layout: Layout, slots: Places, middle: Floats, wide: Floats) -> None:
        """Prepare slots, given as buckets of the layout, with middles and widths of buckets on the logarithmic axis."""
        self.mine = np.flatnonzero(layout.inner[slots])
        """Slots that have logarithms (k)."""
        self.wide = wide
        i = self.bucket = slots[self.mine]
        self.near = np.stack([i - 1, i, i + 1])
        self.left = np.maximum(1e-12, middle[i] - middle[i - 1])
        self.right = np.maximum(1e-12, middle[i + 1] - middle[i])
        self.half, self.last = 0.5 * wide[i], layout.endless[i + 1]
        self.off = np.stack([-self.left, np.zeros(len(i)), self.right])
        self.across = 0.5 * wide[self.near][:, :, None] * _QUARTERS
        low, high = layout.lower[i][:, None], layout.upper[i][:, None]
        self.ends = low * (np.exp(self.half[:, None] * (1.0 + _ENDS)) - 1.0) / (high - low)
        a, b = self.ends[:, :-1], self.ends[:, 1:]
        self.moments = np.stack([0.5 * (a + b), (a * a + a * b + b * b) / 3.0])
        after = np.minimum(slots + 1, len(layout.lower) - 1)
        self.at_zero = np.flatnonzero(layout.first[slots] & (layout.lower[slots] == 0.0) & ~layout.endless[after])
        self.zero = slots[self.at_zero]


@lru_cache(maxsize=64)
def _geometry(bounds: Bounds, slots: tuple[int, ...]) -> _Geometry:
    layout = layout_of(bounds)
    return _Geometry(layout, np.array(slots), layout.log_middle, layout.log_width)


def suggest(evidence: Evidence) -> Prior:
    """Return the prior of each slot."""
    layout, lower, width, last = evidence.layout, evidence.lower, evidence.width, evidence.endless
    geometry = _geometry(*evidence.buckets_in_use)
    place, variance, shape = _smooth(evidence, geometry, evidence.counts)
    if last.any():
        # +Inf is as a bucket up to twice the mean of what is beyond its bound, with the share of an exponential there.
        top = 2.0 * _left_over(evidence, lower + width * place)[last] - lower[last]
        low, high = np.log(np.maximum(NARROW, np.stack([lower[last], top])))
        at, middle, wide, counts = (
            evidence.bucket[last], layout.log_middle.copy(), layout.log_width.copy(), evidence.counts.copy(),
        )  # fmt: skip
        middle[at], wide[at], counts[at] = 0.5 * (low + high), np.maximum(1e-12, high - low), _TAIL * counts[at]
        place, variance, shape = _smooth(evidence, _Geometry(layout, evidence.bucket, middle, wide), counts)
    mean, variance = lower + width * place, width * width * variance
    if last.any():
        mean = _left_over(evidence, mean)
        variance = np.where(last, (mean - lower) ** 2, variance)
    share = _scale(evidence, mean)
    return Prior(lower + share * (mean - lower), variance * share * share, width * share, shape)


def _smooth(evidence: Evidence, geometry: _Geometry, counts: Floats) -> tuple[Floats, Floats, Floats]:
    """Return mean and variance of each slot in widths of its bucket (d), and its shape; even without neighbors."""
    many = len(evidence.bucket)
    mean, variance = np.full(many, _EVEN[0]), np.full(many, _EVEN[1])
    shape = np.tile(SHARES, (many, 1))
    pieces = _densities(geometry, counts)
    pieces /= pieces.sum(1)[:, None]
    m, square = (pieces * geometry.moments).sum(2)
    v = square - m * m
    clear = (m > 0.0) & (m < 1.0) & (v > 1e-6) & (v < 0.25)
    mine = geometry.mine[clear]
    mean[mine], variance[mine], shape[mine] = m[clear], v[clear], _quantiles(pieces, geometry.ends)[clear]
    # In a first bucket it is a power of the value, which meets the density above its bound.
    i, upper = geometry.zero, evidence.layout.upper
    beside = np.maximum(_EMPTY, counts[i + 1]) / np.maximum(NARROW, upper[i + 1] - upper[i])
    whole = np.maximum(0.5, np.minimum(9.0, beside / (counts[i] / upper[i])))
    mean[geometry.at_zero] = m = whole / (whole + 1.0)
    variance[geometry.at_zero] = whole / (whole + 2.0) - m * m
    shape[geometry.at_zero] = SHARES ** (1.0 / whole[:, None])
    return mean, variance, _standard(shape)


def _densities(geometry: _Geometry, counts: Floats) -> Floats:
    """Return the relative density in each piece of the slots that have logarithms (k, pieces)."""
    left, right, half = geometry.left, geometry.right, geometry.half
    heights = np.log((counts + _EMPTY) / geometry.wide)[geometry.near]
    slope, curve = _parabola(heights, left, right)
    # The mean density of a bucket is not that at its middle; by this factor.
    curve = np.minimum(curve, _HOLLOW / half**2)
    rise = (slope + 2.0 * curve * geometry.off)[:, :, None] + curve[:, None] * geometry.across
    factor = np.exp(np.maximum(-20.0, np.minimum(20.0, rise * geometry.across))).mean(2)
    slope, curve = _parabola(heights - np.log(factor), left, right)
    edge = geometry.last & (counts[geometry.bucket + 1] <= 0.0)
    slope, curve = np.where(edge, (heights[1] - heights[0]) / left, slope), np.where(edge, 0.0, curve)
    slope = np.maximum(-_SLOPE, np.minimum(_SLOPE, slope * half))[:, None]
    curve = np.maximum(-_CURVE, np.minimum(_HOLLOW, curve * half * half))[:, None]
    found: Floats = np.exp((slope + curve * _MIDDLES) * _MIDDLES)
    return found


def _parabola(heights: Floats, left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Return slope and curvature at the middle one of three heights."""
    before, after = (heights[1] - heights[0]) / left, (heights[2] - heights[1]) / right
    return (before * right + after * left) / (left + right), (after - before) / (left + right)


def _quantiles(pieces: Floats, ends: Floats) -> Floats:
    """Return the quantiles at SHARES of densities that are constant between some ends."""
    if not len(pieces):
        return np.zeros((0, NODES))
    apart = 2.0 * np.arange(len(pieces))[:, None]  # one after the other, so that one line contains them all
    below = np.zeros(ends.shape)
    pieces.cumsum(axis=1, out=below[:, 1:])
    return np.interp(SHARES + apart, (below + apart).ravel(), ends.ravel())


def _standard(quantiles: Floats) -> Floats:
    """Move and scale quantiles to mean 0 and variance 1."""
    off = quantiles - (quantiles @ WEIGHTS)[:, None]
    found: Floats = off / (np.sqrt(off * off @ WEIGHTS) + NARROW)[:, None]
    return found


def _left_over(evidence: Evidence, mean: Floats) -> Floats:
    """Return the means with those of the +Inf buckets, which are what the sums leave (d)."""
    lower, width = evidence.lower, evidence.width
    last = evidence.endless[evidence.slot]
    others = evidence.per_poll(np.where(last, 0.0, evidence.count * mean[evidence.slot]))
    known = last & evidence.trusted[evidence.poll]
    many = evidence.per_slot(known * evidence.count)
    left = evidence.per_slot(np.where(known, (evidence.total - others)[evidence.poll], 0.0)) / np.maximum(TINY, many)
    inside = np.maximum(lower + 0.01 * width, np.minimum(lower + 0.99 * width, left))
    return np.where(evidence.endless & (many > 0.0), inside, mean)


def _scale(evidence: Evidence, mean: Floats) -> Floats:
    """Return by how much the values of each slot are smaller than its bounds suggest: 1 except in first buckets (d).

    A first bucket has no natural scale: a queue time is microseconds in one of 0.3 s. Each poll allows its mean a
    range; the polls that leave little choice count most.
    """
    share = np.ones(len(mean))
    mine = np.flatnonzero(evidence.first[evidence.slot] & evidence.trusted[evidence.poll])
    if not len(mine):
        return share
    poll, slot, count = evidence.poll[mine], evidence.slot[mine], evidence.count[mine]
    lower, width, total = evidence.lower[slot], evidence.width[slot], evidence.total[poll]
    least = np.maximum(lower, (total - evidence.most[poll]) / count + lower + width)
    most = np.minimum(lower + width, (total - evidence.least[poll]) / count + lower)
    weight = count / (np.maximum(0.0, most - least) / (width + TINY) + 1e-6)
    near = added(slot, weight * np.maximum(least, np.minimum(most, mean[slot])), len(mean))
    whole = added(slot, weight, len(mean))
    low = evidence.lower
    found = (near / np.maximum(TINY, whole) - low) / (mean - low + TINY)
    return np.where(whole > 0.0, np.maximum(1e-12, np.minimum(1.0, found)), share)


# Where values end inside an outermost bucket


class _Outermost(NamedTuple):
    """Outermost slots in which values may end: a latency that has a least or largest value."""

    slot: Places
    bucket: Places
    near: Places
    """The bucket next to it."""
    far: Places
    """The one after that; the near one itself if it is not known."""
    low: Flags
    """Whether it is the lowest slot, and not the highest."""


@lru_cache(maxsize=64)
def _outermost(bounds: Bounds, slots: tuple[int, ...]) -> _Outermost | None:
    layout, rows = layout_of(bounds), []
    for one in range(len(bounds)):
        mine = [slot for slot, bucket in enumerate(slots) if layout.owner[bucket] == one]
        full = {slots[slot] for slot in mine if layout.inner[slots[slot]]}
        for slot, step in ((mine[0], 1), (mine[-1], -1)):
            bucket = slots[slot]
            near, far = bucket + step, bucket + 2 * step
            if bucket in full and near in full:
                # The farther one is not used if it may contain an end itself.
                rows.append((slot, bucket, near, far if {far, far + step} <= full else near, step > 0))
    return _Outermost(*(np.array(column) for column in zip(*rows, strict=True))) if rows else None


def with_ends(evidence: Evidence, prior: Prior, mean: Floats, variance: Floats) -> Prior:
    """Return the prior with ends of the values, as far as means that were fitted nearly freely support them.

    If values end in a bucket, the density of its neighbor continues until it has used up the count of the bucket. Both
    priors are weighted by the likelihood of the fitted mean, which has a variance (d).
    """
    ends = _outermost(*evidence.buckets_in_use)
    if ends is None:
        return prior
    layout = evidence.layout
    start, whole, left = _continued(layout, evidence.counts, ends)
    stop = start * np.maximum(NARROW, left) ** (1.0 / whole)
    lower, upper = layout.lower[ends.bucket], layout.upper[ends.bucket]
    room = np.where(ends.low, stop - lower, upper - stop) / (upper - lower)
    some = np.flatnonzero((left > 0.0) & (room > 0.0))
    slot, low, width = ends.slot[some], ends.low[some], (upper - lower)[some]
    start, whole, left = start[some], whole[some], left[some]
    share = np.where(low, 1.0 - SHARES[:, None], SHARES[:, None])
    values = (start * (1.0 + share * (left - 1.0)) ** (1.0 / whole)).T
    at_end = values @ WEIGHTS
    off = values - at_end[:, None]
    doubt = variance[slot] + (MISFIT * width) ** 2
    odds = 0.5 * ((mean[slot] - prior.mean[slot]) ** 2 - (mean[slot] - at_end) ** 2) / doubt
    belief = np.minimum(1.0, room[some] / _CLEAR) / (1.0 + np.exp(-np.maximum(-50.0, np.minimum(50.0, odds))))
    found = Prior(prior.mean.copy(), prior.variance.copy(), prior.reach, prior.shape.copy())
    found.mean[slot] += belief * (at_end - found.mean[slot])
    found.variance[slot] += belief * ((off * off) @ WEIGHTS - found.variance[slot])
    found.shape[slot] += belief[:, None] * (_standard(values) - found.shape[slot])
    return found


def _continued(layout: Layout, counts: Floats, ends: _Outermost) -> tuple[Floats, Floats, Floats]:
    """Continue the power law of the neighbor x^p into the outermost bucket until it has used up its count.

    Returns:
        Per outermost slot the bound it begins at, p + 1, and (end / bound)^(p + 1), not positive if there is no end.
    """
    near, far = ends.near, ends.far
    known = far != near

    def density(bucket: Places) -> Floats:
        found: Floats = np.log(counts[bucket] / (layout.upper[bucket] - layout.lower[bucket]))
        return found

    apart = np.where(known, layout.log_middle[near] - layout.log_middle[far], 1.0)
    power = np.where(known, (density(near) - density(far)) / apart, 0.0)
    whole = np.maximum(-_STEEPEST, np.minimum(_STEEPEST, power)) + 1.0
    whole = np.where(np.abs(whole) < 1e-6, 1e-6, whole)
    start = np.where(ends.low, layout.upper[ends.bucket], layout.lower[ends.bucket])
    beside = np.where(ends.low, layout.upper[near], layout.lower[near]) / start
    return start, whole, 1.0 - counts[ends.bucket] / counts[near] * (beside**whole - 1.0)


# Drift


class _Sides(NamedTuple):
    """The buckets below and above each slot (2, d)."""

    bucket: Places
    width: Floats
    """Logarithms."""
    part: Floats
    """How much its density says of the slope in the slot, negative below; 0 if there is none."""
    own: Floats
    """Logarithms of the widths of the slots (d)."""


@lru_cache(maxsize=64)
def _sides(bounds: Bounds, slots: tuple[int, ...]) -> _Sides:
    layout, at = layout_of(bounds), np.array(slots)
    bucket = np.maximum(0, np.minimum(len(layout.lower) - 1, at + np.array([[-1], [1]])))
    widths = np.where(layout.endless, 1.0, np.maximum(NARROW, layout.upper - layout.lower))
    there = (layout.owner[bucket] == layout.owner[at]) & (bucket != at) & ~layout.endless[bucket] & ~layout.endless[at]
    part = np.where(there, np.array([[-1.0], [1.0]]) * widths[at] / (widths[at] + widths[bucket]), 0.0)
    return _Sides(bucket, np.log(widths[bucket]), part, np.log(widths[at]))


@lru_cache(maxsize=8)
def _nearness(polls: int) -> Floats:
    """Return how much each poll counts for each other one: half as much as its neighbor that is nearer."""
    places = np.arange(polls, dtype=float)
    found: Floats = np.exp2(-np.abs(places[:, None] - places))
    return found


def drifts(evidence: Evidence, counts: Floats, reach: Floats) -> Floats:
    """Return how much higher each bin's mean would be than over the window, by the counts of the polls around it (b).

    The density in a bucket leans to the neighbor that has more observations at the time. Over the window this adds up
    to 0. `counts` are a table per histogram (h, polls, slots).
    """
    if len(evidence.bucket) == evidence.histograms:
        return np.zeros(len(evidence.slot))
    sides = _sides(*evidence.buckets_in_use)
    poll, slot = evidence.poll, evidence.slot
    table, rows = _nearness(counts.shape[1]) @ counts, (evidence.source[poll], evidence.row[poll])
    whole = evidence.per_owner(evidence.held)[evidence.owner]
    few = (evidence.held + 0.5) / whole
    own = np.log(table[(*rows, evidence.column[slot])] + few[slot]) - sides.own[slot]
    slope = np.zeros(len(slot))
    for bucket, width, part in zip(sides.bucket, sides.width, sides.part, strict=True):
        full = (evidence.counts[bucket] > 0.0) & (part != 0.0)
        other = np.where(full, evidence.slot_of[bucket], 0)
        there = table[(*rows, np.where(full, evidence.column[other], 0)[slot])] + few[other][slot]
        height = np.log(np.where(full[slot], there, (0.5 / whole)[slot])) - width[slot]
        slope += part[slot] * (height - own)
    steep = np.maximum(-_STEEPEST, np.minimum(_STEEPEST, slope))
    steep = np.where(np.abs(steep) < 1e-3, 1e-3, steep)
    # The mean of a density exp(t x) on 0..1, less that of an even one.
    lean = (0.5 / np.tanh(0.5 * steep) - 1.0 / steep) * reach[slot]
    lean -= (evidence.per_slot(evidence.count * lean) / evidence.held)[slot]
    several = np.bincount(evidence.owner, minlength=evidence.histograms) > 1
    return np.where(several[evidence.source[poll]], lean, 0.0)
