"""The polls of some windows as arrays, in a unit in which the numbers of each histogram are near 1.

Histograms are side by side in every array: polls (n), bins (b: one poll in one bucket) and slots (d: buckets that
contain anything) are numbered through, histogram after histogram (h).
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import chain
from math import frexp, inf, ldexp
from typing import TYPE_CHECKING

import numpy as np

from vllm_sidecar.quantiles.buckets import lower_bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vllm_sidecar.quantiles.buckets import Observed

    Flags = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]
    Bounds = tuple[tuple[float, ...], ...]

TINY = 1e-30
"""A variance that is 0 for all purposes, and can be divided by."""
NARROW = 1e-290
"""A width that is 0 for all purposes, and can be divided by."""
LARGEST = 1e150
"""Larger values are taken as this one: the square of a float has to be a float."""


class Layout:
    """All buckets of some histograms (m), one after the other."""

    def __init__(self, bounds: Bounds) -> None:
        """Lay out the buckets with these finite upper bounds."""
        ends: list[tuple[float, float]] = []
        scale: list[float] = []
        owner: list[int] = []
        self.offset: list[int] = []
        for one, mine in enumerate(bounds):
            largest = max(abs(min(0.0, mine[0])), abs(mine[-1])) or 1.0
            scale.append(ldexp(1.0, max(-1000, min(1000, frexp(largest)[1]))))
            self.offset.append(len(owner))
            owner += [one] * (len(mine) + 1)
            ends += [(lower_bound(mine, i) / scale[-1], bound / scale[-1]) for i, bound in enumerate(mine)]
            ends.append((mine[-1] / scale[-1], inf))
        self.scale = np.array(scale)
        self.owner = np.array(owner)
        self.lower, self.upper = np.array(ends).T.copy()
        self.first = np.zeros(len(owner), bool)
        self.first[self.offset] = True
        self.endless = self.upper == inf
        # On the logarithmic axis the first bucket has no end: it is taken as e times wide. +Inf depends on the values.
        top = np.log(np.maximum(NARROW, np.where(self.endless, 2.0 * self.lower, self.upper)))
        bottom = np.where(self.lower > 0.0, np.log(np.maximum(NARROW, self.lower)), top - 1.0)
        self.log_middle, self.log_width = 0.5 * (top + bottom), np.maximum(1e-12, top - bottom)
        self.inner = (self.lower > 0.0) & (self.upper > self.lower) & ~self.first & ~self.endless
        """Buckets that have logarithms."""


layout_of = lru_cache(maxsize=16)(Layout)
"""The buckets of an engine are the same in every scrape."""


class Evidence:
    """Counts and sums of n polls in the d non-empty buckets, the slots, of h histograms."""

    def __init__(self, windows: Sequence[tuple[tuple[float, ...], Sequence[Observed]]]) -> None:
        """Gather polls, all of which observed something; `windows` are bounds and polls of each histogram."""
        self.bounds = tuple([bounds for bounds, _ in windows])
        layout = self.layout = layout_of(self.bounds)
        self.windows = windows
        self.histograms = len(windows)
        polls = list(chain.from_iterable([mine for _, mine in windows]))
        bins = [poll.bins for poll in polls]
        self.source = np.repeat(np.arange(len(windows)), [len(mine) for _, mine in windows])
        """Histogram of each poll (n)."""
        self.bins = np.array(list(map(len, bins)))
        """How many buckets each poll observed something in (n)."""
        self.poll = np.repeat(np.arange(len(polls)), self.bins)
        """Poll of each bin (b)."""
        bucket, count = zip(*chain.from_iterable(bins), strict=True)
        place = np.array(bucket) + np.array(layout.offset)[self.source][self.poll]
        self.count: Floats = np.array(count, float)
        """Observations of each bin (b)."""
        self.counts = added(place, self.count, len(layout.owner))
        """Observations of each bucket of the layout (m)."""
        self.slot_of = np.cumsum(self.counts > 0.0) - 1
        self.bucket = np.flatnonzero(self.counts > 0.0)
        """Bucket of each slot (d)."""
        self.slot = self.slot_of[place]
        """Slot of each bin (b)."""
        self.owner, self.first, self.endless = (
            each[self.bucket] for each in (layout.owner, layout.first, layout.endless)
        )
        self.lower, self.upper = layout.lower[self.bucket], layout.upper[self.bucket]
        self.held = self.counts[self.bucket]
        """Observations of each slot (d)."""
        self.size = self.per_poll(self.count)
        self._add_sums(np.array([poll.total for poll in polls], float))

    def _add_sums(self, total: Floats) -> None:
        """Limit the sums (n, NaN if unknown) to what the buckets allow; +Inf ends at the largest value of any sum."""
        scale = self.layout.scale[self.source]
        limit = LARGEST * np.minimum(1.0, scale)
        total = np.maximum(-limit, np.minimum(limit, total)) / scale
        self.least = self.per_poll(self.count * self.lower[self.slot])
        """The smallest sum that the buckets allow each poll (n)."""
        if self.endless.any():
            last = np.flatnonzero(self.endless[self.slot])
            slot, poll = self.slot[last], self.poll[last]
            self.upper[self.endless] = self.lower[self.endless]
            np.maximum.at(self.upper, slot, np.fmax(0.0, total - self.least)[poll] + self.lower[slot])
        self.most = self.per_poll(self.count * self.upper[self.slot])
        self.width = self.upper - self.lower
        self.total = np.maximum(self.least, np.minimum(self.most, total))
        """Sum of each poll; NaN if it is unknown (n)."""
        self.trusted = ~np.isnan(self.total)

    def per_poll(self, values: Floats | Flags) -> Floats:
        """Add up over the bins of each poll (b -> n)."""
        return added(self.poll, values, len(self.source))

    def per_slot(self, values: Floats | Flags) -> Floats:
        """Add up over the bins of each slot (b -> d)."""
        return added(self.slot, values, len(self.bucket))

    def per_histogram(self, values: Floats | Flags) -> Floats:
        """Add up over the polls of each histogram (n -> h)."""
        return added(self.source, values, self.histograms)

    def per_owner(self, values: Floats | Flags) -> Floats:
        """Add up over the slots of each histogram (d -> h)."""
        return added(self.owner, values, self.histograms)

    @cached_property
    def buckets_in_use(self) -> tuple[Bounds, tuple[int, ...]]:
        """The bounds of all histograms and the buckets of the slots: many windows have the same."""
        return self.bounds, tuple(self.bucket.tolist())

    @cached_property
    def row(self) -> Places:
        """Number of each poll within its histogram (n)."""
        return _numbered(self.source)

    @cached_property
    def column(self) -> Places:
        """Number of each slot within its histogram (d)."""
        return _numbered(self.owner)

    @cached_property
    def alone(self) -> Flags:
        """Whether each poll is a single observation with a known sum, which is its value (n)."""
        found: Flags = (self.size == 1.0) & self.trusted
        return found

    @cached_property
    def pure(self) -> Flags:
        """Whether each poll fell into one bucket and has a sum, which is the mean of that bucket (n)."""
        found: Flags = (self.bins == 1) & self.trusted
        return found

    def places(self, values: Floats) -> Floats:
        """Return values of slots in widths of their buckets (d)."""
        found: Floats = (values - self.lower) / np.maximum(NARROW, self.width)
        return found

    def inside(self, values: Floats, slot: Places) -> Floats:
        """Limit values, or rows of them, to the buckets of some slots."""
        lower, upper = self.lower[slot], self.upper[slot]
        if values.ndim > 1:
            lower, upper = lower[:, None], upper[:, None]
        found: Floats = np.maximum(lower, np.minimum(upper, values))
        return found


def beyond(value: Floats, limit: Floats) -> Floats:
    """Return how far values are beyond a limit: 0 at it, 1 at twice as much."""
    found: Floats = np.maximum(0.0, np.minimum(1.0, value / limit - 1.0))
    return found


def _numbered(groups: Places) -> Places:
    """Return the number of each element within its group; groups ascend."""
    found: Places = np.arange(len(groups)) - np.searchsorted(groups, groups)
    return found


def added(groups: Places, values: Floats | Flags, many: int) -> Floats:
    """Add up the values of each of so many groups."""
    found: Floats = np.bincount(groups, values, many).astype(float, copy=False)
    return found
