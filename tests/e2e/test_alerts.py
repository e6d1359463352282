"""Real incidents page through the real Prometheus and Alertmanager: what is promised, nothing else, and it resolves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import alert_run
import pytest
from incidents import page_and_resolve

from vllm_sidecar.simulator.scenarios import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e
TWO = ("stall", "kv-exhaustion")


@pytest.mark.parametrize(
    "scenarios",
    [
        pytest.param(TWO, id="two scenarios"),
        pytest.param(tuple(SCENARIOS), id="all scenarios", marks=pytest.mark.slow),
    ],
)
def test_each_incident_pages_for_what_it_is_and_resolves(scenarios: tuple[str, ...], tmp_path: Path) -> None:
    programs = alert_run.programs()
    if programs is None:
        hint = "Prometheus or Alertmanager is missing: apt-get install prometheus prometheus-alertmanager"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(hint)
    page_and_resolve(scenarios, tmp_path, programs)
