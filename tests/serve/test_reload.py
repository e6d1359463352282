"""A configuration that is loaded again: what did not change goes on, and all of it or nothing is used."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from fake_vllm import FakeVllm
from places import CAPTURES

from vllm_sidecar.config import Config, ConfigError
from vllm_sidecar.gpu.monitor import GpuMonitor
from vllm_sidecar.serve import app, watched_targets
from vllm_sidecar.serve.app import Sidecar
from vllm_sidecar.serve.event_loop import LoopTime
from vllm_sidecar.serve.target import TargetLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.io

BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_text()
SLO = 'slo_requests_total{model_name="tiny",engine="0",slo="time_to_first_token"}'
TPOT = SLO.replace("time_to_first_token", "time_per_output_token")
TTFT = {"name": "time_to_first_token", "latency": "time_to_first_token", "threshold": "2s500ms"}
POLLS = 'polls_total{source="vllm"}'
UP = 'up{source="vllm",model_name="tiny"}'


def grown(requests: int) -> bytes:
    """The body after some more requests than in the capture, all with a TTFT and TPOT in the last bucket."""

    def more(found: re.Match[str]) -> str:
        return f"{found[1]} {float(found[2]) + requests}"

    names = "time_to_first_token_seconds|request_time_per_output_token_seconds"
    return re.sub(rf"^(vllm:(?:{names})_(?:count|bucket){{[^}}]*}}) (\S+)$", more, BODY, flags=re.MULTILINE).encode()


class Run:
    """A running sidecar whose configuration changes."""

    def __init__(self, fake: FakeVllm, first: Config) -> None:
        self.fake = fake
        self.sidecar = Sidecar(first, lambda: self.load())  # noqa: PLW0108 - tests replace it
        self.next: Config | Exception = first

    def load(self) -> Config:
        if isinstance(self.next, Exception):
            raise self.next
        return self.next

    async def reload(self, **sections: dict[str, Any]) -> ConfigError | None:
        self.next = settings(self.fake.url, **sections)
        return await self.sidecar.reload()

    def samples(self) -> dict[str, float]:
        lines = self.sidecar.exporter.render(openmetrics=False).decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("vllm_sidecar_"): float(value) for name, value in pairs}

    @property
    def polls(self) -> int:
        return self.sidecar.exporter.sources[""].health.polls

    async def scraped(self, times: int = 1) -> dict[str, float]:
        """Wait for some more polls."""
        before = self.polls
        async with asyncio.timeout(10.0):
            while self.polls < before + times:  # noqa: ASYNC110 - nothing tells a test
                await asyncio.sleep(0.01)
        return self.samples()


def settings(url: str, **sections: Any) -> Config:
    given: dict[str, Any] = {
        "vllm": {"url": url},
        "gpu": {"devices": "none"},
        "introspection": {"proc": False},
        "scrape": {"interval": "50ms", "server_time_ratio": 1.0},
    }
    for name, section in sections.items():
        given[name] = {**given.get(name, {}), **section} if isinstance(section, dict) else section
    return Config.model_validate(given)


@asynccontextmanager
async def running(**sections: Any) -> AsyncIterator[Run]:
    async with FakeVllm(grown(0)) as fake:
        run = Run(fake, settings(fake.url, **sections))
        sidecar = run.sidecar
        await sidecar.start()
        try:
            await run.scraped()
            fake.body = grown(7)
            await run.scraped(2)
            yield run
        finally:
            await sidecar.stop()


CHANGES: dict[str, dict[str, Any]] = {
    "limits": {"limits": {"adapters": 7}},
    "progress": {"progress": {"stall_after": "7s"}},
    "windows": {"windows": {"length": "7s", "keep": "1m", "min_observations": 2}},
    "scrape": {"scrape": {"interval": "60ms", "timeout": "7s", "server_time_ratio": 1.0}},
    "introspection": {"introspection": {"interval": "7s", "proc": False}},
    "labels": {"vllm": {"labels": {"team": "a"}}},
    "headers": {"vllm": {"headers": {"X-Team": "a"}}},
    "token": {"vllm": {"bearer_token": "s3cret"}},
    "args": {"vllm": {"args": "vllm serve m --max-num-seqs 7"}},
    "log": {"log": {"level": "warning"}},
    "gpu": {"gpu": {"interval": "7s", "devices": "none"}},
    "slos": {"slos": {"latencies": [TTFT, {**TTFT, "name": "fast", "threshold": "100ms"}]}},
    "metrics": {"metrics": {"profile": "full"}},
    "availability": {"slos": {"availability": False}},
    "nothing": {},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_that_leaves_the_server_what_it_is_keeps_all_that_was_counted(change: str) -> None:
    async with running() as run:
        before = run.samples()
        assert before[SLO] == 7.0
        assert await run.reload(**CHANGES[change]) is None
        after = without_label(await run.scraped(2))
        assert (after[SLO], after[UP], after["window_gaps_total"]) == (7.0, 1.0, 0.0)
        assert after[POLLS] >= before[POLLS] + 2
        assert after["config_changes_total"] == before["config_changes_total"]
        run.fake.body = grown(9)
        assert without_label(await run.scraped(2))[SLO] == 9.0


def without_label(samples: dict[str, float]) -> dict[str, float]:
    """The samples by their names without the label that one of the changes adds."""
    return {re.sub(r'team="a",|\{team="a"\}', "", name): value for name, value in samples.items()}


async def test_a_change_of_how_the_server_is_polled_is_used() -> None:
    async with running() as run:
        await run.reload(vllm={"headers": {"X-Team": "a"}, "bearer_token": "s3cret"}, scrape={"interval": "80ms"})
        await run.scraped(2)
        assert run.fake.requests[-1].headers["x-team"] == "a"
        assert run.fake.requests[-1].headers["authorization"] == "Bearer s3cret"
        assert run.samples()['poll_interval_seconds{source="vllm"}'] == 0.08


async def test_another_profile_of_metrics_is_used_at_once_and_counts_continue() -> None:
    async with running() as run:
        before = run.samples()
        assert await run.reload(metrics={"profile": "lean"}) is None
        after = run.samples()
        assert after[SLO] == before[SLO] == 7.0
        assert len(after) < 0.7 * len(before)
        assert await run.reload(metrics={"profile": "full"}) is None
        assert len(run.samples()) > len(before)


async def test_a_long_interval_that_becomes_short_is_not_waited_for() -> None:
    async with running() as run:
        await run.reload(scrape={"interval": "50s"})
        await asyncio.sleep(0.1)
        await run.reload()
        await run.scraped(2)


async def test_a_connection_goes_on_where_nothing_changed_that_it_needs() -> None:
    async with running() as run:
        client = run.sidecar._targets._loops[""]._client
        await run.reload(limits={"adapters": 7}, windows={"length": "9s"}, vllm={"labels": {"team": "a"}})
        assert run.sidecar._targets._loops[""]._client is client


async def test_another_window_is_cut_from_what_is_kept() -> None:
    async with running() as run:
        await run.scraped(10)
        await run.reload(windows={"length": "200ms", "keep": "1m"})
        samples = run.samples()
        assert samples["window_seconds"] == 0.2
        assert b"in the last 0.2 s" in run.sidecar.exporter.render(openmetrics=False)
        await run.reload(windows={"length": "30s", "keep": "1m"})
        (window,) = (
            window
            for group, window in run.sidecar._targets._loops[""].windows._groups.items()
            if len(group.labels) == 2
        )
        assert window.seconds > 0.3, "polls that fell out of the short window are in the long one"
        samples = await run.scraped(2)
        assert samples[UP] == 1.0


async def test_an_objective_that_changed_begins_at_0_and_the_others_continue() -> None:
    async with running() as run:
        assert run.samples()[TPOT] == 7.0
        slow = {"name": "time_per_output_token", "latency": "time_per_output_token", "threshold": "1s"}
        await run.reload(slos={"latencies": [TTFT, slow]})
        samples = await run.scraped()
        assert (samples[SLO], samples[TPOT]) == (7.0, 0.0)
        await run.reload(slos={"latencies": [TTFT]})
        samples = await run.scraped()
        assert samples[SLO] == 7.0
        assert TPOT not in samples


async def test_another_server_is_another_target() -> None:
    async with running() as run, FakeVllm(grown(0)) as other:
        await run.reload(vllm={"url": other.url})
        samples = await run.scraped()
        assert samples[SLO] == 0.0
        assert other.requests


async def test_the_web_section_waits_for_a_restart_as_a_whole() -> None:
    async with running() as run:
        await run.reload(web={"enable_lifecycle": True, "listen_address": ":9"}, limits={"adapters": 7})
        assert run.sidecar.config.web == Config().web
        assert run.sidecar.config.limits.adapters == 7
        assert run.samples()["config_restart_needed"] == 1.0
        await run.reload()
        assert run.samples()["config_restart_needed"] == 0.0


async def test_a_bug_while_new_targets_are_made_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as run:
        before = run.sidecar.config

        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(watched_targets, "TargetLoop", broken)
        error = await run.reload(vllm={"url": "http://127.0.0.1:1"}, limits={"adapters": 7})
        assert error is not None
        assert "internal error: ZeroDivisionError" in str(error)
        assert run.sidecar.config is before
        samples = await run.scraped()
        assert (samples[UP], samples["config_last_reload_successful"]) == (1.0, 0.0)


async def test_a_bug_while_the_file_is_read_is_a_failed_reload() -> None:
    async with running() as run:
        run.next = KeyError("maybe")
        error = await run.sidecar.reload()
        assert str(error) == "internal error: KeyError: 'maybe'"
        assert (await run.scraped())["config_last_reload_successful"] == 0.0


async def test_a_file_that_hangs_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "READ_SECONDS", 0.2)
    async with running() as run:
        goes_on = threading.Event()

        def load() -> Config:
            assert goes_on.wait(10.0)
            return settings(run.fake.url)

        monkeypatch.setattr(run, "load", load)
        reload = asyncio.create_task(run.sidecar.reload())
        await run.scraped(2)
        assert str(await reload) == "the file was not read within 0.2 s"
        assert str(await run.sidecar.reload()) == "an earlier read of the file has not ended"
        goes_on.set()
        async with asyncio.timeout(5.0):
            while await run.sidecar.reload() is not None:  # noqa: ASYNC110 - nothing tells a test
                await asyncio.sleep(0.02)


async def test_a_storm_of_signals_is_a_few_reloads(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as run:
        loads = 0

        def load() -> Config:
            nonlocal loads
            loads += 1
            return settings(run.fake.url)

        monkeypatch.setattr(run, "load", load)
        for _ in range(500):
            run.sidecar.request_reload()
            await asyncio.sleep(0)
        await run.scraped(3)
        assert 1 <= loads <= 3


async def test_a_target_whose_loop_ends_is_down_at_once_and_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = asyncio.Event()
    poll_once = TargetLoop.poll_once

    async def failing(self: TargetLoop) -> None:
        if ends.is_set():
            ends.clear()
            raise ZeroDivisionError
        await poll_once(self)

    monkeypatch.setattr(TargetLoop, "poll_once", failing)
    monkeypatch.setattr("vllm_sidecar.serve.supervision.FIRST_PAUSE", 0.2)
    async with running() as run:
        assert run.samples()[UP] == 1.0
        ends.set()
        async with asyncio.timeout(5.0):
            while run.samples()[UP]:  # noqa: ASYNC110 - nothing tells a test
                await asyncio.sleep(0.01)
            while not run.samples()['internal_errors_total{part="target"}']:  # noqa: ASYNC110
                await asyncio.sleep(0)
        samples = run.samples()
        assert samples[UP] == 0.0
        assert 'requests_running{model_name="tiny",engine="0"}' not in samples
        assert samples['internal_errors_total{part="target"}'] == 1.0
        assert samples['poll_failures_total{source="vllm",reason="internal"}'] == 1.0
        await run.scraped(2)
        assert (run.samples()[UP], run.samples()[SLO]) == (1.0, 7.0)


async def test_a_signal_that_came_while_the_program_started_is_a_reload() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
    async with running() as run:
        await run.reload()
        app._on_signals(run.sidecar)
        run.next = settings(run.fake.url, limits={"adapters": 7})
        async with asyncio.timeout(5.0):
            while run.sidecar.config.limits.adapters != 7:  # noqa: ASYNC110 - nothing tells a test
                await asyncio.sleep(0.01)


async def test_a_part_that_cannot_be_kept_running_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("still live")

    monkeypatch.setattr(TargetLoop, "run", broken)
    monkeypatch.setattr(TargetLoop, "drop_series", broken)
    config = settings("http://127.0.0.1:1", web={"listen_address": "127.0.0.1:0"})
    with pytest.raises(ExceptionGroup) as caught:
        await app.serve(config, lambda: config, LoopTime())
    assert [str(error) for error in caught.value.exceptions] == ["still live"]


async def test_gpus_whose_loop_ends_are_down_at_once_and_are_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = 0

    async def failing(_: GpuMonitor) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ZeroDivisionError
        await asyncio.Event().wait()

    monkeypatch.setattr(GpuMonitor, "run", failing)
    monkeypatch.setattr("vllm_sidecar.serve.supervision.FIRST_PAUSE", 0.01)
    async with running(gpu={"devices": "all"}) as run:
        async with asyncio.timeout(5.0):
            while runs < 2:  # noqa: ASYNC110 - nothing tells a test
                await asyncio.sleep(0.01)
        samples = await run.scraped()
        assert samples['up{source="nvml"}'] == 0.0
        assert samples['internal_errors_total{part="gpus"}'] == 1.0
        assert samples[UP] == 1.0


async def test_gpu_windows_follow_the_length_of_windows_without_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []
    monkeypatch.setattr(GpuMonitor, "resize", lambda _, length: lengths.append(length))
    async with running(gpu={"devices": "all"}) as run:
        task = run.sidecar._gpu_task
        await run.reload(gpu={"devices": "all"}, windows={"length": "7s"})
        await run.reload(gpu={"devices": "all"}, windows={"length": "7s"}, limits={"adapters": 7})
        assert lengths == [7.0]
        assert run.sidecar._gpu_task is task
