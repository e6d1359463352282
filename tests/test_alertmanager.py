"""rules/alertmanager.yml: valid, every severity arrives where it should, and what inhibits shares real labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from amtool import amtool
from vllm_sidecar import cli
from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.catalog.inhibitions import INHIBITIONS, Inhibition
from vllm_sidecar.catalog.slos import EDGE_MISSING, SLO_ALERTS
from vllm_sidecar.config.thresholds import labels_of

RULES = Path(__file__).parents[1] / "rules"
FILE = RULES / "alertmanager.yml"
BY_NAME = {alert.name: alert for alert in ALERTS}
OPTIONAL = {"cluster", "namespace"}
"""Labels of an installation: on all alerts, or on none."""


def labels(name: str) -> set[str]:
    """Return the labels of an alert's series that come from the sidecar or the scrape."""
    metric = re.search(r"~([a-z0-9_]+)", BY_NAME[name].expr)
    if metric is None:  # Prometheus' own `up`
        return {"job", "instance"}
    own = set(labels_of(metric[1]))
    of_target = {"target"} if "gpu" not in own and not metric[1].startswith("gpu_missing") else set()
    return {"job", "instance", *own, *of_target}


def test_alertmanager_accepts_it() -> None:
    assert "SUCCESS" in amtool("check-config", str(FILE))


@pytest.mark.parametrize("name", [*BY_NAME, *SLO_ALERTS])
@pytest.mark.parametrize(
    ("severity", "receiver"),
    [("page", "vllm-page"), ("ticket", "vllm-ticket"), ("info", "vllm-none"), ("watchdog", "vllm-heartbeat")],
)
def test_a_severity_goes_to_its_receiver(name: str, severity: str, receiver: str) -> None:
    if name not in ("VllmTargetDown", "VllmAvailabilitySloBurn") and severity != "page":
        return  # the routes look at the name only to know that it is ours
    found = amtool("config", "routes", "test", f"--config.file={FILE}", f"alertname={name}", f"severity={severity}")
    assert found.strip() == receiver


def test_alerts_of_others_are_left_to_their_own_routes() -> None:
    found = amtool("config", "routes", "test", f"--config.file={FILE}", "alertname=NodeDown", "severity=page")
    assert found.strip() == "vllm-none"


def test_no_secret_stands_in_the_file() -> None:
    text = FILE.read_text()
    assert re.search(r"\b(api_key|routing_key|service_key|password|bearer_token):", text) is None


@pytest.mark.parametrize("inhibition", INHIBITIONS, ids=lambda each: each.sources[0])
def test_what_must_be_equal_is_on_both_sides(inhibition: Inhibition) -> None:
    for source in inhibition.sources:
        for target in inhibition.targets:
            needed = set(inhibition.equal) - OPTIONAL
            if source in ("VllmTargetDown", "VllmMetricsMissing", "VllmCrashLoop") or "target" not in needed:
                assert labels(source) >= needed, source
            assert labels(target) >= needed, (source, target)
            assert source != target


def test_nothing_inhibits_what_inhibits_it() -> None:
    pairs = {(s, t) for each in INHIBITIONS for s in each.sources for t in each.targets}
    assert not {(t, s) for s, t in pairs} & pairs


def test_no_inhibition_hides_a_page_behind_a_ticket() -> None:
    for each in INHIBITIONS:
        assert {BY_NAME[name].severity.value for name in each.sources} == {"page"}


def test_a_page_about_an_objective_keeps_back_its_tickets_but_not_that_a_replica_is_left_out() -> None:
    rule = yaml.safe_load(FILE.read_text())["inhibit_rules"][-1]
    assert 'severity=~"ticket|warning"' in rule["target_matchers"]
    assert f'alertname!="{EDGE_MISSING}"' in rule["target_matchers"]
    assert {"slo", "model_name"} <= set(rule["equal"])


RUNBOOK, DASHBOARD = "https://x/books/VllmQueueWaitHigh.md", "https://g/d/vllm-engine"
DATA: dict[str, Any] = {
    "status": "firing",
    "receiver": "x",
    "groupLabels": {},
    "commonLabels": {"alertname": "VllmQueueWaitHigh", "model_name": "m", "cluster": "c"},
    "commonAnnotations": {},
    "externalURL": "http://a",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "VllmQueueWaitHigh"},
            "annotations": {
                "summary": "a request waits",
                "description": "More than 10s.",
                "runbook_url": RUNBOOK,
                "dashboard_url": DASHBOARD,
            },
            "startsAt": "2026-01-01T00:00:00Z",
            "endsAt": "0001-01-01T00:00:00Z",
        }
    ],
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("vllm.title", "[FIRING: 1] VllmQueueWaitHigh m in c"),
        ("vllm.runbook", RUNBOOK),
        ("vllm.dashboard", DASHBOARD),
        ("vllm.text", f"a request waits\nMore than 10s.\nRunbook: {RUNBOOK}\nDashboard: {DASHBOARD}"),
    ],
)
def test_a_message_says_what_and_links_to_what_to_do(template: str, expected: str, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps(DATA))
    text = amtool(
        "template", "render", f"--template.glob={RULES}/*.tmpl", f"--template.data={data}",
        f'--template.text={{{{ template "{template}" . }}}}',
    )  # fmt: skip
    assert text.strip() == expected


def test_every_template_that_a_receiver_uses_is_defined() -> None:
    text, templates = FILE.read_text(), (RULES / "vllm-sidecar.tmpl").read_text()
    used = set(re.findall(r'template "(vllm\.\w+)"', text))
    assert used == set(re.findall(r'define "(vllm\.\w+)"', templates))


def test_the_command_writes_it_anywhere(tmp_path: Path) -> None:
    assert cli.main(["generate", "alertmanager", "--out", str(tmp_path)]) == 0
    assert yaml.safe_load((tmp_path / "alertmanager.yml").read_text()) == yaml.safe_load(FILE.read_text())
    assert cli.main(["generate", "alertmanager", "--out", str(tmp_path), "--check"]) == 0
