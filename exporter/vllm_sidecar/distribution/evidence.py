"""The polls of a window in the buckets that hold anything, in a unit in which the numbers are near 1."""

from __future__ import annotations

from math import frexp, ldexp
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.distribution.linear import lower_edge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.model import Observed

_LARGEST = 1e150
"""Values beyond are taken for this one: the square of a float has to be a float."""


class Row(NamedTuple):
    """One poll that observed something."""

    bins: tuple[tuple[int, float], ...]
    """Slots with their counts."""
    total: float | None
    """The sum, drawn into the limits that the buckets set it; None where it is not to be trusted."""
    least: float
    """The smallest sum that the buckets allow."""
    most: float


class Evidence(NamedTuple):
    """What the polls of a window tell of d non-empty buckets, the slots; all values are divided by `scale`."""

    scale: float
    """A power of two, so that nothing is rounded."""
    bounds: Sequence[float]
    """All finite bounds (n), as they are."""
    counts: Sequence[float]
    """Observations per bucket (n + 1)."""
    buckets: tuple[int, ...]
    """Slot -> bucket."""
    slots: dict[int, int]
    """Bucket -> slot."""
    lower: tuple[float, ...]
    """Lower edges of the slots."""
    width: tuple[float, ...]
    """Widths of the slots; that of +Inf reaches up to the largest value that any poll allows."""
    rows: tuple[Row, ...]


def gather(bounds: Sequence[float], polls: Sequence[Observed], counts: Sequence[float]) -> Evidence:
    """Make the evidence; `counts` are those of all polls together and not all 0."""
    buckets = tuple([bucket for bucket, count in enumerate(counts) if count > 0.0])
    slots = {bucket: slot for slot, bucket in enumerate(buckets)}
    lower = [lower_edge(bounds, bucket) for bucket in buckets]
    upper = [bounds[bucket] if bucket < len(bounds) else lower[-1] for bucket in buckets]
    if buckets[-1] == len(bounds):
        upper[-1] = _largest(polls, lower, slots, len(bounds))
    scale = ldexp(1.0, frexp(max(abs(lower[0]), abs(lower[-1]), abs(upper[-1])) or 1.0)[1])
    lower = [edge / scale for edge in lower]
    upper = [edge / scale for edge in upper]
    rows = []
    for poll in polls:
        if poll.bins:
            bins = tuple([(slots[bucket], count) for bucket, count in poll.bins])
            least = most = 0.0
            for slot, count in bins:
                least += count * lower[slot]
                most += count * upper[slot]
            total = None if poll.total is None else max(least, min(most, poll.total / scale))
            rows.append(Row(bins, total, least, most))
    width = tuple([high - low for low, high in zip(lower, upper, strict=True)])
    return Evidence(scale, bounds, counts, buckets, slots, tuple(lower), width, tuple(rows))


def _largest(polls: Sequence[Observed], lower: Sequence[float], slots: dict[int, int], infinite: int) -> float:
    """Return the largest value that a sum allows in the +Inf bucket: all others of the poll at their lower edges."""
    largest = lower[-1]
    for poll in polls:
        if poll.total is not None and poll.bins and poll.bins[-1][0] == infinite:
            least = sum([count * lower[slots[bucket]] for bucket, count in poll.bins])
            largest = max(largest, min(_LARGEST, poll.total - least + lower[-1]))
    return largest


def centred(evidence: Evidence, values: Sequence[Sequence[float]]) -> tuple[list[float], list[tuple[float, ...]]]:
    """Return per slot the mean of what stands for a row's bins, by their counts, and per row and bin how far off it is.

    Over the window the latter add up to 0.
    """
    sums = [0.0] * len(evidence.buckets)
    for row, each in zip(evidence.rows, values, strict=True):
        for (slot, count), value in zip(row.bins, each, strict=True):
            sums[slot] += count * value
    means = [total / evidence.counts[bucket] for total, bucket in zip(sums, evidence.buckets, strict=True)]
    return means, [
        tuple([value - means[slot] for value, (slot, _) in zip(each, row.bins, strict=True)])
        for each, row in zip(values, evidence.rows, strict=True)
    ]
