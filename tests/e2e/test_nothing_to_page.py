"""The commands of docs/kubernetes.md from nothing to a page, for 40 pods in three clusters, as the page has them.

What is emulated: the API servers, their controllers, and the kubelets. A sidecar is one process for all pods of its
cluster, which listens on the address of each, next to one simulated vLLM.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import kubernetes_cluster
import kubernetes_tools
import newer
import pods
import pytest
import yaml
from places import ROOT
from receivers import webhook
from sidecar_process import started
from simulator_process import simulator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kubernetes_cluster import Cluster

pytestmark = [pytest.mark.io, pytest.mark.e2e, pytest.mark.slow]

DOCUMENT = ROOT / "docs" / "kubernetes.md"
PODS = {"eu-1": 14, "eu-2": 13, "us-1": 13}
PUBLISHED = {
    "oci://ghcr.io/vllm-sidecar/charts/vllm-sidecar": f"{ROOT}/deploy/helm/vllm-sidecar",
    "https://github.com/vllm-sidecar/vllm-sidecar//deploy/kustomize/components/sidecar?ref=v0.1.0": "sidecar",
}
"""Addresses in the document -> the same in this checkout; kustomize reads only what is below its folder."""
PATIENCE = 240.0
VLLM = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: vllm
spec:
  selector: {matchLabels: {app: vllm}}
  template:
    metadata: {labels: {app: vllm}}
    spec:
      containers: [{name: vllm, image: "vllm/vllm-openai:v0.32.0", args: [--model=Qwen/Qwen3-8B]}]
"""
"""Without replicas, which differ between the clusters and belong to a scaler."""


@dataclass
class Desk:
    """What the services that notify people have received; PagerDuty's and a heartbeat's bodies."""

    pages: list[dict[str, Any]] = field(default_factory=list)
    heartbeats: list[dict[str, Any]] = field(default_factory=list)
    tickets: list[dict[str, Any]] = field(default_factory=list)

    def summaries(self) -> list[str]:
        """Return the pages that were triggered."""
        return [each["payload"]["summary"] for each in self.pages if each["event_action"] == "trigger"]

    def alive(self) -> set[str]:
        """Return the clusters whose heartbeat arrived."""
        return {alert["labels"].get("cluster", "") for body in self.heartbeats for alert in body["alerts"]}


@dataclass(frozen=True)
class Section:
    """The blocks of the document's section, with the addresses of this checkout."""

    shell: list[str]
    kustomization: str
    commands: int
    """How many it promises."""


def section() -> Section:
    text = re.search(r"^## From nothing to a page$(.*?)^## ", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert text is not None
    local = text[1]
    for published, path in PUBLISHED.items():
        assert published in local
        local = local.replace(published, path)
    (kustomization,) = re.findall(r"^```yaml\n(.*?)^```$", local, re.DOTALL | re.MULTILINE)
    promised = re.search(r"(\d+) commands to install, (\d+) to look and (\d+) for the test page", local)
    assert promised is not None
    shell = re.findall(r"^```sh\n(.*?)^```$", local, re.DOTALL | re.MULTILINE)
    return Section(shell, kustomization, sum(map(int, promised.groups())))


async def test_the_commands_of_the_document_lead_to_a_page(tmp_path: Path, record_property: Any) -> None:
    programs = str(newer.program("prometheus")), str(newer.program("prometheus-alertmanager"))
    desk, blocks = Desk(), section()
    files, install, manifests, look, page, done = blocks.shell
    async with AsyncExitStack() as stack:
        pagerduty, slack, heartbeat = (
            stack.enter_context(webhook(bodies.append)) for bodies in (desk.pages, desk.tickets, desk.heartbeats)
        )
        settings = {"pagerduty_url": pagerduty, "resolve_timeout": "5m"}
        clusters = {}
        for number, name in enumerate(PODS, 1):
            made = kubernetes_cluster.running(name, tmp_path / name, f"127.77.{number}", programs, settings)
            clusters[name] = await stack.enter_async_context(made)
        servers = stack.enter_context(ExitStack())
        vllm = {each.name: await asyncio.to_thread(run_pods, each, servers) for each in clusters.values()}
        terminal = Terminal(tmp_path / "repository", clusters)

        await terminal.run(files)
        secrets = f"pagerduty=KEY\nslack={slack}\nheartbeat={heartbeat}\n"
        (terminal.folder / "secrets.env").write_text(secrets)
        await before(terminal, clusters)

        began = time.monotonic()
        await terminal.run(install)
        inject(terminal.folder, blocks.kustomization)
        printed = await terminal.run(manifests)
        assert printed.count('deployment "vllm" successfully rolled out') == 3
        installed = time.monotonic()
        for cluster in clusters.values():
            await until(partial(all_scraped, cluster))
        await until(lambda: all(fires(cluster, "VllmWatchdog") for cluster in clusters.values()))
        found = await terminal.run(look)
        assert len(re.findall(r"^llm +vllm-", found, re.MULTILINE)) == 40
        assert re.findall(r'{"job":"vllm-sidecar"},"value":\[[0-9.]+,"(\d+)"\]', found) == ["14", "13", "13"]
        assert len(re.findall(r'{"metric":{},"value":\[[0-9.]+,"1"\]}', found)) == 3
        seen = time.monotonic()

        await terminal.run(page)
        await until(lambda: any("VllmTestPage" in each for each in desk.summaries()))
        paged = time.monotonic()
        assert [each for each in desk.summaries() if "us-1" in each] == desk.summaries()
        await terminal.run(done)
        assert terminal.commands == blocks.commands

        await until(lambda: bool(desk.heartbeats))
        vllm["us-1"].kill()
        stopped = time.monotonic()
        await until(lambda: any("VllmReplicasUnavailable" in each for each in desk.summaries()))
        gone = time.monotonic()
        (last,) = (each["payload"] for each in desk.pages if "VllmReplicasUnavailable" in each["payload"]["summary"])
        assert "in llm (us-1)" in last["summary"]
        assert "13 of 13 replicas" in last["custom_details"]["text"]
        assert [each for each in desk.summaries() if "eu-" in each] == []
        assert mistakes(clusters) == []
        assert gone - stopped < 180.0
        times = {"install": installed - began, "look": seen - installed, "test page": paged - seen}
        record_property("seconds", {**times, "page": gone - stopped})


class Terminal:
    """A shell in a folder, with contexts of kubectl for clusters; counts the commands that it ran."""

    def __init__(self, folder: Path, clusters: dict[str, Cluster]) -> None:
        folder.mkdir()
        self.folder, self.commands = folder, 0
        tools = folder.parent / "bin"
        tools.mkdir()
        for name in ("helm", "kubectl"):
            (tools / name).symlink_to(kubernetes_tools.program(name))
        config = folder.parent / "kubeconfig"
        config.write_text(yaml.safe_dump(contexts(clusters)))
        self._environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(folder.parent), "KUBECONFIG": str(config)}

    async def run(self, block: str) -> str:
        """Run a block of the document, and stop at the first command that fails; return what it printed."""
        command = ["bash", "-euxo", "pipefail", "-c", block]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        self.commands += len(re.findall(r"^\+ (?:kubectl|helm) ", done.stderr, re.MULTILINE))
        return str(done.stdout)


def contexts(clusters: dict[str, Cluster]) -> dict[str, object]:
    """Return a configuration of kubectl."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": each.url}} for name, each in clusters.items()],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "admin"}} for name in clusters],
        "users": [{"name": "admin", "user": {}}],
    }


def run_pods(cluster: Cluster, stack: ExitStack) -> subprocess.Popen[str]:
    """Run the simulated vLLM and the sidecar of a cluster's pods; return the process of vLLM."""
    process, url = stack.enter_context(simulator())
    addresses = [cluster.address(number) for number in range(PODS[cluster.name])]
    flags = [f"--web.listen-address={address}:{pods.PORT}" for address in addresses]
    stack.enter_context(started("--vllm.url", url, *flags, variables={"VLLM_SIDECAR_GPU_DEVICES": "none"}))
    return process


async def before(terminal: Terminal, clusters: dict[str, Cluster]) -> None:
    """Deploy vLLM as it was before anybody monitored it."""
    (terminal.folder / "vllm.yaml").write_text(VLLM)
    for name, cluster in clusters.items():
        await terminal.run(f"kubectl --context {name} --namespace llm apply --filename vllm.yaml")
        deployment = cluster.api.of_kind("Deployment")["vllm"]
        await cluster.api.store({**deployment, "spec": {**deployment["spec"], "replicas": PODS[name]}})
    terminal.commands = 0


def inject(folder: Path, kustomization: str) -> None:
    """Change the manifests as the document says."""
    shutil.copytree(ROOT / "deploy" / "kustomize" / "components" / "sidecar", folder / "sidecar")
    (folder / "kustomization.yaml").write_text(kustomization)
    labelled = VLLM.replace("  name: vllm\n", '  name: vllm\n  labels: {vllm-sidecar/inject: "true"}\n', 1)
    (folder / "vllm.yaml").write_text(labelled)


def all_scraped(cluster: Cluster) -> bool:
    """Return whether Prometheus scrapes the sidecars of all pods."""
    return len(cluster.prometheus.query('up{job="vllm-sidecar"} == 1')) == PODS[cluster.name]


def fires(cluster: Cluster, alert: str) -> bool:
    return bool(cluster.prometheus.query(f'ALERTS{{alertname="{alert}",alertstate="firing"}}'))


def mistakes(clusters: dict[str, Cluster]) -> list[str]:
    """Return what the strict schemas refuse in the objects that the commands created."""
    created = [
        each
        for cluster in clusters.values()
        for each in cluster.api.objects.values()
        if each["kind"] not in {"Pod", "Prometheus", "Alertmanager"}
    ]
    own = [each for each in created if not kubernetes_tools.is_custom(each)]
    custom = [each for each in created if kubernetes_tools.is_custom(each)]
    return [*kubernetes_tools.mistakes_of_kinds(own, "1.31"), *kubernetes_tools.mistakes_of_custom(custom)]


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end
        await asyncio.sleep(0.5)
