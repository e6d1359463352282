"""Plays incidents through the real programs, and holds that they page for what they are and for nothing else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import alert_run

from vllm_sidecar.catalog.alerts import ALERTS, Severity
from vllm_sidecar.catalog.inhibitions import INHIBITIONS
from vllm_sidecar.simulator.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PATIENCE = 240.0
"""Seconds after the incidents in which queues drain and budgets stop to burn."""
PAGES = {alert.name for alert in ALERTS if alert.severity is Severity.PAGE}


def sent(scenario: str) -> set[str]:
    """Return what a scenario promises, without the alerts that another of its alerts inhibits."""
    promised = set(SCENARIOS[scenario].alerts)
    return promised - {name for each in INHIBITIONS if promised & set(each.sources) for name in each.targets}


def expected(scenario: str) -> set[str]:
    """Return the pages that should arrive."""
    return {name for name in sent(scenario) if name in PAGES or name.endswith("SloBurn")}


def promised_tickets(scenario: str) -> set[str]:
    """Return the tickets that should arrive."""
    return sent(scenario) - expected(scenario)


def page_and_resolve(scenarios: Sequence[str], folder: Path, programs: tuple[str, str]) -> None:
    """Assert that each scenario sends exactly its pages and at least its tickets, and that all pages resolve."""
    with alert_run.playing(scenarios, folder, programs) as played:
        while played.seconds() < 0.0:
            time.sleep(0.5)
        assert played.first("vllm-page") == {}, "a page before anything happened"
        while played.seconds() < alert_run.INCIDENT:
            time.sleep(0.5)
        paged = played.first("vllm-page")
        while played.unresolved("vllm-page") and played.seconds() < alert_run.INCIDENT + PATIENCE:
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
