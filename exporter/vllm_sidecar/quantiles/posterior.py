"""Which values the observations of each bin may have had, given the sum of their poll.

A value x in a bin is as likely as its bucket has such values, and as likely as the rest of the sum is for the other
observations of the poll:

    weight(x) ~ density(x) * normal(S - x; mean and variance of the others)

A single observation is the sum itself. The densities are those of the fit at first. The weights of all polls make
better ones (one step of expectation maximization), with which the polls are read again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.evidence import NARROW, TINY, added, beyond
from vllm_sidecar.quantiles.fit import entropy_variance
from vllm_sidecar.quantiles.prior import NODES, NORMAL, SHARES, WEIGHTS

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Flags, Floats, Places
    from vllm_sidecar.quantiles.fit import Fit
    from vllm_sidecar.quantiles.level import MovingLevel

_PRIOR = 4.0
"""Observations that the density of the fit counts as, next to those that were read with it."""
_OUTSIDE = 4.0
"""Cost of a value that leaves the others none in their buckets, in nats per distance between two values."""


class Posterior(NamedTuple):
    """Values that represent the observations of some slots."""

    values: Floats
    weights: Floats
    """How many observations each represents."""
    slot: Places


@dataclass(frozen=True, slots=True)
class _Bins:
    """Bins of several observations, or without a sum, with what is known of them (k)."""

    number: Places
    poll: Places
    slot: Places
    count: Floats
    trusted: Flags
    pure: Flags
    lower: Floats
    upper: Floats


def read(evidence: Evidence, fit: Fit, level: MovingLevel | None, wanted: Flags) -> Posterior:
    """Read the polls that observed something in the wanted slots (d)."""
    mine = np.flatnonzero(wanted[evidence.slot])
    single = evidence.alone[evidence.poll[mine]]
    alone, mine = mine[single], mine[~single]
    values, slots = evidence.total[evidence.poll[alone]], evidence.slot[alone]
    parts = [Posterior(values, np.ones(len(alone)), slots)]
    if len(mine):
        bins = _bins(evidence, mine)
        slow = _slow_requests(evidence, fit, bins)
        usual = bins.count
        if slow:
            usual = usual * (1.0 - slow.belief[bins.slot])
            weights = slow.weights * (bins.count * slow.belief[bins.slot])[slow.bins, None]
            parts.append(_flat(slow.values, weights, bins.slot[slow.bins]))
        values, weights = _Reading(evidence, fit, level, bins).read(values, slots)
        parts.append(_flat(values, weights * usual[:, None], bins.slot))
    return Posterior(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _flat(values: Floats, weights: Floats, slot: Places) -> Posterior:
    return Posterior(values.ravel(), weights.ravel(), np.repeat(slot, values.shape[1]))


def _bins(evidence: Evidence, mine: Places) -> _Bins:
    poll, slot = evidence.poll[mine], evidence.slot[mine]
    return _Bins(
        mine, poll, slot, evidence.count[mine], evidence.trusted[poll], evidence.pure[poll],
        evidence.lower[slot], evidence.upper[slot],
    )  # fmt: skip


def density_of(evidence: Evidence, fit: Fit) -> Floats:
    """Return quantiles at SHARES of each slot, less the mean (d, NODES).

    While the mean is that of the prior it has the prior's shape; a mean that is elsewhere bends it towards the density
    of largest entropy, a smaller variance towards the normal one. Small values in a first bucket are lognormal.
    """
    width = np.maximum(NARROW, evidence.width)
    place, deviation = evidence.places(fit.mean), np.sqrt(fit.within) / width
    usual, own = np.sqrt(fit.prior.variance) / width + NARROW, np.sqrt(entropy_variance(place)) + NARROW
    away = np.minimum(1.0, np.abs(fit.mean - fit.prior.mean) / (usual * width))
    away[evidence.endless] = 1.0
    most = usual + (own - usual) * away
    ratio = np.minimum(1.0, deviation / most)
    straight, bent = ratio * most * (1.0 - ratio * ratio), ratio**3 * most
    found: Floats = straight[:, None] * NORMAL + (bent * (1.0 - away))[:, None] * fit.prior.shape
    found += (bent * away / own)[:, None] * _entropy(place)
    small = np.flatnonzero(evidence.first & (place < 0.5))
    if len(small):
        at = np.maximum(NARROW, place[small])
        spread = np.log1p(np.minimum(1.0, deviation[small] / at) ** 2)[:, None]
        lognormal = at[:, None] * (np.exp(np.sqrt(spread) * NORMAL - 0.5 * spread) - 1.0)
        found[small] += np.minimum(1.0, (0.5 - at) / 0.3)[:, None] * (lognormal - found[small])
    found *= width[:, None]
    return found


def _entropy(mean: Floats) -> Floats:
    """Return the quantiles at SHARES, less the mean, of the density of largest entropy on 0..1: exp(t x).

    t is A. Cohen's rational approximation of the inverse Langevin function (Rheologica Acta 30, 1991).
    """
    y = 2.0 * np.minimum(1.0 - 1e-9, np.maximum(1e-9, mean)) - 1.0
    tilt = 2.0 * y * (3.0 - y * y) / (1.0 - y * y)
    steep = np.where(tilt < 0.0, np.minimum(tilt, -1e-3), np.maximum(tilt, 1e-3))[:, None]
    share = np.where(steep > 0.0, 1.0 - SHARES, SHARES)
    found: Floats = np.log1p(share * np.expm1(-np.abs(steep))) / -np.abs(steep)
    found = np.where(steep > 0.0, 1.0 - found, found)
    found -= (found @ WEIGHTS)[:, None]
    return found


class _Moments(NamedTuple):
    """Moments of bins before their polls are read."""

    mean: Floats
    """Of all bins (b)."""
    within: Floats
    between: Floats
    offsets: Floats
    """Of the values of the bins to be read, less their mean (k, NODES)."""


def _moments(evidence: Evidence, fit: Fit, level: MovingLevel | None, bins: _Bins, density: Floats) -> _Moments:
    """Return the moments by the fit, or those of the moving level by its weight."""
    slot = evidence.slot
    mean = np.maximum(evidence.lower[slot], np.minimum(evidence.upper[slot], fit.mean[slot] + fit.shift))
    within, between, offsets = fit.within[slot], fit.between[slot], density[bins.slot]
    if level:
        middle = level.values @ WEIGHTS
        off = level.values - middle[:, None]
        mean[level.bins] += level.belief * (middle - mean[level.bins])
        within[level.bins] += level.belief * (off * off @ WEIGHTS - within[level.bins])
        between[level.bins] *= 1.0 - level.belief
        number = np.full(len(slot), -1)
        number[level.bins] = np.arange(len(level.bins))
        some = np.flatnonzero(number[bins.number] >= 0)
        which = number[bins.number[some]]
        offsets[some] += level.belief[which, None] * (off[which] - offsets[some])
    return _Moments(mean, within, between, offsets)


class _Reading:
    """Reads bins (k), each with what is left of the sum of its poll."""

    def __init__(self, evidence: Evidence, fit: Fit, level: MovingLevel | None, bins: _Bins) -> None:
        self.evidence, self.bins = evidence, bins
        density = density_of(evidence, fit)
        self.grid = np.fmax(-1.0, np.fmin(2.0, evidence.places(fit.mean + density.T).T))
        """Where the values of each slot usually are, in widths of its bucket (d, NODES)."""
        self._place(_moments(evidence, fit, level, bins, density))

    def _place(self, moments: _Moments) -> None:
        """Set the values, and how likely the rest of the sum is with each of them (k, NODES)."""
        evidence, bins, poll = self.evidence, self.bins, self.bins.poll
        inner = evidence.per_poll(evidence.count * moments.within)
        left = np.where(evidence.trusted, evidence.total - evidence.per_poll(evidence.count * moments.mean), 0.0)
        start, within, offsets = moments.mean[bins.number], moments.within[bins.number], moments.offsets
        values = start[:, None] + offsets
        if moments.between.any():
            # The drift of a poll moves its values, and the uncertainty of that drift spreads them.
            between = moments.between[bins.number]
            whole = inner + evidence.per_poll(evidence.count**2 * moments.between) + TINY
            common = between * bins.count / whole[poll]
            unknown = between * (1.0 - common * bins.count * bins.trusted)
            start = start + common * left[poll]
            left = left * (inner + TINY) / whole
            values = start[:, None] + offsets * np.sqrt(1.0 + unknown / (within + TINY))[:, None]
        gap = (offsets[:, -1] - offsets[:, 0]) / NODES
        others = np.maximum(0.0, inner[poll] - within) + gap * gap + TINY
        off = values - (start + left[poll])[:, None]
        score = np.where(bins.trusted[:, None], -0.5 / others[:, None] * off * off, 0.0)
        lower, upper = bins.lower[:, None], bins.upper[:, None]
        least = np.fmax(lower, (evidence.total - evidence.most)[poll][:, None] + upper)
        most = np.fmin(upper, (evidence.total - evidence.least)[poll][:, None] + lower)
        beyond = np.maximum(np.maximum(least - values, values - most), 0.0) / (gap[:, None] + TINY)
        score = np.fmax(-1e250, score - np.minimum(_OUTSIDE * beyond, 1e3))
        self.values, self.score = values, np.exp(score - score.max(1, keepdims=True))

    def read(self, alone: Floats, slots: Places) -> tuple[Floats, Floats]:
        """Return values and their weights, which add up to 1 (k, NODES); `alone` are single observations of slots."""
        bins = self.bins
        usual = np.tile(WEIGHTS, (len(self.grid), 1))
        weights = self._weights(usual)
        # Learn how values usually lie in each slot, and read again.
        known = np.flatnonzero(bins.trusted)
        at = (bins.slot[known] * NODES)[:, None] + np.arange(NODES)
        seen = added(at.ravel(), (weights[known] * bins.count[known, None]).ravel(), self.grid.size)
        seen += self._seen_alone(alone, slots)
        seen = seen.reshape(self.grid.shape)
        learned = (seen + _PRIOR * usual) / (seen.sum(1, keepdims=True) + _PRIOR)
        return self._settled(self._weights(learned))

    def _weights(self, share: Floats) -> Floats:
        """Return the weights of all values, if values of a slot usually have these shares (d, NODES)."""
        weights: Floats = self.score * share[self.bins.slot]
        weights /= weights.sum(1, keepdims=True)
        return weights

    def _seen_alone(self, alone: Floats, slots: Places) -> Floats:
        """Count single observations by the values of the grid around them."""
        width = np.maximum(NARROW, self.evidence.width[slots])
        inside = np.maximum(0.0, np.minimum(1.0, (alone - self.evidence.lower[slots]) / width))
        # Slots are put one after the other, so that one line contains them all.
        flat = (self.grid + 4.0 * np.arange(len(self.grid))[:, None]).ravel()
        at = np.interp(inside + 4.0 * slots, flat, np.arange(flat.size, dtype=float))
        at = np.fmax(slots * NODES, np.fmin(slots * NODES + NODES - 1.0, at))
        place = at.astype(np.intp)
        part = at - place
        size = self.grid.size
        return added(place, 1.0 - part, size) + added(np.minimum(place + 1, size - 1), part, size)

    def _settled(self, weights: Floats) -> tuple[Floats, Floats]:
        """Move the values of polls that fell into one bucket to their mean, which is known."""
        bins, values = self.bins, self.values
        sure = bins.pure
        mean = np.where(sure, self.evidence.total[bins.poll] / bins.count, 0.0)
        wrong = np.where(sure, mean - (weights * values).sum(1), 0.0)
        # In a first bucket values go down by ratios: none is 0.
        down = self.evidence.first[bins.slot] & (wrong < 0.0)
        values = values + np.where(down, 0.0, wrong)[:, None]
        values = np.maximum(bins.lower[:, None], np.minimum(bins.upper[:, None], values))
        middle = (weights * values).sum(1)
        wrong = np.where(sure, mean - middle, 0.0)
        end = np.where(wrong < 0.0, bins.lower, bins.upper)
        share = np.minimum(1.0, np.abs(wrong) / (np.abs(end - middle) + NARROW))
        values += share[:, None] * (end[:, None] - values)
        return np.where(np.isfinite(values), values, bins.lower[:, None]), weights


# Slow requests among very fast ones

_SMALL = 0.1
"""Mean in a first bucket, in widths, up to which its values have a scale of their own; not at twice as much."""
_APART = 4.0
"""Deviations of a poll's mean, on the log axis, from which on a request was slow; at twice as much it is sure."""
_SLOW = 1.5
"""The same for what a poll has left over, in a bucket that contains slow requests: one value, whatever it is."""
_BODY = 0.6
"""Deviation of the others at one moment, as a share of that of all: load moves them together."""
_QUARTILE = 0.6745
"""Median distance from the middle of a normal distribution, in deviations."""


class _Slow(NamedTuple):
    """First buckets that contain slow requests among very fast ones."""

    belief: Floats
    """Per slot, 0 to 1 (d)."""
    bins: Places
    """Bins of these, of all that are read (s)."""
    values: Floats
    """(s, NODES + 1); the last one is that of the slow requests."""
    weights: Floats
    """(s, NODES + 1)."""


def _slow_requests(evidence: Evidence, fit: Fit, bins: _Bins) -> _Slow | None:
    """Separate slow requests from the small values of all others; None if no first bucket contains such.

    In a bucket hundreds of times wider than what most requests take, a slow request is what a poll's sum leaves over:
    S - (k - 1) times the usual value, which is the median of the means of the polls that fell into this bucket alone.
    """
    many = len(evidence.bucket)
    small = np.where(evidence.first, np.maximum(0.0, np.minimum(1.0, 2.0 - evidence.places(fit.mean) / _SMALL)), 0.0)
    mine = np.flatnonzero((small[evidence.slot] > 0.0) & evidence.pure[evidence.poll])
    if not len(mine):
        return None
    slot, count = evidence.slot[mine], evidence.count[mine]
    mean = evidence.total[evidence.poll[mine]] / count - evidence.lower[slot]
    level = _medians(mean, count, slot, many)
    small = np.where(level > 0.0, small, 0.0)
    level = np.maximum(NARROW, level)
    away = np.log(np.maximum(1e-6, mean / level[slot])) * np.sqrt(count)
    deviation = np.maximum(1e-6, _medians(np.abs(away), count, slot, many) / _QUARTILE)
    sure = added(slot, beyond(away, _APART * deviation[slot]), many)
    belief = small * np.minimum(1.0, sure)
    some = np.flatnonzero(belief[bins.slot] > 0.0)
    if not len(some):
        return None
    left = count * (mean - level[slot]) + level[slot]
    slow = beyond(np.log(np.maximum(1e-6, left / level[slot])), _SLOW * deviation[slot])
    whole = np.maximum(NARROW, added(slot, slow, many))
    usual = _Usual(level, deviation, added(slot, slow * left, many) / whole, whole / added(slot, count, many).clip(1.0))
    return _Slow(belief, some, *_split(evidence, bins, some, usual))


class _Usual(NamedTuple):
    """The usual contents of first buckets (d)."""

    level: Floats
    """Of the small values, above the lower bound."""
    deviation: Floats
    """Of their logarithms."""
    slow: Floats
    """Mean of the slow ones, above the lower bound."""
    share: Floats
    """Share of the slow ones."""


def _split(evidence: Evidence, bins: _Bins, some: Places, usual: _Usual) -> tuple[Floats, Floats]:
    """Return values and weights of some bins (s, NODES + 1)."""
    slot, count, pure = bins.slot[some], bins.count[some], bins.pure[some]
    level, width, lower = usual.level[slot], evidence.width[slot], evidence.lower[slot]
    own = np.where(pure, evidence.total[bins.poll[some]] - count * lower, count * level)
    left = own - (count - 1.0) * level
    slow = beyond(np.log(np.maximum(1e-6, left / level)), _SLOW * usual.deviation[slot])
    several = np.maximum(1.0, (left - level) / width)  # more than one request if one could not be that slow
    value = np.where(pure, (left - level) / several + level, usual.slow[slot])
    share = np.minimum(1.0, np.where(pure, slow * several / count, usual.share[slot]))
    spread = _BODY * np.minimum(1.0, usual.deviation[slot])[:, None]
    middle = level + np.where(pure, (1.0 - slow) * (own / count - level), 0.0)
    body = middle[:, None] * np.exp(spread * NORMAL - 0.5 * spread * spread)
    values = np.concatenate([body, value[:, None]], axis=1)
    weights = np.concatenate([(1.0 - share)[:, None] * WEIGHTS, share[:, None]], axis=1)
    return lower[:, None] + np.maximum(0.0, np.minimum(width[:, None], values)), weights


def _medians(values: Floats, weights: Floats, groups: Places, many: int) -> Floats:
    """Return the weighted median of each group; 0 if it is empty."""
    order = np.lexsort((values, groups))
    values, weights, groups = values[order], weights[order], groups[order]
    whole = added(groups, weights, many)
    below = np.cumsum(weights) - (np.cumsum(whole) - whole)[groups]
    half = np.flatnonzero(below >= 0.5 * whole[groups])
    found = np.zeros(many)
    found[groups[half[::-1]]] = values[half[::-1]]  # the first of each group is written last
    return found
