"""The canary against the simulator, through the program's own loop: states of the output, sleep and stalls."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp.test_utils import TestServer
from running import Run, config, run

from vllm_sidecar.serve.status import status
from vllm_sidecar.simulator.script import read_script
from vllm_sidecar.simulator.web import Simulator, make_app
from vllm_sidecar.tools.doctor.causes import Symptom
from vllm_sidecar.tools.doctor.diagnosis import Diagnosis, Source, diagnose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.io


@asynccontextmanager
async def simulated(scenario: str, **traffic: object) -> AsyncIterator[Run]:
    """Poll a simulated server once; its canary sends when the test says so."""
    overrides = {f"traffic.{name}": value for name, value in traffic.items()}
    simulator = Simulator(read_script(f"{scenario} 1h -> healthy", None, overrides))
    async with TestServer(make_app(simulator)) as server:
        canary = {"enabled": True, "interval": "5s", "timeout": "1s"}
        async with run(config(str(server.make_url("")).rstrip("/"), canary=canary)) as running:
            await running.poll()
            yield running


async def send(running: Run) -> Diagnosis:
    """Send a request of the canary; return what doctor says then."""
    running.clock[0] += 5.0
    await running.target_loop._canary.send_next()
    snapshot = running.target_loop.snapshot()
    return diagnose(status([snapshot]), Source("test", None))[0]


@pytest.mark.parametrize(
    ("answers", "state", "symptom"),
    [
        ("right", "learning", "no"),
        ("empty", "empty", "yes"),
        ("garbage", "garbage", "yes"),
        ("control_tokens", "control_tokens", "yes"),
    ],
)
async def test_answers_have_their_state_in_metrics_and_for_doctor(answers: str, state: str, symptom: str) -> None:
    async with simulated("healthy", answers=answers) as running:
        found = await send(running)
        samples = running.samples()

    states = {name for name, value in samples.items() if name.startswith("canary_output_state{") and value}
    assert [name for name in states if f'state="{state}"' in name] == list(states)
    assert found.symptoms[Symptom.OUTPUT] == symptom


async def test_a_baseline_finds_another_answer() -> None:
    async with simulated("healthy") as running:
        for _ in range(3):
            await send(running)
        report = running.target_loop.snapshot().canary[0]

    assert (report["output"], report["baseline"]) == ("expected", report["hash"])


async def test_a_stalled_engine_costs_the_timeout_and_a_sleeping_one_gets_no_request() -> None:
    async with simulated("stall") as running:
        found = await send(running)
        assert running.target_loop.snapshot().canary[0]["reason"] == "timeout"
        assert "canary_failing" in {each.name for each in found.findings}
        assert found.symptoms[Symptom.OUTPUT].startswith("unknown")
    async with simulated("sleep") as running:
        await send(running)
        assert running.target_loop.snapshot().canary[0]["requests"] == 0


async def test_requests_of_the_canary_end_on_an_idle_server_and_are_no_open_work() -> None:
    async with simulated("healthy", rate=0.0) as running:
        for _ in range(3):
            await send(running)
            samples = await running.poll(after=60.0)

    assert not any(value for name, value in samples.items() if name.startswith(("stalled", "work_without_progress")))
