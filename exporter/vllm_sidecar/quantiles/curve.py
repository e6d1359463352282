"""The truncated exponential on 0..1: the density of largest entropy for a given mean, and what it says of spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Flags, Floats

_EDGE = 1e-9
_FLAT = 1e-3


def tilt_of(mean: Floats) -> Floats:
    """Return t of the density proportional to exp(t x) on 0..1 whose mean is near `mean`.

    A. Cohen's rational approximation of the inverse Langevin function (Rheologica Acta 30, 1991): within 5 %.
    """
    y = 2.0 * np.minimum(1.0 - _EDGE, np.maximum(_EDGE, mean)) - 1.0
    return 2.0 * y * (3.0 - y * y) / (1.0 - y * y)


def mean_of(tilt: Floats) -> Floats:
    """Return the exact mean of that density."""
    flat, steep = _steep(tilt)
    high = 1.0 / -np.expm1(-steep) - 1.0 / steep
    return np.where(flat, 0.5 + tilt / 12.0, np.where(tilt > 0.0, high, 1.0 - high))


def deviation_of(tilt: Floats) -> Floats:
    """Return the exact standard deviation of that density."""
    flat, steep = _steep(tilt)
    e = np.exp(-steep)
    exact = 1.0 / (steep * steep) - e / (1.0 - e) ** 2
    return np.sqrt(np.where(flat, 1.0 / 12.0 - tilt * tilt / 240.0, exact))


def quantiles_of(tilt: Floats, shares: Floats) -> Floats:
    """Return the quantiles of these densities (d) for shares inside 0..1 (n), as (d, n)."""
    tilt = tilt[:, None]
    flat, steep = _steep(tilt)
    # The density that falls; the one that rises is its mirror image.
    rising = tilt > 0.0
    fallen = np.log1p(np.where(rising, 1.0 - shares, shares) * np.expm1(-steep)) / -steep
    return np.where(flat, shares + 0.5 * tilt * shares * (1.0 - shares), np.where(rising, 1.0 - fallen, fallen))


def _steep(tilt: Floats) -> tuple[Flags, Floats]:
    """Return where the density is flat, and elsewhere how steep it is."""
    flat = np.abs(tilt) < _FLAT
    return flat, np.where(flat, 1.0, np.abs(tilt))
