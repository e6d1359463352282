"""The truncated exponential on 0..1: the density of largest entropy for a given mean, and what it says of spread."""

from __future__ import annotations

from math import exp, expm1, log, log1p, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NORMAL = tuple([NormalDist().inv_cdf((i + 0.5) / 1024) for i in range(1024)])
"""Quantiles of the standard normal at 1024 even steps."""

_EDGE = 1e-9
_FLAT = 1e-3
_STEEP = 700.0


def tilt_of(mean: float) -> float:
    """Return t of the density proportional to exp(t x) on 0..1 whose mean is near `mean`.

    A. Cohen's rational approximation of the inverse Langevin function (Rheologica Acta 30, 1991): within 5 %.
    """
    y = 2.0 * min(1.0 - _EDGE, max(_EDGE, mean)) - 1.0
    return 2.0 * y * (3.0 - y * y) / (1.0 - y * y)


def mean_of(tilt: float) -> float:
    """Return the exact mean of that density."""
    if abs(tilt) < _FLAT:
        return 0.5 + tilt / 12.0
    if tilt > 0.0:
        return 1.0 / -expm1(-min(tilt, _STEEP)) - 1.0 / tilt
    return 1.0 - 1.0 / -expm1(max(tilt, -_STEEP)) - 1.0 / tilt


def deviation_of(tilt: float) -> float:
    """Return the exact standard deviation of that density."""
    if abs(tilt) < _FLAT:
        return sqrt(1.0 / 12.0 - tilt * tilt / 240.0)
    e = exp(-min(abs(tilt), _STEEP))
    return sqrt(max(1.0 / (tilt * tilt) - e / (1.0 - e) ** 2, 1e-30))


def quantiles_of(tilt: float, shares: Sequence[float]) -> list[float]:
    """Return the quantiles of that density; the shares are within 0..1."""
    if abs(tilt) < _FLAT:
        return [share + 0.5 * tilt * share * (1.0 - share) for share in shares]
    if tilt > 0.0:
        end = exp(-min(tilt, _STEEP))
        return [1.0 + log(end + share * (1.0 - end)) / tilt for share in shares]
    whole = expm1(max(tilt, -_STEEP))
    return [log1p(share * whole) / tilt for share in shares]
