"""How much higher a bucket's mean would be at each poll than over the window, as the counts around it suggest."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.curve import mean_of
from vllm_sidecar.quantiles.evidence import centred
from vllm_sidecar.quantiles.linear import lower_edge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.quantiles.evidence import Evidence, Floats, Places, Single

_AROUND = 0.5
"""Observations added to the local counts of a bucket, shared out over the window."""
_STEEPEST = 6.0
"""Largest logarithm of the ratio of the densities at a bucket's edges."""
_NARROW, _LARGEST = 1e-300, 1e150
"""Least and largest width: both have logarithms, and sums."""


class _Sides(NamedTuple):
    """What lies below each slot, and above it."""

    bucket: Places
    """The bucket; that of the slot itself where there is none (2, d)."""
    share: Floats
    """How much its density tells of the slope in the slot, negative below; 0 where there is none (2, d)."""
    height: Floats
    """The logarithm of the density that an empty one is taken to have, for one observation of all (2, d)."""
    own: Floats
    """The logarithm of the width of the slot (d)."""


def drifts(evidence: Evidence, parts: Sequence[Single], reach: Floats) -> Floats:
    """Return per bin how much higher the mean would be, if the counts of the polls around it were all (b).

    These are smoothed over some polls in both directions, each counting half of its neighbour nearer by; the density
    in a bucket then leans to the neighbour that has more. Over the window the shifts of a bucket add up to 0.
    """
    sides = [_sides(tuple(part.bounds), part.buckets) for part in parts]
    counts = [np.array(part.counts) for part in parts]
    share, own = np.concatenate([each.share for each in sides], axis=1), np.concatenate([each.own for each in sides])
    empty = np.concatenate([each[side.bucket] <= 0.0 for each, side in zip(counts, sides, strict=True)], axis=1)
    height = np.concatenate(
        [side.height - np.log(each.sum()) for each, side in zip(counts, sides, strict=True)], axis=1
    )
    densities, slot = _Densities(evidence, own), evidence.slot
    mine, slopes = densities.beside(0), np.zeros(len(slot))
    for side, step in enumerate((-1, 1)):
        rise = np.where(empty[side, slot], height[side, slot], densities.beside(step)) - mine
        # Beside the outermost slot of a histogram stands another one's.
        slopes += np.where(share[side, slot] == 0.0, 0.0, rise) * share[side, slot]
    lean = mean_of(np.maximum(-_STEEPEST, np.minimum(_STEEPEST, slopes)))
    moves = np.repeat([len(part.size) > 1 and len(part.width) > 1 for part in parts], [len(p.poll) for p in parts])
    return np.where(moves, centred(evidence, reach[slot] * lean)[1], 0.0)


class _Densities:
    """The densities in the slots at each poll and those around it."""

    def __init__(self, evidence: Evidence, widths: Floats) -> None:
        """Smooth the counts; `widths` are logarithms (d)."""
        stack = evidence.stacked()
        self._smoothed = _near(stack.counts.shape[1]) @ stack.counts
        self._table, self._row = (each[evidence.poll] for each in stack.rows)
        self._column, self._slot, self._widths = stack.columns[1][evidence.slot], evidence.slot, widths
        counts = evidence.per_slot(evidence.count)
        self._floor = (counts + _AROUND) / evidence.per_owner(counts)[evidence.owner]

    def beside(self, step: int) -> Floats:
        """Return the logarithm of the density so many slots beside each bin (b)."""
        column = (self._column + step) % self._smoothed.shape[2]
        slot = (self._slot + step) % len(self._widths)
        found: Floats = np.log(self._smoothed[self._table, self._row, column] + self._floor[slot]) - self._widths[slot]
        return found


@lru_cache(maxsize=256)
def _sides(bounds: tuple[float, ...], buckets: tuple[int, ...]) -> _Sides:
    bucket, last = np.array(buckets), len(bounds) - 1
    edges = np.maximum(-_LARGEST, np.minimum(_LARGEST, [lower_edge(bounds, 0), *bounds]))
    widths = np.maximum(_NARROW, np.diff(edges))
    own = widths[np.minimum(last, bucket)]
    step = np.array([[-1], [1]])
    other = np.maximum(0, np.minimum(last, bucket + step))
    # Outermost buckets have none beside them, and +Inf leans nowhere.
    share = np.where((other == bucket + step) & (bucket <= last), step * own / (own + widths[other]), 0.0)
    found = _Sides(other, share, np.log(_AROUND / widths[other]), np.log(own))
    for each in found:
        each.setflags(write=False)  # shared by all that ask
    return found


@lru_cache(maxsize=16)
def _near(polls: int) -> Floats:
    """Return how much each poll counts beside each other one, half as much as its neighbour nearer by (n, n)."""
    places = np.arange(polls)
    found: Floats = np.exp2(-np.abs(places[:, None] - places, dtype=np.float64))
    found.setflags(write=False)  # shared by all that ask
    return found
