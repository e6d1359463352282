"""Two groups of values in one bucket: prompts found in the prefix cache and others, steps that waited for a prefill.

Of k observations j are of the upper group, so the sums of polls lie around steps, j distances of the groups apart. As
long as other buckets of the poll and the spread inside the groups do not blur the steps, the sums tell where both
groups lie. In the first bucket, hundreds of times wider than an empty queue's waits, one slow request stands out from
the sum of all others in the same way.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.shape import NODES, SHARES, gaps

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Floats, Places
    from vllm_sidecar.quantiles.moments import Moments

MOST = 48
"""Observations of a poll up to which its steps are looked at."""
FACTORIALS = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, MOST + 1)))])
"""Logarithms."""
_FEWEST = 8
"""Polls from which on groups can be told."""
_FEW = 3
"""Polls without a slow request, or with one, from which on it can be told: hundreds of times apart, it is plain."""
_GAIN = 4.0
"""Logarithm of the likelihood ratio to one group from which on there are two; at twice as much it is sure."""
_SHARES = np.repeat([0.12, 0.25, 0.4, 0.5, 0.6, 0.75, 0.88], 2)
"""Shares of the upper group that are tried."""
_WIDTHS = np.tile([0.08, 0.25], 7)
"""Deviations inside a group that are tried with each, as shares of that of both together."""
_LOW = np.sqrt((1.0 - _WIDTHS**2) * _SHARES / (1.0 - _SHARES))
_HIGH = np.sqrt((1.0 - _WIDTHS**2) * (1.0 - _SHARES) / _SHARES)
"""How far the groups then lie below and above the mean, in deviations."""
_BODY = 30
"""Nodes of the first bucket that stand for most values, the others for slow ones."""
_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / _BODY) for i in range(_BODY)])
_QUARTILE = 0.6745
"""Median distance from the middle of a normal distribution, in deviations."""
_FAR = 4.0
"""Deviations of the logarithm of a poll's mean beyond which it had a slow request."""
_SMALL = 0.2
"""Place of the mean in the first bucket below which its values have a scale of their own."""
_MOVES = 4.0
"""Ratio of the variance within polls to the one between them up to which there are no groups."""
_FAINT = 1e-6
"""Least mean of a poll, as a share of the usual one, and least deviation of its logarithm."""
_OUTSIDE, _PENALTY = 0.02, 50.0
"""How far outside the bucket a group may be tried, in widths, and what it costs there (nats)."""
_TINY = 1e-30


class Groups(NamedTuple):
    """Where the values of each slot lie before the sums of single polls are read."""

    nodes: Floats
    """Ascending (d, NODES)."""
    weights: Floats
    """(d, NODES); each row adds up to 1."""
    upper: Floats
    """How far a node is of the upper group, 0 to 1 (d, NODES)."""
    split: Floats
    """How far a slot is believed to have two groups, 0 to 1 (d)."""
    slow: Floats
    """How far a slot holds slow requests among small values, 0 to 1; only first buckets do (d)."""


def groups(evidence: Evidence, moments: Moments, nodes: Floats) -> Groups:
    """Find the slots with two groups; values of all others have the nodes that are given, in equal shares."""
    even = np.full(nodes.shape, 1.0 / NODES)
    found = Groups(nodes.copy(), even, np.zeros(nodes.shape), np.zeros(len(nodes)), np.zeros(len(nodes)))
    slot, count = evidence.slot, evidence.count
    means, variances = nodes.mean(1), nodes.var(1)
    rest = (evidence.total - evidence.per_poll(count * means[slot]))[evidence.poll] + count * means[slot]
    others = np.maximum(0.0, evidence.per_poll(count * variances[slot])[evidence.poll] - count * variances[slot])
    known = evidence.trusted[evidence.poll] & (count <= MOST)
    # How clear the steps of a bin are: 0 where others of the poll blur them as much as its own spread.
    blurred = 2.0 - 2.0 * others / (moments.within[slot] + _TINY)
    clear = known * (evidence.size[evidence.poll] > 1.0) * np.maximum(0.0, np.minimum(1.0, blurred))
    still = np.maximum(0.0, 1.0 - _MOVES * moments.between / (moments.within + _TINY))
    still[evidence.endless] = 0.0
    place = (means - evidence.lower) / np.maximum(evidence.width, _TINY)
    small = np.where(evidence.first, np.maximum(0.0, np.minimum(1.0, 2.0 - place / _SMALL)), 0.0)
    still *= 1.0 - small
    for one in np.flatnonzero(small):
        _body_and_slow(evidence, found, int(one), np.flatnonzero(known & (slot == one)), float(small[one]))
    enough = np.maximum(0.0, np.minimum(1.0, evidence.per_slot(clear) - _FEWEST))
    for one in np.flatnonzero(enough * still):
        mine = clear * (slot == one) > 0.0
        seen = _Seen(count[mine], rest[mine], others[mine], clear[mine])
        _two(evidence, moments, found, int(one), seen, float(enough[one] * still[one]))
    return found


class _Seen(NamedTuple):
    """What the polls of a slot tell of its groups."""

    held: Floats
    """Observations in the slot."""
    own: Floats
    """Their sum, if all others are as usual."""
    others: Floats
    """Variance of what the others are."""
    clear: Floats
    """How much the bin counts, 0 to 1."""


def _two(evidence: Evidence, moments: Moments, found: Groups, slot: int, seen: _Seen, most_belief: float) -> None:
    """Take two groups for one, as far as the sums of the slot speak for them."""
    mean, deviation = float(moments.means[slot]), sqrt(moments.within[slot])
    low, high = mean - deviation * _LOW, mean + deviation * _HIGH
    lower, width = evidence.lower[slot], evidence.width[slot]
    outside = np.maximum(0.0, np.maximum(lower - low, high - lower - width)) / (width + _TINY)
    inside = outside < _OUTSIDE
    if not inside.any():
        return
    shares, low, high, outside = _SHARES[inside], low[inside], high[inside], outside[inside]
    inner = _WIDTHS[inside] * deviation
    count, own, others, clear = seen
    steps = np.arange(int(count.max()) + 1)
    chance = binomial(count[:, None], steps, shares[:, None, None])
    middle = (count[:, None] - steps) * low[:, None, None] + steps * high[:, None, None]
    variance = others[:, None] + count[:, None] * (inner**2)[:, None, None] + _TINY
    terms = chance - 0.5 * ((own[:, None] - middle) ** 2 / variance + np.log(variance))
    most = terms.max(2, keepdims=True)
    both = (most[:, :, 0] + np.log(np.exp(terms - most).sum(2))) @ clear
    one = others + count * moments.within[slot] + _TINY
    gains = both + 0.5 * float(((own - count * mean) ** 2 / one + np.log(one)) @ clear)
    gains -= _PENALTY * outside / _OUTSIDE
    best = float(gains.max())
    belief = most_belief * max(0.0, min(1.0, (best - _GAIN) / _GAIN))
    if belief <= 0.0:
        return
    likely = np.exp(gains - best)
    places = found.nodes[slot]
    blur = np.maximum(inner, 1.5 * float(width) / NODES)
    low_high = np.stack([low, high])[:, :, None]
    each = np.stack([1.0 - shares, shares])[:, :, None] * np.exp(-0.5 * ((places - low_high) / blur[:, None]) ** 2)
    weights = each.sum(0) * np.maximum(gaps(places[None, :])[0], _TINY) + _TINY
    mixed = (likely / likely.sum()) @ (weights / weights.sum(1, keepdims=True))
    found.weights[slot] += belief * (mixed - found.weights[slot])
    above = (places - 0.5 * (low + high)[:, None]) / blur[:, None]
    found.upper[slot] = (likely / likely.sum()) @ np.maximum(0.0, np.minimum(1.0, 0.5 + above))
    found.split[slot] = belief


def _body_and_slow(evidence: Evidence, found: Groups, slot: int, bins: Places, small: float) -> None:
    """Tell slow requests from the small values of all others in the first bucket."""
    bins = bins[evidence.size[evidence.poll[bins]] == evidence.count[bins]]
    if len(bins) < _FEW:
        return
    size = evidence.count[bins]
    lower, width = float(evidence.lower[slot]), float(evidence.width[slot])
    means = evidence.total[evidence.poll[bins]] / size - lower
    level = _median(means, size)
    if level <= 0.0:
        return
    away = np.log(np.maximum(means, _FAINT * level) / level) * np.sqrt(size)
    deviation = max(_FAINT, _median(np.abs(away), size) / _QUARTILE)
    slow = float(np.maximum(0.0, np.minimum(1.0, away / (_FAR * deviation) - 1.0)).sum())
    top = level * np.exp(3.0 * min(deviation, 1.0))
    far_below = max(0.0, min(1.0, 5.0 - 10.0 * float(top) / width))
    belief = small * far_below * min(1.0, slow)
    if belief <= 0.0:
        return
    # The mean and the variance of all are those of the small ones, as long as none is slow.
    usual = np.interp((np.arange(_BODY) + 0.5) / _BODY, SHARES, found.nodes[slot]) - lower
    body = usual + belief * (level * np.exp(min(deviation, 1.0) * _NORMAL) - usual)
    tail = top * (width / top) ** ((np.arange(NODES - _BODY) + 0.5) / (NODES - _BODY))
    share = min(1.0, belief * slow / float(size.sum()))
    found.nodes[slot] = lower + np.maximum.accumulate(np.minimum(width, np.concatenate([body, tail])))
    found.weights[slot] = np.repeat([(1.0 - share) / _BODY, share / (NODES - _BODY)], [_BODY, NODES - _BODY])
    found.upper[slot, _BODY:] = 1.0
    found.split[slot] = found.slow[slot] = belief


def binomial(count: Floats, steps: Places, share: Floats) -> Floats:
    """Return the logarithms of the chances of so many of `count`, each at `share`; hardly any beyond the count."""
    whole = count.astype(np.intp)
    rest = whole - steps
    chance = FACTORIALS[whole] - FACTORIALS[np.minimum(steps, whole)] - FACTORIALS[np.maximum(0, rest)]
    return np.where(rest >= 0, chance + steps * np.log(share) + rest * np.log1p(-share), -1e6)


def _median(values: Floats, weights: Floats) -> float:
    """Return the least value up to which half of the weight lies."""
    order = np.argsort(values, kind="stable")
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), 0.5 * weights.sum())])
