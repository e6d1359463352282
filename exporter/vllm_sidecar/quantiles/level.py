"""One lognormal whose level moves from poll to poll: a latency under a load that changes.

The sum of a poll is its level, so the counts determine the one thing left, the standard deviation s on the log axis:

    P[p,i] = Phi(z of the upper bound) - Phi(z of the lower bound),  z = (log bound - mu[p]) / s
    mu[p]  = log mean[p] - s^2 / 2

s is that of maximum likelihood of the counts (Fisher scoring). The level of a poll of few observations is drawn to
that of the window by as much as chance explains (empirical Bayes). The weight of the model is 1 if it
predicts the counts of the window and the levels move more than chance explains; otherwise the fit of the buckets is
better.
"""

from __future__ import annotations

from math import pi, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.evidence import NARROW
from vllm_sidecar.quantiles.prior import SHARES

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Flags, Floats, Places
    from vllm_sidecar.quantiles.fit import Fit

_FEWEST, _LEAST = 8.0, 4.0
"""Polls of a window, and observations of a poll on average, from which on levels are known."""
_TURNS = 3
_STRAY = 1e-5
"""Share of observations that may be anywhere: one slow request refutes nothing."""
_CLOSE = 0.003
"""Nats per observation that the counts have beyond the model, at which its weight is halved."""
_BROAD = 1.0
"""Standard deviation of all values, on the log axis, at which its weight is halved: waits after none are two."""
_MOVES = 3.0
"""Ratio of the variance of the levels to the one that chance explains, at which its weight is halved."""
_Z = np.linspace(-8.0, 8.0, 2049)
_PHI = np.array([NormalDist().cdf(z) for z in _Z])
_PEAK = 1.0 / sqrt(2.0 * pi)


class MovingLevel(NamedTuple):
    """The values of some bins by the model (k)."""

    bins: Places
    belief: Floats
    """0 to 1 (k)."""
    values: Floats
    """Quantiles at SHARES in the bucket (k, NODES)."""


class _Levels:
    """The levels of the polls of the histograms that may be of this kind: n, b, d and h are of those alone."""

    def __init__(self, evidence: Evidence, able: Flags) -> None:
        self.bins = np.flatnonzero(able[evidence.source[evidence.poll]])
        self.slots = np.flatnonzero(able[evidence.owner])
        polls, number = able[evidence.source], np.cumsum(able) - 1
        self.many = int(able.sum())
        self.source, self.owner = number[evidence.source[polls]], number[evidence.owner[self.slots]]
        self.poll = (np.cumsum(polls) - 1)[evidence.poll[self.bins]]
        self.size, self.count = evidence.size[polls], evidence.count[self.bins]
        self.held = evidence.held[self.slots]
        self.low, self.high = (np.log(np.maximum(NARROW, each)) for each in (evidence.lower, evidence.upper))
        slot = evidence.slot[self.bins]
        self.bounds = np.stack([self.low[slot], self.high[slot]])
        self.polls = np.bincount(self.source, minlength=self.many)
        self.whole = self.mean(np.ones(len(self.size)), whole=np.ones(self.many))
        # A poll without a sum has the level of the one before.
        total, known = evidence.total[polls], np.flatnonzero(evidence.trusted[polls])
        before = known[np.maximum(0, np.searchsorted(known, np.arange(len(total)), side="right") - 1)]
        level = total[before] / self.size[before]
        middle = self.mean(level)
        self.level, self.middle = np.log(np.maximum(level, 1e-6 * middle[self.source])), np.log(middle)
        self.spread = self.mean((self.level - self.middle[self.source]) ** 2)

    def mean(self, values: Floats, whole: Floats | None = None) -> Floats:
        """Return the mean over the observations of each histogram (n -> h)."""
        return np.bincount(self.source, self.size * values, self.many) / (self.whole if whole is None else whole)

    def chance(self, s: Floats) -> Floats:
        """Return the variance of the levels that chance explains (h)."""
        found: Floats = (np.exp(s * s) - 1.0) * self.polls / self.whole
        return found

    def middles(self, s: Floats) -> Floats:
        """Return mu of each poll (n)."""
        between = np.maximum(0.0, self.spread - self.chance(s)) + 1e-12
        one = np.exp(s * s) - 1.0
        drawn = between[self.source] / (between[self.source] + one[self.source] / self.size)
        middle = self.middle[self.source]
        found: Floats = middle + (self.level - middle) * drawn - 0.5 * (s * s)[self.source]
        return found


def moving_level(evidence: Evidence, fit: Fit) -> MovingLevel | None:
    """Fit the model; None if its weight is 0 for all histograms."""
    able = _able(evidence)
    if not able.any():
        return None
    levels = _Levels(evidence, able)
    s = _deviation(levels, _guess(fit, levels))
    belief = _belief(levels, s)
    bins = levels.source[levels.poll]
    some = np.flatnonzero(belief[bins] > 0.0)
    if not len(some):
        return None
    mu, slot, deviation = levels.middles(s)[levels.poll[some]], evidence.slot[levels.bins[some]], s[bins[some]][:, None]
    below, above = np.interp((levels.bounds[:, some] - mu) / deviation[:, 0], _Z, _PHI)[:, :, None]
    values = np.exp(mu[:, None] + deviation * np.interp(below + (above - below) * SHARES, _PHI, _Z))
    return MovingLevel(levels.bins[some], belief[bins[some]], evidence.inside(values, slot))


def _able(evidence: Evidence) -> Flags:
    """Return which histograms have enough polls with sums, several buckets, and values that all have logarithms."""
    polls = np.bincount(evidence.source, minlength=evidence.histograms)
    known = evidence.per_histogram(1.0 * evidence.trusted) >= _FEWEST
    large = evidence.per_histogram(evidence.size) >= _LEAST * polls
    finite = evidence.per_owner(1.0 * (evidence.endless | (evidence.lower < 0.0))) == 0.0
    some = evidence.per_histogram(np.where(evidence.trusted, evidence.total, 0.0)) > 0.0
    several = np.bincount(evidence.owner, minlength=evidence.histograms) > 1
    found: Flags = known & large & finite & some & several
    return found


def _guess(fit: Fit, levels: _Levels) -> Floats:
    """Return a first s: what the levels leave of the variance of all values (h)."""
    mean = np.maximum(NARROW, fit.mean[levels.slots])
    variance = (fit.within + fit.between)[levels.slots]
    each = (np.log(mean) - levels.middle[levels.owner]) ** 2 + variance / mean**2
    all_values = np.bincount(levels.owner, levels.held * each, levels.many) / levels.whole
    least = 0.1 * levels.spread + 1e-4
    return np.sqrt(np.minimum(1.0, np.maximum(least, all_values - levels.spread)))


def _deviation(levels: _Levels, s: Floats) -> Floats:
    """Return s of maximum likelihood (h), from a first one."""
    bins = levels.source[levels.poll]
    for _ in range(_TURNS):
        z = np.maximum(-8.0, np.minimum(8.0, (levels.bounds - levels.middles(s)[levels.poll]) / s[bins]))
        below = np.interp(z, _Z, _PHI)
        slopes = _PEAK * np.exp(-0.5 * z * z) * (s[bins] - z)
        part = (slopes[1] - slopes[0]) / (below[1] - below[0] + _STRAY)
        score = np.bincount(bins, levels.count * part, levels.many)
        information = np.bincount(bins, levels.count * part * part, levels.many)
        step = np.maximum(-0.7, np.minimum(0.7, score / (information + 1e-12)))
        s = np.minimum(2.0, np.maximum(0.003, s * np.exp(step)))
    return s


def _belief(levels: _Levels, s: Floats) -> Floats:
    """Return the weight of the model, 0 to 1 (h)."""
    mu, predicted = levels.middles(s), np.zeros(len(levels.slots))
    for one in range(levels.many):
        polls, slots = levels.source == one, levels.owner == one
        bounds = np.stack([levels.low[levels.slots[slots]], levels.high[levels.slots[slots]]])
        below = np.interp((bounds[:, None, :] - mu[polls][:, None]) / s[one], _Z, _PHI)
        predicted[slots] = levels.size[polls] @ (below[1] - below[0] + _STRAY)
    excess = np.bincount(levels.owner, levels.held * np.log(levels.held / predicted) - 1.0, levels.many) / levels.whole
    middle = levels.mean(levels.level)
    breadth = np.sqrt(s * s + levels.mean((levels.level - middle[levels.source]) ** 2))
    found = np.ones(levels.many)
    for value, half in ((excess, _CLOSE), (breadth, _BROAD), (2.0 * _MOVES - levels.spread / levels.chance(s), _MOVES)):
        found *= np.maximum(0.0, np.minimum(1.0, 1.5 - value / half))
    return found
