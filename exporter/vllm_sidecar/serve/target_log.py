"""Log events of one target's loop: changes of state, never the same event at each poll."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vllm_sidecar.logs import event

if TYPE_CHECKING:
    from vllm_sidecar.catalog.reasons import PollError, Reason
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.vllm.probes.identity import ServerIdentity
    from vllm_sidecar.vllm.scraper import Scrape

MOST_BUGS = 20
"""Kinds of bugs that are logged."""

_log = logging.getLogger("vllm_sidecar.serve.target")


class TargetLog:
    """Logs the events of one target, and remembers which were logged."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._down: Reason | None = None
        self._bugs: set[str] = set()
        self._unknown: tuple[str, ...] = ()
        self._before: Scrape | None = None

    def succeeded(self, scraped: Scrape, readings: Readings) -> None:
        """Log what changed with a successful poll."""
        before, rejected = self._before, scraped.exposition.rejected
        self._before = scraped
        if before is None or self._down:
            event(_log, logging.INFO, "target_up", target=self._target, engine=readings.dialect.engine)
            self._down = None
        if rejected and (before is None or before.exposition.rejected != rejected):
            first = rejected[0]
            event(_log, logging.WARNING, "lines_rejected", target=self._target,
                  count=scraped.exposition.rejected_count, line=first.line, why=first.why,
                  text=first.text)  # fmt: skip
        if readings.unknown != self._unknown:
            self._unknown = readings.unknown
            event(_log, logging.INFO, "unknown_families", target=self._target, families=",".join(self._unknown))

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
        """Log a bug, each kind once: it may recur each second."""
        kind = f"{type(error).__name__}: {error}"
        if kind not in self._bugs and len(self._bugs) < MOST_BUGS:
            self._bugs.add(kind)
            event(_log, logging.ERROR, "internal_error", target=self._target, exc_info=error)
