"""The polls of a window in the buckets that hold anything, in a unit in which the numbers are near 1."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import chain
from math import frexp, isnan, ldexp
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.quantiles.linear import lower_edge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vllm_sidecar.quantiles.observed import Observed

    Flags = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]

_LARGEST = 1e150
"""Values beyond are taken for this one: the square of a float has to be a float."""


class Stack(NamedTuple):
    """Tables of polls and slots, one per histogram (h); what one has less than the largest is 0."""

    rows: tuple[Places, Places]
    """Table and row of each poll (n)."""
    columns: tuple[Places, Places]
    """Table and column of each slot (d)."""
    counts: Floats
    """(h, most polls, most slots)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What n polls tell of d non-empty buckets, the slots, of one histogram or of some side by side.

    Those have neither polls nor slots in common: both are numbered through, histogram after histogram. The values of
    each are divided by its `scale`. A bin is a slot that a poll observed something in; there are b, those of a poll
    next to each other, by slot.
    """

    lower: Floats
    """Lower edges of the slots (d)."""
    width: Floats
    """Widths of the slots (d); that of +Inf reaches up to the largest value that any poll allows."""
    first: Flags
    """Whether each slot is the first bucket of its histogram (d)."""
    endless: Flags
    """Whether each slot is a +Inf bucket (d)."""
    owner: Places
    """Histogram of each slot (d)."""
    source: Places
    """Histogram of each poll (n)."""
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
    def histograms(self) -> int:
        """How many there are (h)."""
        return int(self.owner[-1]) + 1

    @property
    def trusted(self) -> Flags:
        """Whether the sum of each poll is to be trusted (n)."""
        return ~np.isnan(self.total)

    def per_poll(self, values: Floats) -> Floats:
        """Add up over the bins of each poll (b -> n)."""
        return _added(self.poll, values, len(self.size))

    def per_slot(self, values: Floats) -> Floats:
        """Add up over the bins of each slot (b -> d)."""
        return _added(self.slot, values, len(self.width))

    def per_histogram(self, values: Floats) -> Floats:
        """Add up over the polls of each histogram (n -> h)."""
        return _added(self.source, values, self.histograms)

    def per_owner(self, values: Floats) -> Floats:
        """Add up over the slots of each histogram (d -> h)."""
        return _added(self.owner, values, self.histograms)

    def stacked(self) -> Stack:
        """Return the counts as a stack of tables."""
        polls, slots = np.bincount(self.source, minlength=self.histograms), np.bincount(self.owner)
        rows = self.source, np.arange(len(self.source)) - (np.cumsum(polls) - polls)[self.source]
        columns = self.owner, np.arange(len(self.owner)) - (np.cumsum(slots) - slots)[self.owner]
        counts = np.zeros((len(polls), int(polls.max()), int(slots.max())))
        counts[rows[0][self.poll], rows[1][self.poll], columns[1][self.slot]] = self.count
        return Stack(rows, columns, counts)

    def only(self, polls: Flags) -> Evidence:
        """Return what some of the polls tell (n); the slots are the same."""
        bins = polls[self.poll]
        return Evidence(
            lower=self.lower,
            width=self.width,
            first=self.first,
            endless=self.endless,
            owner=self.owner,
            source=self.source[polls],
            poll=(np.cumsum(polls) - 1)[self.poll[bins]],
            slot=self.slot[bins],
            count=self.count[bins],
            size=self.size[polls],
            total=self.total[polls],
            least=self.least[polls],
            most=self.most[polls],
        )


@dataclass(frozen=True, slots=True)
class Single(Evidence):
    """The evidence of one histogram."""

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

    def table(self, values: Floats) -> Floats:
        """Return what stands for the bins (b) as a table of polls and slots (n, d)."""
        found = np.zeros((len(self.size), len(self.width)))
        found[self.poll, self.slot] = values
        return found

    @property
    def infinite(self) -> bool:
        """Whether the last slot is the +Inf bucket."""
        return self.buckets[-1] == len(self.bounds)


def _added(groups: Places, values: Floats, many: int) -> Floats:
    """Add up the values of each group."""
    return np.bincount(groups, values, many).astype(np.float64, copy=False)


def gather(bounds: Sequence[float], polls: Sequence[Observed], counts: Sequence[float]) -> Single:
    """Make the evidence of one histogram; `counts` are those of all polls together and not all 0."""
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
    bins = list(chain.from_iterable([one.bins for one in seen]))
    poll = np.repeat(np.arange(len(seen)), [len(one.bins) for one in seen])
    slot = np.array([slots[bucket] for bucket, _ in bins], np.intp)
    count = np.array([count for _, count in bins], np.float64)
    size, least, most = (_added(poll, count * each, len(seen)) for each in (1.0, lower[slot], upper[slot]))
    limit = _LARGEST * min(1.0, scale)
    given = np.array([np.nan if one.total is None else one.total for one in seen])
    total = np.maximum(least, np.minimum(most, np.maximum(-limit, np.minimum(limit, given)) / scale))
    bucket = np.array(buckets)
    return Single(
        lower=lower,
        width=upper - lower,
        first=bucket == 0,
        endless=bucket == len(bounds),
        owner=np.zeros(len(buckets), np.intp),
        source=np.zeros(len(seen), np.intp),
        poll=poll,
        slot=slot,
        count=count,
        size=size,
        total=total,
        least=least,
        most=most,
        scale=scale,
        bounds=bounds,
        counts=counts,
        buckets=buckets,
        slots=slots,
    )


def joined(parts: Sequence[Single]) -> Evidence:
    """Put the evidence of histograms side by side."""
    if len(parts) == 1:
        return parts[0]
    whole = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Evidence)}
    slots, polls, bins = zip(*((len(part.width), len(part.size), len(part.poll)) for part in parts), strict=True)
    whole["owner"] = np.repeat(np.arange(len(parts)), slots)
    whole["source"] = np.repeat(np.arange(len(parts)), polls)
    whole["slot"] += np.repeat(np.cumsum(slots) - slots, bins)
    whole["poll"] += np.repeat(np.cumsum(polls) - polls, bins)
    return Evidence(**whole)


def is_told(poll: Observed) -> bool:
    """Tell whether the sum of a poll is to be trusted."""
    return poll.total is not None and not isnan(poll.total)


def _largest(polls: Sequence[Observed], lower: Sequence[float], slots: dict[int, int], infinite: int) -> float:
    """Return the largest value that a sum allows in the +Inf bucket: all others of the poll at their lower edges."""
    largest = lower[-1]
    for poll in polls:
        if poll.total is not None and is_told(poll) and poll.bins[-1][0] == infinite:
            least = sum([count * lower[slots[bucket]] for bucket, count in poll.bins])
            largest = max(largest, min(_LARGEST, poll.total) - least + lower[-1])
    return largest


def centred(evidence: Evidence, values: Floats) -> tuple[Floats, Floats]:
    """Return per slot the mean of what stands for the bins, by their counts (d), and per bin how far off it is (b).

    Over the window the latter add up to 0.
    """
    means = evidence.per_slot(evidence.count * values) / evidence.per_slot(evidence.count)
    return means, values - means[evidence.slot]
