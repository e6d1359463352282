"""Every query of every panel, asked of a real Prometheus: none fails, and each panel has data or says why not."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import captured
import dashboards_on_disk
import fleet
import panels
import promtool
import pytest
import yaml
from growing import serving
from prometheus_process import configuration, job, prometheus
from sidecar_process import started

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

CALM, INCIDENT = 15.0, 75.0
FIRST, SETTLE = 10.0, 60.0
"""Seconds until all panels are asked for the first time, and for which those that stay empty are asked again."""
TIME_RANGE = 90
SHOWN = {
    ("vllm-features", "How many drafts are accepted?"),
    ("vllm-features", "Up to which position is it worth it?"),
    ("vllm-features", "Which adapters have requests?"),
    ("vllm-features", "How uneven is it?"),
    ("vllm-features", "Does a GPU of a group straggle?"),
    ("vllm-gpu", "How much power do they draw?"),
    ("vllm-kv-cache", "How much hits now, and in its past?"),
    ("vllm-incident", "Which configuration ran when?"),
    ("vllm-slo", "Every objective"),
    ("vllm-engine", "How sure is p95 of TTFT?"),
}
"""Panels that may be empty elsewhere, and must not be where every feature is on."""
CAPTURES = {
    "0.9.2 v0": "0.9.2__v0__after.prom",
    "0.9.2 v1": "0.9.2__v1__after.prom",
    "0.12.0": "0.12.0__v1__after.prom",
    "0.32.0": "0.32.0__baseline__after.prom",
}


def test_every_panel_has_data_where_every_feature_is_on() -> None:
    promtool.program()  # skips, or fails in CI, where Prometheus is not installed
    settings = {"windows": {"length": "10s", "keep": "1m"}, "introspection": {"interval": "5s"}}
    with fleet.playing(fleet.FLEET, CALM, INCIDENT, scrape=2, sidecar=settings) as running:
        time.sleep(max(0.0, running.incidents + FIRST - time.time()))
        allowed = dashboards_on_disk.may_be_empty() - SHOWN
        assert panels.without_data(running.prometheus, {}, TIME_RANGE, allowed, INCIDENT) <= allowed
        for choice in ({"model_name": "chat-8b", "instance": "chat-0:10190"}, {"cluster": "us-1"}):
            allowed = dashboards_on_disk.may_be_empty()
            assert panels.without_data(running.prometheus, choice, TIME_RANGE, allowed, SETTLE) <= allowed


@pytest.mark.parametrize(("version", "name"), CAPTURES.items(), ids=CAPTURES)
def test_every_panel_has_data_whatever_the_version_of_vllm(version: str, name: str, tmp_path: Path) -> None:
    promtool.program()
    with ExitStack() as stack:
        url = stack.enter_context(serving(captured.text(name), version.partition(" ")[0]))
        settings = tmp_path / "sidecar.yaml"
        settings.write_text(yaml.safe_dump({"windows": {"length": "10s", "keep": "1m"}, "gpu": {"devices": "none"}}))
        _, sidecar = stack.enter_context(started("--config.file", str(settings), "--vllm.url", url))
        rules = dashboards_on_disk.FOLDER.parent / "rules" / "vllm-sidecar*.rules.yml"
        config = configuration(2, job("vllm-sidecar", sidecar), rules=rules)
        running = stack.enter_context(prometheus(tmp_path, config))
        allowed = dashboards_on_disk.may_be_empty()
        time.sleep(FIRST)
        assert panels.without_data(running, {}, TIME_RANGE, allowed, SETTLE) <= allowed
