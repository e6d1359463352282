"""Counters that grew by more than a server can count between two polls.

Such a counter keeps its previous value for one poll. If the next poll confirms the new value, it is used, and
`Accepted.jumped` names its group, so that no increase spans it.
"""

from __future__ import annotations

from collections import deque
from math import inf, isnan
from operator import gt, sub
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.vllm.mapping import pick
from vllm_sidecar.vllm.plausible import MOST_WORK

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from vllm_sidecar.exposition.layout import Layout, Series
    from vllm_sidecar.series.readings import Group
    from vllm_sidecar.vllm.plausible import Growing

AT_ONCE = 5000
"""Series that are compared in one go."""
SHORTEST = 1.0
"""Seconds between two polls that growth is compared with at least: a body may be some time old."""
DOUBTS = 3
"""Polls within `DOUBT_SECONDS` of which values are doubted. After them all values are used: they may be those of two
servers behind one address, which `series.restarts` recognizes by the same values."""
DOUBT_SECONDS = 60.0


class Accepted(NamedTuple):
    """The values of a poll without those that cannot be true."""

    values: Sequence[float]
    doubted: int = 0
    """How many keep the value of the poll before."""
    jumped: frozenset[Group] = frozenset()
    """Groups with a series that jumped, and stayed there."""


class Growth:
    """Follows the growing series of one target from poll to poll."""

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._slots: list[int] = []
        self._pick = pick(self._slots)
        self._growing: list[Growing] = []
        self._limits: list[float] = []
        self._last: list[float] = []
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
        now = list(self._pick(values))
        yield
        seconds, self._at = max(SHORTEST, at - self._at), at
        # Functions in C over all values, and the limits of the shortest time: suspects are rare. NaN is not above any
        # limit, but makes the sum NaN.
        if isnan(sum(now)) or any(map(gt, map(sub, now, self._last), self._limits)):
            return self._check(layout, values, now, [limit * seconds for limit in self._limits])
        self._last = now
        self._doubted.clear()
        return Accepted(values)

    def _check(self, layout: Layout, values: Sequence[float], now: list[float], limits: Sequence[float]) -> Accepted:
        """Return the values without doubtful ones; those that cannot be read at all are refused where they are read."""
        trusted = len(self._doubts) == DOUBTS and self._at - self._doubts[0] <= DOUBT_SECONDS
        doubted, self._doubted = self._doubted, {}
        accepted = list(values)
        jumped = set()
        for place, (value, last, limit) in enumerate(zip(now, self._last, limits, strict=True)):
            if not value <= MOST_WORK:
                now[place] = last
            elif value - last > limit:
                slot = self._slots[place]
                series = layout.series[slot]
                if trusted or value >= doubted.get(series, inf):
                    jumped.add(self._growing[place].group)
                else:
                    self._doubted[series] = value
                    accepted[slot] = now[place] = last
        if self._doubted:
            self._doubts.append(self._at)
        self._last = now
        return Accepted(accepted, len(self._doubted), frozenset(jumped))

    def _follow(
        self, layout: Layout, growing: Mapping[int, Growing], values: Sequence[float]
    ) -> Generator[None, None, None]:
        """Take another layout; a series that is new has grown by nothing."""
        before: dict[Series, float] = {}
        if self._layout is not None:
            for place, (slot, value) in enumerate(zip(self._slots, self._last, strict=True)):
                if place % AT_ONCE == 0:
                    yield
                before[self._layout.series[slot]] = value
        last: list[float] = []
        for place, slot in enumerate(growing):
            if place % AT_ONCE == 0:
                yield
            last.append(before.get(layout.series[slot], values[slot]) if before else values[slot])
        self._layout, self._last = layout, last
        self._slots = list(growing)
        self._pick = pick(self._slots)
        self._growing = list(growing.values())
        self._limits = [each.per_second * SHORTEST for each in self._growing]
