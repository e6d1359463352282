"""Which server a target is: its model, by whatever names it, and how long it takes to start."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from exported_samples import changed, failures
from fake_vllm import FakeVllm
from places import CAPTURES
from ports import free_port
from running import WALL, config, run

pytestmark = pytest.mark.io

BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_bytes()
CALM = (CAPTURES / "0.32.0__baseline__idle.prom").read_bytes()
UP = 'up{source="vllm",model_name="tiny"}'
UP_BEFORE = 'up{source="vllm"}'


async def test_a_router_is_no_engine_and_none_is_made_of_it() -> None:
    lines = "".join(
        f'vllm:num_requests_{what}{{server="http://10.0.0.{n}:8000"}} {n}\n'
        for what in ("running", "waiting")
        for n in (1, 2)
    )
    async with FakeVllm(lines.encode()) as fake, run(config(fake.url)) as running:
        samples = await running.poll()
        assert samples[UP_BEFORE] == 0.0
        assert failures(samples) == {"not_an_engine": 1.0}
        assert not any(name.startswith(("requests_", "saturation", "engine_info")) for name in samples)
        assert "server" in running.target_loop.snapshot().health.detail


async def test_a_body_that_names_no_model_is_that_of_the_served_one() -> None:
    lines = 'vllm:num_requests_running{engine="0"} 3\nvllm:generation_tokens_total{engine="0"} 5\n'
    async with FakeVllm(lines.encode()) as fake, run(config(fake.url)) as running:
        samples = await running.poll()
        assert samples['dropped_values_total{source="vllm",anomaly="unattributed"}'] == 2.0
        assert running.target_loop.snapshot().readings.unattributed == (
            "vllm:generation_tokens_total",
            "vllm:num_requests_running",
        )
        for _ in range(5):
            samples = await running.poll()
        assert samples['requests_running{model_name="tiny",engine="0"}'] == 3.0
        assert not any('model_name=""' in name for name in samples)


def up(samples: dict[str, float]) -> dict[str, float]:
    """The series of `up`: there is one, whatever it is called."""
    return {name.removeprefix("up"): value for name, value in samples.items() if name.startswith("up{")}


async def test_the_model_of_a_server_is_known_by_its_arguments_then_by_its_series_and_while_it_is_down() -> None:
    args = ["vllm", "serve", "/models/tiny", "--served-model-name", "asked-for", "alias"]
    async with FakeVllm(BODY) as fake, run(config(fake.url, vllm={"args": args})) as running:
        fake.status = 503
        assert up(running.samples()) == {'{source="vllm",model_name="asked-for"}': 0.0}
        assert up(await running.poll()) == {'{source="vllm",model_name="asked-for"}': 0.0}
        fake.status = 200
        assert up(await running.poll()) == {'{source="vllm",model_name="tiny"}': 1.0}
        fake.status = 503
        for _ in range(3):
            samples = await running.poll()
        assert up(samples) == {'{source="vllm",model_name="tiny"}': 0.0}
        fake.body, fake.status = BODY.replace(b'"tiny"', b'"next"'), 200
        assert up(await running.poll()) == {'{source="vllm",model_name="next"}': 1.0}


def started(body: bytes, at: float) -> bytes:
    return changed(body, b"process_start_time", str(at).encode())


async def test_the_start_of_a_server_is_timed_from_its_end_and_kept_over_outages() -> None:
    """Absent beside a server that ran already; then a start of 31 s, and a minute in which the server answers 503."""
    port = free_port()
    async with run(config(f"http://127.0.0.1:{port}")) as running:
        async with FakeVllm(started(BODY, WALL - 9000.0), port=port) as fake:
            fake.headers["Date"] = formatdate(WALL + 1.0, usegmt=True)
            assert "server_startup_seconds" not in await running.poll()
        for _ in range(31):
            samples = await running.poll()
        assert (samples[UP], "server_startup_seconds" in samples) == (0.0, False)
        async with FakeVllm(started(CALM, WALL + 3.0), port=port) as fake:
            fake.headers["Date"] = formatdate(WALL + 33.0, usegmt=True)
            samples = await running.poll()
            assert (samples["server_startup_seconds"], samples["server_restarts_total"]) == (31.0, 1.0)
            fake.status = 503
            for _ in range(60):
                samples = await running.poll()
            assert (samples[UP], samples["server_startup_seconds"]) == (0.0, 31.0)
            fake.status = 200
            fake.headers["Date"] = formatdate(WALL + 94.0, usegmt=True)
            assert (await running.poll())["server_startup_seconds"] == 31.0


async def test_a_server_that_starts_next_to_its_sidecar_is_timed_from_the_sidecars_start() -> None:
    port = free_port()
    async with run(config(f"http://127.0.0.1:{port}")) as running:
        for _ in range(90):
            assert "server_startup_seconds" not in await running.poll()
        async with FakeVllm(started(CALM, WALL - 2.0), port=port) as fake:
            fake.headers["Date"] = formatdate(WALL + 91.0, usegmt=True)
            assert (await running.poll())["server_startup_seconds"] == 90.0
