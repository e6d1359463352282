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
    from pathlib import Path

pytestmark = pytest.mark.e2e
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


def test_each_incident_pages_for_what_it_is_and_resolves(tmp_path: Path) -> None:
    if drill.programs() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Prometheus or Alertmanager is missing: apt-get install prometheus prometheus-alertmanager")
        pytest.skip("Prometheus or Alertmanager is missing: apt-get install prometheus prometheus-alertmanager")
    with drill.playing(list(SCENARIOS), tmp_path) as played:
        while played.seconds() < 0.0:
            time.sleep(0.5)
        assert played.first("vllm-page") == {}, "a page before anything happened"
        while played.seconds() < drill.INCIDENT:
            time.sleep(0.5)
        paged = played.first("vllm-page")
        while played.unresolved("vllm-page") and played.seconds() < drill.INCIDENT + PATIENCE:
            time.sleep(1.0)
        assert {name: set(alerts) for name, alerts in paged.items()} == {
            name: expected(name) for name in SCENARIOS if expected(name)
        }
        assert played.unresolved("vllm-page") == set()
        assert played.first("vllm-heartbeat") != {}
        tickets = played.first("vllm-ticket")
        for name in SCENARIOS:
            assert promised_tickets(name) <= set(tickets.get(name, {})), name
        assert "healthy" not in tickets
