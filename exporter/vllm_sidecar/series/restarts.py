"""Whether a poll was answered by the same process as before, by a later one, or by another server.

A process restart needs evidence of a later process: it started after the last answer of the process before, and polls
had failed, its counters are low, or all were created again, or, where no start time is exposed (several API servers,
Rust front end), all counters fell together after an outage. A start time that changes is not evidence while the same
counters, by their creation times, continue. A process that already ran while the other one answered is another server
behind the same address. Rates and increases would then mix several servers: the poll fails with the reason
`several_servers`, and so do all polls until one server has answered alone for `HOLD` seconds (`CONFIRM` after a younger
one has taken over, as in a rolling update). That server is followed from then on; increases in the meantime are not
counted.

Counters that fall for one group only (elastic expert parallelism creates new ones) are a counter reset of that group; a
counter that is missing in a body is not a reset.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.series.server_process import (
    HOLD,
    NOTHING,
    Answer,
    Change,
    Process,
    all_made_later,
    answer_of,
    changes,
    created_next_to,
    fell,
    fell_together,
    goes_on,
    had_not_begun,
    is_above,
    is_fresh,
    is_one_process,
    note,
)

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings

CONFIRM = 60.0
"""The same after a single change: to a younger server, which may have taken over permanently, or to counters that fell
without an outage. Fallen counters were a restart if the process before does not return."""
OUTAGE = 3
"""Successive failed polls after which fallen counters are those of a later process."""
RECENT = 900.0
"""Seconds for which a restart is a recent one."""
MOST_TIMES = 100
"""Most recent restarts that are counted."""
MOST_PROCESSES = 8
"""Most processes behind one address that are distinguished."""


class _Origin(Enum):
    SAME = "the process that answered before"
    LATER = "a process that started later"
    OTHER = "another server"
    UNSURE = "a restart without an outage, or another server with few requests"


class Restarts:
    """Follows one server through the polls of its address, and counts its restarts."""

    def __init__(self) -> None:
        self._known: list[Process] = []
        """The processes that answered, the latest answer first."""
        self._missed = 0
        self._held_until: float | None = None
        self._fell_after: float | None = None
        """Time of the last answer of the process before, if a restart may have ended it."""
        self._times: deque[float] = deque(maxlen=MOST_TIMES)
        self.count = 0
        """Later processes after the first."""

    @property
    def several(self) -> bool:
        """Several servers answer, or may: none is followed."""
        return self._held_until is not None

    @property
    def _newest(self) -> float:
        """The latest start time of the known processes."""
        return max((each.started or 0.0 for each in self._known), default=0.0)

    def recent(self, now: float) -> int:
        """Return how many restarts there were in the last minutes before a monotonic time, at most `MOST_TIMES`."""
        return sum(at > now - RECENT for at in self._times)

    def missed(self) -> None:
        """Note a poll without an answer."""
        self._missed += 1

    def follow(self, at: float, readings: Readings, clock: float | None = None) -> Change:
        """Return the changes since the poll before.

        Args:
            at: Monotonic time of the answer.
            readings: The content of the answer.
            clock: Unix time of the server when it answered; with None every later start time is a restart.

        Raises:
            PollError: Several servers answer at the address.
        """
        answer = answer_of(at, readings, clock, outage=self._missed >= OUTAGE)
        self._missed = 0
        if not self._known:
            self._take(answer, Process(answer.started))
            return NOTHING
        origin, process = self._origin(answer)
        if self._held_until is None and origin is _Origin.SAME:
            before = process.copy() if answer.started is None and fell(process, answer.values) else None
            change = changes(process, answer)
            self._take(answer, process)
            if before is not None:  # if it continues, the fallen counters were another server's
                self._known.insert(1, before)
            return change
        if self._held_until is None and origin is _Origin.LATER:
            self._take(answer, process)
            return self._restarted(answer)
        return self._hold(origin, answer, process)

    def _hold(self, origin: _Origin, answer: Answer, process: Process) -> Change:
        """Wait until one server answers alone; return the change that ends the wait."""
        before, answered = self._known[0], self._known[0].answered
        took_over = not self.several and process.started is not None and process.started > self._newest
        self._take(answer, process)
        if origin is _Origin.OTHER or (origin is _Origin.UNSURE and self.several):
            self._held_until, self._fell_after = answer.at + (CONFIRM if took_over else HOLD), None
        elif origin is _Origin.UNSURE:
            self._held_until, self._fell_after = answer.at + CONFIRM, answered
        elif self._held_until is not None and answer.at >= self._held_until:
            since, self._held_until = self._fell_after, None
            restarted = since is not None and is_fresh(answer.values, answer.at - since)
            return self._restarted(answer) if restarted else Change(resumed=True)
        raise PollError(Reason.SEVERAL_SERVERS, _detail(before, process, unsure=self._fell_after is not None))

    def _restarted(self, answer: Answer) -> Change:
        self.count += 1
        self._times.append(answer.at)
        # All processes that answered before have ended: counters above their old values are not their return.
        self._known = self._known[:1]
        return Change(restarted=True, fresh=frozenset(answer.values))

    def _take(self, answer: Answer, process: Process) -> None:
        """Note an answer of a process."""
        note(process, answer)
        others = [each for each in self._known if each is not process]
        # Without a start time only counters distinguish processes, and later counters overtake earlier ones in the end.
        recent = [each for each in others if each.started is not None or each.answered >= answer.at - HOLD]
        self._known = [process, *recent][:MOST_PROCESSES]

    def _origin(self, answer: Answer) -> tuple[_Origin, Process]:
        """Return the origin of an answer, and its process: a known or a new one."""
        current = self._known[0]
        if answer.started is not None and current.started is not None:
            return self._by_start(answer, current, answer.started)
        if created_next_to(current, answer):
            return _Origin.OTHER, self._continued(answer) or Process(answer.started)
        known = self._continued(answer, above=None if fell(current, answer.values) else current)
        if known is not None:
            return _Origin.OTHER, known
        process = Process(answer.started)
        if had_not_begun(current, answer):
            return _Origin.OTHER, process
        if not fell_together(current, answer.values):
            return _Origin.SAME, current
        if not is_fresh(answer.values, answer.at - current.answered):
            return _Origin.OTHER, process
        return (_Origin.LATER if answer.outage or all_made_later(current, answer) else _Origin.UNSURE), process

    def _by_start(self, answer: Answer, current: Process, started: float) -> tuple[_Origin, Process]:
        if started == current.started or is_one_process(current, answer):
            return _Origin.SAME, current
        known = next((each for each in self._known if each.started == started), None)
        if known is not None:
            return _Origin.OTHER, known
        seconds = answer.at - current.answered
        fresh = is_fresh(answer.values, seconds)
        later = started > self._newest and answer.is_younger(started, seconds)
        later = later and (answer.outage or fresh or fell(current, answer.values) or all_made_later(current, answer))
        # Clocks that disagree, or were set, do not hide a process with empty counters after an outage.
        empty = answer.outage and fresh and fell_together(current, answer.values)
        return (_Origin.LATER if later or empty else _Origin.OTHER), Process(started)

    def _continued(self, answer: Answer, above: Process | None = None) -> Process | None:
        """Return an earlier process whose counters continue in a poll; with `above`, one that counted more than it."""
        for process in self._known[1:]:
            if process.started is None and goes_on(process, answer.values) and (
                above is None or is_above(process, above)
            ):  # fmt: skip
                return process
        return None


def _detail(before: Process, process: Process, *, unsure: bool) -> str:
    if unsure:
        return f"all counters fell while polls succeeded: a restart, if no earlier process answers for {CONFIRM:g} s"
    if before is not process and before.started is not None and process.started is not None:
        return (
            f"a process that started at {process.started:.0f} answered after one that started at {before.started:.0f},"
            " though both ran at the same time"
        )
    return f"processes with different counters answered at this address within the last {HOLD:g} s"
