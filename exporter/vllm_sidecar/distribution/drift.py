"""How much higher a bucket's mean would be at each poll than over the window, as the counts around it suggest."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.distribution.curve import mean_of
from vllm_sidecar.distribution.evidence import centred
from vllm_sidecar.distribution.linear import lower_edge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.distribution.evidence import Evidence, Floats, Places, Single

_AROUND = 0.5
"""Observations added to the local counts of a bucket, shared out over the window."""
_STEEPEST = 6.0
"""Largest logarithm of the ratio of the densities at a bucket's edges."""
_NARROW = 1e-300


class _Sides(NamedTuple):
    """What lies below each slot, and above it."""

    bucket: Places
    """The bucket; that of the slot itself where there is none (2, d)."""
    share: Floats
    """How much its density tells of the slope in the slot, negative below; 0 where there is none (2, d)."""
    height: Floats
    """The logarithm of the density that an empty one is taken to have, for one observation of all (2, d)."""
    own: Floats
    """The logarithm of the width of the slot (2, d)."""


def drifts(evidence: Evidence, parts: Sequence[Single], reach: Floats) -> Floats:
    """Return per bin how much higher the mean would be, if the counts of the polls around it were all (b).

    These are smoothed over some polls in both directions, each counting half of its neighbour nearer by; the density
    in a bucket then leans to the neighbour that has more. Over the window the shifts of a bucket add up to 0.
    """
    all_sides = [_sides(tuple(part.bounds), part.buckets) for part in parts]
    share, own = (np.concatenate([sides[n] for sides in all_sides], axis=1) for n in (1, 3))
    empty = np.concatenate(
        [np.array(part.counts)[sides.bucket] <= 0.0 for part, sides in zip(parts, all_sides, strict=True)], axis=1
    )
    slot, stack = evidence.slot, evidence.stacked()
    smoothed = _near(stack.counts.shape[1]) @ stack.counts
    table, row = (each[evidence.poll] for each in stack.rows)
    column = stack.columns[1][slot]
    counts = evidence.per_slot(evidence.count)
    whole = evidence.per_owner(counts)[evidence.owner]
    floor = (counts + _AROUND) / whole
    height = np.concatenate([sides.height for sides in all_sides], axis=1) - np.log(whole)

    def height_beside(step: int) -> Floats:
        beside = (slot + step) % len(counts)
        near: Floats = smoothed[table, row, (column + step) % smoothed.shape[2]]
        found: Floats = np.log(near + floor[beside]) - own[0, beside]
        return found

    mine, slopes = height_beside(0), np.zeros(len(slot))
    for side, step in enumerate((-1, 1)):
        other = np.where(empty[side, slot], height[side, slot], height_beside(step))
        slopes += (other - mine) * share[side, slot]
    lean = mean_of(np.maximum(-_STEEPEST, np.minimum(_STEEPEST, slopes)))
    moves = np.repeat([len(part.size) > 1 and len(part.width) > 1 for part in parts], [len(p.poll) for p in parts])
    return np.where(moves, centred(evidence, reach[slot] * lean)[1], 0.0)


@lru_cache(maxsize=256)
def _sides(bounds: tuple[float, ...], buckets: tuple[int, ...]) -> _Sides:
    bucket, last = np.array(buckets), len(bounds) - 1
    widths = np.maximum(_NARROW, np.diff(np.array(bounds), prepend=lower_edge(bounds, 0)))
    own = widths[np.minimum(last, bucket)]
    step = np.array([[-1], [1]])
    other = np.maximum(0, np.minimum(last, bucket + step))
    # Outermost buckets have none beside them, and +Inf leans nowhere.
    share = np.where((other == bucket + step) & (bucket <= last), step * own / (own + widths[other]), 0.0)
    return _Sides(other, share, np.log(_AROUND / widths[other]), np.log(np.stack([own, own])))


@lru_cache(maxsize=16)
def _near(polls: int) -> Floats:
    """Return how much each poll counts beside each other one, half as much as its neighbour nearer by (n, n)."""
    places = np.arange(polls)
    found: Floats = np.exp2(-np.abs(places[:, None] - places, dtype=np.float64))
    found.setflags(write=False)  # shared by all that ask
    return found
