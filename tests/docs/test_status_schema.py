"""The JSON schema of the status: every recorded server, one that is down, and the GPUs are described by it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from fake_vllm import FakeVllm
from jsonschema import Draft202012Validator
from places import ROOT
from running import config, run

from vllm_sidecar.catalog.reasons import GPU_REASONS, Reason
from vllm_sidecar.config import Config
from vllm_sidecar.series.health import Health
from vllm_sidecar.serve.state import without_targets
from vllm_sidecar.serve.status import NodeGpus, status

pytestmark = pytest.mark.io

SCHEMA = json.loads((ROOT / "docs" / "status.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
NODE = Health("nvml", reasons=GPU_REASONS, over_http=False)


def recorded() -> dict[str, list[Path]]:
    """The captures of each server, in the order of their names."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((ROOT / "tests" / "captures").glob("*.prom")):
        found[path.stem.rpartition("__")[0]].append(path)
    return found


async def statuses(url: str, bodies: list[bytes], fake: FakeVllm | None = None) -> list[dict[str, Any]]:
    """The status after each body, as a client reads it."""
    seen = []
    async with run(config(url)) as running:
        for body in bodies:
            if fake:
                fake.body = body
            for _ in range(3):
                await running.poll(after=10.0)
            await running.exporter.prepare()
            seen.append(as_read(status(running.exporter.snapshots.values())))
    return seen


def as_read(report: dict[str, object]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(report, allow_nan=False)))


def problems(report: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}"[:300] for error in VALIDATOR.iter_errors(report)]


def test_the_schema_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


async def test_the_status_of_every_recorded_server_is_described() -> None:
    for name, paths in recorded().items():
        async with FakeVllm(version=name.partition("__")[0]) as fake:
            for report in await statuses(fake.url, [path.read_bytes() for path in paths], fake):
                assert problems(report) == [], name


async def test_the_status_of_a_server_that_is_down_or_sends_nonsense_is_described() -> None:
    (down,) = await statuses("http://127.0.0.1:1", [b""])
    assert down["targets"][0]["last_error"]["reason"] == "refused"
    assert problems(down) == []
    async with FakeVllm() as fake:
        for report in await statuses(fake.url, [b"<html>", b"vllm:num_requests_running x\nvllm:odd 1\n"], fake):
            assert problems(report) == []


def test_the_status_of_the_gpus_is_described_whether_they_are_read_or_not() -> None:
    good = NODE.succeeded(last_success=1.0, seconds=0.01)
    samples = {"gpu_power_watts": [('gpu="0",uuid="GPU-0"', 95.0)], "gpu_utilization_ratio": []}
    for health in (NODE, good, NODE.failed(Reason.HUNG, "nvmlDeviceGetPowerUsage")):
        assert problems(as_read(status([], NodeGpus(health, samples)))) == []


@pytest.mark.parametrize(
    "settings", [{"vllm": {"headless": True}}, {"gpu": {"only": True}}, {"discovery": {"kubernetes": [{}]}}]
)
def test_a_sidecar_without_a_server_is_described(settings: dict[str, object]) -> None:
    state = without_targets(Config.model_validate(settings))
    assert state is not None
    assert problems(as_read(status([], None, state))) == []


async def test_a_field_that_is_missing_or_undocumented_is_refused() -> None:
    (report,) = await statuses("http://127.0.0.1:1", [b""])
    (target,) = report["targets"]
    assert problems(report | {"extra": 1})
    assert problems(report | {"targets": [target | {"extra": 1}]})
    assert problems(report | {"targets": [{key: value for key, value in target.items() if key != "up"}]})


def test_every_state_is_in_the_schema_and_in_the_documents() -> None:
    named = set(SCHEMA["$defs"]["state"]["properties"]["name"]["enum"])
    text = (ROOT / "docs" / "http-api.md").read_text()
    source = Path(without_targets.__code__.co_filename).read_text()
    made = set(re.findall(r'State\(\s*"(\w+)"', source))

    assert made <= named
    assert [name for name in named if f"`{name}`" not in text] == []
