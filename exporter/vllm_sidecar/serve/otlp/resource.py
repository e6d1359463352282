"""Attributes of the resource: the process that pushes, and its pod."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vllm_sidecar import __version__
from vllm_sidecar.config.otel_environment import ATTRIBUTES, SERVICE_NAME, pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME, INSTANCE = "service.name", "service.instance.id"
_PARTS_OF_A_POD = ("k8s.namespace.name", "k8s.pod.name", "k8s.container.name")
"""Parts of the instance of a container, as the conventions of Kubernetes recommend."""


def resource_attributes(configured: Mapping[str, str], environment: Mapping[str, str], address: str) -> dict[str, str]:
    """Return the attributes: configured ones first, then those of the environment, then detected ones.

    Args:
        configured: otlp.resource_attributes.
        environment: Variables by name.
        address: Where the sidecar listens; its port distinguishes several on one machine.
    """
    host, port = socket.gethostname(), address.rpartition(":")[2]
    found = {NAME: "vllm-sidecar", "service.version": __version__}
    found |= {name: value for name, value in pairs(environment.get(ATTRIBUTES, "")).items() if name and value}
    if environment.get(SERVICE_NAME):
        found[NAME] = environment[SERVICE_NAME]
    found |= configured
    pod = [found[name] for name in _PARTS_OF_A_POD if name in found]
    if len(pod) > 1:
        found.setdefault(INSTANCE, ".".join(pod))
    else:
        found.setdefault("host.name", host)
        found.setdefault(INSTANCE, f"{host}:{port}" if port.isdecimal() and int(port) else host)
    return found
