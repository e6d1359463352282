"""A sample of one bucket that agrees with the polls, the means and the variances.

What is known of a poll's observations in a bucket, once its sum is: their mean, which takes its share of what the sum
has too much or too little, and how they lie around it. An observation that was alone in its poll is known exactly, and
the observations of a poll that fell into one bucket have exactly the mean that its sum says.
"""

from __future__ import annotations

from math import ceil, exp, log, sqrt
from typing import TYPE_CHECKING

from vllm_sidecar.distribution.curve import NORMAL, deviation_of, mean_of, quantiles_of, tilt_of
from vllm_sidecar.distribution.moments import TINY
from vllm_sidecar.distribution.shape import GRID

if TYPE_CHECKING:
    from vllm_sidecar.distribution.evidence import Evidence, Row
    from vllm_sidecar.distribution.moments import Moments
    from vllm_sidecar.distribution.shape import Shape

MOST = 256
"""Values of a sample; of fewer observations it holds each."""
_GOLDEN = 0.6180339887498949
"""Its multiples, less their whole parts, spread most evenly (Weyl): no two polls of a window use the same places."""
_AWAY = 4.0
"""The suggested shape fades out while the mean moves away by a deviation divided by this."""
_SKEWED = 1.0
"""Largest ratio of deviation to mean of small values at one poll; some slow ones among them show as other polls."""


def sample(evidence: Evidence, moments: Moments, slot: int) -> list[float]:
    """Return sorted values that stand for the observations of a slot, each for as many as the others."""
    count = evidence.counts[evidence.buckets[slot]]
    size = min(ceil(count), MOST)
    step = count / size
    values: list[float] = []
    seen, number = 0.0, 0
    lower, width = evidence.lower[slot], evidence.width[slot]
    bend = _Bend(moments, slot, lower, width, first=evidence.buckets[slot] == 0)
    for row, shifts in zip(evidence.rows, moments.shifts, strict=True):
        mine = next((k for s, k in row.bins if s == slot), 0.0)
        if not mine:
            continue
        number += 1
        end = min(size, ceil((seen + mine) / step - 0.5))
        if end > len(values):
            mean, variance = _known(evidence, moments, slot, row, shifts)
            turn = number * _GOLDEN
            places = [((i + 0.5) * step - seen) / mine + turn for i in range(len(values), end)]
            values += bend.values(mean, variance, places)
        seen += mine
    values += [values[-1]] * (size - len(values))
    values.sort()
    return values


def _known(evidence: Evidence, moments: Moments, slot: int, row: Row, shifts: tuple[float, ...]) -> tuple[float, float]:
    """Return mean and variance of a poll's observations in a slot, given its sum."""
    lower, width = evidence.lower[slot], evidence.width[slot]
    if len(row.bins) == 1 and row.total is not None:
        count = row.bins[0][1]
        mean = max(lower, min(lower + width, row.total / count))
        return mean, moments.within[slot] * (1.0 - 1.0 / count) if count > 1.0 else 0.0
    mean = count = 0.0
    variance, left = TINY, row.total or 0.0
    for (other, k), shift in zip(row.bins, shifts, strict=True):
        low = evidence.lower[other]
        expected = max(low, min(low + evidence.width[other], moments.means[other] + shift))
        left -= k * expected
        variance += k * (moments.within[other] + moments.between[other] * k)
        if other == slot:
            mean, count = expected, k
    spread = moments.within[slot] + moments.between[slot]
    if row.total is None:
        return mean, spread
    common = moments.within[slot] + moments.between[slot] * count
    mean += common * left / variance
    spread = max(0.0, spread - common * common / variance)
    mean = min(max(mean, (row.total - row.most) / count + lower + width), (row.total - row.least) / count + lower)
    return max(lower, min(lower + width, mean)), spread


class _Bend:
    """Makes values of a given mean and variance that stay in a bucket.

    As long as mean and variance are those that the neighbours suggest, the values have that shape; a mean that is
    elsewhere bends it towards the density of largest entropy for it, a smaller variance towards the normal one, and
    small values in the first bucket, whose scale is their own, are lognormal.
    """

    def __init__(self, moments: Moments, slot: int, lower: float, width: float, *, first: bool) -> None:
        self._lower, self._width, self._first = lower, width, first
        shape: Shape | None = moments.shapes[slot]
        self._shape = shape
        self._deviation = sqrt(shape.variance) if shape else 0.0

    def values(self, mean: float, variance: float, places: list[float]) -> list[float]:
        """Return a value for each place, of which only the part behind the point counts."""
        lower, width = self._lower, self._width
        place = (mean - lower) / width if width > 0.0 else 0.0
        if variance <= 1e-20 * width * width or not 1e-12 < place < 1.0 - 1e-9:
            return [mean] * len(places)
        shares = [one % 1.0 for one in places]
        normal = [NORMAL[int(share * 1024.0)] for share in shares]
        inside = self._inside(place, sqrt(variance) / width, shares, normal)
        return [lower + width * (0.0 if x < 0.0 else min(1.0, x)) for x in inside]

    def _inside(self, place: float, deviation: float, shares: list[float], normal: list[float]) -> list[float]:
        """Return the quantiles of these shares for a mean and a deviation, in widths of the bucket."""
        small = max(0.0, min(1.0, (0.5 - place) / 0.3)) if self._first else 0.0
        if small >= 1.0:
            return _lognormal(place, deviation, normal)
        bent = self._bent(place, deviation, shares, normal)
        if not small:
            return bent
        other = _lognormal(place, deviation, normal)
        return [x + small * (y - x) for x, y in zip(bent, other, strict=True)]

    def _bent(self, place: float, deviation: float, shares: list[float], normal: list[float]) -> list[float]:
        tilt = tilt_of(place)
        own, shape = deviation_of(tilt), self._shape
        away, widest = 1.0, own
        if shape:
            away = min(1.0, _AWAY * abs(place - shape.mean) / self._deviation)
            widest = self._deviation + (own - self._deviation) * away
        ratio = min(1.0, deviation / widest)
        straight, bend = ratio * widest * (1.0 - ratio), ratio * widest * ratio
        tilted = bend * away / own
        base = place - tilted * mean_of(tilt)
        tilts = quantiles_of(tilt, shares)
        found = [base + straight * z + tilted * x for z, x in zip(normal, tilts, strict=True)]
        if not shape or away >= 1.0:
            return found
        quantiles, middle = shape.quantiles, shape.mean
        shaped = bend * (1.0 - away) / self._deviation
        for i, share in enumerate(shares):
            step = share * GRID
            j = int(step)
            low = quantiles[j]
            found[i] += shaped * (low + (quantiles[j + 1] - low) * (step - j) - middle)
        return found


def _lognormal(mean: float, deviation: float, normal: list[float]) -> list[float]:
    ratio = min(_SKEWED, deviation / mean)
    spread = log(1.0 + ratio * ratio)
    start, sigma = mean * exp(-spread / 2.0), sqrt(spread)
    return [start * exp(sigma * z) for z in normal]
