"""Values that stand for the observations of a bucket, each for an equal share of them, with a given mean and variance.

As long as mean and variance are those that the neighbours suggest, the values have that shape; a mean that is
elsewhere bends it towards the density of largest entropy for it, a smaller variance towards the normal one, and small
values in the first bucket, whose scale is their own, are lognormal.
"""

from __future__ import annotations

from math import exp, log, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.distribution.curve import deviation_of, mean_of, quantiles_of, tilt_of
from vllm_sidecar.distribution.shape import LEVELS

if TYPE_CHECKING:
    from vllm_sidecar.distribution.evidence import Evidence, Floats
    from vllm_sidecar.distribution.moments import Moments

NODES = 48
"""Values of a bucket."""
SHARES = (np.arange(NODES) + 0.5) / NODES
_NORMAL = np.array([NormalDist().inv_cdf(share) for share in SHARES])
_AWAY = 4.0
"""The suggested shape fades out while the mean moves away by a deviation divided by this."""
_SKEWED = 1.0
"""Largest ratio of deviation to mean of small values at one poll; some slow ones among them show as other polls."""


def nodes(evidence: Evidence, moments: Moments) -> Floats:
    """Return the values of each slot, ascending and inside it (d, NODES)."""
    lower, width = evidence.lower, evidence.width
    place = (moments.means - lower) / np.maximum(width, 1e-300)
    deviation = np.sqrt(moments.within) / np.maximum(width, 1e-300)
    tilt = tilt_of(place)
    curves = zip(place, deviation, tilt, mean_of(tilt), deviation_of(tilt), strict=True)
    found = np.repeat(moments.means[:, None], NODES, axis=1)
    for slot, (at, off, steep, centre, own) in enumerate(curves):
        if off <= 1e-10 or not 1e-12 < at < 1.0 - 1e-9:
            continue
        shape = (
            (moments.shapes.mean[slot], sqrt(moments.shapes.variance[slot]), moments.shapes.quantiles[slot])
            if evidence.buckets[slot] < len(evidence.bounds)
            else None
        )
        small = max(0.0, min(1.0, (0.5 - at) / 0.3)) if evidence.buckets[slot] == 0 else 0.0
        inside = _bent(at, off, _Curve(steep, centre, own), shape) if small < 1.0 else 0.0
        if small:
            inside = inside + small * (_lognormal(at, off) - inside)
        found[slot] = lower[slot] + width[slot] * np.maximum.accumulate(np.maximum(0.0, np.minimum(1.0, inside)))
    return found


class _Curve(NamedTuple):
    """The density of largest entropy for a mean."""

    tilt: float
    mean: float
    deviation: float


def _bent(place: float, deviation: float, curve: _Curve, shape: tuple[float, float, Floats] | None) -> Floats:
    """Return the values for a mean and a deviation, all in widths of the bucket.

    `shape` has mean, deviation and quantiles.
    """
    away, widest = 1.0, curve.deviation
    if shape:
        away = min(1.0, _AWAY * abs(place - shape[0]) / shape[1])
        widest = shape[1] + (curve.deviation - shape[1]) * away
    ratio = min(1.0, deviation / widest)
    straight, bend = ratio * widest * (1.0 - ratio), ratio * widest * ratio
    tilted = bend * away / curve.deviation
    found: Floats = place + straight * _NORMAL + tilted * (quantiles_of(curve.tilt, SHARES) - curve.mean)
    if shape and away < 1.0:
        found += bend * (1.0 - away) / shape[1] * (np.interp(SHARES, LEVELS, shape[2]) - shape[0])
    return found


def _lognormal(mean: float, deviation: float) -> Floats:
    ratio = min(_SKEWED, deviation / mean)
    spread = log(1.0 + ratio * ratio)
    return mean * exp(-spread / 2.0) * np.exp(sqrt(spread) * _NORMAL)
