"""A pod as the Kubernetes API describes it -> an entry, with the labels that Prometheus makes of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.discovery import EntryState
from vllm_sidecar.discovery.entries import Entry
from vllm_sidecar.discovery.target_rules import Refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_PREFIX = "__meta_kubernetes_pod_"
_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]", re.ASCII)


def pod_key(pod: dict[str, Any]) -> str:
    """Return a text that is different for each pod that exists."""
    metadata = pod["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def pod_entry(pod: dict[str, Any], port: int | str, wanted: Collection[str]) -> Entry | Refusal | None:
    """Return the entry of a pod; None while it has no server to watch.

    Args:
        pod: The object of the API.
        port: Number, or name of a container's port.
        wanted: Names of the labels that are read; the others are left out.
    """
    status = pod.get("status") or {}
    ip = status.get("podIP")
    container, found = _container(pod, port)
    if not ip or status.get("phase") != "Running" or _has_ended(pod, container):
        return None
    if found is None:
        return Refusal(pod_key(pod), EntryState.INVALID, f"no container has a port named {port}")
    labels = {name: value for name, value in _labels(pod, container, found) if name in wanted and value}
    host = f"[{ip}]" if ":" in ip else ip
    return Entry(f"{host}:{found['containerPort']}", tuple(sorted(labels.items())))


def _container(pod: dict[str, Any], port: int | str) -> tuple[str | None, dict[str, Any] | None]:
    """Return the name of the container of a port, if it declares it, and the port; None for a name that none has."""
    for container in (pod.get("spec") or {}).get("containers") or ():
        for each in container.get("ports") or ():
            if port in (each.get("name"), each.get("containerPort")):
                return container["name"], each
    return None, {"containerPort": port} if isinstance(port, int) else None


def _has_ended(pod: dict[str, Any], container: str | None) -> bool:
    """Return whether the server of a pod that is being deleted has ended: its container, or all if it is unknown."""
    if not pod["metadata"].get("deletionTimestamp"):
        return False
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    states = [each.get("state") or {} for each in statuses if container in (None, each.get("name"))]
    return bool(states) and all("terminated" in state for state in states)


def _labels(pod: dict[str, Any], container: str | None, port: dict[str, Any]) -> Iterator[tuple[str, str]]:
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    ready = [one.get("status", "") for one in status.get("conditions") or () if one.get("type") == "Ready"]
    owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")]
    yield "__meta_kubernetes_namespace", metadata.get("namespace", "")
    for name, value in (
        ("name", metadata["name"]),
        ("uid", metadata.get("uid")),
        ("ip", status.get("podIP")),
        ("host_ip", status.get("hostIP")),
        ("node_name", spec.get("nodeName")),
        ("phase", status.get("phase")),
        ("ready", ready[0].lower() if ready else "unknown"),
        ("controller_kind", owners[0].get("kind") if owners else None),
        ("controller_name", owners[0].get("name") if owners else None),
        ("container_name", container),
        ("container_port_name", port.get("name")),
        ("container_port_number", str(port["containerPort"])),
    ):
        yield _PREFIX + name, value or ""
    for kind in ("label", "annotation"):
        for name, value in (metadata.get(f"{kind}s") or {}).items():
            yield f"{_PREFIX}{kind}_{_NOT_IN_LABELS.sub('_', name)}", value
