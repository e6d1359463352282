"""A sample of one bucket that agrees with the polls, the means and the variances.

What is known of a poll's observations in a bucket, once its sum is: their mean, which takes its share of what the sum
has too much or too little, and how they lie around it. An observation that was alone in its poll is known exactly, and
the observations of a poll that fell into one bucket have exactly the mean that its sum says.
"""

from __future__ import annotations

from math import ceil, exp, log, sqrt
from typing import TYPE_CHECKING

from vllm_sidecar.distribution.curve import NORMAL, deviation_of, mean_of, quantile_of, tilt_of
from vllm_sidecar.distribution.moments import TINY
from vllm_sidecar.distribution.shape import GRID

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.distribution.evidence import Evidence, Row
    from vllm_sidecar.distribution.moments import Moments
    from vllm_sidecar.distribution.shape import Shape

MOST = 256
"""Values of a sample; of fewer observations it holds each."""
_GOLDEN = 0.6180339887498949
"""Its multiples, less their whole parts, spread most evenly (Weyl): no two polls of a window use the same places."""
_AWAY = 4.0


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
        deviation = sqrt(variance) / width
        curve = self._curve(place, deviation)
        found = []
        for one in places:
            x = curve(one % 1.0)
            found.append(lower + width * min(1.0, max(0.0, x)))
        return found

    def _curve(self, place: float, deviation: float) -> Callable[[float], float]:
        """Return the quantile function for a mean and a deviation, both in widths of the bucket."""
        small = max(0.0, min(1.0, (0.5 - place) / 0.3)) if self._first else 0.0
        if small >= 1.0:
            return _lognormal(place, deviation)
        bent = self._bent(place, deviation)
        if not small:
            return bent
        lognormal = _lognormal(place, deviation)
        return lambda share: bent(share) + small * (lognormal(share) - bent(share))

    def _bent(self, place: float, deviation: float) -> Callable[[float], float]:
        tilt = tilt_of(place)
        own, centre, shape = deviation_of(tilt), mean_of(tilt), self._shape
        away, widest = 1.0, own
        if shape:
            away = min(1.0, _AWAY * abs(place - shape.mean) / self._deviation)
            widest = self._deviation + (own - self._deviation) * away
        ratio = min(1.0, deviation / widest)
        normal, bend = ratio * widest * (1.0 - ratio), ratio * widest * ratio
        tilted, shaped = bend * away / own, 0.0
        if not shape or away >= 1.0:
            return lambda share: (
                place + normal * NORMAL[int(share * 1024.0)] + tilted * (quantile_of(tilt, share) - centre)
            )
        quantiles, middle = shape.quantiles, shape.mean
        shaped = bend * (1.0 - away) / self._deviation

        def both(share: float) -> float:
            step = share * GRID
            i = int(step)
            low = quantiles[i]
            value = place + normal * NORMAL[int(share * 1024.0)]
            value += shaped * (low + (quantiles[i + 1] - low) * (step - i) - middle)
            return value + tilted * (quantile_of(tilt, share) - centre)

        return both


def _lognormal(mean: float, deviation: float) -> Callable[[float], float]:
    ratio = min(3.0, deviation / mean)
    spread = log(1.0 + ratio * ratio)
    start, sigma = mean * exp(-spread / 2.0), sqrt(spread)
    return lambda share: start * exp(sigma * NORMAL[int(share * 1024.0)])
