"""Targets of discovery in the running program: they are added and removed, and the others notice nothing."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from fake_vllm import FakeVllm
from following_lists import until
from places import CAPTURES

from vllm_sidecar.config import Config
from vllm_sidecar.serve.app import Sidecar
from vllm_sidecar.serve.http import make_app
from vllm_sidecar.serve.target_parts import poll_phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.io

BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_bytes()


class Gateway:
    """A running sidecar whose targets are listed in a file."""

    def __init__(self, folder: Path) -> None:
        self.list = folder / "list.json"
        self.settings: dict[str, Any] = {
            "gpu": {"devices": "none"},
            "introspection": {"proc": False},
            "scrape": {"interval": "50ms", "server_time_ratio": 1.0},
            "discovery": {"file": [{"files": [str(self.list)], "refresh": "10ms"}]},
        }
        self.write()
        self.sidecar = Sidecar(self.config(), self.config)

    def config(self) -> Config:
        return Config.model_validate(self.settings)

    def write(self, *targets: str, **labels: str) -> None:
        new = self.list.with_suffix(".new")
        new.write_text(json.dumps([{"targets": targets, "labels": labels}]))
        new.replace(self.list)

    def samples(self) -> dict[str, float]:
        lines = self.sidecar.exporter.render(openmetrics=False).decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("vllm_sidecar_"): float(value) for name, value in pairs}

    def of(self, target: str) -> dict[str, float]:
        """The series of one target."""
        return {name: value for name, value in self.samples().items() if f'target="{target}"' in name}

    def polls(self, target: str) -> float:
        return self.samples().get(f'polls_total{{target="{target}",source="vllm"}}', 0.0)

    def is_up(self, target: str) -> bool:
        return self.samples().get(f'up{{target="{target}",source="vllm",model_name="tiny"}}') == 1.0

    def state(self, name: str) -> float:
        return self.samples()[f'discovery_targets{{discovery="file.0",state="{name}"}}']


@asynccontextmanager
async def gateway(folder: Path, *, listed: bool = True) -> AsyncIterator[Gateway]:
    running = Gateway(folder)
    if not listed:
        running.list.unlink()
    await running.sidecar.start()
    try:
        yield running
    finally:
        await running.sidecar.stop()


@pytest.fixture
async def two() -> AsyncIterator[tuple[FakeVllm, FakeVllm]]:
    async with FakeVllm(BODY) as first, FakeVllm(BODY) as second:
        yield first, second


def address(fake: FakeVllm) -> str:
    return fake.url.removeprefix("http://")


async def test_a_target_that_leaves_ends_its_series_at_once_and_the_others_are_not_interrupted(
    two: tuple[FakeVllm, FakeVllm], tmp_path: Path
) -> None:
    one, other = map(address, two)
    async with gateway(tmp_path) as running:
        running.write(one, other)
        await until(lambda: running.is_up(one) and running.is_up(other))
        before = running.polls(one)
        running.write(one)
        await until(lambda: running.state("watched") == 1)

        await until(lambda: running.of(other) == {})
        assert running.is_up(one)
        asked = len(two[1].requests)
        await until(lambda: running.polls(one) > before + 5)
        assert len(two[1].requests) == asked
        assert not any(name.startswith("up") and value == 0 for name, value in running.samples().items())


async def test_labels_that_change_do_not_interrupt_a_target(two: tuple[FakeVllm, FakeVllm], tmp_path: Path) -> None:
    one = address(two[0])
    async with gateway(tmp_path) as running:
        running.write(one, team="a")
        await until(lambda: any('team="a"' in name for name in running.of(one)))
        loop = running.sidecar._targets._loops[one]
        running.write(one, team="b")
        await until(lambda: any('team="b"' in name for name in running.of(one)))

        assert not any('team="a"' in name for name in running.of(one))
        assert running.sidecar._targets._loops[one] is loop
        assert loop.health.up


async def test_a_target_that_returns_continues_and_is_not_live_before_its_next_poll(
    two: tuple[FakeVllm, FakeVllm], tmp_path: Path
) -> None:
    one = address(two[0])
    async with gateway(tmp_path) as running:
        running.write(one)
        await until(lambda: running.polls(one) >= 5)
        two[0].delay = 0.3
        running.write()
        await until(lambda: running.of(one) == {})
        running.write(one)
        await until(lambda: running.of(one))
        assert not running.is_up(one)
        assert f'requests_running{{target="{one}",model_name="tiny",engine="0"}}' not in running.of(one)
        await until(lambda: running.is_up(one))

        assert running.polls(one) >= 5
        assert not any(running.of(one)[name] for name in running.of(one) if name.startswith("server_restarts"))


async def test_a_target_that_returns_late_or_at_another_address_starts_anew(
    two: tuple[FakeVllm, FakeVllm], tmp_path: Path
) -> None:
    one, other = map(address, two)
    async with gateway(tmp_path) as running:
        running.settings["discovery"]["file"][0]["target"] = {"name": "chat"}
        assert await running.sidecar.reload() is None
        running.write(one)
        await until(lambda: running.polls("chat") >= 5)
        first = running.sidecar._targets._loops["chat"]
        running.write(other)
        await until(lambda: running.sidecar._targets._loops["chat"] is not first)
        second = running.sidecar._targets._loops["chat"]
        await until(lambda: running.is_up("chat"))
        running.settings["windows"] = {"length": "50ms", "keep": "50ms"}
        assert await running.sidecar.reload() is None
        running.write()
        await until(lambda: not running.of("chat"))
        await until(lambda: not running.sidecar._targets._left)
        running.write(other)
        await until(lambda: running.is_up("chat"))
        assert running.sidecar._targets._loops["chat"] is not second


@pytest.mark.parametrize(
    ("limit", "kept"), [(2, ["127.0.0.2", "127.0.0.3"]), (4, ["127.0.0.1", "127.0.0.2", "127.0.0.3"])]
)
async def test_loops_of_targets_that_left_are_at_most_as_many_as_the_limit(
    tmp_path: Path, limit: int, kept: list[str]
) -> None:
    async with FakeVllm(BODY) as fake, gateway(tmp_path) as running:
        port = address(fake).partition(":")[2]
        running.settings["discovery"]["limit"] = limit
        assert await running.sidecar.reload() is None
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "localhost"):
            running.write(f"{host}:{port}")
            expected = f"{host}:{port}"
            await until(lambda expected=expected: expected in running.sidecar._targets._loops)
            loop = running.sidecar._targets._loops[expected]
            loop._state.succeeded_at = 0.0

        assert list(running.sidecar._targets._left) == [f"{host}:{port}" for host in kept]


async def test_a_hostile_list_costs_nothing_of_the_other_targets(
    two: tuple[FakeVllm, FakeVllm], tmp_path: Path
) -> None:
    one = address(two[0])
    async with gateway(tmp_path) as running:
        running.settings["discovery"]["limit"] = 3
        assert await running.sidecar.reload() is None
        running.write(one)
        await until(lambda: running.is_up(one))
        running.write(one, *(f"127.0.0.1:{port}" for port in range(1, 5)), *["bad\x00host"] * 500)
        await until(lambda: running.state("over_limit") == 2 and running.state("invalid") == 500)
        assert running.is_up(one)
        before = running.polls(one)
        running.write(*(f"10.0.0.1:{number}" for number in range(100_000)))
        await until(lambda: running.samples()['discovery_failures_total{discovery="file.0",reason="too_large"}'])
        await until(lambda: running.polls(one) > before)
        assert running.state("watched") == 3


async def test_a_source_that_did_not_change_is_not_interrupted_by_a_reload_and_one_that_did_keeps_its_list(
    two: tuple[FakeVllm, FakeVllm], tmp_path: Path
) -> None:
    one = address(two[0])
    async with gateway(tmp_path) as running:
        running.write(one)
        await until(lambda: running.is_up(one))
        source, loop = running.sidecar.finder.sources[0], running.sidecar._targets._loops[one]
        running.settings["limits"] = {"adapters": 7}
        assert await running.sidecar.reload() is None
        assert running.sidecar.finder.sources[0] is source

        running.settings["discovery"]["file"][0]["refresh"] = "20ms"
        running.list.unlink()  # the new source cannot read it
        assert await running.sidecar.reload() is None
        await until(lambda: running.samples()['discovery_failures_total{discovery="file.0",reason="unreadable"}'])
        assert running.sidecar.finder.sources[0] is not source
        assert running.sidecar._targets._loops[one] is loop


async def test_a_server_that_moves_from_targets_to_a_list_is_not_interrupted(
    two: tuple[FakeVllm, FakeVllm], tmp_path: Path
) -> None:
    one = address(two[0])
    async with gateway(tmp_path) as running:
        sources = running.settings.pop("discovery")
        running.settings["targets"] = [{"name": one, "url": two[0].url}]
        assert await running.sidecar.reload() is None
        await until(lambda: running.is_up(one))
        loop = running.sidecar._targets._loops[one]
        running.write(one)
        running.settings |= {"discovery": sources}
        assert await running.sidecar.reload() is None
        await until(lambda: running.sidecar.finder.has_answered)
        running.settings["targets"] = []
        assert await running.sidecar.reload() is None

        assert running.sidecar._targets._loops == {one: loop}


async def test_no_request_reaches_an_address_that_the_configuration_did_not_name(
    two: tuple[FakeVllm, FakeVllm], tmp_path: Path
) -> None:
    one, stranger = address(two[0]), two[1]
    async with gateway(tmp_path) as running, TestClient(TestServer(make_app(running.sidecar))) as client:
        running.write(one)
        await until(lambda: running.is_up(one))
        for path in ("/metrics", "/api/v1/status", "/api/v1/history", "/debug/last-scrape", "/", "/runbooks/"):
            for name in ("target", "url", "address", "module", "instance"):
                for value in (stranger.url, address(stranger), f"{one}@{address(stranger)}"):
                    async with client.get(path, params={name: value}) as answer:
                        await answer.read()
                        assert answer.status in (200, 404)
        async with client.get("/debug/last-scrape", params={"target": stranger.url}) as answer:
            assert answer.status == 404

        assert stranger.requests == []
        assert list(running.sidecar.exporter.sources) == [one]


async def test_a_gateway_is_ready_when_its_list_is_empty_and_not_before_it_is_read(tmp_path: Path) -> None:
    async with (
        gateway(tmp_path, listed=False) as running,
        TestClient(TestServer(make_app(running.sidecar))) as client,
    ):
        assert (await client.get("/-/ready")).status == 503
        running.write()
        await until(lambda: running.sidecar.finder.has_answered)
        answer = await client.get("/-/ready")
        assert (answer.status, await answer.text()) == (200, "vllm-sidecar is ready: discovery lists no server.\n")
        report = await (await client.get("/api/v1/status")).json()
        assert report["state"] == {
            "name": "no_servers",
            "severity": "watch",
            "text": "no server is listed by the sources of discovery",
        }
        assert report["discovery"][0]["current"] is True
        running.write("127.0.0.1:1", "bad/host")
        await until(lambda: running.state("watched") == 1)
        assert (await client.get("/-/ready")).status == 503
        report = await (await client.get("/api/v1/status")).json()
        assert report["state"] is None
        assert report["discovery"][0]["refused"] == [
            {
                "address": "bad/host",
                "state": "invalid",
                "why": "got 'bad/host'; allowed: HOST:PORT, without http:// and path",
            }
        ]


def test_the_phases_of_names_are_even() -> None:
    phases = sorted(poll_phase(f"llm/chat-{number}") for number in range(1000))

    assert max(abs(phase - index / 1000) for index, phase in enumerate(phases)) < 0.06
    assert poll_phase(None) == poll_phase("") == 0.0
