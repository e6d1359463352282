"""Polls and probes of one target as its two loops run them, in simulated time: no probe changes when polls are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import virtual_time
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from running import config
from simulated_loops import (
    ANSWERS,
    BODY,
    DROP,
    FOREVER,
    HANG,
    NO_LOG_STATS,
    POLL_SECONDS,
    Behaviour,
    Server,
    play,
    target,
)

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.config import NamedTarget
from vllm_sidecar.serve.target import NOT_ONE_ENGINE_HOLD, TargetLoop
from vllm_sidecar.vllm.probes.schedule import MAX_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

pytestmark = pytest.mark.io

MIXED = {"/version": Behaviour(0.2), "/v1/models": Behaviour(2.0), "/server_info": HANG, "/load": DROP}


@pytest.mark.parametrize(
    "does",
    [
        lambda _: Behaviour(0.2),
        lambda _: Behaviour(2.0),
        lambda _: HANG,
        lambda _: DROP,
        lambda path: MIXED[path],
    ],
    ids=["200 ms", "2 s", "hang", "drop the connection", "one of each"],
)
def test_whatever_the_four_endpoints_do_the_server_is_polled_each_second_from_the_first_poll_on(
    does: Callable[[str], Behaviour],
) -> None:
    server = Server(does)
    target_loop = virtual_time.run(play(server, 600.0))
    assert len(server.scraped) == pytest.approx(600, abs=1)
    assert server.intervals() == pytest.approx([1.0] * len(server.intervals()), rel=0.05)
    assert target_loop.health.interval == 1.0
    assert target_loop.health.server_time_ratio == POLL_SECONDS
    assert set(server.probed) == set(MIXED)
    assert server.most_open_probes == 1


@st.composite
def behaviours(draw: st.DrawFn) -> Behaviour:
    failures = st.sampled_from([Reason.DISCONNECTED, Reason.HTTP_404, Reason.HTTP_5XX, Reason.REFUSED, Reason.TIMEOUT])
    errors = st.one_of(
        st.none(), failures.map(lambda reason: PollError(reason, "made up")), st.just(ValueError("a bug"))
    )
    return Behaviour(draw(st.sampled_from([0.001, 0.05, 0.2, 1.0, 4.0, FOREVER])), draw(errors))


@examples(30)
@given(schedule=st.lists(behaviours(), min_size=1, max_size=12))
def test_no_schedule_of_delays_and_failures_of_probes_changes_the_poll_interval(schedule: list[Behaviour]) -> None:
    following = itertools.cycle(schedule)
    server = Server(lambda _: next(following))
    target_loop = virtual_time.run(play(server, 90.0))
    assert server.intervals() == pytest.approx([1.0] * 89, rel=1e-9)
    assert target_loop.health.interval == 1.0
    assert server.most_open_probes == 1


@pytest.mark.parametrize("seconds", [0.05, 0.2, 1.0])
def test_probes_that_take_long_take_a_small_share_of_the_servers_time(seconds: float) -> None:
    server = Server(lambda _: Behaviour(seconds))
    virtual_time.run(play(server, 2400.0, "10s"))
    first = 4 * seconds  # what a probe costs is known once it was sent
    assert server.busy - first <= 0.01 * 2400.0


def test_endpoints_that_hang_are_left_alone_for_minutes() -> None:
    server = Server(lambda _: HANG)
    virtual_time.run(play(server, 3000.0, "10s"))
    for path, most in {"/version": 8, "/v1/models": 8, "/server_info": 8, "/load": 11}.items():
        times = server.probed[path]
        assert len(times) <= most
        assert times[-1] - times[-2] == pytest.approx(MAX_INTERVAL, abs=25.0)


def test_a_poll_is_visible_at_once_while_a_probe_hangs() -> None:
    async def main() -> tuple[list[int], int]:
        server = Server(lambda _: HANG)
        seen = []

        def changed() -> None:
            seen.append(target_loop.snapshot().health.polls)

        target_loop = target(server, changed)
        await target_loop.poll_once()
        probing = asyncio.create_task(target_loop.probe_once())
        await asyncio.sleep(1.0)
        await target_loop.poll_once()
        assert not probing.done()
        await probing
        return seen, server.most_open_probes

    assert virtual_time.run(main()) == ([1, 2, 2], 1)


def test_what_a_probe_finds_is_visible_without_another_poll() -> None:
    async def main() -> list[str | None]:
        seen: list[str | None] = []
        target_loop = target(Server(), lambda: seen.append(target_loop.snapshot().identity.version))
        await target_loop.poll_once()
        await target_loop.probe_once()
        return seen

    assert virtual_time.run(main()) == [None, "0.32.0"]


@pytest.mark.parametrize("bug", [ZeroDivisionError("made up"), asyncio.CancelledError()], ids=["error", "cancelled"])
def test_a_bug_in_the_probes_is_logged_once_ends_no_poll_and_makes_probes_rarer_until_it_is_gone(
    bug: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    broken = Behaviour(0.01, bug)
    server = Server(lambda _: broken if virtual_time.now() < virtual_time.START + 300.0 else Behaviour())
    target_loop = virtual_time.run(play(server, 500.0))
    assert server.intervals() == pytest.approx([1.0] * 499, rel=1e-9)
    assert [record.message for record in caplog.records] == ["internal_error"]
    assert sum(len([at for at in times if at < virtual_time.START + 300.0]) for times in server.probed.values()) < 15
    assert target_loop.snapshot().identity.version == "0.32.0"


@pytest.mark.parametrize("bug", [ZeroDivisionError("made up"), asyncio.CancelledError()], ids=["error", "cancelled"])
def test_a_poll_loop_that_breaks_ends_the_target_with_its_cause_and_nothing_stays_live(bug: BaseException) -> None:
    async def main() -> None:
        calls = itertools.count(1)

        def changed() -> None:
            if next(calls) == 3:
                raise bug

        target_loop = target(Server(lambda _: HANG), changed)
        with pytest.raises(ExceptionGroup) as raised:
            await target_loop.run()
        assert [error.__cause__ for error in raised.value.exceptions] == [bug]
        assert virtual_time.now() < virtual_time.START + 10.0
        assert not target_loop.health.up
        assert target_loop.health.reason is Reason.INTERNAL
        assert target_loop.snapshot().readings is None

    virtual_time.run(main())


def test_a_bug_in_each_poll_is_logged_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    def bug() -> float:
        raise ZeroDivisionError("made up")

    server = Server()
    server.poll_seconds = bug
    target_loop = virtual_time.run(play(server, 30.0))
    assert (len(server.scraped), target_loop.health.failures) == (30, {Reason.INTERNAL: 30})
    assert [record.message for record in caplog.records] == ["internal_error"]


def test_a_restart_of_the_server_is_probed_again_soon_one_probe_a_second() -> None:
    async def main() -> list[float]:
        server = Server()
        target_loop = target(server)
        running = asyncio.create_task(target_loop.run())
        await asyncio.sleep(30.0)
        server.probed.clear()
        later = re.sub(rb"(?m)^(process_start_time_seconds|vllm:\w+_created\{.*\}) ", rb"\1 9", BODY)
        assert later != BODY
        server.body = later
        await asyncio.sleep(6.0)
        running.cancel()
        return sorted(at for times in server.probed.values() for at in times)

    found = virtual_time.run(main())
    assert len(found) == 4
    assert [b - a for a, b in itertools.pairwise(found)] == pytest.approx([1.0] * 3, rel=0.05)


def test_the_loop_of_probes_wakes_up_for_probes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[float] = []
    probe_once = TargetLoop.probe_once

    async def counted(target_loop: TargetLoop) -> None:
        woken.append(virtual_time.now())
        await probe_once(target_loop)

    monkeypatch.setattr(TargetLoop, "probe_once", counted)
    server = Server()
    virtual_time.run(play(server, 300.0))
    probes = sum(map(len, server.probed.values()))
    assert probes > 30
    assert len(woken) == probes


def test_no_probe_is_sent_to_a_server_that_does_not_answer_polls() -> None:
    server = Server(body=b"")
    virtual_time.run(play(server, 60.0))
    assert len(server.scraped) == 60
    assert server.probed == {}


def test_while_several_servers_answer_no_probe_is_sent_and_no_change_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vllm_sidecar.serve.target.NOT_ONE_ENGINE", {"empty"})
    monkeypatch.setitem(ANSWERS, "/version", b'{"version":"0.31.0"}')

    async def main() -> tuple[Counter[bool], int, str | None]:
        server = Server()
        target_loop = target(server)
        running = asyncio.create_task(target_loop.run())
        await asyncio.sleep(10.0)
        server.probed.clear()
        server.body = b""
        await asyncio.sleep(2.0)
        failed = server.scraped[-1]
        server.body = BODY
        monkeypatch.setitem(ANSWERS, "/version", b'{"version":"0.32.0"}')
        await asyncio.sleep(NOT_ONE_ENGINE_HOLD + 10.0)
        running.cancel()
        identity = target_loop.snapshot().identity
        return _held(server.probed.values(), failed + NOT_ONE_ENGINE_HOLD), identity.changes, identity.version

    held, changes, version = virtual_time.run(main())
    assert held[True] == 0
    assert held[False] >= 4
    assert (changes, version) == (0, "0.32.0")


def _held(probed: Iterable[Sequence[float]], until: float) -> Counter[bool]:
    return Counter(at < until for times in probed for at in times)


@pytest.mark.parametrize("slow", [1, 2])
def test_first_polls_that_had_to_wait_do_not_stretch_the_interval(slow: int) -> None:
    server = Server()
    server.poll_seconds = lambda: 0.7 if len(server.scraped) <= slow else POLL_SECONDS
    virtual_time.run(play(server, 30.0))
    assert server.intervals() == pytest.approx([1.0] * 29, rel=1e-9)


def test_the_interval_stretches_with_the_cost_of_polls() -> None:
    server = Server()
    server.poll_seconds = lambda: 0.05
    virtual_time.run(play(server, 60.0))
    assert server.intervals()[4:] == pytest.approx([5.0] * len(server.intervals()[4:]), rel=1e-9)


def test_requests_in_flight_are_not_shown_any_more_when_polls_hang() -> None:
    async def main() -> list[float | None]:
        server = Server()
        target_loop = target(server)
        running = asyncio.create_task(target_loop.run())
        await asyncio.sleep(10.0)
        before = target_loop.snapshot().identity.requests_in_flight
        server.does, server.body = (lambda _: HANG), b""
        await asyncio.sleep(45.0)
        running.cancel()
        return [before, target_loop.snapshot().identity.requests_in_flight]

    assert virtual_time.run(main()) == [3.0, None]


def test_a_health_endpoint_that_hangs_delays_no_poll_of_a_server_without_metrics() -> None:
    server = Server(lambda _: HANG, NO_LOG_STATS)
    target_loop = virtual_time.run(play(server, 60.0))
    assert server.intervals() == pytest.approx([1.0] * 59, rel=1e-9)
    assert len(server.probed["/health"]) == 1
    assert "/health fails" in target_loop.health.detail


def test_polls_of_many_targets_are_spread_over_the_interval_and_stay_there() -> None:
    servers = [Server() for _ in range(40)]
    settings = config()

    async def one(server: Server, name: str) -> None:
        named = NamedTarget(name=name, url="http://127.0.0.1:8000")
        clock = asyncio.get_running_loop().time
        await TargetLoop(named, settings, lambda: None, client=server, clock=clock).run()

    async def play_all() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20.5), asyncio.TaskGroup() as tasks:
                for number, server in enumerate(servers):
                    tasks.create_task(one(server, f"llm/chat-{number}"))

    virtual_time.run(play_all())

    begin = min(server.scraped[0] for server in servers) // 1.0
    tenths = Counter(int(10 * ((server.scraped[-1] - begin) % 1.0)) for server in servers)
    assert max(tenths.values()) <= 10, tenths
    assert all(server.intervals() == pytest.approx([1.0] * len(server.intervals())) for server in servers)
    assert all(len(server.scraped) in (20, 21) for server in servers)
