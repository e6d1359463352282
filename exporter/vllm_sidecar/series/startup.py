"""Stage 4: how long a server takes to start, as the polls of its address show it.

A start begins with the first poll that nothing answers, and ends with the first poll that succeeds. That an outage was
a start needs evidence of a new process: the restart that `restarts` saw, or, of the first process of all, that it has
not worked for longer than the sidecar waited. A server that is busy, refuses, or answers something unreadable is there:
that begins no start. A router that answers ends one, for then nobody can tell whose start it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import NOT_ONE_ENGINE, Reason
from vllm_sidecar.series.server_process import answer_of, is_fresh

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.series.server_process import Change

NOBODY_THERE = frozenset((Reason.REFUSED, Reason.UNREACHABLE, Reason.DNS))
"""Failures of a poll that no process answers."""
STARTED_BEFORE = 60.0
"""Seconds by which the first process may have begun before the sidecar did: containers of a pod start one by one."""


class Startup:
    """Follows the starts of one server through the polls of its address."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        """How long the last start took; None where none was seen, or not from its beginning."""
        self._since: float | None = None
        """When nothing answered for the first time since the last success."""
        self._answered = False

    def missed(self, at: float, reason: Reason) -> None:
        """Take note of a poll that began at a (monotonic) time and failed."""
        if reason in NOT_ONE_ENGINE:
            self._since = None
        elif reason in NOBODY_THERE and self._since is None:
            self._since = at

    def answered(self, at: float, readings: Readings, clock: float, change: Change) -> None:
        """Take the first and every further success, with the server's Unix time and what is new about its process."""
        since, self._since = self._since, None
        first, self._answered = not self._answered, True
        if change.restarted:
            self.seconds = None if since is None else at - since
        elif first and since is not None and _is_new(at, at - since, readings, clock):
            self.seconds = at - since


def _is_new(at: float, seconds: float, readings: Readings, clock: float) -> bool:
    """Tell whether the first process that answers may have begun when the sidecar did: it has not served before."""
    answer = answer_of(at, readings, clock, outage=True)
    if answer.started is not None:
        return answer.is_younger(answer.started, seconds + STARTED_BEFORE)
    return is_fresh(answer.values, seconds)
