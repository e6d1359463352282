"""The chart and the components in an API server, by real Helm, kubectl and Prometheus."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import kubernetes_tools
import newer
import pods
import prometheus_operator
import prometheus_process
import pytest
import yaml
from kubernetes_api import cluster, plural
from places import ROOT
from sidecar_process import sidecar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kubernetes_api import KubernetesApi

pytestmark = [pytest.mark.io, pytest.mark.e2e]

CHART = ROOT / "deploy" / "helm" / "vllm-sidecar"
EXAMPLE = ROOT / "deploy" / "kustomize" / "examples" / "deployment"
POD_ADDRESS = "127.0.0.77"
"""Of the loopback, so that the sidecar can listen on its port there."""


async def test_all_that_the_chart_renders_can_be_created() -> None:
    values = ("--values", CHART / "ci" / "all-values.yaml")
    text = kubernetes_tools.run("helm", "template", "vllm-sidecar", CHART, "--namespace=monitoring", *values).stdout
    expected = {
        (plural(each["kind"]), each["metadata"].get("namespace", "default"), each["metadata"]["name"])
        for each in kubernetes_tools.objects(text)
    }
    async with cluster() as (api, url):
        await created(url, text)
        assert {key[1:] for key in api.objects} == expected


async def test_helm_refuses_a_cluster_without_native_sidecars() -> None:
    async with cluster("v1.27.9") as (_, url):
        own = ("--namespace", "monitoring", "--kube-apiserver", url)
        done = await asyncio.to_thread(kubernetes_tools.run, "helm", "install", "vllm-sidecar", CHART, *own)
        assert "chart requires kubeVersion: >=1.28.0-0" in done.stderr


async def test_prometheus_finds_a_native_sidecar_by_the_pod_monitor_and_evaluates_the_rules(tmp_path: Path) -> None:
    chart = kubernetes_tools.objects(kubernetes_tools.run("helm", "template", "x", CHART, "--set=cluster=eu-1").stdout)
    (monitor,) = (each for each in chart if each["kind"] == "PodMonitor")
    for number, rule in enumerate(each for each in chart if each["kind"] == "PrometheusRule"):
        (tmp_path / f"{number}.rules.yml").write_text(yaml.safe_dump(rule["spec"]))
    (deployment,) = kubernetes_tools.built(EXAMPLE)
    async with cluster() as (api, url):
        await start(api, url, pod_of(deployment))
        await start(api, url, other_pod(deployment))
        with sidecar(f"--web.listen-address={POD_ADDRESS}:{pods.PORT}"):
            job = {**prometheus_operator.scrape_config(monitor, url), "scrape_interval": "1s"}
            config = prometheus_process.configuration(1, job, rules=tmp_path / "*.rules.yml")
            found = await asyncio.to_thread(observed, config, tmp_path)
    (up,) = found["up"]
    labels = {key: up["metric"][key] for key in ("job", "cluster", "node", "instance")}
    assert labels == {
        "job": "vllm-sidecar",
        "cluster": "eu-1",
        "node": "node-1",
        "instance": f"{POD_ADDRESS}:{pods.PORT}",
    }
    assert up["value"][1] == "1"
    assert found["watchdog"]


def observed(config: Mapping[str, object], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Run Prometheus until the watchdog fires; return the series of `up` and of the watchdog.

    It is a newer one, because Debian's of bookworm was built without the discovery of Kubernetes.
    """
    program = str(newer.program("prometheus"))
    with prometheus_process.prometheus(folder, config, program=program) as prometheus:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            watchdog = prometheus.query('ALERTS{alertname="VllmWatchdog"}')
            up = prometheus.query("up")
            if watchdog and up:
                break
            time.sleep(0.5)
        return {"up": up, "watchdog": watchdog}


async def created(url: str, text: str) -> None:
    """Create objects with kubectl."""
    arguments = ("--server", url, "create", "--filename", "-")
    done = await asyncio.to_thread(kubernetes_tools.run, "kubectl", *arguments, text=text)
    assert done.returncode == 0, done.stderr


async def start(api: KubernetesApi, url: str, pod: dict[str, Any]) -> None:
    """Create a pod, and set its status as a kubelet does."""
    await created(url, json.dumps({key: value for key, value in pod.items() if key != "status"}))
    await api.store({**api.of_kind("Pod")[pod["metadata"]["name"]], "status": pod["status"]})


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return a running pod of a Deployment."""
    template = deployment["spec"]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "vllm-0", "namespace": "llm", "labels": template["metadata"]["labels"]},
        "spec": {**template["spec"], "nodeName": "node-1"},
        "status": {"phase": "Running", "podIP": POD_ADDRESS, "podIPs": [{"ip": POD_ADDRESS}], "hostIP": "10.0.0.1"},
    }


def other_pod(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return a pod next to it that has no sidecar."""
    pod = pod_of(deployment)
    metadata = {"name": "other", "namespace": "llm", "labels": {"app": "other"}}
    return {**pod, "metadata": metadata, "spec": {"containers": pod["spec"]["containers"]}}
