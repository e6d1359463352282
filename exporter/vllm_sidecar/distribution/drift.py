"""How much higher a bucket's mean would be at each poll than over the window, as the counts around it suggest."""

from __future__ import annotations

from functools import lru_cache
from math import log
from typing import TYPE_CHECKING

import numpy as np

from vllm_sidecar.distribution.curve import mean_of
from vllm_sidecar.distribution.evidence import centred
from vllm_sidecar.distribution.linear import lower_edge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.distribution.evidence import Evidence, Floats

_AROUND = 0.5
"""Observations added to the local counts of a bucket, shared out over the window."""
_STEEPEST = 6.0
"""Largest logarithm of the ratio of the densities at a bucket's edges."""
_NARROW = 1e-300


def drifts(evidence: Evidence, reach: Floats) -> Floats:
    """Return per bin how much higher the mean would be, if the counts of the polls around it were all (b).

    These are smoothed over some polls in both directions; the density in a bucket then leans to the neighbour that
    has more. Over the window the shifts of a bucket add up to 0.
    """
    if len(evidence.size) < 2 or len(evidence.buckets) < 2:
        return np.zeros(len(evidence.poll))
    heights = _heights(evidence)
    slopes = np.zeros_like(heights)
    for slot in range(len(evidence.buckets)):
        for neighbour, height, share in _sides(evidence, slot):
            other = height if neighbour is None else heights[:, neighbour]
            slopes[:, slot] += (other - heights[:, slot]) * share
    lean = mean_of(np.maximum(-_STEEPEST, np.minimum(_STEEPEST, slopes[evidence.poll, evidence.slot])))
    return centred(evidence, reach[evidence.slot] * lean)[1]


def _width(evidence: Evidence, bucket: int) -> float:
    return max(evidence.bounds[bucket] - lower_edge(evidence.bounds, bucket), _NARROW)


def _sides(evidence: Evidence, slot: int) -> Iterator[tuple[int | None, float, float]]:
    """Yield the neighbours of a finite bucket: slot, or the logarithm of an empty one's density, and share at the edge.

    The share of the lower one is negative.
    """
    bucket, n, whole = evidence.buckets[slot], len(evidence.bounds), sum(evidence.counts)
    for other, sign in ((bucket - 1, -1.0), (bucket + 1, 1.0)):
        if bucket < n and 0 <= other < n:
            own, beside = _width(evidence, bucket), _width(evidence, other)
            yield evidence.slots.get(other), log(_AROUND / whole / beside), sign * own / (own + beside)


def _heights(evidence: Evidence) -> Floats:
    """Return the logarithm of the density in each slot, of the polls around each, each half its neighbour's (n, d)."""
    near = _near(len(evidence.size))
    counts = np.array([evidence.counts[bucket] for bucket in evidence.buckets])
    widths = [_width(evidence, bucket) if bucket < len(evidence.bounds) else 1.0 for bucket in evidence.buckets]
    floor = (counts + _AROUND) / counts.sum()
    found: Floats = np.log(near @ evidence.table(evidence.count) + floor) - np.log(widths)
    return found


@lru_cache(maxsize=16)
def _near(polls: int) -> Floats:
    """Return how much each poll counts beside each other one, half as much as its neighbour nearer by (n, n)."""
    places = np.arange(polls)
    found: Floats = np.exp2(-np.abs(places[:, None] - places, dtype=np.float64))
    found.setflags(write=False)  # shared by all that ask
    return found
