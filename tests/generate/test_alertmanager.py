"""rules/alertmanager.yml: valid, every severity arrives where it should, and what inhibits shares real labels."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from alert_labels import either
from amtool import amtool
from places import RULES
from rows import for_each
from slo_alert_names import SLO_ALERTS

from vllm_sidecar import cli
from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.catalog.inhibitions import INHIBITIONS, Inhibition
from vllm_sidecar.catalog.objectives import BOUND_MISSING
from vllm_sidecar.generate import promql
from vllm_sidecar.generate.alertmanager import AlertmanagerFormat, alertmanager_files, configuration
from vllm_sidecar.generate.rules import alert_rules
from vllm_sidecar.generate.settings.thresholds import Thresholds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

FILE = RULES / "alertmanager.yml"
BY_NAME = {alert.name: alert for alert in ALERTS}
OPTIONAL = {"cluster", "namespace"}
"""Labels of an installation: on all alerts, or on none."""


def labels(name: str) -> frozenset[str]:
    """Return the labels that an alert may have."""
    if name in SLO_ALERTS:
        return frozenset(("job", "model_name", "slo"))
    (rule,) = alert_rules(BY_NAME[name], Thresholds())
    found = either(promql.parse(rule["expr"]))
    return found - {"target"} if "uuid" in found else found


def test_alertmanager_accepts_it() -> None:
    assert "SUCCESS" in amtool("check-config", str(FILE))


@for_each("name", [*BY_NAME, *SLO_ALERTS])
@for_each(
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


@for_each("inhibition", INHIBITIONS, ids=lambda each: each.sources[0])
def test_what_must_be_equal_is_on_both_sides(inhibition: Inhibition) -> None:
    for source in inhibition.sources:
        for target in inhibition.targets:
            needed = set(inhibition.equal) - OPTIONAL - set(inhibition.present)
            assert labels(source) >= needed, source
            assert labels(target) >= needed, (source, target)
            assert source != target


def test_nothing_inhibits_what_inhibits_it() -> None:
    pairs = {(s, t) for each in INHIBITIONS for s in each.sources for t in each.targets}
    assert not {(t, s) for s, t in pairs} & pairs


def severity(name: str) -> str:
    return BY_NAME[name].severity.value if name in BY_NAME else "page"


def test_no_inhibition_hides_a_page_behind_a_ticket() -> None:
    for each in INHIBITIONS:
        if "page" in map(severity, each.targets):
            assert {severity(name) for name in each.sources} == {"page"}


def test_a_burn_that_is_a_ticket_inhibits_no_tickets_of_replicas() -> None:
    """It lasts for days."""
    for each in INHIBITIONS:
        assert each.paging or not set(SLO_ALERTS) & set(each.sources)
    rules = [rule for rule in configuration(Thresholds())["inhibit_rules"] if "SloBurn" in rule["source_matchers"][0]]
    assert rules
    assert all('severity=~"page|critical"' in rule["source_matchers"] for rule in rules)


def test_pages_of_a_model_are_one_notification_and_tickets_one_for_each_alert() -> None:
    top = configuration(Thresholds())["route"]["routes"][0]
    page = next(route for route in top["routes"] if route["receiver"] == "vllm-page")
    assert page["group_by"] == ["cluster", "namespace", "model_name"]
    assert top["group_by"] == ["cluster", "namespace", "model_name", "alertname"]


def test_a_page_about_an_objective_keeps_back_its_tickets_but_not_that_a_replica_is_left_out() -> None:
    rule = yaml.safe_load(FILE.read_text())["inhibit_rules"][-1]
    assert 'severity=~"ticket|warning"' in rule["target_matchers"]
    assert f'alertname!="{BOUND_MISSING}"' in rule["target_matchers"]
    assert {"slo", "model_name"} <= set(rule["equal"])


RUNBOOK, DASHBOARD = "https://x/books/VllmQueueWaitHigh.md", "https://g/d/vllm-engine"
DATA: dict[str, Any] = {
    "status": "firing",
    "receiver": "x",
    "groupLabels": {},
    "commonLabels": {"alertname": "VllmQueueWaitHigh", "model_name": "m", "namespace": "n", "cluster": "c"},
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


@for_each(
    ("template", "expected"),
    [
        ("vllm.title", "[FIRING] VllmQueueWaitHigh m in n (c)"),
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


def test_a_title_of_several_alerts_begins_with_the_first_of_them(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    common = {key: value for key, value in DATA["commonLabels"].items() if key != "alertname"}
    data.write_text(json.dumps({**DATA, "commonLabels": common, "alerts": 2 * DATA["alerts"]}))
    text = amtool("template", "render", f"--template.glob={RULES}/*.tmpl", f"--template.data={data}",
                  '--template.text={{ template "vllm.title" . }}')  # fmt: skip
    assert text.strip() == "[FIRING: 2] m in n (c): a request waits"


def test_a_message_without_links_has_no_empty_lines_for_them(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    alert = {**DATA["alerts"][0], "annotations": {"summary": "a request waits", "description": "More than 10s."}}
    data.write_text(json.dumps({**DATA, "alerts": [alert]}))
    text = amtool("template", "render", f"--template.glob={RULES}/*.tmpl", f"--template.data={data}",
                  '--template.text={{ template "vllm.text" . }}')  # fmt: skip
    assert text.strip() == "a request waits\nMore than 10s."


def test_every_template_that_a_receiver_uses_is_defined() -> None:
    text, templates = FILE.read_text(), (RULES / "vllm-sidecar.tmpl").read_text()
    used = set(re.findall(r'template "(vllm\.\w+)"', text))
    assert used == set(re.findall(r'define "(vllm\.\w+)"', templates))


def test_what_the_command_writes_is_all_that_alertmanager_needs(tmp_path: Path) -> None:
    """A template that is named and not there would drop every page."""
    assert cli.main(["generate", "alertmanager", "--out", str(tmp_path)]) == 0
    assert "1 templates" in amtool("check-config", str(tmp_path / "alertmanager.yml"))
    assert {path.name for path in tmp_path.iterdir()} == {"alertmanager.yml", "vllm-sidecar.tmpl"}


HOUSE = Thresholds.model_validate(
    {"severities": {"page": "critical", "ticket": "warning", "watchdog": "none"}, "cluster_label": "region"}
)


@for_each(
    ("severity", "receiver"),
    [("critical", "vllm-page"), ("warning", "vllm-ticket"), ("info", "vllm-none"), ("none", "vllm-heartbeat")],
)
def test_severities_of_the_house_go_to_the_same_receivers(severity: str, receiver: str, tmp_path: Path) -> None:
    for name, content in alertmanager_files(HOUSE, AlertmanagerFormat.ALERTMANAGER).items():
        (tmp_path / name).write_bytes(content)
    file = f"--config.file={tmp_path}/alertmanager.yml"
    labels = ("alertname=VllmTargetDown", f"severity={severity}")
    assert amtool("config", "routes", "test", file, *labels).strip() == receiver


@for_each(("severity", "receiver"), [("critical", "vllm-page"), ("warning", "vllm-ticket")])
def test_an_alert_that_alone_is_called_as_most_houses_call_it_arrives_too(severity: str, receiver: str) -> None:
    labels = ("alertname=VllmTargetDown", f"severity={severity}")
    assert amtool("config", "routes", "test", f"--config.file={FILE}", *labels).strip() == receiver


def test_the_label_of_clusters_is_that_of_the_house_in_routes_inhibitions_and_messages() -> None:
    files = alertmanager_files(HOUSE, AlertmanagerFormat.ALERTMANAGER)
    for content in files.values():
        assert not re.search(rb"\bcluster\b(?!,)", content)
    assert b".CommonLabels.region" in files["vllm-sidecar.tmpl"]


def test_an_object_for_the_operator_has_the_same_routes_inhibitions_and_texts() -> None:
    ((name, content),) = alertmanager_files(Thresholds(), AlertmanagerFormat.ALERTMANAGER_CONFIG).items()
    document, plain = yaml.safe_load(content), configuration(Thresholds())
    assert (name, document["kind"]) == ("vllm-sidecar.alertmanagerconfig.yml", "AlertmanagerConfig")
    spec = document["spec"]
    assert set(spec) == {"route", "inhibitRules", "receivers"}

    def written(matchers: list[dict[str, str]]) -> list[str]:
        return [f'{each["name"]}{each["matchType"]}"{each["value"]}"' for each in matchers]

    def same(route: dict[str, Any], of: dict[str, Any]) -> None:
        assert written(route["matchers"]) == of["matchers"]
        assert route["receiver"] == of["receiver"]
        for key, other in (("groupBy", "group_by"), ("groupWait", "group_wait"), ("repeatInterval", "repeat_interval")):
            assert route.get(key) == of.get(other)
        for each, other in zip(route.get("routes", []), of.get("routes", []), strict=True):
            same(each, other)

    same(spec["route"], plain["route"]["routes"][0])
    for rule, other in zip(spec["inhibitRules"], plain["inhibit_rules"], strict=True):
        assert written(rule["sourceMatch"]) == other["source_matchers"]
        assert written(rule["targetMatch"]) == other["target_matchers"]
        assert rule["equal"] == other["equal"]
    used = {route["receiver"] for route in (spec["route"], *spec["route"]["routes"])}
    assert used <= {receiver["name"] for receiver in spec["receivers"]}
    (page,) = next(each["pagerdutyConfigs"] for each in spec["receivers"] if each["name"] == "vllm-page")
    assert page["description"].startswith("[{{ .Status | toUpper }}")
    assert "template" not in content.decode().partition("receivers:")[2]


def test_the_command_writes_it_anywhere(tmp_path: Path) -> None:
    assert cli.main(["generate", "alertmanager", "--out", str(tmp_path)]) == 0
    assert yaml.safe_load((tmp_path / "alertmanager.yml").read_text()) == yaml.safe_load(FILE.read_text())
    assert cli.main(["generate", "alertmanager", "--out", str(tmp_path), "--check"]) == 0
