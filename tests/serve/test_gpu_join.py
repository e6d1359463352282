"""The whole program with a vLLM look-alike and GPUs, from the stub or from a simulator."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from fake_vllm import FakeVllm
from running import config

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.config import Config
from vllm_sidecar.gpu import simulated
from vllm_sidecar.serve.app import Sidecar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stub_nvml import Stub

pytestmark = pytest.mark.io

PATIENCE = 15.0
QUICK = {"interval": "200ms", "slow_interval": "200ms", "timeout": "300ms"}
UP = 'up{source="nvml"}'
SIMULATED: dict[str, Any] = {
    "index": 0,
    "uuid": "GPU-5",
    "name": "NVIDIA H100 80GB HBM3",
    "fields": {
        "utilization_ratio": 0.97, "memory_used_bytes": 7.6e10, "memory_total_bytes": 8.5e10,
        "memory_reserved_bytes": 5e8, "power_watts": 640.5, "power_limit_watts": 700.0, "energy_joules_total": 1000.0,
        "sm_clock_hertz": 1.755e9, "sm_clock_max_hertz": 1.98e9, "memory_clock_hertz": 2.619e9,
        "temperature_celsius": 63.0, "temperature_margin_celsius": 24.0, "sm_active_ratio": 0.8,
        "dram_active_ratio": 0.7,
    },
    "throttle_reasons": ["sw_power_cap"],
    "xid": {"79": 1},
}  # fmt: skip


class Server:
    """What the look-alike says: work that goes on, or stands still."""

    def __init__(self) -> None:
        self.tokens, self.step, self.running, self.waiting = 1000, 50, 2, 0

    def body(self) -> bytes:
        self.tokens += self.step
        labels = '{model_name="m",engine="0"}'
        return (
            f"vllm:num_requests_running{labels} {self.running}\nvllm:num_requests_waiting{labels} {self.waiting}\n"
            f"vllm:generation_tokens_total{labels} {self.tokens}\nvllm:prompt_tokens_total{labels} {self.tokens}\n"
        ).encode()


class Run:
    """A running sidecar in this loop."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar

    def samples(self) -> dict[str, float]:
        lines = self.sidecar.exporter.render(openmetrics=False).decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("vllm_sidecar_"): float(value) for name, value in pairs}

    async def given(self, name: str) -> float:
        """Wait until a sample is there; return its value."""
        async with asyncio.timeout(PATIENCE):
            while (value := self.samples().get(name)) is None:  # noqa: ASYNC110 - nothing tells a test
                await asyncio.sleep(0.02)
        return value

    async def until(self, wanted: dict[str, float | None]) -> dict[str, float]:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = self.samples()
                if all(found.get(name) == value for name, value in wanted.items()):
                    return found
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(url: str, **gpu: Any) -> AsyncIterator[Run]:
    settings = config(
        url,
        gpu={**QUICK, "devices": "all", **gpu},
        scrape={"interval": "100ms", "server_time_ratio": 1.0},
        windows={"length": "1s"},
        progress={"stall_after": "2s"},
    )
    sidecar = Sidecar(settings, lambda: settings)
    await sidecar.start()
    try:
        yield Run(sidecar)
    finally:
        await sidecar.stop()


async def test_an_engine_that_hangs_in_a_collective_is_seen_by_its_gpus(stub: Stub) -> None:
    """Before: all is well. During: no tokens, GPUs at 100 % and low power, nobody new. After: all is well again."""
    stub.script("gpus 2", "energy_flow 600000")
    server = Server()
    async with FakeVllm(server.body) as fake, running(fake.url) as run:
        labels = '{model_name="m",engine="0"}'
        found = await run.until({UP: 1.0, f"stalled{labels}": 0.0, 'gpu_busy_without_progress{power="low"}': 0.0})
        tokens = await run.given('recent_gpu_tokens_per_joule{tokens="generation"}')
        assert tokens == pytest.approx(500.0 / 1200.0, rel=0.6)
        server.step = 0
        stub.script("gpus 2", "utilization 100", "field.186 210000")
        found = await run.until({f"stalled{labels}": 1.0, 'gpu_busy_without_progress{power="low"}': 1.0})
        assert found['stall_corroborated{model_name="m",engine="0",signal="gpu_busy"}'] == 1.0
        assert found[f"gauges_stale{labels}"] == 0.0
        server.step = 50
        await run.until({f"stalled{labels}": 0.0, 'gpu_busy_without_progress{power="low"}': 0.0})


async def test_while_nvml_hangs_vllm_is_polled_on_and_the_joined_signals_end(stub: Stub) -> None:
    server = Server()
    async with FakeVllm(server.body) as fake, running(fake.url) as run:
        await run.until({UP: 1.0, 'up{source="vllm",model_name="m"}': 1.0, "gpu_starved": 0.0})
        stub.script("hang.nvmlDeviceGetUtilizationRates 1")
        before = await run.until({UP: 0.0, "gpu_starved": None})
        await asyncio.sleep(0.5)
        after = run.samples()
        polls = 'polls_total{source="vllm"}'
        assert after[polls] >= before[polls] + 2
        assert after['generation_tokens_total{model_name="m",engine="0"}'] > before[
            'generation_tokens_total{model_name="m",engine="0"}']  # fmt: skip
        stub.script()
        await run.until({UP: 1.0, "gpu_starved": 0.0})


async def test_memory_that_grows_after_the_warm_up_is_told_by_gpu(stub: Stub) -> None:
    stub.script("memory_used 70000000000")
    name = 'gpu_memory_growth_bytes{gpu="0",uuid="GPU-00000000-0000-0000-0000-000000000000"}'
    async with FakeVllm(Server().body) as fake, running(fake.url) as run:
        assert name not in (await run.until({UP: 1.0}))
        await run.until({name: 0.0})
        stub.script("memory_used 71500000000")
        await run.until({name: 1.5e9})


async def test_idle_gpus_under_a_queue_starve(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_sidecar.derive.gpu_efficiency.STARVED_AFTER", 0.5)
    stub.script("utilization 3")
    server = Server()
    server.waiting = 5
    async with FakeVllm(server.body) as fake, running(fake.url) as run:
        await run.until({"gpu_starved": 1.0})
        server.waiting = 0
        await run.until({"gpu_starved": 0.0})


@pytest.mark.usefixtures("stub")
async def test_several_servers_have_gpus_and_no_joined_signals() -> None:
    async with FakeVllm(Server().body) as one, FakeVllm(Server().body) as other:
        targets = [{"name": name, "url": url} for name, url in (("a", one.url), ("b", other.url))]
        settings = Config.model_validate(
            {"targets": targets, "gpu": QUICK, "scrape": {"interval": "100ms"}, "introspection": {"enabled": False}}
        )
        sidecar = Sidecar(settings, lambda: settings)
        await sidecar.start()
        try:
            run = Run(sidecar)
            found = await run.until({UP: 1.0, 'up{target="a",source="vllm",model_name="m"}': 1.0, "gpu_devices": 1.0})
            assert not [name for name in found if name.startswith(("recent_gpu", "gpu_starved"))]
        finally:
            await sidecar.stop()


@pytest.mark.usefixtures("stub")
async def test_a_server_elsewhere_is_not_joined_with_gpus_that_nobody_said_are_its_own() -> None:
    async with FakeVllm(Server().body, host="0.0.0.0") as fake:
        elsewhere = fake.url.replace("0.0.0.0", socket.gethostname())
        for devices, joined in ("auto", False), ("all", True):
            async with running(elsewhere, devices=devices) as run:
                found = await run.until({UP: 1.0, 'up{source="vllm",model_name="m"}': 1.0, "gpu_devices": 1.0})
                polls = 'polls_total{source="vllm"}'
                found = await run.until({polls: found[polls] + 1.0})  # the join is seen with the next poll of vLLM
                assert ("gpu_starved" in found) is joined


async def test_a_reload_that_changes_the_gpus_watches_the_new_ones(stub: Stub) -> None:
    stub.script("gpus 2")
    async with FakeVllm(Server().body) as fake, running(fake.url) as run:
        await run.until({"gpu_devices": 2.0})
        for devices, count in ([1], 1.0), ("none", None), ("all", 2.0):
            settings = config(fake.url, gpu={**QUICK, "devices": devices}, scrape={"interval": "100ms"})
            run.sidecar._load = lambda settings=settings: settings
            assert await run.sidecar.reload() is None
            await run.until({"gpu_devices": count, UP: None if count is None else 1.0})


async def test_a_simulators_gpus_stand_in_for_nvml(stub: Stub) -> None:
    stub.script("hang.nvmlInitWithFlags 1")  # NVML is not asked
    async with FakeVllm(Server().body) as fake:
        gpus = [SIMULATED, {"index": 1, "uuid": "GPU-6", "fields": {"utilization_ratio": 0.1, "of_the_future": 3}}]
        fake.endpoints["/simulate/gpus"] = (200, {"gpus": gpus})
        async with running(fake.url, simulate=True) as run:
            found = await run.until({UP: 1.0, "gpu_devices": 2.0, "gpu_starved": 0.0})
            of = '{gpu="0",uuid="GPU-5"'
            for name, value in SIMULATED["fields"].items():
                assert found[f"gpu_{name}{of}}}"] == value
            assert found[f'gpu_throttled{of},reason="sw_power_cap"}}'] == 1.0
            assert found[f'gpu_throttled{of},reason="hw_thermal"}}'] == 0.0
            assert found[f'gpu_xid_errors_total{of},xid="79",severity="critical"}}'] == 1.0
            assert found[f"gpu_xid_last_timestamp_seconds{of}}}"] > 1e9
            assert found['gpu_selection_info{chosen_by="simulator"}'] == 1.0
            assert found['gpu_utilization_ratio{gpu="1",uuid="GPU-6"}'] == 0.1
            assert 'gpu_power_watts{gpu="1",uuid="GPU-6"}' not in found


async def test_a_real_vllm_is_no_simulator() -> None:
    async with FakeVllm(Server().body) as fake, running(fake.url, simulate=True) as run:
        await run.until(
            {UP: 0.0, 'gpu_failing{reason="not_a_simulator"}': 1.0, 'up{source="vllm",model_name="m"}': 1.0}
        )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"gpus": 3}',
        b'{"gpus": [null]}',
        b'{"gpus": [{"index": 0}]}',
        b'{"gpus": [{"index": 0, "uuid": "a", "fields": []}]}',
        b'{"gpus": [{"index": 0, "uuid": "a", "fields": {"power_watts": "much"}}]}',
    ],
)
async def test_an_answer_of_another_shape_is_no_simulators(body: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        simulated.read(body, 1.0, 0.1)


async def test_a_simulator_that_is_not_there_is_refused_and_its_values_end() -> None:
    async with FakeVllm(Server().body) as fake:
        fake.endpoints["/simulate/gpus"] = (200, {"gpus": [SIMULATED]})
        async with running(fake.url, simulate=True) as run:
            await run.until({UP: 1.0})
            fake.endpoints["/simulate/gpus"] = (500, None)
            await run.until({UP: 0.0, 'gpu_failing{reason="not_a_simulator"}': 1.0, "gpu_devices": None})


def test_a_value_that_cannot_be_true_is_left_out_of_a_simulators_too() -> None:
    made = {"gpus": [{"index": 0, "uuid": "a", "fields": {"utilization_ratio": 97.0, "power_watts": 0}}]}
    found = simulated.read(json.dumps(made).encode(), 1.0, 0.1).poll
    assert found.readings[0].values == {}
    assert found.anomalies == {"out_of_range": 1, "zero": 1}


async def test_nobody_listens_where_the_simulator_should_be() -> None:
    client = simulated.client_of(Config.model_validate({"vllm": {"url": "http://127.0.0.1:9"}}))
    async with client:
        with pytest.raises(PollError) as caught:
            await simulated.poll(client, 1.0)
    assert caught.value.reason is Reason.REFUSED
