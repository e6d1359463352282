"""Which lines are written: the first ones of each kind in a minute; the others are counted and summarized."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Kind = tuple[object, ...]

MOST_LINES = 10
"""Lines of one kind that are written in one period."""
PERIOD_SECONDS = 60.0
MOST_KINDS = 500
"""Kinds that are followed; the others of the same component share one."""
_DISTINGUISHING = ("target", "part", "source", "signal")
"""Fields that make events of the same name different kinds: each target may report its own trouble."""


@dataclass
class _Period:
    ends: float
    lines: int = 0
    suppressed: int = 0


class Repeats:
    """Counts lines by kind: the component, the event, and the target or part that it is about."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._periods: dict[Kind, _Period] = {}
        self.suppressed = 0
        """Lines that were not written, since the start."""

    def allows(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record; debug is never limited, because who asks for it wants all."""
        if record.levelno <= logging.DEBUG:
            return True
        now = self._clock()
        period = self._period(_kind(record), now)
        if now >= period.ends and not period.suppressed:
            period.ends, period.lines = now + PERIOD_SECONDS, 0
        if period.lines < MOST_LINES:
            period.lines += 1
            return True
        period.suppressed += 1
        self.suppressed += 1
        return False

    def _period(self, kind: Kind, now: float) -> _Period:
        if kind not in self._periods and len(self._periods) >= MOST_KINDS:
            self._periods = {each: period for each, period in self._periods.items() if not _is_over(period, now)}
            if len(self._periods) >= MOST_KINDS:
                kind = (kind[0], "other")
        return self._periods.setdefault(kind, _Period(now + PERIOD_SECONDS))

    def ended(self) -> list[tuple[Kind, int]]:
        """Return the kinds whose period has ended and how many of their lines were not written; they start again."""
        now = self._clock()
        over = [(kind, period) for kind, period in self._periods.items() if now >= period.ends and period.suppressed]
        for kind, _ in over:
            del self._periods[kind]
        return [(kind, period.suppressed) for kind, period in over]


def _is_over(period: _Period, now: float) -> bool:
    return now >= period.ends and not period.suppressed


def _kind(record: logging.LogRecord) -> Kind:
    fields = getattr(record, "fields", None)
    about = tuple(str(fields[name]) for name in _DISTINGUISHING if name in fields) if isinstance(fields, dict) else ()
    return (record.name, str(record.msg), *about)
