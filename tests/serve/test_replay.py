"""Every capture through the real pipeline, from a socket to bytes, compared with a golden file byte for byte.

Estimated percentiles are compared to four digits.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import promtool
import pytest
from fake_vllm import FakeVllm
from places import CAPTURES, GOLDEN
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from running import config, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.io

STATES = ("idle", "warm", "load", "sleep1", "after")
"""In the order in which they were recorded; all of one server are replayed ten seconds apart."""
WALL_CLOCK = re.compile(
    r"process_|python_|vllm_sidecar_((poll|probe)_(duration_seconds|interval_seconds|server_time_ratio)|build_info)"
)
"""What depends on this machine and not on the capture; asserted apart."""
ESTIMATE = re.compile(r'(vllm_sidecar_recent_\w+\{.*quantile="[^"]+"\}) (\S+)')
AGREE = 1e-4
"""How far estimates may be apart between machines: exponentials and logarithms differ in their last digits."""


def _variants() -> dict[str, list[Path]]:
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in CAPTURES.glob("*.prom"):
        version, variant, state = path.stem.split("__")
        found[f"{version}__{variant}"][state] = path
    return {name: [paths[state] for state in STATES if state in paths] for name, paths in found.items()}


VARIANTS = _variants()


async def _replayed(paths: list[Path]) -> tuple[bytes, bytes]:
    version = paths[0].name.split("__")[0]
    async with FakeVllm(version=version) as fake, run(config(fake.url)) as running:
        for path in paths:
            fake.body = path.read_bytes()
            await running.poll(after=10.0)
        return running.exporter.render(openmetrics=False), running.exporter.render(openmetrics=True)


def _steady(text: str) -> str:
    """Leave out the families that depend on the machine, with their comments."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not WALL_CLOCK.match(re.sub(r"^# (HELP|TYPE|UNIT) ", "", line)))


def _as_before(text: str, path: Path) -> str:
    """Write estimates as they stand in a golden file where they agree with it."""
    before = dict(ESTIMATE.findall(path.read_text())) if path.exists() else {}

    def same(found: re.Match[str]) -> str:
        name, value = found.groups()
        old = before.get(name, value)
        return f"{name} {old if float(old) == pytest.approx(float(value), rel=AGREE) else value}"

    return ESTIMATE.sub(same, text)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
async def test_a_replayed_server_gives_its_golden_output(variant: str, golden: Callable[[str, str], None]) -> None:
    text, _ = await _replayed(VARIANTS[variant])
    name = f"{variant}.prom"
    golden(name, _as_before(_steady(text.decode()), GOLDEN / name))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
async def test_both_formats_are_valid_and_say_the_same(variant: str) -> None:
    text, openmetrics = await _replayed(VARIANTS[variant])
    parsed = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_openmetrics(openmetrics.decode())
        for sample in family.samples
    }
    plain = [line for line in text.decode().splitlines() if not line.startswith("#")]
    assert len(parsed) == len(plain)
    result = promtool.check_metrics(text.decode())
    assert result.ok, result.output
    assert result.output == ""


def test_every_golden_file_belongs_to_a_capture() -> None:
    assert {path.stem for path in GOLDEN.glob("*.prom") if not path.stem.startswith("gpu-")} == set(VARIANTS)
