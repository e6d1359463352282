"""Each reason of failed polls raises the alert about what it shows, and only evidence of an outage pages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import promtool
import pytest
from runbook_pages import FOLDER as RUNBOOKS
from slo_traffic import labelled, rules

from vllm_sidecar.catalog.reasons import VLLM_REASONS, Evidence, Reason, reasons_of
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.thresholds import Thresholds

if TYPE_CHECKING:
    from pathlib import Path

OUTAGE = {"VllmTargetDown", "VllmReplicasUnavailable", "VllmAvailabilitySloBurn"}
RAISED = {
    Evidence.NO_PROCESS: OUTAGE,
    Evidence.FAILING: OUTAGE,
    Evidence.UNREADABLE: {"VllmMetricsMissing"},
    Evidence.SIDECAR: {"VllmMetricsMissing"},
    Evidence.NOT_ONE_ENGINE: {"VllmTargetNotOneServer"},
}
"""What fires after ten minutes of failed polls of a model's only replica, which had served for twenty."""
EXPLAINED = {
    "VllmMetricsMissing": (Evidence.UNREADABLE, Evidence.SIDECAR),
    "VllmTargetNotOneServer": (Evidence.NOT_ONE_ENGINE,),
}


def replica(reason: Reason) -> dict[str, str]:
    """Return the only replica of a model with the name of a reason."""
    where = {"instance": reason.value, "engine": ""}
    own = {**where, "model_name": reason.value}
    counts = "0+60x80 4800x60"
    return {
        f'up{{job="vllm-sidecar",instance="{reason}"}}': "1x140",
        labelled("up", **own, source="vllm"): "1x80 0x60",
        labelled("last_success_timestamp_seconds", **where, model_name="", source="vllm"): "0x140",
        labelled("slo_requests_total", **own, slo="availability"): counts,
        labelled("slo_good_requests_total", **own, slo="availability"): counts,
        labelled("requests_finished_total", **{**own, "engine": "0"}, finished_reason="stop"): "0+60x80 stale",
        labelled("poll_failures_total", **where, model_name="", source="vllm", reason=reason): "0x80 15+15x60",
    }


@pytest.mark.io
def test_a_failed_poll_raises_the_alert_about_what_it_shows_and_no_other(tmp_path: Path) -> None:
    groups = [group for group in alert_groups(Thresholds()) if group["name"] in ("vllm-models", "vllm-replicas")]
    (tmp_path / "pack.yml").write_text(json.dumps({"groups": groups}))
    series = {name: values for reason in VLLM_REASONS for name, values in replica(reason).items()}
    firing = 'label_replace(ALERTS{alertstate="firing"}, "model_name", "$1", "instance", "(.+)")'
    expected = [
        {"labels": f'{{alertname="{alert}",model_name="{reason}"}}', "value": 1}
        for reason in VLLM_REASONS
        for alert in RAISED[reason.evidence]
    ]
    played = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"group by (alertname, model_name) ({firing})",
                "eval_time": "30m",
                "exp_samples": expected,
            }
        ],
    }
    test = tmp_path / "test.yml"
    pack = [str(tmp_path / "pack.yml"), str(rules(tmp_path, "availability"))]
    test.write_text(json.dumps({"rule_files": pack, "evaluation_interval": "30s", "tests": [played]}))
    assert promtool.failures([test]) == {}


@pytest.mark.parametrize("alert", EXPLAINED)
def test_the_runbook_of_an_alert_names_each_reason_that_raises_it(alert: str) -> None:
    page = (RUNBOOKS / f"{alert}.md").read_text()
    assert [reason.value for reason in reasons_of(*EXPLAINED[alert]) if f"`{reason}`" not in page] == []
