"""Real incidents page through the real Prometheus and Alertmanager: what is promised, nothing else, and it resolves."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import drill
import pytest

from vllm_sidecar.catalog.alerts import ALERTS, Severity
from vllm_sidecar.catalog.inhibitions import INHIBITIONS
from vllm_sidecar.simulator.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.e2e
TWO, STALL = ("stall", "kv-exhaustion"), ("stall",)
PATIENCE = 240.0
"""Seconds after the incidents in which queues drain and budgets stop to burn."""
PAGES = {alert.name for alert in ALERTS if alert.severity is Severity.PAGE}


def sent(scenario: str) -> set[str]:
    """Return what a scenario promises, without what another of its alerts keeps back."""
    promised = set(SCENARIOS[scenario].alerts)
    return promised - {name for each in INHIBITIONS if promised & set(each.sources) for name in each.targets}


def expected(scenario: str) -> set[str]:
    """Return the pages that should arrive."""
    return {name for name in sent(scenario) if name in PAGES or name.endswith("SloBurn")}


def promised_tickets(scenario: str) -> set[str]:
    """Return the tickets that should arrive."""
    return sent(scenario) - expected(scenario)


def installed() -> tuple[str, str]:
    """Return Prometheus and Alertmanager of this machine; without them skip the test, or fail it with CI=true."""
    found = drill.programs()
    if found is None:
        hint = "Prometheus or Alertmanager is missing: apt-get install prometheus prometheus-alertmanager"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(hint)
    return found


@pytest.mark.parametrize(
    ("scenarios", "programs"),
    [
        pytest.param(TWO, installed, id="two scenarios"),
        pytest.param(STALL, drill.newer_programs, id="a stall, with newer Prometheus and Alertmanager"),
        pytest.param(tuple(SCENARIOS), installed, id="all scenarios", marks=pytest.mark.slow),
    ],
)
def test_each_incident_pages_for_what_it_is_and_resolves(
    scenarios: tuple[str, ...], programs: Callable[[], tuple[str, str]], tmp_path: Path
) -> None:
    with drill.playing(scenarios, tmp_path, programs()) as played:
        while played.seconds() < 0.0:
            time.sleep(0.5)
        assert played.first("vllm-page") == {}, "a page before anything happened"
        while played.seconds() < drill.INCIDENT:
            time.sleep(0.5)
        paged = played.first("vllm-page")
        while played.unresolved("vllm-page") and played.seconds() < drill.INCIDENT + PATIENCE:
            time.sleep(1.0)
        assert {name: set(alerts) for name, alerts in paged.items()} == {
            name: expected(name) for name in scenarios if expected(name)
        }
        assert played.unresolved("vllm-page") == set()
        assert played.first("vllm-heartbeat") != {}
        tickets = played.first("vllm-ticket")
        for name in scenarios:
            assert promised_tickets(name) <= set(tickets.get(name, {})), name
        assert "healthy" not in tickets
