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

from vllm_sidecar.distribution.shape import NODES, gaps

if TYPE_CHECKING:
    from vllm_sidecar.distribution.evidence import Evidence, Floats, Places
    from vllm_sidecar.distribution.moments import Moments

MOST = 48
"""Observations of a poll up to which its steps are looked at."""
FACTORIALS = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, MOST + 1)))])
"""Logarithms."""
_FEWEST = 8
"""Polls from which on groups can be told."""
_GAIN = 4.0
"""Logarithm of the likelihood ratio to one group from which on there are two; at twice as much it is sure."""
_SHARES = np.array([0.12, 0.25, 0.4, 0.5, 0.6, 0.75, 0.88])
"""Shares of the upper group that are tried."""
_WIDTHS = np.array([0.08, 0.25])
"""Deviations inside a group that are tried, as shares of that of both together."""
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
    """1 where a slot has two groups (d)."""


def groups(evidence: Evidence, moments: Moments, nodes: Floats) -> Groups:
    """Find the slots with two groups; values of all others have the nodes that are given, in equal shares."""
    even = np.full(nodes.shape, 1.0 / NODES)
    found = Groups(nodes.copy(), even, np.zeros(nodes.shape), np.zeros(len(nodes)))
    slot, count = evidence.slot, evidence.count
    means, variances = nodes.mean(1), nodes.var(1)
    rest = (evidence.total - evidence.per_poll(count * means[slot]))[evidence.poll] + count * means[slot]
    others = np.maximum(0.0, evidence.per_poll(count * variances[slot])[evidence.poll] - count * variances[slot])
    known = evidence.trusted[evidence.poll] & (count <= MOST)
    clear = known & (evidence.size[evidence.poll] > 1.0) & (others < 0.5 * moments.within[slot])
    small = evidence.buckets[0] == 0 and means[0] - evidence.lower[0] < _SMALL * evidence.width[0]
    if small:
        clear &= slot != 0
        _body_and_slow(evidence, found, np.flatnonzero(known & (slot == 0)), _stillness(moments)[0])
    for one in np.flatnonzero(evidence.per_slot(clear) >= _FEWEST):
        mine = clear & (slot == one)
        still = float(_stillness(moments)[one])
        if still > 0.0 and evidence.buckets[one] < len(evidence.bounds):
            _two(evidence, moments, found, int(one), count[mine], rest[mine], others[mine], still)
    return found


def _stillness(moments: Moments) -> Floats:
    """Return 1 to 0: what moves from poll to poll has no steps (d)."""
    found: Floats = np.maximum(0.0, 1.0 - _MOVES * moments.between / (moments.within + _TINY))
    return found


def _two(
    evidence: Evidence,
    moments: Moments,
    found: Groups,
    slot: int,
    count: Floats,
    own: Floats,
    others: Floats,
    still: float,
) -> None:
    """Take two groups for one, as far as the sums of the slot speak for them."""
    mean, deviation = float(moments.means[slot]), sqrt(moments.within[slot])
    shares, widths = (each.ravel() for each in np.meshgrid(_SHARES, _WIDTHS, indexing="ij"))
    apart = deviation * np.sqrt(1.0 - widths**2)
    low = mean - apart * np.sqrt(shares / (1.0 - shares))
    high = mean + apart * np.sqrt((1.0 - shares) / shares)
    lower, width = evidence.lower[slot], evidence.width[slot]
    inside = (low >= lower) & (high <= lower + width)
    if not inside.any():
        return
    shares, low, high = shares[inside], low[inside], high[inside]
    inner = widths[inside] * deviation
    steps = np.arange(int(count.max()) + 1)
    chance = binomial(count[:, None], steps, shares[:, None, None])
    middle = (count[:, None] - steps) * low[:, None, None] + steps * high[:, None, None]
    variance = others[:, None] + count[:, None] * (inner**2)[:, None, None] + _TINY
    terms = chance - 0.5 * ((own[:, None] - middle) ** 2 / variance + np.log(variance))
    most = terms.max(2, keepdims=True)
    both = (most[:, :, 0] + np.log(np.exp(terms - most).sum(2))).sum(1)
    one = others + count * moments.within[slot] + _TINY
    gains = both + 0.5 * float(((own - count * mean) ** 2 / one + np.log(one)).sum())
    best = float(gains.max())
    belief = still * max(0.0, min(1.0, (best - _GAIN) / _GAIN))
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
    found.upper[slot] = (likely / likely.sum()) @ (places > 0.5 * (low + high)[:, None])
    found.split[slot] = 1.0


def _body_and_slow(evidence: Evidence, found: Groups, bins: Places, still: float) -> None:
    """Tell slow requests from the small values of all others in the first bucket."""
    bins = bins[evidence.size[evidence.poll[bins]] == evidence.count[bins]]
    if len(bins) < _FEWEST or still <= 0.0:
        return
    slot, size = 0, evidence.count[bins]
    lower, width = float(evidence.lower[slot]), float(evidence.width[slot])
    means = evidence.total[evidence.poll[bins]] / size - lower
    level = _median(means, size)
    if level <= 0.0:
        return
    away = np.log(np.maximum(means, _FAINT * level) / level) * np.sqrt(size)
    deviation = max(_FAINT, _median(np.abs(away), size) / _QUARTILE)
    slow = float(np.maximum(0.0, np.minimum(1.0, away / (_FAR * deviation) - 1.0)).sum())
    belief = still * min(1.0, slow)
    top = level * np.exp(3.0 * min(deviation, 1.0))
    if belief <= 0.0 or top >= 0.5 * width:
        return
    share = slow / float(size.sum())
    body = level * np.exp(min(deviation, 1.0) * _NORMAL)
    tail = top * (width / top) ** ((np.arange(NODES - _BODY) + 0.5) / (NODES - _BODY))
    places = lower + np.maximum.accumulate(np.minimum(width, np.concatenate([body, tail])))
    weights = np.repeat([(1.0 - share) / _BODY, share / (NODES - _BODY)], [_BODY, NODES - _BODY])
    found.nodes[slot] += belief * (places - found.nodes[slot])
    found.weights[slot] += belief * (weights - found.weights[slot])
    found.upper[slot, _BODY:] = 1.0
    found.split[slot] = 1.0


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
