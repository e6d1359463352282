"""What was read of single polls, moved so that the observations of each add up to its sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.shape import NODES

if TYPE_CHECKING:
    from vllm_sidecar.quantiles.evidence import Evidence, Floats, Places
    from vllm_sidecar.quantiles.groups import Groups
    from vllm_sidecar.quantiles.reading import Bins

_TINY = 1e-30
_CLEAR = 0.1
"""Share of the mean by which that of the slow ones, or of the others, is away from it to explain what is missing."""
_ROUNDING = 1e-13
"""Share of the room in a poll's buckets up to which what is left is rounding."""


class Observations(NamedTuple):
    """Values of each bin, and the share of its observations that each stands for (b, NODES)."""

    values: Floats
    weights: Floats


def single(evidence: Evidence) -> Places:
    """Return the bins of polls whose sum is the value of their only observation."""
    return np.flatnonzero(evidence.trusted[evidence.poll] & (evidence.size[evidence.poll] == 1.0))


def settled(evidence: Evidence, bins: Bins, weights: Floats, usual: Groups | None = None) -> Observations:
    """Move the places so that the observations of each poll add up to its sum; single ones are exact.

    Those of a bin move together, more where they are less certain. As far as a slot holds slow requests among small
    values, it is the slow ones that move: their places are far apart; and what is left then makes more of its
    observations slow, or fewer. What is given is taken over.
    """
    poll, slot, values = evidence.poll, evidence.slot, bins.values
    slow = usual.slow[slot] if usual else np.zeros(len(slot))
    far = np.flatnonzero(slow)
    _move(evidence, bins, weights, slow, far)
    if usual and len(far):
        each = (_left(evidence, values, weights)[poll] / evidence.count)[far]
        weights[far] = _more_or_less(weights[far], values[far], usual.upper[slot[far]], each, slow[far])
    _fill_up(evidence, values, weights)
    alone = single(evidence)
    values[alone] = evidence.total[poll[alone]][:, None]
    weights[alone] = np.eye(1, NODES)
    return Observations(values, weights)


def _left(evidence: Evidence, values: Floats, weights: Floats) -> Floats:
    """Return what the observations leave of the sum of each poll; 0 where it is not to be trusted (n)."""
    found: Floats = np.nan_to_num(
        evidence.total - evidence.per_poll(evidence.count * np.einsum("ij,ij->i", weights, values))
    )
    return found


def _move(evidence: Evidence, bins: Bins, weights: Floats, slow: Floats, far: Places) -> None:
    """Move the places by what the sums have left, up to the edges of their buckets."""
    slot, values = evidence.slot, bins.values
    lower = evidence.lower[slot]
    loose = _variance(weights, bins) + 1e-18 * evidence.width[slot] ** 2
    share = slow[far][:, None]
    apart = (1.0 - share) * loose[far][:, None] + share * (bins.gaps[far] ** 2 + _TINY)
    loose[far] = (weights[far] * apart).sum(1)
    whole = evidence.per_poll(evidence.count * loose) + 1e-300
    moved = (_left(evidence, values, weights) / whole)[evidence.poll]
    loose[far] = 0.0
    values += (moved * loose)[:, None]
    # However far the slow ones move, they stay the larger ones.
    values[far] = np.maximum.accumulate(values[far] + moved[far][:, None] * apart, axis=1)
    np.minimum((lower + evidence.width[slot])[:, None], values, out=values)
    np.maximum(lower[:, None], values, out=values)


def _fill_up(evidence: Evidence, values: Floats, weights: Floats) -> None:
    """Give what the edges of the buckets held back to those that have room, by how much they have."""
    poll, count = evidence.poll, evidence.count
    left = _left(evidence, values, weights)[poll]
    lower = evidence.lower[evidence.slot]
    edge = np.where(left < 0.0, lower, lower + evidence.width[evidence.slot])
    room = evidence.per_poll(count * np.abs(edge - np.einsum("ij,ij->i", weights, values)))[poll]
    share = np.minimum(1.0, np.abs(left) / (room + 1e-300))
    some = np.flatnonzero(share > _ROUNDING)
    values[some] += share[some][:, None] * (edge[some][:, None] - values[some])


def _more_or_less(weights: Floats, values: Floats, upper: Floats, missing: Floats, belief: Floats) -> Floats:
    """Return weights of which more are slow, or less, so that means rise by what is missing as far as that is believed.

    Of slow ones of different size the large explain the most, so each counts by its size.
    """
    size = values - values[:, :1] + _TINY
    more, less = (weights * upper + _TINY) * size, weights * (1.0 - upper) + _TINY
    found = weights.copy()
    for other, sign in ((more, 1.0), (less, -1.0)):
        change = other / other.sum(1, keepdims=True) - weights
        reach = sign * (change * size).sum(1)
        # Where the slow ones are hardly larger than all they explain nothing.
        clear = np.maximum(0.0, np.minimum(1.0, reach / (_CLEAR * (weights * size).sum(1) + _TINY)))
        share = np.maximum(0.0, np.minimum(1.0, sign * missing / (np.maximum(reach, 0.0) + _TINY)))
        found += (belief * clear * share)[:, None] * change
    return found


def _variance(weights: Floats, bins: Bins) -> Floats:
    """Return the variance of the observations of each bin, which lie anywhere between their places (b)."""
    off = bins.values - np.einsum("ij,ij->i", weights, bins.values)[:, None]
    off *= off
    found: Floats = np.einsum("ij,ij->i", weights, off)
    np.multiply(bins.gaps, bins.gaps, out=off)
    found += np.einsum("ij,ij->i", weights, off) / 12.0
    return found
