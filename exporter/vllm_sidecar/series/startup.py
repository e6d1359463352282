"""Start-up time of a server, measured by the polls of its address.

A start begins with the first poll that no process answers, and ends with the first poll that succeeds. An outage was a
start only with evidence of a new process: a restart found by `restarts`, or, for the first process, an age of not more
than the sidecar's wait. A server that is busy, refuses requests, or answers something unreadable is running, so no
start begins. An answer of a router ends one, because it is then unknown whose start it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import NOT_ONE_ENGINE, Evidence
from vllm_sidecar.series.server_process import answer_of, is_fresh

if TYPE_CHECKING:
    from vllm_sidecar.catalog.reasons import Reason
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.series.server_process import Change

STARTED_BEFORE = 60.0
"""Most seconds between the first process's start and the sidecar's: containers of a pod start one by one."""


class Startup:
    """Follows the starts of one server through the polls of its address."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        """Duration of the last start; None if none was seen from its beginning."""
        self._since: float | None = None
        """Time of the first poll without an answer since the last success."""
        self._answered = False

    def missed(self, at: float, reason: Reason) -> None:
        """Note a failed poll that began at a (monotonic) time."""
        if reason in NOT_ONE_ENGINE:
            self._since = None
        elif reason.evidence is Evidence.NO_PROCESS and self._since is None:
            self._since = at

    def answered(self, at: float, readings: Readings, clock: float, change: Change) -> None:
        """Take the first and every further success, with the server's Unix time and the changes of its process."""
        since, self._since = self._since, None
        first, self._answered = not self._answered, True
        if change.restarted:
            self.seconds = None if since is None else at - since
        elif first and since is not None and _is_new(at, at - since, readings, clock):
            self.seconds = at - since


def _is_new(at: float, seconds: float, readings: Readings, clock: float) -> bool:
    """Return whether the first process that answers may have started with the sidecar: it has not served before."""
    answer = answer_of(at, readings, clock, outage=True)
    if answer.started is not None:
        return answer.is_younger(answer.started, seconds + STARTED_BEFORE)
    return is_fresh(answer.values, seconds)
