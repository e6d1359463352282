"""The chart of deploy/helm, rendered by Helm: compared with the generator, with golden files, and with all schemas."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import re
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import kubernetes_tools
import pods
import pytest
import yaml
from helm_chart import CHART, RENDERED, VALUES, helm, of_kind, rendered
from places import ROOT

from vllm_sidecar import __version__
from vllm_sidecar.config import Config, load, unknown_variables
from vllm_sidecar.generate.alertmanager import alertmanager_config
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.thresholds import load_thresholds
from vllm_sidecar.generate.slo_rules import slo_rules
from vllm_sidecar.serve.otlp.resource import resource_attributes

pytestmark = pytest.mark.io

META = yaml.safe_load((CHART / "Chart.yaml").read_text())
MOST_RELEASE = 1024 * 1024
"""Bytes of the Secret in which Helm keeps a release."""
SETTINGS: dict[str, Any] = {
    "VllmQueueWaitHigh": {"wait": "2s500ms", "for": "2m", "replicas": 0.07},
    "VllmKvCachePressure": {"wait": "1m30s"},
    "VllmGpuXid": {"enabled": False},
    "VllmGpuEccCorrectable": {"enabled": False},  # the only alert of its group
    "VllmTargetDown": {"startup": "1h", "severity": "page"},
    "VllmRequestsCorrupted": {"corrupted": 0},
    "VllmErrorRatioHigh": {
        "errors": 0.123,
        "least_failed": 25,
        "labels": {"severity_of_team": "high"},
        "annotations": {"channel": "{{ $labels.namespace }}-oncall"},
    },
}


def with_values(values: dict[str, Any], *arguments: str) -> list[dict[str, Any]]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(json.dumps(values))
        file.flush()
        return kubernetes_tools.objects(helm("template", "x", CHART, "--values", file.name, *arguments))


def refusal(*arguments: str | Path) -> str:
    done = kubernetes_tools.run("helm", "template", "x", CHART, *arguments)
    assert done.returncode != 0
    return done.stderr


def rule_groups(found: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [each["spec"]["groups"] for each in of_kind(found, "PrometheusRule")]


@pytest.mark.e2e
@pytest.mark.parametrize("name", RENDERED)
def test_helm_lint_has_nothing_to_say(name: str) -> None:
    values = ["--values", VALUES[name]] if name in VALUES else []
    printed = helm("lint", "--strict", CHART, *values)
    findings = [line for line in printed.splitlines() if line.startswith("[") and "icon is recommended" not in line]
    assert findings == []


@pytest.mark.parametrize("name", RENDERED)
def test_the_objects_are_as_in_the_golden_file(name: str, golden: Any) -> None:
    """Without rules and dashboards, which are compared with those of the generator."""
    shown = copy.deepcopy(rendered(name))
    for each in shown:
        if each["kind"] == "PrometheusRule":
            each["spec"]["groups"] = [group["name"] for group in each["spec"]["groups"]]
        elif each["metadata"].get("labels", {}).get("grafana_dashboard"):
            each["data"] = sorted(each["data"])
        elif each["kind"] == "AlertmanagerConfig":
            each["spec"] = [receiver["name"] for receiver in each["spec"]["receivers"]]
    golden(f"charts/{name}.yaml", yaml.safe_dump_all(shown, sort_keys=False, width=120))


def test_the_rules_of_the_defaults_are_those_of_the_generator() -> None:
    runbooks = f"https://github.com/vllm-sidecar/vllm-sidecar/blob/v{__version__}/rules/runbooks"
    assert rule_groups(rendered("default")) == generated({"runbook_url": runbooks, "dashboard_url": ""})


def test_the_rules_of_a_users_thresholds_are_those_of_the_generator() -> None:
    values = {
        "runbookUrl": "",
        "dashboardUrl": "https://grafana.example.org/",
        "severities": {"page": "critical", "ticket": "warning"},
        "alertLabels": {"team": "inference"},
        "alertAnnotations": {"pod": "{{ $labels.pod }}"},
        "alerts": SETTINGS,
    }
    thresholds = {
        "runbook_url": "",
        "dashboard_url": "https://grafana.example.org",
        "severities": {"page": "critical", "ticket": "warning"},
        "labels": {"team": "inference"},
        "annotations": {"pod": "{{ $labels.pod }}"},
        "alerts": SETTINGS,
    }
    assert rule_groups(with_values({"prometheusRule": values})) == generated(thresholds)


def generated(thresholds: dict[str, Any]) -> list[list[dict[str, Any]]]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(json.dumps(thresholds))
        file.flush()
        settings = load_thresholds(Path(file.name))
    return [alert_groups(settings), slo_rules(settings).groups]


@pytest.mark.e2e
def test_files_of_the_generator_replace_the_rules_of_the_chart() -> None:
    folder = ROOT / "rules"
    files = {"alerts": folder / "vllm-sidecar.rules.yml", "slos": folder / "vllm-sidecar-slo.rules.yml"}
    given = [f"--set-file=prometheusRule.files.{name}={path}" for name, path in files.items()]
    expected = [kubernetes_tools.objects(path.read_text())[0]["groups"] for path in files.values()]
    assert rule_groups(with_values({}, *given)) == expected


def test_routes_are_those_of_the_generator_and_a_receiver_can_be_replaced() -> None:
    (found,) = of_kind(rendered("all"), "AlertmanagerConfig")
    expected = alertmanager_config(load_thresholds(None))["spec"]
    assert {**found["spec"], "receivers": 0} == {**expected, "receivers": 0}
    own = {"name": "vllm-page", "webhookConfigs": [{"url": "http://oncall.example.org/page"}]}
    assert found["spec"]["receivers"] == [
        own if each["name"] == own["name"] else each for each in expected["receivers"]
    ]


def test_every_dashboard_is_in_a_config_map_of_its_own_below_the_limit() -> None:
    maps = of_kind(rendered("default"), "ConfigMap")
    boards = {path.name: path.read_text().strip() for path in (ROOT / "dashboards").glob("*.json")}
    assert len(maps) == len(boards)
    assert {name: text.strip() for each in maps for name, text in each["data"].items()} == boards
    # kubectl apply keeps a copy in an annotation, which is limited to 256 KiB.
    assert all(len(json.dumps(each)) < 256 * 1024 for each in maps)


def test_a_release_fits_into_the_secret_of_helm() -> None:
    """Helm keeps the chart, the values and the objects as one gzip of JSON, in base64."""
    texts = [path.read_text() for path in CHART.rglob("*") if path.is_file()]
    release = json.dumps({"chart": texts, "manifest": json.dumps(rendered("all"))})
    assert len(base64.b64encode(gzip.compress(release.encode()))) < MOST_RELEASE / 2


@pytest.mark.e2e
def test_the_package_has_what_it_needs_and_no_values_of_ci(tmp_path: Path) -> None:
    helm("package", CHART, "--destination", tmp_path)
    with tarfile.open(next(tmp_path.glob("*.tgz"))) as package:
        names = {name.partition("/")[2] for name in package.getnames()}
    assert {"Chart.yaml", "values.yaml", "values.schema.json", "README.md", "files/alerts.yaml"} <= names
    assert not any(name.startswith("ci/") for name in names)


def test_the_chart_has_the_version_of_the_program() -> None:
    assert (META["version"], META["appVersion"]) == (__version__, __version__)
    (image,) = yaml.safe_load(META["annotations"]["artifacthub.io/images"])
    assert image["image"] == "ghcr.io/vllm-sidecar/vllm-sidecar:" + __version__


@pytest.mark.e2e
def test_a_token_is_mounted_only_where_pods_are_listed() -> None:
    tokens = {
        (name, each["metadata"]["name"]): pod["automountServiceAccountToken"]
        for name in VALUES
        for each in rendered(name)
        for pod in pods.pod_specs(each)
    }
    assert {key for key, token in tokens.items() if token} == {
        ("all", "vllm-sidecar-gateway-1"),
        ("all", "vllm-sidecar-gateway-2"),
        ("gateway", "vllm-sidecar-gateway"),
    }


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all", [("Role", "chat"), ("Role", "code")]),
        ("gateway", [("ClusterRole", None)]),
        ("no-operator", []),
        ("default", []),
    ],
)
def test_a_role_allows_to_list_and_watch_pods_in_the_namespaces_that_are_discovered(
    name: str, expected: list[tuple[str, str | None]]
) -> None:
    roles = [each for each in rendered(name) if each["kind"] in {"Role", "ClusterRole"}]
    assert [(each["kind"], each["metadata"].get("namespace")) for each in roles] == expected
    for role in roles:
        assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    bindings = [each for each in rendered(name) if each["kind"] in {"RoleBinding", "ClusterRoleBinding"}]
    accounts = {each["metadata"]["name"] for each in of_kind(rendered(name), "ServiceAccount")}
    assert {subject["name"] for each in bindings for subject in each["subjects"]} == (accounts if expected else set())
    assert [each["roleRef"]["name"] for each in bindings] == [each["metadata"]["name"] for each in roles]


def test_selectors_select_the_pods_of_their_own_component_only() -> None:
    found = rendered("all")
    pods_of = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in found
        if each["kind"] in {"Deployment", "DaemonSet"}
    }
    gateways = {"vllm-sidecar-gateway-1", "vllm-sidecar-gateway-2"}
    expected = {
        ("PodMonitor", "vllm-sidecar"): set(),  # it selects the pods of vLLM
        ("PodMonitor", "vllm-sidecar-gpu"): {"vllm-sidecar-gpu"},
        ("NetworkPolicy", "vllm-sidecar-gpu"): {"vllm-sidecar-gpu"},
        ("NetworkPolicy", "vllm-sidecar-gateway"): gateways,
        ("Service", "vllm-sidecar-gateway"): gateways,
        ("DaemonSet", "vllm-sidecar-gpu"): {"vllm-sidecar-gpu"},
        **{("Deployment", name): {name} for name in gateways},
    }
    for (kind, name), selected in expected.items():
        (one,) = (each for each in of_kind(found, kind) if each["metadata"]["name"] == name)
        selector = one["spec"].get("podSelector") or one["spec"]["selector"]
        labels = selector.get("matchLabels", selector).items()
        assert {pod for pod, own in pods_of.items() if labels <= own.items()} == selected, (kind, name)
    (monitor,) = of_kind(found, "ServiceMonitor")
    (service,) = of_kind(found, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {port["name"] for port in service["spec"]["ports"]} == {monitor["spec"]["endpoints"][0]["port"]}


def test_the_pods_that_kustomize_labels_are_those_that_the_chart_scrapes() -> None:
    patch = yaml.safe_load((ROOT / "deploy/kustomize/components/sidecar/pod-template.yaml").read_text())
    template = patch["spec"]["template"]
    (monitor,) = of_kind(rendered("default"), "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    (container,) = template["spec"]["initContainers"]
    assert [port["name"] for port in container["ports"]] == [monitor["spec"]["podMetricsEndpoints"][0]["port"]]


@pytest.mark.parametrize("name", RENDERED)
def test_every_job_is_one_that_the_rules_know(name: str) -> None:
    known = re.compile(load_thresholds(None).sidecar_job)
    kinds = {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}
    for each in (one for one in rendered(name) if one["kind"] in kinds):
        (endpoint,) = each["spec"][kinds[each["kind"]]]
        (job,) = (rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "job")
        assert known.fullmatch(job), each["metadata"]["name"]


@pytest.mark.parametrize("name", RENDERED)
def test_the_sidecar_accepts_every_configuration_that_the_chart_writes(name: str, tmp_path: Path) -> None:
    written = [
        each["data"]["config.yaml"] for each in of_kind(rendered(name), "ConfigMap") if "config.yaml" in each["data"]
    ]
    discovers = "discovery" in Config.model_fields
    for text in written:
        if "discovery" in yaml.safe_load(text) and not discovers:
            pytest.skip("this version has no discovery")
        (tmp_path / "config.yaml").write_text(text)
        load(tmp_path / "config.yaml")


def test_the_pods_of_the_chart_push_with_the_attributes_of_their_pod() -> None:
    containers = [
        pod["containers"][0]
        for kind in ("Deployment", "DaemonSet")
        for each in of_kind(rendered("all"), kind)
        for pod in pods.pod_specs(each)
    ]
    assert len(containers) == 3
    for container in containers:
        secret = {each["name"]: each for each in container["env"]}["OTEL_EXPORTER_OTLP_HEADERS"]
        assert secret["valueFrom"]["secretKeyRef"] == {"name": "otel-headers", "key": "headers"}
        variables = pods.environment(container, pods.DOWNWARD)
        assert list(unknown_variables(variables)) == []
        otlp = load(None, environment={**variables, "VLLM_SIDECAR_VLLM_URL": "http://127.0.0.1:8000"}).otlp
        assert (otlp.enabled, otlp.url, otlp.interval) == (True, "https://otel.example.org/v1/metrics", 30.0)
        found = resource_attributes(otlp.resource_attributes, variables, "")
        assert found["service.instance.id"] == "llm.vllm-0.vllm-sidecar"
        assert found["k8s.node.name"] == "node-1"
        assert found["k8s.cluster.name"] == "eu-1"
        assert found["deployment.environment.name"] == "prod"


def test_shards_are_numbered_for_the_sidecar() -> None:
    found = [
        pods.environment(pod["containers"][0])
        for each in of_kind(rendered("all"), "Deployment")
        for pod in pods.pod_specs(each)
    ]
    assert [each["VLLM_SIDECAR_DISCOVERY_SHARD"] for each in found] == ["1/2", "2/2"]


def test_scalers_read_the_saturation_of_their_model_and_keep_what_runs_without_it() -> None:
    (keda,) = of_kind(rendered("all"), "ScaledObject")
    (trigger,) = keda["spec"]["triggers"]
    assert 'vllm_sidecar_saturation_ratio{namespace="chat",model="Qwen--Qwen3-8B"}' in trigger["metadata"]["query"]
    assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("AverageValue", "0.7")
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert keda["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
    (hpa,) = of_kind(rendered("all"), "HorizontalPodAutoscaler")
    (metric,) = hpa["spec"]["metrics"]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "600m"}


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("prometheusRule.alerts.VllmQueueWaitHigh.wat=2s", "additional properties 'wat' not allowed"),
        ("prometheusRule.alerts.VllmQueueWaitHi.wait=2s", "additional properties 'VllmQueueWaitHi' not allowed"),
        ("prometheusRule.alerts.VllmQueueWaitHigh.wait=2sec", "does not match pattern"),
        ("prometheusRule.alerts.VllmErrorRatioHigh.errors=5", "maximum"),
        ("prometheusRule.severities.page=urgent", "value must be one of"),
        ("otlp.enabled=true", "'/otlp/endpoint': minLength"),
        ("otlp.settings.intervall=1s", "additional properties 'intervall' not allowed"),
        ("image.repo=x", "additional properties 'repo' not allowed"),
        ("gateway.enabled=true", "gateway.config names no servers"),
        ("gateway.config.discovery.shard=1/2", "'not' failed"),
        ("prometheusRule.files.alerts=none", "prometheusRule.files.alerts has no groups"),
    ],
)
def test_a_mistake_in_the_values_is_refused_by_name(given: str, complaint: str) -> None:
    assert complaint in refusal("--set", given)


@pytest.mark.e2e
def test_an_autoscaler_of_kubernetes_without_a_smallest_replica_is_refused() -> None:
    """KEDA scales to 0 by itself, Kubernetes refuses the object."""
    scaler = ("--set", "autoscaling[0].scaler=hpa", "--set", "autoscaling[0].minReplicas=0")
    complaint = refusal("--values", VALUES["all"], *scaler)
    assert "autoscaling: minReplicas of chat is 0" in complaint
    assert "set it to 1 or more, or use scaler: keda" in complaint
    accepted = helm("template", "x", CHART, "--values", VALUES["all"], *scaler[2:])
    assert "minReplicaCount: 0" in accepted


@pytest.mark.e2e
@pytest.mark.parametrize("name", RENDERED)
def test_the_notes_name_the_next_steps(name: str) -> None:
    values = ["--values", VALUES[name]] if name in VALUES else []
    notes = helm("install", "vllm-sidecar", CHART, "--dry-run=client", "--namespace", "monitoring", *values)
    text = notes.partition("NOTES:")[2]
    assert 'count(ALERTS{alertname="VllmWatchdog"})' in text
    assert ("-l vllm-sidecar/scrape=true" in text) is bool(of_kind(rendered(name), "PodMonitor"))
    assert ("port-forward deploy/vllm-sidecar-gateway" in text) is bool(of_kind(rendered(name), "Deployment"))
