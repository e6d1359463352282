"""One engine: a small model of vLLM's scheduler, and the duration of its steps.

As in vLLM's v1 scheduler: running requests first, in order of their arrival; if a block is missing, the last of them is
preempted and computed again from the start; then waiting requests are admitted, first come first served, within the
budget of tokens, `max_num_seqs`, LoRA slots and free blocks. Prompts are computed in chunks of the remaining budget.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.simulator.blocks import BlockPool
from vllm_sidecar.simulator.meters import Meters

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.simulator.requests import Request
    from vllm_sidecar.simulator.settings import Conditions, ServerSettings


class Step(NamedTuple):
    """A running step: each request with the number of its tokens, and the end of the step."""

    batch: list[tuple[Request, int]]
    end: float


class SimulatedEngine:
    """One data-parallel engine with its own scheduler and KV cache."""

    def __init__(self, settings: ServerSettings, seed: int, ended: Callable[[Request, str], None]) -> None:
        self._settings = settings
        self._random = random.Random(seed)  # noqa: S311 # acceptance of drafts, no secrets
        self._ended = ended
        self._arriving: deque[Request] = deque()
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._deferred = 0
        self._step: Step | None = None
        self._clock = 0.0
        self._pool = BlockPool(settings.num_gpu_blocks, caching=settings.enable_prefix_caching)
        self.meters = Meters(settings.max_model_len)
        self.busy_seconds = 0.0
        """Time spent in steps."""
        self.prefill_seconds = 0.0
        """The part of it for prompts, which draws more power."""

    @property
    def load(self) -> int:
        """Its requests."""
        return len(self._arriving) + len(self._waiting) + len(self._running)

    def begin(self, now: float) -> None:
        """Set the clock of an engine that starts."""
        self._clock = now

    def add(self, request: Request) -> None:
        """Add a request from the front end; requests arrive in order."""
        self._arriving.append(request)

    def advance(self, until: float, conditions: Conditions) -> None:
        """Run until a time. A stalled engine does not finish its step, a sleeping one starts none."""
        if conditions.stalled:
            self._clock = until
            return
        if conditions.sleeping:
            self._queue(until)
            self._publish()
            self._clock = until
            return
        while True:
            if self._step is None:
                self._start_step(until, conditions)
                if self._step is None:
                    return
            # A step that a stall interrupted ends with the stall.
            end = max(self._step.end, self._clock)
            if end > until:
                return
            self._finish_step(self._step.batch, end, conditions.acceptance_ratio)
            self._step, self._clock = None, end

    def drop_all(self) -> None:
        """Lose all requests without a step that reports it: their clients are gone, but the gauges stay the same."""
        for request in (*self._arriving, *self._waiting, *self._running):
            self._pool.release(request.blocks)
            request.blocks.clear()
            self._ended(request, "abort")
        self._arriving.clear()
        self._waiting.clear()
        self._running.clear()
        self._step = None

    def sleep(self) -> None:
        """Abort everything and count it, as `/sleep` does."""
        self.drop_all()
        self._publish()

    def _queue(self, now: float) -> None:
        arriving, waiting = self._arriving, self._waiting
        while arriving and arriving[0].ready <= now:
            arriving[0].queued = now
            waiting.append(arriving.popleft())
        while waiting and waiting[0].gives_up <= now and waiting[0].first_token == inf:
            self._ended(waiting.popleft(), "abort")

    def _start_step(self, until: float, conditions: Conditions) -> None:
        if not self._running and not self._waiting:
            if not self._arriving or self._arriving[0].ready > until:
                self._clock = until
                return
            self._clock = max(self._clock, self._arriving[0].ready)
        self._queue(self._clock)
        batch = self._schedule()
        if not batch:
            self._publish()
            # No waiting request can be admitted before another arrives or its client gives up.
            self._clock = until
            return
        seconds, prefill = self._seconds(batch)
        self.busy_seconds += seconds * conditions.slowdown
        self.prefill_seconds += prefill * conditions.slowdown
        self._step = Step(batch, self._clock + seconds * conditions.slowdown)

    def _seconds(self, batch: list[tuple[Request, int]]) -> tuple[float, float]:
        """Return the duration of a step, and its part for prompts."""
        settings = self._settings
        prompt_tokens = decoding = context = 0
        for request, tokens in batch:
            context += request.computed
            if request.computed + 1 >= request.tokens and request.generated:
                decoding += 1
            else:
                prompt_tokens += tokens
        prefill = prompt_tokens * settings.prefill_token_seconds
        seconds = (
            settings.step_seconds
            + prefill
            + decoding * settings.sequence_seconds
            + context * settings.context_token_seconds
        )
        if decoding:
            seconds += settings.speculative_tokens * settings.draft_token_seconds
        return seconds, prefill

    def _schedule(self) -> list[tuple[Request, int]]:
        batch: list[tuple[Request, int]] = []
        budget = self._settings.max_num_batched_tokens
        running, preempted, index = self._running, False, 0
        while index < len(running) and budget > 0:
            request = running[index]
            missing = request.tokens - request.computed
            if missing == 1:
                missing += self._settings.speculative_tokens
            tokens = min(missing, budget)
            while not self._hold(request, request.computed + tokens):
                preempted = True
                last = running.pop()
                self._preempt(last)
                if last is request:
                    break
            else:
                batch.append((request, tokens))
                budget -= tokens
                index += 1
        if not preempted:
            self._admit(batch, budget)
        return batch

    def _hold(self, request: Request, tokens: int) -> bool:
        """Hold the blocks for a number of tokens; return False if one is missing."""
        size, blocks = self._settings.block_size, request.blocks
        while len(blocks) * size < tokens:
            key = request.key(len(blocks), size)
            if not self._pool.take(key):
                return False
            blocks.append(key)
        return True

    def _preempt(self, request: Request) -> None:
        self._pool.release(request.blocks)
        request.blocks.clear()
        request.computed = 0
        request.preemptions += 1
        self.meters.counters["preemptions"] += 1
        self._waiting.appendleft(request)

    def _admit(self, batch: list[tuple[Request, int]], budget: int) -> None:
        settings, running, waiting = self._settings, self._running, self._waiting
        slots = {request.adapter for request in running if request.adapter}
        deferred: list[Request] = []
        while waiting and budget > 0 and len(running) < settings.max_num_seqs:
            request = waiting[0]
            if request.adapter and request.adapter not in slots and len(slots) >= settings.max_loras:
                deferred.append(waiting.popleft())
                continue
            size = settings.block_size
            # The last token is always computed, because its logits are needed.
            keys = (request.key(index, size) for index in range((request.tokens - 1) // size))
            hits = self._pool.cached(keys)
            tokens = min(request.tokens - len(hits) * size, budget)
            needed = -(-(len(hits) * size + tokens) // size) - len(hits) + self._pool.cost(hits)
            if needed > self._pool.free:
                break
            waiting.popleft()
            self._hold(request, len(hits) * size + tokens)
            self._count_admission(request, len(hits) * size)
            if request.adapter:
                slots.add(request.adapter)
            running.append(request)
            batch.append((request, tokens))
            budget -= tokens
        waiting.extendleft(reversed(deferred))
        full = settings.max_loras and len(slots) >= settings.max_loras
        self._deferred = sum(request.adapter not in slots for request in waiting) if full else 0

    def _count_admission(self, request: Request, hit_tokens: int) -> None:
        request.computed = hit_tokens
        if request.scheduled != inf:
            return  # after a preemption vLLM does not count the lookup again
        request.scheduled = self._clock
        request.cached = min(hit_tokens, request.prompt)
        if self._settings.enable_prefix_caching:
            self.meters.counters["prefix_queries"] += request.prompt
            self.meters.counters["prefix_hits"] += request.cached

    def _finish_step(self, batch: list[tuple[Request, int]], now: float, acceptance: float) -> None:
        meters, gaps, prompts, generated = self.meters, Counter[float](), 0, 0
        over: list[Request] = []
        for request, tokens in batch:
            before = request.tokens
            if request.computed + tokens < before:
                request.computed += tokens
                continue
            drafts = request.computed + tokens - before
            emitted = min(1 + self._accept(drafts, acceptance), request.output - request.generated)
            request.generated += emitted
            request.computed = request.tokens - 1
            generated += emitted
            if request.first_token == inf:
                prompts += self._count_first_token(request, now)
            else:
                gaps[now - request.last_token] += 1
            request.last_token = now
            if request.generated >= request.output:
                over.append(request)
        for gap, times in gaps.items():
            meters.histograms["inter_token"].observe(gap, times)
        meters.counters["generation_tokens"] += generated
        if prompts + generated:
            meters.histograms["step_tokens"].observe(prompts + generated)
        for request in over:
            self._finish(request, now)
        self._publish()

    def _accept(self, drafts: int, acceptance: float) -> int:
        """Return how many tokens of a draft are right: those before the first wrong one."""
        if drafts <= 0:
            return 0
        counters, accepted = self.meters.counters, 0
        while accepted < drafts and self._random.random() < acceptance:
            self.meters.accepted_at[accepted] += 1
            accepted += 1
        counters["drafts"] += 1
        counters["draft_tokens"] += drafts
        counters["accepted_tokens"] += accepted
        return accepted

    def _count_first_token(self, request: Request, now: float) -> int:
        """Count a first token; return how many prompt tokens were computed for it."""
        request.first_token = now
        self.meters.histograms["first_token"].observe(now - request.arrival)
        self.meters.counters["prompt_tokens"] += request.prompt
        self.meters.counters["prompt_tokens_cached"] += request.cached
        return request.prompt - request.cached

    def _finish(self, request: Request, now: float) -> None:
        self._running.remove(request)
        self._pool.release(request.blocks)
        request.blocks.clear()
        if request.ending != "abort":  # the Python front end does not count clients that left
            self._count_finished(request, now)
        self._ended(request, request.ending)

    def _count_finished(self, request: Request, now: float) -> None:
        decode = now - request.first_token
        values = {
            "end_to_end": now - request.arrival,
            "queue": request.scheduled - request.queued,
            "inference": now - request.scheduled,
            "prefill": request.first_token - request.scheduled,
            "decode": decode,
            "prompt": request.prompt,
            "generation": request.generated,
            "max_generation": request.generated,
            "max_tokens": request.max_tokens,
            "computed": request.prompt - request.cached,
            "params_n": 1,
            "per_output_token": decode / (request.generated - 1) if request.generated > 1 else 0.0,
            "request_preemptions": request.preemptions,
        }
        for name, value in values.items():
            self.meters.histograms[name].observe(value)
        self.meters.finished[request.ending] += 1

    def _publish(self) -> None:
        meters = self.meters
        meters.running, meters.waiting = len(self._running), len(self._waiting)
        # Counted with the queue of the last step: both gauges are of the same time.
        meters.deferred = min(self._deferred, meters.waiting)
        meters.kv_usage = self._pool.used_ratio
        if self._settings.max_loras:
            meters.running_adapters = frozenset(request.adapter for request in self._running)
            meters.waiting_adapters = frozenset(request.adapter for request in self._waiting)
