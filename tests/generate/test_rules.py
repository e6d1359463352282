"""The rules as files: valid for each reader, with the user's selector, times, labels and links in every one."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import promtool
import pytest
import yaml
from alert_labels import either
from rows import for_each

from vllm_sidecar import cli
from vllm_sidecar.catalog.alerts import ALERTS, Alert
from vllm_sidecar.generate import promql
from vllm_sidecar.generate.formats import Format
from vllm_sidecar.generate.outputs import rule_files
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.thresholds import Thresholds, labels_of
from vllm_sidecar.generate.slo_rules import slo_rules

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.io


def rules(**settings: Any) -> list[dict[str, Any]]:
    """Return the alerts."""
    return [rule for rule in all_rules(**settings) if "alert" in rule]


def all_rules(**settings: Any) -> list[dict[str, Any]]:
    """Return alerts and what they record."""
    return generated(json.dumps(settings))


@functools.cache
def generated(settings: str) -> list[dict[str, Any]]:
    thresholds = Thresholds.model_validate(json.loads(settings))
    return [rule for group in alert_groups(thresholds) for rule in group["rules"]]


def named(name: str, **settings: Any) -> list[dict[str, Any]]:
    return [rule for rule in rules(**settings) if rule["alert"] == name]


MODEL = {"m.1": {"profile": "interactive"}, "same": {"profile": "standard"}}


@for_each(
    "settings",
    [
        {},
        {"profile": "interactive"},
        {"profile": "batch", "selector": 'cluster=~"a|b"', "labels": {"team": "x"}},
        {"models": MODEL, "time_scale": 0.01, "scrape_interval": "1s", "evaluation_interval": "1s"},
        {"time_scale": 10.0},
    ],
    ids=["defaults", "interactive", "selector", "models and drill", "slow"],
)
def test_promtool_accepts_the_rules(settings: dict[str, Any], tmp_path: Path) -> None:
    for name, content in rule_files(Thresholds.model_validate(settings), Format.PROMETHEUS).items():
        (tmp_path / name).write_bytes(content)
        result = promtool.check_rules(tmp_path / name)
        assert result.ok, result.output


def test_every_metric_of_the_sidecar_gets_the_selector() -> None:
    for rule in all_rules(selector='cluster="x"'):
        for selected in re.findall(r"vllm_sidecar_[a-z_]+(?:\{[^}]*\})?", rule["expr"]):
            assert 'cluster="x"' in selected, rule
        for recorded in re.findall(r"vllm_sidecar:[a-z0-9_:]+(?:\{[^}]*\})?", rule["expr"]):
            assert 'pack="cluster-x"' in recorded, rule
    assert named("VllmSidecarDown", selector='cluster="x"')[0]["expr"] == (
        'up{job=~"(.*/)?vllm-sidecar(-gpu)?",cluster="x"} == 0'
    )


def test_a_model_with_settings_of_its_own_has_its_rule_and_is_left_out_of_the_general_one() -> None:
    own, general = named("VllmQueueWaitHigh", models=MODEL)
    assert 'seconds{model_name="m.1"} > 2 ' in own["expr"]
    assert r'seconds{model_name!~"m\\.1"} > 10 ' in general["expr"]
    assert own["expr"].count('model_name="m.1"') == own["expr"].count("vllm_sidecar_")
    assert (own["labels"].get("settings"), general["labels"].get("settings")) == ("m.1", None)


def test_a_name_with_quotes_cannot_leave_its_matcher() -> None:
    own, general = named("VllmQueueWaitHigh", models={'a"} or vector(1) #': {"profile": "interactive"}})
    assert r'{model_name="a\"} or vector(1) #"}' in own["expr"]
    assert "vector" in general["expr"]


@for_each("setting", ["selector", "pack"])
def test_what_is_recorded_for_one_pack_is_read_by_its_alerts_only(setting: str) -> None:
    (gone,) = named("VllmModelGone", **{setting: {"selector": 'env="prod"', "pack": "prod"}[setting]})
    packs = set(re.findall(r'vllm_sidecar:[a-z0-9_:]+\{pack="([^"]+)"\}', gone["expr"]))
    assert packs == {{"selector": "env-prod", "pack": "prod"}[setting]}


def test_a_page_is_about_a_model_and_there_are_few_of_them() -> None:
    groups = alert_groups(Thresholds()) + slo_rules(Thresholds()).groups
    every = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    pages = {rule["alert"]: rule for rule in every if rule["labels"]["severity"] == "page"}
    assert len(pages) <= 12  # two of them are about the canary, which is off by default
    for rule in pages.values():
        known = promql.labels(promql.parse(rule["expr"]))
        assert known <= {"cluster", "namespace", "job", "model_name"} or "slo" in rule["labels"], rule["alert"]


@for_each("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_label_that_a_text_names_is_one_of_the_alert(rule: dict[str, Any]) -> None:
    texts = rule["annotations"]["summary"] + rule["annotations"]["description"]
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= either(promql.parse(rule["expr"]))


@for_each("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_text_says_which_model_or_replica_and_leaves_no_empty_brackets(rule: dict[str, Any]) -> None:
    """Names that discovery may not give stand in `with`, so that nothing is left of the words around them."""
    summary = rule["annotations"]["summary"]
    if rule["alert"] not in ("VllmWatchdog", "VllmRuleEvaluationsMissed"):
        assert "$labels.model_name" in summary or "$labels.pod" in summary
    for label in ("namespace", "node", "cluster", "target"):
        bare = re.findall(rf"\{{\{{ \$labels\.{label} \}}\}}", summary)
        assert bare == []


@for_each("part", ["alerts", "objectives"])
def test_a_query_for_people_selects_by_labels_that_its_metric_has(part: str) -> None:
    groups = slo_rules(Thresholds()).groups if part == "objectives" else alert_groups(Thresholds())
    texts = "".join(
        rule["annotations"]["description"] for group in groups for rule in group["rules"] if "alert" in rule
    )
    found = re.findall(r"vllm_sidecar_(\w+)\{([^{}]*(?:\{\{[^{}]*\}\}[^{}]*)*)\}", texts)
    assert found
    for metric, matchers in found:
        if "model_name=" in matchers:
            assert "model_name" in labels_of(metric), metric


def test_a_query_of_a_text_asks_for_the_model_of_the_alert_and_keeps_the_selector_as_it_is() -> None:
    (rule,) = named("VllmReplicasUnavailable", selector='env=~"a%b|`c"', cluster_label="region")
    assert r"query }}" in rule["annotations"]["summary"]
    assert r"region=%q,namespace=%q,model_name=%q" in rule["annotations"]["summary"]
    assert "$labels.region $labels.namespace $labels.model_name" in rule["annotations"]["summary"]
    (waits,) = named("VllmQueueWaitHigh", selector='env=~"a%b|`c"', cluster_label="region")
    assert r"env=~\"a%%b|`c\"" in waits["annotations"]["description"]
    assert 'env=~"a%b|`c"' in waits["expr"]


def test_times_shrink_with_the_scale_but_not_below_what_scrapes_and_evaluations_need() -> None:
    (loop,) = named("VllmCrashLoop", time_scale=0.1)
    assert "[6m]" in loop["expr"]
    assert "[1m30s]" in loop["expr"]
    assert (loop["for"], loop["keep_firing_for"]) == ("30s", "30s")
    (quick,) = named("VllmCrashLoop", time_scale=0.001, scrape_interval="1s", evaluation_interval="1s")
    assert "[4s]" in quick["expr"]
    assert quick["for"] == "2s"
    assert "offset 1m)" in named("VllmTargetDown", time_scale=0.1)[0]["expr"]


def test_an_alert_that_is_switched_off_is_left_out() -> None:
    assert named("VllmCrashLoop", alerts={"VllmCrashLoop": {"enabled": False}}) == []


@for_each("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_tells_what_why_what_to_do_and_where_to_look(alert: Alert) -> None:
    (rule,) = named(alert.name, runbook_url="https://x/books/", dashboard_url="https://g")
    notes = rule["annotations"]
    assert notes["runbook_url"].partition("?")[0] == f"https://x/books/{alert.name}.md"
    assert notes["dashboard_url"].startswith(f"https://g/d/{alert.dashboard}?")
    assert "Likely: " in notes["description"]
    assert "First: " in notes["description"]
    assert "<<" not in "".join(notes.values()) + rule["expr"]
    assert rule.get("for", "1m") != "0s"


def test_a_link_to_a_runbook_hands_over_the_labels_that_the_alert_has() -> None:
    (replica,), (model,) = (
        named(name, runbook_url="http://sidecar:10190/runbooks") for name in ("VllmEngineStalled", "VllmModelGone")
    )
    assert model["annotations"]["runbook_url"].partition("?")[2] == (
        "{{ with $labels.namespace }}namespace={{ . | urlquery }}&{{ end }}"
        "{{ with $labels.model_name }}model_name={{ . | urlquery }}&{{ end }}"
    )
    assert "{{ with $labels.pod }}pod={{ . | urlquery }}&{{ end }}" in replica["annotations"]["runbook_url"]
    (plain,) = named("VllmEngineStalled")
    assert plain["annotations"]["runbook_url"] == "rules/runbooks/VllmEngineStalled.md"


def test_texts_name_the_threshold_that_is_in_force() -> None:
    own, general = named("VllmQueueWaitHigh", models=MODEL)
    assert own["annotations"]["summary"].endswith("wait more than 2s")
    assert general["annotations"]["summary"].endswith("wait more than 10s")
    assert "More than 30% " in named("VllmReplicasUnavailable")[0]["annotations"]["description"]


def document(kind: Format, **settings: Any) -> tuple[str, str]:
    ((name, content),) = rule_files(Thresholds.model_validate(settings), kind).items()
    return name, content.decode()


def test_a_prometheus_rule_carries_the_labels_that_the_operator_selects() -> None:
    name, text = document(Format.PROMETHEUS_OPERATOR, rule_labels={"release": "kube"})
    parsed = yaml.safe_load(text)
    assert name == "vllm-sidecar.prometheusrule.yml"
    assert (parsed["apiVersion"], parsed["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert parsed["metadata"]["labels"] == {"app.kubernetes.io/name": "vllm-sidecar", "release": "kube"}
    assert parsed["spec"]["groups"] == alert_groups(Thresholds())


def test_mimir_gets_a_namespace() -> None:
    _, text = document(Format.MIMIR)
    assert yaml.safe_load(text) == {"namespace": "vllm-sidecar", "groups": alert_groups(Thresholds())}


def test_the_chart_s_template_puts_out_what_the_operator_reads() -> None:
    """Go's own template engine, the one in Helm, is asked by way of amtool."""
    _, plain = document(Format.PROMETHEUS_OPERATOR)
    _, hidden = document(Format.HELM)
    done = subprocess.run(
        ["amtool", "template", "render", "--template.glob=/dev/null", f"--template.text={hidden}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    # The digests of the two files differ.
    assert done.stdout.splitlines()[2:] == plain.splitlines()[2:]


def test_the_command_writes_checks_and_tidies_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "rules", "--out", str(tmp_path / "r")]
    assert cli.main([*arguments, "--check"]) == 1
    names = ("vllm-sidecar-slo.rules.yml", "vllm-sidecar.rules.yml")
    assert capsys.readouterr().out == "".join(f"{name}: not as generated\n" for name in names)
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--format", "mimir"]) == 0
    assert cli.main([*arguments, "--check"]) == 0
    (tmp_path / "r" / "vllm-sidecar.rules.yml").rename(tmp_path / "r" / "old.rules.yml")
    assert cli.main([*arguments, "--check"]) == 1
    assert "old.rules.yml: no longer generated; --prune deletes it\n" in capsys.readouterr().out


def test_an_unknown_format_is_told_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "rules", "--format", "xml"]) == 1
    assert capsys.readouterr().err == (
        "vllm-sidecar: --format: got 'xml'; allowed: prometheus, prometheus-operator, victoria-metrics-operator, "
        "helm, mimir\n"
    )
