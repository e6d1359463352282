"""Records the request log of a simulated server: each request from its arrival to its end, and each step's gauges."""

from __future__ import annotations

import random
from math import inf
from typing import TYPE_CHECKING

from truth.log import Log, Row, Step
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.scheduler import SimulatedEngine
from vllm_sidecar.simulator.script import read_script

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.simulator.requests import Request
    from vllm_sidecar.simulator.settings import Conditions, ServerSettings

REFUSED_PER_SECOND = 0.15
"""Requests that admission control refuses, and as many that are malformed (4xx): the simulator has neither."""


class RecordedEngine(SimulatedEngine):
    """Writes down what happens to its requests."""

    def __init__(
        self, settings: ServerSettings, seed: int, ended: Callable[[Request, str], None], log: Log, rank: int
    ) -> None:
        super().__init__(settings, seed, self._over)
        self._tell, self._log, self._rank = ended, log, rank
        self._rows: dict[Request, Row] = {}
        self._at = 0.0
        self._drafts: list[tuple[int, int]] = []
        self._limit = ""

    def add(self, request: Request) -> None:
        row = Row(request.number, self._rank, request.arrival, request.prompt, request.adapter)
        self._rows[request] = row
        self._log.rows.append(row)
        super().add(request)

    def advance(self, until: float, conditions: Conditions) -> None:
        self._at = until if conditions.sleeping else self._clock
        super().advance(until, conditions)

    def drop_all(self) -> None:
        self._at = self._clock
        super().drop_all()

    def _over(self, request: Request, reason: str) -> None:
        row = self._rows.pop(request)
        row.ended, row.outcome = self._at, reason
        self._log.answers.append((self._at, "5xx" if reason == "error" else "2xx"))
        self._tell(request, reason)

    def _queue(self, now: float) -> None:
        self._at = now
        super()._queue(now)

    def _schedule(self) -> list[tuple[Request, int]]:
        batch = super()._schedule()
        for request, _ in batch:
            row = self._rows[request]
            row.queued, row.scheduled, row.cached = request.queued, request.scheduled, request.cached
        self._limit = self._found_limit(sum(tokens for _, tokens in batch))
        return batch

    def _found_limit(self, spent: int) -> str:
        if len(self._waiting) <= self.meters.deferred:
            return "adapter" if self._waiting else ""
        if len(self._running) >= self._settings.max_num_seqs:
            return "batch"
        return "" if spent >= self._settings.max_num_batched_tokens else "kv_cache"

    def _preempt(self, request: Request) -> None:
        super()._preempt(request)
        self._rows[request].preempted.append(self._clock)

    def _accept(self, drafts: int, acceptance: float) -> int:
        accepted = super()._accept(drafts, acceptance)
        self._drafts.append((max(0, drafts), accepted))
        return accepted

    def _finish_step(self, batch: list[tuple[Request, int]], now: float, acceptance: float) -> None:
        rows = [(self._rows[request], request, request.generated) for request, _ in batch]
        self._at, self._drafts = now, []
        super()._finish_step(batch, now, acceptance)
        drafts = iter(self._drafts)
        for row, request, before in rows:
            if request.generated == before:
                continue
            row.outputs.append((now, request.generated - before))
            drafted, accepted = next(drafts)
            if drafted:
                row.drafts.append((now, drafted, accepted))

    def _publish(self) -> None:
        super()._publish()
        self._write_step()

    def _write_step(self) -> None:
        meters = self.meters
        adapters = frozenset(request.adapter for request in self._running if request.adapter)
        wanted = frozenset(request.adapter for request in self._waiting if request.adapter)
        limit = self._limit if self._waiting else ""
        self._log.steps[self._rank].append(
            Step(self._at, meters.running, meters.waiting, meters.deferred, meters.kv_usage, limit, adapters, wanted)
        )


class RecordedServer(Lookalike):
    """Writes down its processes, phases and answers."""

    def __init__(self, log: Log, *script: object) -> None:
        self.log = log
        super().__init__(*script)  # type: ignore[arg-type] # those of the simulator

    def _make_engine(self, rank: int) -> SimulatedEngine:
        return RecordedEngine(self.settings, self._script.seed + rank, self._ended, self.log, rank)

    def _start(self) -> None:
        super()._start()
        self.log.processes.append((self.clock, inf))

    def _crash(self, now: float) -> None:
        super()._crash(now)
        start, _ = self.log.processes.pop()
        self.log.processes.append((start, now))

    def _next_phase(self) -> None:
        super()._next_phase()
        self.log.phases.append((self.clock, self.phase.scenario.name))


def record(phases: str, seconds: float, **settings: object) -> tuple[Log, RecordedServer]:
    """Run the simulator for so many seconds, and return its log with the server at its end."""
    script = read_script(phases, None, settings)
    log = Log(script.settings(), seconds)
    server = RecordedServer(log, script, 0.0)
    server.advance(seconds)
    draw = random.Random(script.seed)
    for status in ("5xx", "4xx"):
        at = draw.expovariate(REFUSED_PER_SECOND)
        while at < seconds:
            start, end = log.process(at)
            if start <= at < end:
                log.answers.append((at, status))
                if status == "5xx":
                    log.rejected.append(at)
            at += draw.expovariate(REFUSED_PER_SECOND)
    log.answers.sort()
    return log, server
