"""How much higher a bucket's mean would be at each poll than over the window, as the counts around it suggest."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from vllm_sidecar.distribution.curve import mean_of
from vllm_sidecar.distribution.evidence import centred
from vllm_sidecar.distribution.linear import lower_edge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.distribution.evidence import Evidence

_FADE = 0.5
"""Weight of a poll's counts in the local counts of its neighbour."""
_AROUND = 0.5
"""Observations added to the local counts of a bucket, shared out over the window."""
_STEEPEST = 6.0
"""Largest logarithm of the ratio of the densities at a bucket's edges."""
_NARROW = 1e-300


def drifts(evidence: Evidence, reach: Sequence[float]) -> list[tuple[float, ...]]:
    """Return per row and bin how much higher the mean would be, if the counts of the polls around it were all.

    These are smoothed over some polls in both directions; the density in a bucket then leans to the neighbour that
    has more. Over the window the shifts of a bucket add up to 0.
    """
    rows = evidence.rows
    if len(rows) < 2:
        return [(0.0,) * len(row.bins) for row in rows]
    sides = _sides(evidence)
    leans = []
    for row, heights in zip(rows, _heights(evidence), strict=True):
        found = []
        for slot, _ in row.bins:
            lean = 0.0
            if sides[slot]:
                slope, here = 0.0, heights[slot]
                for neighbour, height, share in sides[slot]:
                    slope += ((height if neighbour is None else heights[neighbour]) - here) * share
                lean = reach[slot] * mean_of(max(-_STEEPEST, min(_STEEPEST, slope)))
            found.append(lean)
        leans.append(found)
    return centred(evidence, leans)[1]


_Side = tuple[int | None, float, float]
"""A neighbour: its slot, or None and the logarithm of its density; and its share in the density at the common edge."""


def _sides(evidence: Evidence) -> list[list[_Side]]:
    """Return per slot the neighbours of a finite bucket; the share of the lower one is negative."""
    bounds, n = evidence.bounds, len(evidence.bounds)
    whole = sum(evidence.counts)

    def width(bucket: int) -> float:
        return max(bounds[bucket] - lower_edge(bounds, bucket), _NARROW)

    def side(bucket: int, other: int, sign: float) -> _Side:
        height = log(_AROUND / whole / width(other))
        return evidence.slots.get(other), height, sign * width(bucket) / (width(bucket) + width(other))

    return [
        [side(bucket, other, sign) for other, sign in ((bucket - 1, -1.0), (bucket + 1, 1.0)) if 0 <= other < n]
        if bucket < n
        else []
        for bucket in evidence.buckets
    ]


def _heights(evidence: Evidence) -> list[list[float]]:
    """Return per row the logarithm of the density in each slot, of the polls around it, each half its neighbour's."""
    d = len(evidence.buckets)
    whole = sum(evidence.counts)
    floor = [(evidence.counts[bucket] + _AROUND) / whole for bucket in evidence.buckets]
    finite = [bucket < len(evidence.bounds) for bucket in evidence.buckets]
    logs = [
        log(max(evidence.bounds[bucket] - lower_edge(evidence.bounds, bucket), _NARROW)) if is_finite else 0.0
        for bucket, is_finite in zip(evidence.buckets, finite, strict=True)
    ]
    earlier: list[list[float]] = []
    state = [0.0] * d
    for row in evidence.rows:
        earlier.append(state)
        state = state.copy()
        for slot, count in row.bins:
            state[slot] += count
        state = [_FADE * value for value in state]
    state = floor
    found = earlier
    drop = [(1.0 - _FADE) * value for value in floor]
    for i in range(len(earlier) - 1, -1, -1):
        state = state.copy()
        for slot, count in evidence.rows[i].bins:
            state[slot] += count
        found[i] = [log(a + b) - c for a, b, c in zip(earlier[i], state, logs, strict=True)]
        state = [_FADE * a + b for a, b in zip(state, drop, strict=True)]
    return found
