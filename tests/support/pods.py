"""Pods in manifests, wherever a kind keeps its template, and what every container of the sidecar must keep to."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Object = dict[str, Any]
PORT = 10190
NOTHING: Mapping[str, str] = MappingProxyType({})
DOWNWARD = MappingProxyType({"metadata.name": "vllm-0", "metadata.namespace": "llm", "spec.nodeName": "node-1"})
"""Fields of a pod, for its containers."""


def pod_specs(found: Object) -> Iterator[Object]:
    """Yield every specification of a pod in an object: a mapping with a list of containers."""
    if isinstance(found, dict):
        if isinstance(found.get("containers"), list):
            yield found
        for each in found.values():
            yield from pod_specs(each)
    elif isinstance(found, list):
        for each in found:
            yield from pod_specs(each)


def sidecars(pod: Object) -> list[Object]:
    """Return the containers of the sidecar in a pod."""
    every = [*pod.get("initContainers", ()), *pod["containers"]]
    return [each for each in every if each["name"] == "vllm-sidecar"]


def environment(container: Object, downward: Mapping[str, str] = NOTHING) -> dict[str, str]:
    """Return the variables of a container that are set to a text, or to a field of its pod that `downward` has."""
    found: dict[str, str] = {}
    for each in container.get("env", ()):
        field = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        value = each.get("value", downward.get(field))
        if value is not None:
            found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), value)
    return found


def offenses(container: Object, pod: Object) -> list[str]:
    """Return where a container breaks the restricted Pod Security Standard, or what this project asks beyond it."""
    merged = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    restricted = {
        "runAsNonRoot": merged.get("runAsNonRoot") is True,
        "runAsUser": merged.get("runAsUser", 0) > 0,
        "allowPrivilegeEscalation": merged.get("allowPrivilegeEscalation") is False,
        "capabilities": merged.get("capabilities") == {"drop": ["ALL"]},
        "seccompProfile": merged.get("seccompProfile") == {"type": "RuntimeDefault"},
        "volumes": all({"configMap", "secret", "emptyDir", "projected"} & set(each) for each in pod.get("volumes", ())),
        "host": not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
    }
    beyond = {
        "readOnlyRootFilesystem": merged.get("readOnlyRootFilesystem") is True,
        "image": re.fullmatch(r"[a-z0-9.]+\.[a-z]+/[a-z0-9/-]+(:[\w.]+|@sha256:[0-9a-f]{64})", container["image"]),
        "requests": {"cpu", "memory"} <= set(container["resources"]["requests"]),
        "limits": set(container["resources"]["limits"]) == {"memory"},
        "no GPU": "nvidia.com/gpu" not in str(container["resources"]),
    }
    return [name for name, kept in (restricted | beyond).items() if not kept]
