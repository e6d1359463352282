"""Log events of one target's loop: changes of state, never the same event at each poll.

Bad lines and unknown names, which a server can change at each poll, are logged at most once in `PAUSE` seconds, and
counted in metrics.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from vllm_sidecar.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from vllm_sidecar.catalog.reasons import PollError, Reason
    from vllm_sidecar.exposition.layout import Exposition
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.vllm.probes.identity import ServerIdentity
    from vllm_sidecar.vllm.scraper import Scrape

MOST_BUGS = 20
"""Kinds of bugs that are logged."""
PAUSE = 600.0
"""Seconds between two events of one kind whose content the server decides."""
NAMES = 5
"""Names in an event."""

_log = logging.getLogger("vllm_sidecar.serve.target")


class TargetLog:
    """Logs the events of one target, and remembers which were logged."""

    def __init__(self, target: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._target = target
        self._clock = clock
        self._began = False
        self._down: Reason | None = None
        self._bugs: set[str] = set()
        self._states: dict[str, object] = {}
        """Event -> the state that its last poll had."""
        self._logged: dict[str, float] = {}

    def succeeded(self, scraped: Scrape, readings: Readings) -> None:
        """Log what changed with a successful poll."""
        if not self._began or self._down:
            event(_log, logging.INFO, "target_up", target=self._target, engine=readings.dialect.engine)
            self._began, self._down = True, None
        self._rejected(scraped.exposition)
        unknown, count = readings.unknown, readings.unknown_count
        if self._is_new("unknown_families", (count, unknown), quiet=not count):
            event(_log, logging.INFO, "unknown_families", target=self._target, count=count,
                  first=",".join(unknown[:NAMES]))  # fmt: skip
        limits = tuple(sorted(name for name, exceeded in readings.limits.items() if exceeded))
        if self._is_new("limits_exceeded", limits, quiet=not limits):
            event(_log, logging.WARNING, "limits_exceeded", target=self._target, limits=",".join(limits))

    def _rejected(self, exposition: Exposition) -> None:
        rejected = exposition.rejected
        if self._is_new("lines_rejected", bool(rejected), quiet=not rejected):
            first = rejected[0]
            event(_log, logging.WARNING, "lines_rejected", target=self._target, count=exposition.rejected_count,
                  line=first.line, why=first.why, text=first.text)  # fmt: skip

    def _is_new(self, name: str, state: object, *, quiet: bool) -> bool:
        """Return whether an event is to be logged: its state changed, is not a quiet one, and the last one is old."""
        before = self._states.get(name)
        self._states[name] = state
        now = self._clock()
        if quiet or state == before or now - self._logged.get(name, -PAUSE) < PAUSE:
            return False
        self._logged[name] = now
        return True

    def down(self, error: PollError) -> None:
        """Log that the target is down, once for each reason in a row."""
        if self._down is not error.reason:
            self._down = error.reason
            event(_log, logging.WARNING, "target_down", target=self._target, reason=error.reason.value,
                  detail=error.detail, hint=error.reason.hint)  # fmt: skip

    def restarted(self, restarts: int) -> None:
        """Log a restart of the server."""
        event(_log, logging.WARNING, "server_restarted", target=self._target, restarts=restarts)

    def changed(self, identity: ServerIdentity, changes: int) -> None:
        """Log that version, models or flags changed, if there were fewer changes before."""
        if identity.changes != changes:
            event(_log, logging.WARNING, "server_config_changed", target=self._target,
                  fingerprint=identity.fingerprint)  # fmt: skip

    def bug(self, error: BaseException) -> None:
        """Log a bug with its traceback, once for each place: it may recur each second, with another text each time."""
        kind = f"{type(error).__name__} {_place(error.__traceback__)}"
        if kind not in self._bugs and len(self._bugs) < MOST_BUGS:
            self._bugs.add(kind)
            event(_log, logging.ERROR, "internal_error", target=self._target, exc_info=error)


def _place(traceback: TracebackType | None) -> str:
    """Return the file and line where an error was raised."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else ""
