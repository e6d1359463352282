"""The loop of one server's canary: whether a request may be sent, when, and what became of it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.canary import search
from vllm_sidecar.canary.client import CanaryClient
from vllm_sidecar.canary.errors import CanaryError
from vllm_sidecar.canary.output import fingerprint, state_of
from vllm_sidecar.canary.phases import Moments
from vllm_sidecar.canary.record import Record, Result
from vllm_sidecar.canary.requests import requests_of
from vllm_sidecar.catalog.canary import CanaryReason, OutputState
from vllm_sidecar.logs import event
from vllm_sidecar.vllm.cancellation import is_canceled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vllm_sidecar.canary.requests import CanaryRequest
    from vllm_sidecar.canary.stream import Answer
    from vllm_sidecar.config import Target
    from vllm_sidecar.config.canary import CanarySettings

SHORTEST_PAUSE = 1.0
"""Least seconds between two requests to one server."""
_SHOWN = 200
"""Characters of an answer in the log."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Situation:
    """The state of the server at this moment."""

    model: str
    """The served model's name; empty until it is known."""
    release: str | None
    """Fingerprint of version, models and flags; None if unknown."""
    answered: bool
    """It answered a poll: one that never did may still be loading."""
    asleep: bool
    """At the last successful poll."""


class _Key(NamedTuple):
    request: CanaryRequest
    model: str


class Canary:
    """Sends the requests of one server in turn, one at a time; `changed` is called after each."""

    def __init__(
        self,
        situation: Callable[[], Situation],
        changed: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._situation, self._changed, self._clock, self._wall = situation, changed, clock, wall
        self._records: dict[_Key, Record] = {}
        self._requests: list[CanaryRequest] = []
        self._turn = 0
        self._label = ""

    def use(self, target: Target, settings: CanarySettings) -> None:
        """Use these settings; prompts that stay the same keep their counters and baselines. Not while `run` runs."""
        self._label = target.name or "vllm"
        self._settings = settings
        self._requests = list(requests_of(settings)) if settings.enabled else []
        self._records = {key: record for key, record in self._records.items() if key.request in self._requests}
        socket = target.unix_socket if settings.url is None else None
        self._client = CanaryClient(settings.server(target), settings, socket)

    async def run(self, phase: float = 0.0) -> None:
        """Send requests until canceled; the first after `phase`, 0 to 1, of the pause between two."""
        if not self._requests:
            return
        pause = max(SHORTEST_PAUSE, self._settings.interval / len(self._requests))
        due = self._clock() + phase * pause
        while True:
            # A request that takes longer than the pause delays the next one: two are never open.
            await asyncio.sleep(max(SHORTEST_PAUSE, due - self._clock()))
            due = max(due, self._clock() - pause) + pause
            try:
                await self.send_next()
            except (Exception, asyncio.CancelledError) as error:
                if is_canceled():
                    raise
                self._log_bug(error)

    async def send_next(self) -> None:
        """Send the request whose turn it is, unless the server sleeps or has never answered."""
        now, situation = self._clock(), self._situation()
        interval = max(self._settings.interval, SHORTEST_PAUSE * len(self._requests))
        expired = [record.expire(now, interval) for record in self._records.values()]
        if situation.answered and not situation.asleep and situation.model:
            request = self._requests[self._turn % len(self._requests)]
            self._turn += 1
            wanted = {_Key(each, each.model or situation.model) for each in self._requests}
            self._records = {key: record for key, record in self._records.items() if key in wanted}
            await self._send(_Key(request, request.model or situation.model), situation)
        elif not any(expired):
            return
        self._changed()

    async def _send(self, key: _Key, situation: Situation) -> None:
        record = self._records.setdefault(key, Record())
        moments, before = Moments(), record.last
        try:
            result = await self._answer(key, situation, record, moments)
        except CanaryError as error:
            result = Result(self._clock(), moments, error.reason, None, None, error.detail)
            self._log_failure(key, before, error)
        except (Exception, asyncio.CancelledError) as error:
            if is_canceled():
                raise
            detail = f"unexpected {type(error).__name__}"
            result = Result(self._clock(), moments, CanaryReason.INTERNAL, None, None, detail)
            if before is None or before.reason is not CanaryReason.INTERNAL:
                self._log_bug(error)
        record.add(result, self._wall())

    async def _matched(self, key: _Key, answer: Answer) -> bool | None:
        """Return whether the expected pattern matches an answer; None without one, or if its search takes too long."""
        pattern = key.request.prompt.expect.pattern
        if pattern is None:
            return None
        matched = await search.found(pattern, answer.text.strip())
        if matched is None:
            event(_log, logging.WARNING, "canary_pattern_not_searched", **self._named(key),
                  hint=f"the search of expect.pattern did not end in {search.SEARCH_TIMEOUT:g} s; the answer counts as "
                  "if there was no pattern: make it simpler, without one repetition in another")  # fmt: skip
        return matched

    async def _answer(self, key: _Key, situation: Situation, record: Record, moments: Moments) -> Result:
        prompt = key.request.prompt
        answer = await self._client.send(key.request, key.model, moments)
        found = fingerprint(answer, prompt.tolerance_tokens)
        baseline = record.baseline
        baseline.use_release((situation.release, answer.server_fingerprint))
        state = state_of(prompt, answer, found, baseline.known, matched=await self._matched(key, answer))
        if state is not record.answered or record.consecutive_failures:
            level = logging.INFO if state in (OutputState.EXPECTED, OutputState.LEARNING) else logging.WARNING
            event(_log, level, "canary_output", **self._named(key), state=state.value, hash=found.answer,
                  prompt_hash=found.prompt, answer=answer.text[:_SHOWN])  # fmt: skip
        changes = baseline.changes
        if state in (OutputState.EXPECTED, OutputState.LEARNING) and baseline.learn(found):
            level = logging.WARNING if baseline.changes > changes else logging.INFO
            before = baseline.before.answer if baseline.before else None
            event(_log, level, "canary_baseline", **self._named(key), hash=found.answer, prompt_hash=found.prompt,
                  before=before)  # fmt: skip
            state = OutputState.EXPECTED
        return Result(self._clock(), moments, None, state, found)

    def _log_failure(self, key: _Key, before: Result | None, error: CanaryError) -> None:
        if before is None or before.reason is not error.reason:
            event(_log, logging.WARNING, "canary_failed", **self._named(key), reason=error.reason.value,
                  detail=error.detail)  # fmt: skip

    def _log_bug(self, error: BaseException) -> None:
        event(_log, logging.ERROR, "internal_error", target=self._label, part="canary", exc_info=error)

    def _named(self, key: _Key) -> dict[str, str]:
        return {"target": self._label, "model": key.model, "prompt": key.request.prompt.name}

    def samples(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """Yield signal, labels (model_name first) and value of every series of the canary."""
        served = self._situation().model
        for request, model, record in self._current(served):
            for signal, labels, value in record.rows():
                yield f"canary_{signal}", (served, model, request.prompt.name, *labels), value

    def report(self) -> list[dict[str, object]]:
        """Return the last result of each prompt and model for the status."""
        return [
            {"prompt": request.prompt.name, "model": model, **record.report()}
            for request, model, record in self._current(self._situation().model)
        ]

    def _current(self, served: str) -> Iterator[tuple[CanaryRequest, str, Record]]:
        """Yield every prompt and model, also before its first request: counters start at 0."""
        for request in self._requests:
            if served:
                model = request.model or served
                yield request, model, self._records.get(_Key(request, model)) or Record()
