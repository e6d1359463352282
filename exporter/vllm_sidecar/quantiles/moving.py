"""A lognormal whose scale moves from poll to poll: the shape of one latency under a load that changes.

The sum of a poll tells its mean, so the counts tell the one thing left, the deviation s on the logarithmic axis:

    P[p,i] = Phi(z of the upper edge) - Phi(z of the lower edge),  z = (log edge - mu[p]) / s
    mu[p]  = log mean[p] - s s / 2

s is that of largest likelihood of the counts (Fisher scoring). The mean of a poll of few observations is drawn to that
of the window by as much as chance explains (empirical Bayes). Many latencies are not of this kind: two modes, even
ones, those with a slow tail. How well the model foretells the counts of the window decides how far it is believed.
"""

from __future__ import annotations

from math import exp, log, pi, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.shape import SHARES

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Floats, Places, Single

_LEAST = 4.0
"""Observations a poll from which on its mean tells where it is."""
_FEWEST = 8
"""Polls of a window from which on they tell how it moves."""
_TURNS = 7
_START, _NARROWEST, _WIDEST, _STRIDE = 0.3, 0.003, 2.0, 0.7
"""Deviations: first, least and largest, and the farthest that a turn goes (logarithm)."""
_STRAY = 1e-5
"""Share of observations that lie evenly in any bucket, whatever the law says: one slow request is no refutation."""
_CLOSE = 0.003
"""What the counts may tell beyond the model (nats per observation); at half as much again it is left."""
_ONE, _TWO = 0.8, 1.2
"""Deviations of all values up to which it is one latency, and from which on as likely two: waits after none."""
_PEAK = 1.0 / sqrt(2.0 * pi)
_SETTLED = 1e-6
"""Stride at which the turns end."""
_LOWEST = 1e-6
"""Least mean of a poll, as a share of their mean: 0 has no logarithm."""
_TINY = 1e-12
_REACH = 6.0
"""Deviations from the middle that are looked at; an edge beyond is at them."""
_TABLE = np.linspace(-8.0, 8.0, 4097)
_PHI = np.array([NormalDist().cdf(z) for z in _TABLE])


class Moving(NamedTuple):
    """The fitted model."""

    belief: float
    """More than 0, up to 1."""
    deviation: float
    """s."""
    nodes: Floats
    """Per bin, values inside its bucket, ascending (b, NODES)."""
    weights: Floats
    """Their shares of the bin; each row adds up to 1 (b, NODES)."""


class _Window(NamedTuple):
    """The levels of the polls: logarithms of their means."""

    levels: Floats
    sizes: Floats
    whole: float
    middle: float
    """Logarithm of the mean of the window."""
    spread: float
    """Variance of the levels around it."""


class _Edges(NamedTuple):
    """Logarithms of the edges of all slots, and which of them are those of each."""

    logs: Floats
    low: Places
    high: Places


def moving(evidence: Single) -> Moving | None:
    """Fit the model; None where the polls speak against it, are too few or hold too little, or have no logarithm."""
    trusted = evidence.trusted
    if (
        len(evidence.width) < 2
        or evidence.lower[0] < 0.0
        or evidence.infinite
        or trusted.sum() < _FEWEST
        or evidence.size.sum() < _LEAST * len(evidence.size)
    ):
        return None
    window, edges = _window(evidence), _edges(evidence)
    s = _deviation(evidence, window, edges)
    belief = _belief(evidence, window, edges, s)
    if belief <= 0.0:
        return None
    return Moving(belief, s, *_law(evidence, window, s))


def _window(evidence: Evidence) -> _Window:
    """Return the levels; a poll whose sum is not to be trusted has that of the one before."""
    known = np.flatnonzero(evidence.trusted)
    before = known[np.maximum(0, np.searchsorted(known, np.arange(len(evidence.size)), side="right") - 1)]
    means = evidence.total[before] / evidence.size[before]
    levels = np.log(np.maximum(means, _LOWEST * float(means.mean()) + 1e-300))
    sizes, whole = evidence.size, float(evidence.size.sum())
    middle = log(float((sizes * np.exp(levels)).sum()) / whole)
    return _Window(levels, sizes, whole, middle, float((sizes * (levels - middle) ** 2).sum()) / whole)


def _edges(evidence: Evidence) -> _Edges:
    """Return the edges; 0 has no logarithm, and what lies far below all values stands for it."""
    upper = evidence.lower + evidence.width
    edges = np.unique(np.concatenate([evidence.lower, upper]))
    logs = np.log(np.maximum(edges, 1e-300))
    return _Edges(logs, np.searchsorted(edges, evidence.lower), np.searchsorted(edges, upper))


def _drawn(window: _Window, s: float) -> Floats:
    """Return the levels of the polls, drawn to that of the window by as much as chance explains."""
    chance = exp(s * s) - 1.0
    between = max(0.0, window.spread - chance * len(window.sizes) / window.whole) + _TINY
    return window.middle + (window.levels - window.middle) * between / (between + chance / window.sizes)


def _deviation(evidence: Evidence, window: _Window, edges: _Edges) -> float:
    """Return s of largest likelihood."""
    s = _START
    low, high = edges.low[evidence.slot], edges.high[evidence.slot]
    for _ in range(_TURNS):
        away = (edges.logs - _drawn(window, s)[:, None]) / s
        z = np.maximum(-_REACH - 2.0, np.minimum(_REACH + 2.0, away + 0.5 * s))
        below = np.interp(z, _TABLE, _PHI)
        steps = _PEAK * np.exp(-0.5 * z * z) * (s - z)
        inside = below[evidence.poll, high] - below[evidence.poll, low] + _STRAY
        part = (steps[evidence.poll, high] - steps[evidence.poll, low]) / inside
        slope = float((evidence.count * part).sum())
        information = float((evidence.count * part * part).sum())
        stride = max(-_STRIDE, min(_STRIDE, slope / (information + _TINY)))
        s = min(_WIDEST, max(_NARROWEST, s * exp(stride)))
        if abs(stride) < _SETTLED:
            break
    return s


def _belief(evidence: Single, window: _Window, edges: _Edges, s: float) -> float:
    """Return 0 to 1: how well the counts were foretold, and whether all values lie near enough to be one latency."""
    z = (edges.logs - _drawn(window, s)[:, None]) / s + 0.5 * s
    below = np.interp(z, _TABLE, _PHI)
    foretold = window.sizes @ (below[:, edges.high] - below[:, edges.low] + _STRAY)
    counts = np.array([evidence.counts[bucket] for bucket in evidence.buckets])
    told = float((counts * np.log(counts / foretold)).sum())
    excess = (told - len(counts)) / window.whole / _CLOSE
    middle = float((window.sizes * window.levels).sum()) / window.whole
    spread = float((window.sizes * (window.levels - middle) ** 2).sum()) / window.whole
    breadth = sqrt(s * s + spread)
    return max(0.0, min(1.0, 1.5 - excess)) * max(0.0, min(1.0, (_TWO - breadth) / (_TWO - _ONE)))


def _law(evidence: Evidence, window: _Window, s: float) -> tuple[Floats, Floats]:
    """Return values at even steps of z in each bin, and the share of the lognormal that each stands for."""
    middle = (_drawn(window, s) - 0.5 * s * s)[evidence.poll]
    lower = evidence.lower[evidence.slot]
    upper = lower + evidence.width[evidence.slot]
    low = (np.log(np.maximum(lower, 1e-300)) - middle) / s
    high = (np.log(np.maximum(upper, 1e-300)) - middle) / s
    # Beyond the reach all that counts lies at the nearest edge.
    low, high = (
        np.maximum(low, np.where(high < 0.0, high - _REACH / np.maximum(1.0, -high), -_REACH)),
        np.minimum(high, np.where(low > 0.0, low + _REACH / np.maximum(1.0, low), _REACH)),
    )
    z = low[:, None] + (high - low)[:, None] * SHARES
    nearest = np.where(low > 0.0, low, np.where(high < 0.0, high, 0.0))[:, None]
    weights = np.exp(0.5 * (nearest - z) * (nearest + z))
    values = np.maximum(lower[:, None], np.minimum(upper[:, None], np.exp(middle[:, None] + s * z)))
    return values, weights / weights.sum(1, keepdims=True)
