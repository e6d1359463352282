"""Values that a server cannot have: how much a signal can be, and by how much it can grow between two polls.

Everything behind the normalizer never forgets (SLO counters) or forgets slowly (windows, charts), so one impossible
value would spoil it for long. A value above its limit is left out. A counter that grew by more than any server can
count keeps its previous value for one poll; if the new value is confirmed by the next poll, it is taken, and
`Accepted.jumped` names its group, so that no increase spans it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.types import Kind, Unit

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from vllm_sidecar.catalog.types import Signal
    from vllm_sidecar.exposition.layout import Layout, Series
    from vllm_sidecar.series.readings import Group, Key

MOST = 2.0**63
"""Largest count of any server."""
MOST_WORK = 1e30
"""Largest number of bytes or floating point operations: a fleet counts 2^63 of them within hours."""
MOST_NOW = 1e9
"""Largest gauge that counts requests or files."""
MOST_RATIO = 1.001
"""Largest ratio, with room for rounding."""
PLAUSIBLE_TIMES = (1e9, 1e11)
"""Plausible Unix times of a start: a sandbox without a boot time exposes seconds since its own start."""
OBSERVATIONS_PER_SECOND = 1e6
"""Requests or observations per second beyond any server's."""
MOST_PER_SECOND = {Unit.NONE: 1e9, Unit.TOKENS: 1e9, Unit.SECONDS: 1e9, Unit.BYTES: 1e15}
WORK_PER_SECOND = 1e18
"""Floating point operations per second of one GPU, with room for the next generations."""
SUM_PER_SECOND = 1e10
"""The same for the sum of a histogram, in seconds or tokens."""
WORK = "estimated_flops_total"
AT_ONCE = 5000
"""Series that are compared in one go."""
SHORTEST = 1.0
"""Seconds between two polls that growth is compared with at least: a body may be some time old."""
DOUBTS = 3
"""Polls within `DOUBT_SECONDS` of which values are doubted. After them all values are used: they may be those of two
servers behind one address, which `series.restarts` recognizes by the same values."""
DOUBT_SECONDS = 60.0


def most_of(key: Key) -> float:
    """Return the largest value that a signal of a server can have."""
    signal = SIGNALS[key if isinstance(key, str) else key[0]]
    if signal.unit is Unit.RATIO:
        return MOST_RATIO
    if signal.unit is Unit.BYTES or signal.name == WORK:
        return MOST_WORK
    return MOST_NOW if signal.kind is Kind.GAUGE else MOST


def most_per_second(signal: Signal) -> float:
    """Return by how much a counter can grow in a second."""
    if signal.name == WORK:
        return WORK_PER_SECOND
    return OBSERVATIONS_PER_SECOND if "requests" in signal.name else MOST_PER_SECOND[signal.unit]


def is_time(value: float) -> bool:
    """Return whether a Unix time can be that of a server's start."""
    return PLAUSIBLE_TIMES[0] < value < PLAUSIBLE_TIMES[1]


class Growing(NamedTuple):
    """A series that only grows: its group, and by how much it can grow in a second."""

    group: Group
    per_second: float


class Accepted(NamedTuple):
    """The values of a poll without those that cannot be true."""

    values: Sequence[float]
    doubted: int = 0
    """How many keep the value of the poll before."""
    jumped: frozenset[Group] = frozenset()
    """Groups with a series that jumped, and stayed there."""


class Plausible:
    """Follows the growing series of one target from poll to poll."""

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._slots = np.empty(0, dtype=np.intp)
        self._growing: list[Growing] = []
        self._limits = self._last = np.empty(0)
        self._doubted: dict[Series, float] = {}
        self._doubts: deque[float] = deque(maxlen=DOUBTS)
        self._at = 0.0

    def forget(self) -> None:
        """Start over: another process answers."""
        self._layout = None
        self._doubted.clear()

    def steps(
        self, layout: Layout, growing: Mapping[int, Growing], values: Sequence[float], at: float
    ) -> Generator[None, None, Accepted]:
        """Compare the values of a poll with those of the poll before, in steps.

        Args:
            layout: The series of the body.
            growing: The slots that only grow; the same object for the same layout.
            values: By slot.
            at: Monotonic time of the poll in seconds.
        """
        if layout is not self._layout:
            yield from self._follow(layout, growing, values)
        now = np.asarray(values)[self._slots]
        seconds, self._at = max(SHORTEST, at - self._at), at
        # Values that are not finite, or too large, are refused where they are read; NaN compares as false.
        readable = np.isfinite(now) & (now <= MOST_WORK)
        with np.errstate(invalid="ignore", over="ignore"):
            suspects = np.flatnonzero(readable & (now - self._last > self._limits * seconds))
        doubted, self._doubted = self._doubted, {}
        if not suspects.size:
            self._last = np.where(readable, now, self._last)
            return Accepted(values)
        trusted = len(self._doubts) == DOUBTS and at - self._doubts[0] <= DOUBT_SECONDS
        changed = list(values)
        jumped = set()
        for place in suspects.tolist():
            slot = int(self._slots[place])
            before = doubted.get(layout.series[slot])
            if trusted or (before is not None and values[slot] >= before):
                jumped.add(self._growing[place].group)
            else:
                self._doubted[layout.series[slot]] = values[slot]
                changed[slot] = now[place] = float(self._last[place])
        if self._doubted:
            self._doubts.append(at)
        self._last = np.where(readable, now, self._last)
        return Accepted(changed, len(self._doubted), frozenset(jumped))

    def _follow(
        self, layout: Layout, growing: Mapping[int, Growing], values: Sequence[float]
    ) -> Generator[None, None, None]:
        """Take another layout; a series that is new has grown by nothing."""
        before: dict[Series, float] = {}
        if self._layout is not None:
            for place, (slot, value) in enumerate(zip(self._slots.tolist(), self._last.tolist(), strict=True)):
                if place % AT_ONCE == 0:
                    yield
                before[self._layout.series[slot]] = value
        last: list[float] = []
        for place, slot in enumerate(growing):
            if place % AT_ONCE == 0:
                yield
            last.append(before.get(layout.series[slot], values[slot]) if before else values[slot])
        self._layout, self._last = layout, np.array(last)
        self._slots = np.fromiter(growing, dtype=np.intp, count=len(growing))
        self._growing = list(growing.values())
        self._limits = np.array([each.per_second for each in self._growing])
