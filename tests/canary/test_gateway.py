"""The canary through a gateway, next to polls without it: reasons and phases tell gateway and server apart."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestServer
from gateway import KEY, LATE_SECONDS, gateway
from running import Run, config, run

from vllm_sidecar.simulator.script import read_script
from vllm_sidecar.simulator.web import Simulator, make_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.io
ALL = ["connect", "first_token", "processing", "transfer"]
HEADERS = ["connect", "processing"]


@asynccontextmanager
async def behind(behavior: str, scenario: str = "healthy", **keys: Any) -> AsyncIterator[Run]:
    """Poll a simulated server itself, with a canary that takes the way through a gateway."""
    simulator = Simulator(read_script(f"{scenario} 1h -> healthy", None, keys.pop("server", {})))
    async with TestServer(make_app(simulator)) as server:
        address = str(server.make_url("")).rstrip("/")
        async with gateway(address, behavior) as url:
            canary = {"enabled": True, "interval": "5s", "timeout": "2s", "url": url, **keys}
            async with run(config(address, canary=canary)) as running:
                await running.poll()
                yield running


async def send(running: Run) -> dict[str, Any]:
    """Send the next request; return its part of the status."""
    running.clock[0] += 5.0
    await running.target_loop._canary.send_next()
    reports: list[dict[str, Any]] = running.target_loop.snapshot().canary  # type: ignore[assignment]
    return reports[0]


def phases(running: Run) -> dict[str, float]:
    return {
        name.partition('phase="')[2].partition('"')[0]: value
        for name, value in running.samples().items()
        if name.startswith("canary_phase_seconds{")
    }


@pytest.mark.parametrize(
    ("behavior", "reason", "detail", "reached"),
    [
        ("passes", None, "", ALL),
        ("buffers", None, "", ALL),
        ("502", "bad_gateway", "(Server: a-gateway): status 502: <html>no upstream</html>", HEADERS),
        ("504", "bad_gateway", "(Server: a-gateway): status 504", HEADERS),
        ("drops", "disconnected", "closed without a complete answer", ["connect"]),
        ("closes", "truncated", "", ALL),
        (
            "redirects",
            "redirect",
            "redirects to https://login.example.com/v1/chat/completions",
            ["connect", "processing"],
        ),
        ("needs_key", "http_401", "(Server: a-gateway): status 401: no API key", HEADERS),
        (
            "logs_in",
            "bad_stream",
            "(Server: a-gateway): the answer is text/html, not an event stream",
            ["connect", "processing"],
        ),
        ("compresses", "bad_encoding", "the answer is compressed", HEADERS),
    ],
)
async def test_each_fault_of_a_gateway_has_its_reason_while_polls_succeed(
    behavior: str, reason: str | None, detail: str, reached: list[str]
) -> None:
    async with behind(behavior) as running:
        report = await send(running)
        samples, found = running.samples(), phases(running)
    assert (report["reason"], detail in (report["detail"] or "")) == (reason, True), report["detail"]
    assert sorted(found) == reached
    up = [value for name, value in samples.items() if name.startswith('up{source="vllm"')]
    assert up == [1.0], "polls do not pass the gateway"


async def test_a_slow_gateway_is_in_processing_and_a_slow_engine_in_first_token() -> None:
    """VLLM sends the headers of a stream when it accepts the request, before the engine has done anything."""
    async with behind("passes") as running:
        await send(running)
        usual = phases(running)
    async with behind("slow") as running:
        await send(running)
        slow = phases(running)
    assert slow["processing"] > LATE_SECONDS > usual["processing"]


async def test_a_gateway_that_buffers_moves_the_time_of_decoding_before_the_first_token() -> None:
    times = {}
    for behavior in ("passes", "buffers"):
        async with behind(behavior, server={"traffic.answers": "endless"}) as running:
            await send(running)
            found = phases(running)
            times[behavior] = (found["transfer"], found["processing"] + found["first_token"])
    assert times["buffers"][0] < 0.2 * times["passes"][0]
    assert times["buffers"][1] > times["passes"][0]


async def test_a_gateway_gets_its_own_key_and_never_that_of_vllm(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    async with behind("needs_key", bearer_token_file=str(key)) as running:
        assert (await send(running))["reason"] is None


async def test_an_overloaded_engine_behind_a_gateway_is_a_timeout_while_waiting_for_it() -> None:
    async with behind("passes", "stall", timeout="500ms") as running:
        report = await send(running)
    assert report["reason"] == "timeout"
    assert "while waiting for the" in report["detail"]
