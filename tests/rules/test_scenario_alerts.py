"""Each scenario, played to the sidecar, raises exactly the alerts that it promises, and calm phases raise none."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import promtool
import pytest
from promtool_series import series
from samples import others_slow
from scenario_run import CALM, INCIDENT, RECOVERY, SCRAPE, around, run_scenario
from slo_alert_names import SLO_ALERTS

from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.generate.formats import Format
from vllm_sidecar.generate.outputs import rule_files, slo_files
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.simulator.scenarios import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.io

PACE = 0.2
"""The rules with every time a fifth: the incidents last minutes in place of half an hour."""
FIRING = 'count by (alertname) (ALERTS{alertstate="firing",long_window=~"|1h"})'
"""Slow burns of an error budget go on for hours after an incident, and should: they are not asked for."""


def expectation(seconds: float, alerts: set[str]) -> dict[str, object]:
    """Expect that exactly these alerts fire at a time, beside the watchdog."""
    names = sorted(alerts | {"VllmWatchdog"})
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names]
    return {"expr": FIRING, "eval_time": f"{seconds:g}s", "exp_samples": samples}


def quick_rules(folder: Path) -> Path:
    """Write the rules as a drill wants them."""
    thresholds = Thresholds(time_scale=PACE)
    slos, _ = slo_files(thresholds, Format.PROMETHEUS)
    for name, content in (rule_files(thresholds, Format.PROMETHEUS) | slos).items():
        (folder / name).write_bytes(content)
    return folder / "*.rules.yml"


def played(scenario: str, folder: Path) -> promtool.Result:
    """Play a scenario and let promtool judge; return what it says against it."""
    played = asyncio.run(run_scenario(around(scenario), CALM + INCIDENT + RECOVERY))
    promised = set(SCENARIOS[scenario].alerts)
    test = {
        "rule_files": [str(quick_rules(folder))],
        "evaluation_interval": f"{SCRAPE:g}s",
        "tests": [
            {
                "interval": f"{SCRAPE:g}s",
                "input_series": series(played),
                "promql_expr_test": [
                    expectation(CALM - 2 * SCRAPE, set()),
                    expectation(CALM + INCIDENT - 2 * SCRAPE, promised),
                    expectation(CALM + INCIDENT + RECOVERY - SCRAPE, set()),
                ],
            }
        ],
    }
    file = folder / f"{scenario}.yml"
    file.write_text(json.dumps(test))
    return promtool.test_rules(file)


@pytest.mark.parametrize("scenario", others_slow(SCENARIOS, "stall", "kv-exhaustion"))
def test_a_scenario_raises_exactly_the_alerts_it_promises_and_they_resolve(scenario: str, tmp_path: Path) -> None:
    result = played(scenario, tmp_path)
    assert result.ok, result.output


PLAYED = frozenset(alert for scenario in SCENARIOS.values() for alert in scenario.alerts)


def test_what_the_scenarios_promise_exists() -> None:
    assert {*(alert.name for alert in ALERTS), *SLO_ALERTS} >= PLAYED
