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
    from vllm_sidecar.distribution.moving import Law
    from vllm_sidecar.distribution.shape import Shape

MOST = 256
"""Values of a sample; of fewer observations it holds each."""
_GOLDEN = 0.6180339887498949
"""Its multiples, less their whole parts, spread most evenly (Weyl): no two polls of a window use the same places."""
_AWAY = 4.0
"""The suggested shape fades out while the mean moves away by a deviation divided by this."""
_ENOUGH = 8
"""Polls from which on it is known what is usual."""
_QUARTILE = 0.6745
"""Median distance from the middle of a normal distribution, in deviations."""
_FAR = 4.0
"""Deviations of a poll's mean beyond which it had a slow request."""
_WIDE = 2.0
"""Deviations of most that bound those of any poll."""
_SKEWED = 1.0
"""Largest ratio of deviation to mean of small values at one poll; some slow ones among them show as other polls."""


def sample(evidence: Evidence, moments: Moments, slot: int) -> list[float]:
    """Return sorted values that stand for the observations of a slot, each for as many as the others."""
    count = evidence.counts[evidence.buckets[slot]]
    size = min(ceil(count), MOST)
    step = count / size
    lower, width = evidence.lower[slot], evidence.width[slot]
    first = evidence.buckets[slot] == 0
    bend = _Bend(moments, slot, lower, width, first=first)
    known = []
    for number, (row, shifts) in enumerate(zip(evidence.rows, moments.shifts, strict=True)):
        for place, (other, mine) in enumerate(row.bins):
            if other == slot:
                law = moments.moving.laws[number][place] if moments.moving else None
                known.append((mine, *_known(evidence, moments, slot, row, shifts), law))
    body = _body(known, count) if first and len(known) >= _ENOUGH else None
    values: list[float] = []
    seen = 0.0
    for number, (mine, whole_mean, most_variance, law) in enumerate(known, 1):
        end = min(size, ceil((seen + mine) / step - 0.5))
        if end > len(values):
            turn = number * _GOLDEN
            places = [((i + 0.5) * step - seen) / mine for i in range(len(values), end)]
            high, variance = 0.0, most_variance
            if body and mine > 1.0:
                high = _slow(body, mine, whole_mean, lower + width)
                variance = min(variance, (_WIDE * body[1]) ** 2)
            mean = whole_mean - high / mine
            shares = [(place + turn) % 1.0 for place in places]
            found = _moved(law, mean, variance, lower, width, shares) if law else bend.values(mean, variance, shares)
            if high > 0.0:
                top = lower + width
                alone = 1.0 - 1.0 / mine
                found = [min(top, x + high) if at > alone else x for x, at in zip(found, places, strict=True)]
            values += found
        seen += mine
    values += [values[-1]] * (size - len(values))
    values.sort()
    return values


def _moved(law: Law, mean: float, variance: float, lower: float, width: float, shares: list[float]) -> list[float]:
    """Return the quantiles of a law, moved to a mean and drawn together to a variance."""
    factor = min(1.0, sqrt(variance / law.variance))
    return [
        max(lower, min(lower + width, mean + factor * (value - law.mean))) for value in law.values(lower, width, shares)
    ]


def _body(known: list[tuple[float, float, float, Law | None]], count: float) -> tuple[float, float]:
    """Return level and deviation of most observations: medians, over which a few slow ones have no power."""
    level = _median([(mean, k) for k, mean, *_ in known], count)
    return level, _median([(abs(mean - level) * sqrt(k), k) for k, mean, *_ in known], count) / _QUARTILE


def _median(weighted: list[tuple[float, float]], whole: float) -> float:
    """Return the least value up to which half of the weight lies."""
    ordered, below, i = sorted(weighted), 0.0, 0
    while i < len(ordered) - 1 and below + ordered[i][1] < whole / 2.0:
        below += ordered[i][1]
        i += 1
    return ordered[i][0]


def _slow(body: tuple[float, float], count: float, mean: float, top: float) -> float:
    """Return by how much one observation of a poll exceeds the others, whose mean is too high for most of its bucket.

    In the first bucket, hundreds of times wider than most of its values, that is rather one slow request than all of
    them a little slower.
    """
    level, deviation = body
    excess = mean - level
    if excess <= 0.0:
        return 0.0
    far = excess * sqrt(count) / (_FAR * deviation + TINY)
    share = 1.0 - 1.0 / (1.0 + far * far)
    return min(share * excess * count, max(0.0, (top - mean) * count / (count - 1.0)))


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

    def values(self, mean: float, variance: float, shares: list[float]) -> list[float]:
        """Return a value for each share within 0..1."""
        lower, width = self._lower, self._width
        place = (mean - lower) / width if width > 0.0 else 0.0
        if variance <= 1e-20 * width * width or not 1e-12 < place < 1.0 - 1e-9:
            return [mean] * len(shares)
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
