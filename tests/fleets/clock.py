"""Time of the synthetic fleet: seconds since the midnight before its day of history, and grids of scrapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
EPOCH = 1_767_484_800
"""Unix time of second 0: a midnight in UTC, between a Saturday and a Sunday. Day 0 is history, days 1 to 7 the week."""
MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY, SATURDAY, SUNDAY = range(1, 8)
WEEKEND = (0, SATURDAY, SUNDAY)


def at(day: int, clock: str) -> float:
    """Return the second of a time of day, as in `at(MONDAY, "09:30")`."""
    hours, minutes = clock.split(":")
    return day * DAY + int(hours) * HOUR + int(minutes) * MINUTE


def written(seconds: float) -> str:
    """Write a second as day and time of day."""
    day, rest = divmod(seconds, DAY)
    return f"day {day:.0f} {rest // HOUR:02.0f}:{rest % HOUR // MINUTE:02.0f}:{rest % MINUTE:02.0f}"


@dataclass(frozen=True)
class Grid:
    """Equally distant scrapes from one second to another."""

    begin: float
    end: float
    step: float

    @property
    def times(self) -> Floats:
        """Second of each scrape."""
        return np.arange(self.begin, self.end, self.step)

    def between(self, begin: float, end: float) -> Mask:
        """Return which scrapes are in [begin, end)."""
        times = self.times
        return (times >= begin) & (times < end)
