"""Values that stand for the observations of a bucket, each for an equal share of them, with a given mean and variance.

As long as mean and variance are those that the neighbours suggest, the values have that shape; a mean that is
elsewhere bends it towards the density of largest entropy for it, a smaller variance towards the normal one, and small
values in the first bucket, whose scale is their own, are lognormal.
"""

from __future__ import annotations

from math import exp, log, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from vllm_sidecar.quantiles.curve import deviation_of, mean_of, quantiles_of, tilt_of
from vllm_sidecar.quantiles.shape import SHARES

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Floats
    from vllm_sidecar.quantiles.moments import Moments

_NORMAL = np.array([NormalDist().inv_cdf(share) for share in SHARES])
_AWAY = 4.0
"""The suggested shape fades out while the mean moves away by a deviation divided by this."""
_APART = 1e-4
"""How far the outermost values are drawn apart at least, in deviations."""
_NARROW = 1e-300
_SKEWED = 1.0
"""Largest ratio of deviation to mean of small values at one poll; some slow ones among them show as other polls."""


def nodes(evidence: Evidence, moments: Moments) -> Floats:
    """Return the values of each slot, ascending and inside it (d, NODES)."""
    lower, width = evidence.lower, np.maximum(evidence.width, _NARROW)
    place, deviation = (moments.means - lower) / width, np.sqrt(moments.within) / width
    some = (deviation > 1e-10) & (place > 1e-12) & (place < 1.0 - 1e-9)
    inside = _bent(evidence, moments, place, deviation)
    small = np.where(evidence.first & some, np.maximum(0.0, np.minimum(1.0, (0.5 - place) / 0.3)), 0.0)
    for slot in np.flatnonzero(small):
        lognormal = _lognormal(float(place[slot]), float(deviation[slot]))
        inside[slot] += small[slot] * (lognormal - inside[slot])
    inside = np.maximum.accumulate(np.maximum(0.0, np.minimum(1.0, inside)), axis=1)
    # No two values are the same, so that what lies between them changes gradually.
    apart = np.minimum(deviation_of(tilt_of(place)), deviation)[:, None] * _APART
    inside += apart * (SHARES - inside)
    return np.where(some[:, None], lower[:, None] + width[:, None] * inside, moments.means[:, None])


def _bent(evidence: Evidence, moments: Moments, place: Floats, deviation: Floats) -> Floats:
    """Return the values for means and deviations, all in widths of the buckets."""
    shapes, tilt = moments.shapes, tilt_of(place)
    own, usual = deviation_of(tilt), np.sqrt(shapes.variance)
    away = np.minimum(1.0, _AWAY * np.abs(place - shapes.mean) / usual)
    away[evidence.endless] = 1.0  # +Inf has no shape
    widest = usual + (own - usual) * away
    ratio = np.minimum(1.0, deviation / widest)
    straight, bend = ratio * widest * (1.0 - ratio**2), ratio * widest * ratio**2
    tilted = (bend * away / own)[:, None] * (quantiles_of(tilt, SHARES) - mean_of(tilt)[:, None])
    shaped = (bend * (1.0 - away) / usual)[:, None] * (shapes.quantiles - shapes.mean[:, None])
    found: Floats = place[:, None] + straight[:, None] * _NORMAL + tilted + shaped
    return found


def _lognormal(mean: float, deviation: float) -> Floats:
    ratio = min(_SKEWED, deviation / mean)
    spread = log(1.0 + ratio * ratio)
    return mean * exp(-spread / 2.0) * np.exp(sqrt(spread) * _NORMAL)
