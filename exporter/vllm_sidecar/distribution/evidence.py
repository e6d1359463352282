"""The polls of a window in the buckets that hold anything, in a unit in which the numbers are near 1."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, ldexp
from typing import TYPE_CHECKING

import numpy as np

from vllm_sidecar.distribution.linear import lower_edge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vllm_sidecar.model import Observed

    Flags = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]

_LARGEST = 1e150
"""Values beyond are taken for this one: the square of a float has to be a float."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What n polls tell of d non-empty buckets, the slots; all values are divided by `scale`.

    A bin is a slot that a poll observed something in; there are b, those of a poll next to each other, by slot.
    """

    scale: float
    """A power of two, so that nothing is rounded."""
    bounds: Sequence[float]
    """All finite bounds (m), as they are."""
    counts: Sequence[float]
    """Observations per bucket (m + 1)."""
    buckets: tuple[int, ...]
    """Slot -> bucket (d)."""
    slots: dict[int, int]
    """Bucket -> slot."""
    lower: Floats
    """Lower edges of the slots (d)."""
    width: Floats
    """Widths of the slots (d); that of +Inf reaches up to the largest value that any poll allows."""
    poll: Places
    """Poll of each bin (b); polls that observed nothing have no number."""
    slot: Places
    """Slot of each bin (b)."""
    count: Floats
    """Observations of each bin (b)."""
    size: Floats
    """Observations of each poll (n)."""
    total: Floats
    """Sum of each poll (n), drawn into the limits that the buckets set it; NaN where it is not to be trusted."""
    least: Floats
    """The smallest sum that the buckets allow each poll (n)."""
    most: Floats

    @property
    def infinite(self) -> bool:
        """Whether the last slot is the +Inf bucket."""
        return self.buckets[-1] == len(self.bounds)

    @property
    def trusted(self) -> Flags:
        """Whether the sum of each poll is to be trusted (n)."""
        return ~np.isnan(self.total)

    def per_poll(self, values: Floats) -> Floats:
        """Add up over the bins of each poll (b -> n)."""
        return np.bincount(self.poll, values, len(self.size)).astype(np.float64, copy=False)

    def per_slot(self, values: Floats) -> Floats:
        """Add up over the bins of each slot (b -> d)."""
        return np.bincount(self.slot, values, len(self.buckets)).astype(np.float64, copy=False)

    def table(self, values: Floats) -> Floats:
        """Return what stands for the bins (b) as a table of polls and slots (n, d)."""
        found = np.zeros((len(self.size), len(self.buckets)))
        found[self.poll, self.slot] = values
        return found


def gather(bounds: Sequence[float], polls: Sequence[Observed], counts: Sequence[float]) -> Evidence:
    """Make the evidence; `counts` are those of all polls together and not all 0."""
    buckets = tuple([bucket for bucket, count in enumerate(counts) if count > 0.0])
    slots = {bucket: slot for slot, bucket in enumerate(buckets)}
    seen = [poll for poll in polls if poll.bins]
    edges = [lower_edge(bounds, bucket) for bucket in buckets]
    ends = [bounds[bucket] if bucket < len(bounds) else edges[-1] for bucket in buckets]
    if buckets[-1] == len(bounds):
        ends[-1] = _largest(seen, edges, slots, len(bounds))
    largest = max(abs(edges[0]), abs(edges[-1]), abs(ends[-1])) or 1.0
    scale = ldexp(1.0, max(-1000, min(1000, frexp(largest)[1])))
    lower, upper = np.array(edges) / scale, np.array(ends) / scale
    poll = np.array([number for number, one in enumerate(seen) for _ in one.bins], np.intp)
    slot = np.array([slots[bucket] for one in seen for bucket, _ in one.bins], np.intp)
    count = np.array([float(count) for one in seen for _, count in one.bins])
    size, least, most = (
        np.bincount(poll, count * each, len(seen)).astype(np.float64, copy=False)
        for each in (1.0, lower[slot], upper[slot])
    )
    limit = _LARGEST * min(1.0, scale)
    given = np.array([np.nan if one.total is None else max(-limit, min(limit, one.total)) for one in seen]) / scale
    total = np.maximum(least, np.minimum(most, given))
    return Evidence(
        scale, bounds, counts, buckets, slots, lower, upper - lower, poll, slot, count, size, total, least, most
    )


def _largest(polls: Sequence[Observed], lower: Sequence[float], slots: dict[int, int], infinite: int) -> float:
    """Return the largest value that a sum allows in the +Inf bucket: all others of the poll at their lower edges."""
    largest = lower[-1]
    for poll in polls:
        if poll.total is not None and poll.bins[-1][0] == infinite:
            least = sum([count * lower[slots[bucket]] for bucket, count in poll.bins])
            largest = max(largest, min(_LARGEST, poll.total) - least + lower[-1])
    return largest


def centred(evidence: Evidence, values: Floats) -> tuple[Floats, Floats]:
    """Return per slot the mean of what stands for the bins, by their counts (d), and per bin how far off it is (b).

    Over the window the latter add up to 0.
    """
    means = evidence.per_slot(evidence.count * values) / evidence.per_slot(evidence.count)
    return means, values - means[evidence.slot]
