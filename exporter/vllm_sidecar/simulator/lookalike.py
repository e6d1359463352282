"""The simulated server: engines, clients, phases and restarts, all on one simulated clock."""

from __future__ import annotations

from collections import Counter, OrderedDict
from math import inf
from typing import TYPE_CHECKING

from vllm_sidecar.simulator.dialects import DIALECTS
from vllm_sidecar.simulator.gpus import SimulatedGpu
from vllm_sidecar.simulator.requests import Clients
from vllm_sidecar.simulator.scheduler import SimulatedEngine

if TYPE_CHECKING:
    from vllm_sidecar.simulator.requests import Request
    from vllm_sidecar.simulator.script import Phase, Script

MOST_ADAPTER_SETS = 50
"""Most series of `lora_requests_info`; vLLM never removes one."""
GPU_SECONDS = 1.0
"""Seconds between updates of the GPUs from their engine."""


class Lookalike:
    """One simulated server, from the start of its script."""

    def __init__(self, script: Script, epoch: float) -> None:
        """Create it; `epoch` is the Unix time at which the simulated clock is 0."""
        self.settings = script.settings()
        self.dialect = DIALECTS[script.dialect]
        self._script = script
        self._epoch = epoch
        self._clients = Clients(self.settings, script.seed)
        self._phase = -1
        self._phase_end = 0.0
        self._next_arrival = inf
        self._down_until: float | None = None
        self._crash_at = inf
        self.clock = 0.0
        """Simulated seconds since the script began."""
        self.engines: list[SimulatedEngine] = []
        self.http: Counter[str] = Counter()
        """Answers by status class since the server's start."""
        self.in_flight = 0
        self.adapters_seen: OrderedDict[tuple[str, str], float] = OrderedDict()
        """Running and waiting adapters, comma-joined -> Unix time of their last occurrence."""
        ranks = self.settings.data_parallel_size * self.settings.tensor_parallel_size
        self.gpus = [SimulatedGpu(index, script.seed) for index in range(ranks)]
        self._gpus_at = 0.0
        self._start()
        self._next_phase()

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return self._script.phases[self._phase]

    @property
    def phase_seconds_left(self) -> float:
        """Simulated seconds until the next phase; infinite in the last."""
        return self._phase_end - self.clock

    @property
    def listening(self) -> bool:
        """Whether the server is up; a crashed one refuses connections."""
        return self._down_until is None

    def advance(self, until: float) -> None:
        """Run to a simulated time."""
        while self.clock < until:
            event = min(until, self._phase_end, self._next_arrival, self._crash_at, self._gpus_at + GPU_SECONDS)
            if self._down_until is not None:
                event = min(until, self._phase_end, self._down_until, self._gpus_at + GPU_SECONDS)
            self._run_engines(event)
            self.clock = event
            self._happen(event)

    def _run_engines(self, until: float) -> None:
        if self.listening:
            for engine in self.engines:
                engine.advance(until, self._conditions)

    def _happen(self, now: float) -> None:
        if now >= self._gpus_at + GPU_SECONDS:
            self._update_gpus(now)
        if self._down_until is not None and now >= self._down_until:
            self._start()
        if self.listening and now >= self._crash_at:
            self._crash(now)
        if now >= self._phase_end:
            self._next_phase()
        if self.listening and now >= self._next_arrival:
            self._arrive(now)

    def _next_phase(self) -> None:
        self._phase += 1
        self._phase_end = self.clock + self.phase.seconds
        conditions = self._conditions = self._script.conditions(self.phase)
        for engine in self.engines:
            engine.meters.sleeping = conditions.sleeping
            if conditions.sleeping:
                engine.sleep()
            if conditions.clients_gone:
                engine.drop_all()
        self._crash_at = self.clock + conditions.crash_seconds if conditions.crash_seconds else inf
        self._next_arrival = self.clock + self._clients.pause(conditions.rate)

    def _arrive(self, now: float) -> None:
        conditions = self._conditions
        request = self._clients.request(now, conditions)
        first = self._clients.goes_to_first(conditions.skew_ratio)
        engine = self.engines[0] if first else min(self.engines, key=lambda engine: engine.load)
        engine.add(request)
        self.in_flight += 1
        self._next_arrival = now + self._clients.pause(conditions.rate)

    def submit(
        self, prompt: int, output: int, max_tokens: int, adapter: str, ending: str, content: tuple[int, ...] = ()
    ) -> Request:
        """Add the request of a real client, which arrives now."""
        request = self._clients.sent(self.clock, prompt, output, max_tokens, adapter, ending)
        request.content = content
        min(self.engines, key=lambda engine: engine.load).add(request)
        self.in_flight += 1
        return request

    @property
    def answers(self) -> str:
        """Kind of the answers that real clients get."""
        return self._conditions.answers

    def _ended(self, request: Request, reason: str) -> None:
        request.ended = reason
        self.in_flight -= 1
        # A handler whose client left ends without an answer and still counts as 2xx: it had begun one.
        self.http["5xx" if reason == "error" else "2xx"] += 1

    def _start(self) -> None:
        self._down_until = None
        self.started = self._epoch + self.clock
        """Unix time of the server's start."""
        self.http = Counter({"2xx": 0})
        self.in_flight = 0
        self.adapters_seen.clear()
        ranks = range(self.settings.data_parallel_size)
        self.engines = list(map(self._make_engine, ranks))
        for engine in self.engines:
            engine.begin(self.clock)
        for index, gpu in enumerate(self.gpus):
            gpu.restart(self.engines[index // self.settings.tensor_parallel_size])
        if self._phase >= 0:
            self._next_arrival = self.clock + self._clients.pause(self._conditions.rate)
            seconds = self._conditions.crash_seconds
            self._crash_at = self.clock + seconds if seconds else inf

    def _make_engine(self, rank: int) -> SimulatedEngine:
        return SimulatedEngine(self.settings, self._script.seed + rank, self._ended)

    def _crash(self, now: float) -> None:
        self._down_until = now + self.settings.start_seconds
        self._crash_at = self._next_arrival = inf

    def _update_gpus(self, now: float) -> None:
        for index, gpu in enumerate(self.gpus):
            engine = self.engines[index // self.settings.tensor_parallel_size]
            gpu.follow(now, engine, self._conditions, alive=self.listening)
        self._gpus_at = now
        self._note_adapters(now)

    def _note_adapters(self, now: float) -> None:
        if not self.settings.max_loras:
            return
        running = frozenset[str]().union(*(engine.meters.running_adapters for engine in self.engines))
        waiting = frozenset[str]().union(*(engine.meters.waiting_adapters for engine in self.engines))
        names = (",".join(sorted(running)), ",".join(sorted(waiting)))
        self.adapters_seen[names] = self._epoch + now
        self.adapters_seen.move_to_end(names)
        while len(self.adapters_seen) > MOST_ADAPTER_SETS:
            self.adapters_seen.popitem(last=False)
