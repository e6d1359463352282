"""The loop of a canary: when it sends, what it counts, and what it never does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from answering import HEAD, PARIS, Answering, answering, token

from vllm_sidecar.canary import Canary, Situation, search
from vllm_sidecar.catalog.canary import FAILURES, OutputState
from vllm_sidecar.config import CanarySettings, NamedTarget

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.io

LYON = (HEAD, token("Lyon", 20), token(".", 11, "stop"))
KNOWN = Situation("m", "release 1", answered=True, asleep=False)


class Running:
    """A canary on a clock that the test moves, and the server that it is sent to."""

    def __init__(self, server: Answering, **keys: Any) -> None:
        self.server = server
        self.situation = KNOWN
        self.clock = 0.0
        self.changes = 0
        self.canary = Canary(lambda: self.situation, self._changed, clock=lambda: self.clock, wall=lambda: 1e9)
        self.use(**keys)

    def _changed(self) -> None:
        self.changes += 1

    def use(self, **keys: Any) -> None:
        settings = CanarySettings.model_validate({"enabled": True, "interval": "60s", "timeout": "2s", **keys})
        self.canary.use(NamedTarget(name="a", url=self.server.url), settings)

    async def send(self, times: int = 1, pieces: Any = None) -> dict[str, float]:
        self.server.pieces = pieces or self.server.pieces
        for _ in range(times):
            self.clock += 60.0
            await self.canary.send_next()
        return self.values()

    def values(self, prompt: str = "capital") -> dict[str, float]:
        """The values of one prompt by signal, and by its own label in braces."""
        return {
            signal.removeprefix("canary_") + (f"{{{labels[3]}}}" if labels[3:] else ""): value
            for signal, labels, value in self.canary.samples()
            if labels[2] == prompt
        }

    def state(self) -> str | None:
        return next((state.value for state in OutputState if self.values().get(f"output_state{{{state}}}")), None)


@asynccontextmanager
async def running(**keys: Any) -> AsyncIterator[Running]:
    async with answering(Answering()) as server:
        yield Running(server, **keys)


async def test_counters_start_at_zero_before_the_first_request_and_nothing_looks_live() -> None:
    async with running() as run:
        values = run.values()

    assert {name for name, value in values.items() if value == 0.0} == set(values)
    assert {f"failures_total{{{reason}}}" for reason in FAILURES} < set(values)
    assert not {"success", "consecutive_failures", "output_state{expected}"} & set(values)


async def test_three_equal_answers_make_a_baseline_and_another_one_is_a_change() -> None:
    async with running() as run:
        await run.send(2)
        assert run.state() == "learning"
        await run.send()
        assert run.state() == "expected"
        values = await run.send(pieces=LYON)
        assert run.state() == "changed"
        assert values["success"] == 1.0
        report = run.canary.report()[0]
        assert report["baseline"] != report["hash"]
        assert values["time_to_first_token_seconds"] == report["time_to_first_token_seconds"] is not None
        assert report["phases"].keys() >= {"connect", "processing", "first_token", "transfer"}
        await run.send(pieces=PARIS)
        assert run.state() == "expected"


async def test_a_release_with_another_answer_is_counted_once_and_becomes_the_baseline() -> None:
    async with running() as run:
        await run.send(3)
        run.situation = replace(KNOWN, release="release 2")
        await run.send(3, LYON)

        assert run.values()["baseline_changes_total"] == 1.0
        assert run.state() == "expected"


async def test_wrong_output_is_confirmed_by_repetition_and_ends_with_a_right_answer() -> None:
    async with running(prompts=[{"name": "capital", "prompt": "a", "expect": {"pattern": "Paris"}}]) as run:
        await run.send(3)
        values = await run.send(3, LYON)
        assert (values["consecutive_wrong_outputs"], values["success"]) == (3.0, 0.0)
        assert (values["failures_total{unexpected}"], values["consecutive_failures"]) == (3.0, 0.0)
        assert run.state() == "unexpected"
        values = await run.send(1, PARIS)
        assert (values["consecutive_wrong_outputs"], values["success"]) == (0.0, 1.0)


async def test_a_pattern_whose_search_does_not_end_is_logged_and_judges_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vllm_sidecar.canary.search.found", partial(search.found, seconds=0.5))
    endless = (HEAD, token("a" * 60, 10), token("!", 11, "stop"))
    prompt = {"name": "capital", "prompt": "a", "expect": {"pattern": "(a+)+$"}}
    async with running(prompts=[prompt]) as run:
        values = await run.send(3, endless)

    assert values["success"] == 1.0
    assert "canary_pattern_not_searched" in caplog.text


async def test_failures_keep_the_last_output_and_are_counted_by_reason() -> None:
    async with running() as run:
        await run.send(3)
        values = await run.send(2, (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",))

    assert (values["success"], values["consecutive_failures"], values["failures_total{http_5xx}"]) == (0.0, 2.0, 2.0)
    assert values["output_state{expected}"] == 1.0
    assert "answer_hash" not in values
    report = run.canary.report()[0]
    assert (report["reason"], "status 503" in str(report["detail"])) == ("http_5xx", True)


@pytest.mark.parametrize(
    "situation",
    [replace(KNOWN, asleep=True), replace(KNOWN, answered=False), replace(KNOWN, model="")],
    ids=["asleep", "never answered", "without a known model"],
)
async def test_nothing_is_sent_to_a_server_that_sleeps_or_loads_and_old_results_end(situation: Situation) -> None:
    async with running() as run:
        await run.send(3)
        run.situation = situation
        await run.send(2)
        assert run.values().get("success", 1.0) == 1.0
        await run.send(2)

        assert len(run.server.requests) == 3
        run.situation = KNOWN
        assert not {"success", "consecutive_failures", "output_state{expected}"} & set(run.values())
        assert run.values()["requests_total"] == 3.0


async def test_prompts_and_models_take_turns_and_each_has_its_own_series() -> None:
    prompts = [{"name": "one", "prompt": "a", "models": ["m", "adapter-1"]}, {"name": "two", "prompt": "b"}]
    async with running(prompts=prompts) as run:
        await run.send(4)

        assert [body["model"] for body in run.server.bodies] == ["m", "adapter-1", "m", "m"]
        rows = {
            labels[:3]: value for signal, labels, value in run.canary.samples() if signal.endswith("requests_total")
        }
    assert rows == {("m", "m", "one"): 2.0, ("m", "adapter-1", "one"): 1.0, ("m", "m", "two"): 1.0}


async def test_new_settings_keep_what_is_known_of_a_prompt_that_stays_the_same() -> None:
    async with running() as run:
        await run.send(3)
        run.use(interval="90s")
        assert run.values()["requests_total"] == 3.0
        run.use(prompts=[{"name": "capital", "prompt": "another one"}])
        assert run.values()["requests_total"] == 0.0
        run.use(enabled=False)
        assert not run.values()


async def test_one_request_is_open_at_a_time_and_a_slow_one_delays_the_next() -> None:
    prompts = [{"name": f"p{number}", "prompt": "a"} for number in range(5)]
    async with answering(Answering(pause=0.6)) as server:
        canary = Canary(lambda: KNOWN, lambda: None)
        settings = {"enabled": True, "interval": "5s", "timeout": "5s", "prompts": prompts}
        canary.use(NamedTarget(name="a", url=server.url), CanarySettings.model_validate(settings))
        task = asyncio.create_task(canary.run())
        await asyncio.sleep(5.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert server.most_open == 1
    assert 1 <= len(server.requests) <= 2


async def test_a_bug_of_the_canary_is_a_failure_of_it_and_the_loop_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as run:

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("vllm_sidecar.canary.loop.fingerprint", broken)
        values = await run.send(2)

    assert values["failures_total{internal}"] == 2.0


async def test_a_canary_that_is_off_sends_nothing_and_has_no_series() -> None:
    async with running(enabled=False) as run:
        await asyncio.wait_for(run.canary.run(), 1.0)

        assert not run.server.requests
        assert not list(run.canary.samples())
