"""A cluster as kube-prometheus-stack leaves it: an API server, pods of its Deployments, Prometheus, Alertmanager.

The programs are real. The emulated API server has two controllers: one makes the pods of Deployments, the other gives
Prometheus and Alertmanager what the operator would.
"""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import prometheus_operator
import yaml
from alertmanager import alertmanager
from kubernetes_api import cluster
from prometheus_process import Prometheus, configuration, prometheus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from kubernetes_api import KubernetesApi

Object = dict[str, Any]
SECONDS = 0.3
"""Between two looks of a controller."""
STACK = {"release": "kube-prometheus-stack"}
"""What its Prometheus selects."""
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass
class Cluster:
    """A running cluster; `subnet` has the addresses of its pods, of the loopback."""

    name: str
    api: KubernetesApi
    url: str
    folder: Path
    subnet: str
    prometheus: Prometheus
    alertmanager: str
    """Host and port."""
    settings: Mapping[str, object]
    """Global settings of Alertmanager."""

    def address(self, number: int) -> str:
        """Return the address of the pod with a number, from 0."""
        return f"{self.subnet}.{number + 1}"

    async def control(self) -> None:
        """Run the controllers until canceled."""
        seen = -1
        while True:
            if seen != self.api.changes:
                await self._run_pods()
                seen = self.api.changes
                await asyncio.to_thread(self._configure)
            await asyncio.sleep(SECONDS)

    async def _run_pods(self) -> None:
        for deployment in list(self.api.of_kind("Deployment").values()):
            wanted = {pod["metadata"]["name"]: pod for pod in self._pods_of(deployment)}
            known = self.api.of_kind("Pod")
            for name in known.keys() - wanted.keys():
                await self.api.remove(known[name])
            for name in wanted.keys() - known.keys():
                await self.api.store(wanted[name])
            ready = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), len(wanted))
            status = {"observedGeneration": deployment["metadata"]["generation"], **ready}
            if deployment.get("status") != status:
                await self.api.store({**deployment, "status": status})

    def _pods_of(self, deployment: Object) -> list[Object]:
        """Return the running pods of a Deployment; those of another template have other names."""
        template, metadata = deployment["spec"]["template"], deployment["metadata"]
        mark = blake2b(json.dumps(template, sort_keys=True).encode(), digest_size=4).hexdigest()
        found = []
        for number in range(deployment["spec"].get("replicas", 1)):
            ip = self.address(number)
            own = {"name": f"{metadata['name']}-{mark}-{number}", "namespace": metadata["namespace"]}
            status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "10.0.0.1"}
            found.append(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {**own, "labels": template["metadata"]["labels"]},
                    "spec": {**template["spec"], "nodeName": f"{self.name}-node-{number}"},
                    "status": status,
                }
            )
        return found

    def _configure(self) -> None:
        files = prometheus_operator.prometheus_files(self.api, self.url, self.alertmanager, self.folder)
        (self.folder / "rules").mkdir(exist_ok=True)
        stale = {path for path in (self.folder / "rules").iterdir() if f"rules/{path.name}" not in files}
        changed = [name for name, content in files.items() if self._written(name, content)]
        if changed or stale:
            for path in stale:
                path.unlink()
            self.prometheus.process.send_signal(signal.SIGHUP)
        if self._written("alertmanager.yml", prometheus_operator.alertmanager_config(self.api, self.settings)):
            request = urllib.request.Request(f"http://{self.alertmanager}/-/reload", method="POST")
            with urllib.request.urlopen(request, timeout=20):  # noqa: S310 - loopback
                pass

    def _written(self, name: str, content: object) -> bool:
        """Write a file; return whether it changed."""
        path, text = self.folder / name, yaml.dump(content, Dumper=_DUMPER, sort_keys=False)
        changed = not path.exists() or path.read_text() != text
        if changed:
            path.write_text(text)
        return changed


@asynccontextmanager
async def running(
    name: str, folder: Path, subnet: str, programs: tuple[str, str], settings: Mapping[str, object]
) -> AsyncIterator[Cluster]:
    """Run a cluster with the paths of Prometheus and Alertmanager; yield it once they are ready."""
    folder.mkdir()  # noqa: ASYNC240 - before anything runs
    async with AsyncExitStack() as stack:
        api, url = await stack.enter_async_context(cluster())
        (folder / "alertmanager.yml").write_text("{route: {receiver: none}, receivers: [{name: none}]}\n")
        notifier = await asyncio.to_thread(stack.enter_context, alertmanager(folder, programs[1]))
        database = await asyncio.to_thread(
            stack.enter_context, prometheus(folder, configuration(30), program=programs[0])
        )
        api.services["monitoring", "prometheus-operated:9090"] = database.url
        for each in _stack():
            await api.store(each)
        found = Cluster(name, api, url, folder, subnet, database, notifier, settings)
        async with asyncio.TaskGroup() as controllers:  # one that fails ends the test
            task = controllers.create_task(found.control())
            yield found
            task.cancel()


def _stack() -> list[Object]:
    """Return the objects by which the operator runs Prometheus and Alertmanager, as the stack's chart creates them."""
    version = "monitoring.coreos.com/v1"
    own = {"namespace": "monitoring", "labels": STACK}
    selects = {"matchLabels": STACK}
    return [
        {
            "apiVersion": version,
            "kind": "Prometheus",
            "metadata": {**own, "name": "kube-prometheus-stack-prometheus"},
            "spec": {"ruleSelector": selects, "podMonitorSelector": selects, "serviceMonitorSelector": selects},
        },
        {
            "apiVersion": version,
            "kind": "Alertmanager",
            "metadata": {**own, "name": "kube-prometheus-stack-alertmanager"},
            "spec": {"alertmanagerConfigSelector": {}},
        },
    ]
