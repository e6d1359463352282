"""The simulator's GPUs through the real program: busy at little power while the simulated engine hangs."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import pytest
from sidecar_process import sidecar
from simulator_process import simulator

pytestmark = pytest.mark.e2e

PATIENCE = 30.0


def status(base: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{base}/api/v1/status", timeout=10) as answer:  # noqa: S310 # loopback
        found: dict[str, Any] = json.load(answer)
        return found


def test_the_gpus_of_a_hanging_engine_are_busy_at_little_power(tmp_path: Any) -> None:
    config = tmp_path / "sidecar.yaml"
    config.write_text("progress: {stall_after: 3s}\ngpu: {interval: 1s}\n")
    flags = ("--config.file", str(config), "--gpu.simulate")
    with simulator("--scenario", "healthy 3s -> stall") as (_, url), sidecar(*flags, "--vllm.url", url) as base:
        end = time.monotonic() + PATIENCE
        while (found := status(base))["targets"][0]["state"]["name"] != "stalled" and time.monotonic() < end:
            time.sleep(0.2)
        assert found["targets"][0]["state"]["text"].endswith("no tokens, GPU 100% at 95 W")
        (power,) = found["gpus"]["signals"]["gpu_power_watts"]["series"]
        assert power["value"] == 95.0
        (throttled,) = {one["value"] for one in found["gpus"]["signals"]["gpu_throttled"]["series"]}
        assert throttled == 0.0
