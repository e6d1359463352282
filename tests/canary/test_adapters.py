"""The canary with LoRA adapters: each adapter has requests, a baseline and series of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestServer
from running import config, run

from vllm_sidecar.simulator.script import read_script
from vllm_sidecar.simulator.web import Simulator, make_app

if TYPE_CHECKING:
    from running import Run

pytestmark = pytest.mark.io
PROMPTS = [
    {"name": "sql", "prompt": "all users", "models": ["adapter-1", "adapter-2", "retired"]},
    {"name": "capital", "prompt": "What is the capital of France?"},
]


async def rounds(running: Run, count: int) -> dict[str, dict[str, Any]]:
    """Send each prompt to each model so many times; return the reports by requested model."""
    for _ in range(count * 4):
        running.clock[0] += 5.0
        await running.target_loop._canary.send_next()
    return {str(each["model"]): each for each in running.target_loop.snapshot().canary}


async def test_an_adapter_that_is_gone_fails_alone_and_the_others_learn_their_own_baselines() -> None:
    script = read_script("healthy 1h -> healthy", None, {"server.max_loras": 2, "server.adapters": 2})
    simulator = Simulator(script)
    async with TestServer(make_app(simulator)) as server:
        canary = {"enabled": True, "interval": "20s", "timeout": "2s", "prompts": PROMPTS}
        async with run(config(str(server.make_url("")).rstrip("/"), canary=canary)) as running:
            await running.poll()
            found = await rounds(running, 3)
            samples = running.samples()
    base = simulator.look.settings.model_name
    assert found.keys() == {"adapter-1", "adapter-2", "retired", base}
    assert {name: each["output"] for name, each in found.items()} == {
        "adapter-1": "expected", "adapter-2": "expected", base: "expected", "retired": None
    }  # fmt: skip
    assert found["retired"]["reason"] == "http_404"
    assert "`retired` does not exist" in found["retired"]["detail"]
    assert "Check the names in models" in found["retired"]["hint"]
    failing = [name for name, value in samples.items() if name.startswith("canary_consecutive_failures{") and value]
    assert len(failing) == 1
    assert f'model_name="{base}",requested_model="retired",prompt="sql"' in failing[0]
