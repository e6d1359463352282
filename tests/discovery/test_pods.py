"""A pod as the API describes it: when it is a server to watch, at which address, with which labels."""

from __future__ import annotations

from typing import Any

import pytest
from fake_kubernetes import pod

from vllm_sidecar.catalog.discovery import EntryState
from vllm_sidecar.discovery.entries import Entry
from vllm_sidecar.discovery.pods import pod_entry
from vllm_sidecar.discovery.target_rules import Refusal


class Everything(set[str]):
    """All labels are wanted."""

    def __contains__(self, _: object) -> bool:
        return True


def entry(described: dict[str, Any], port: int | str = 8000) -> Entry | Refusal | None:
    return pod_entry(described, port, Everything())


def test_the_labels_are_those_that_prometheus_makes() -> None:
    described = pod(
        "chat-0",
        labels={"app.kubernetes.io/name": "vllm", "team": "search"},
        annotations={"vllm/ignore": "true"},
        conditions=[{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "False"}],
    )
    described["metadata"]["ownerReferences"] = [
        {"kind": "Other", "name": "x"},
        {"kind": "ReplicaSet", "name": "chat", "controller": True},
    ]

    found = entry(described)

    assert isinstance(found, Entry)
    assert found.address == "10.0.0.1:8000"
    prefix = "__meta_kubernetes_pod_"
    assert dict(found.labels) == {
        "__meta_kubernetes_namespace": "llm",
        f"{prefix}name": "chat-0",
        f"{prefix}uid": "uid-chat-0",
        f"{prefix}ip": "10.0.0.1",
        f"{prefix}host_ip": "192.0.2.7",
        f"{prefix}node_name": "gpu-7",
        f"{prefix}phase": "Running",
        f"{prefix}ready": "false",
        f"{prefix}controller_kind": "ReplicaSet",
        f"{prefix}controller_name": "chat",
        f"{prefix}container_name": "vllm",
        f"{prefix}container_port_name": "http",
        f"{prefix}container_port_number": "8000",
        f"{prefix}label_app_kubernetes_io_name": "vllm",
        f"{prefix}label_team": "search",
        f"{prefix}annotation_vllm_ignore": "true",
    }


def test_only_labels_that_are_read_are_kept() -> None:
    found = pod_entry(pod("a", annotations={"large": "x" * 100_000}), 8000, {"__meta_kubernetes_pod_name"})

    assert isinstance(found, Entry)
    assert found.labels == (("__meta_kubernetes_pod_name", "a"),)


@pytest.mark.parametrize(
    ("port", "address"), [("http", "10.0.0.1:8000"), (8000, "10.0.0.1:8000"), (9999, "10.0.0.1:9999")]
)
def test_a_port_is_a_name_or_a_number_that_need_not_be_declared(port: int | str, address: str) -> None:
    found = entry(pod("a"), port)

    assert isinstance(found, Entry)
    assert found.address == address


def test_a_pod_without_the_named_port_is_refused_by_name() -> None:
    assert entry(pod("a"), "metrics") == Refusal("llm/a", EntryState.INVALID, "no container has a port named metrics")
    assert entry(pod("a", ports=None), "http") == Refusal(
        "llm/a", EntryState.INVALID, "no container has a port named http"
    )


def test_an_address_of_ipv6_is_in_brackets() -> None:
    found = entry(pod("a", ip="fd00::7"))

    assert isinstance(found, Entry)
    assert found.address == "[fd00::7]:8000"


@pytest.mark.parametrize("phase", ["Pending", "Succeeded", "Failed", "Unknown"])
def test_only_a_running_pod_is_a_server(phase: str) -> None:
    assert entry(pod("a", phase=phase)) is None


def test_a_pod_without_an_address_is_not_a_server_yet() -> None:
    assert entry(pod("a", ip="")) is None
    assert entry({"metadata": {"name": "a"}, "spec": {}}) is None


def containers(**states: str) -> list[dict[str, Any]]:
    return [{"name": name, "state": {state: {}}} for name, state in states.items()]


@pytest.mark.parametrize(
    ("statuses", "port", "is_watched"),
    [
        (containers(vllm="running", proxy="running"), 8000, True),
        (containers(vllm="terminated", proxy="running"), 8000, False),
        (containers(vllm="running", proxy="terminated"), 8000, True),
        (containers(vllm="terminated", proxy="running"), 9999, True),
        (containers(vllm="terminated", proxy="terminated"), 9999, False),
        ([], 8000, True),
    ],
)
def test_a_pod_that_is_deleted_is_a_server_until_its_container_has_ended(
    statuses: list[dict[str, Any]], port: int, is_watched: bool
) -> None:
    described = pod("a", deletionTimestamp="2026-11-27T00:00:00Z", containerStatuses=statuses)

    assert (entry(described, port) is not None) is is_watched


def test_a_container_that_restarts_is_still_a_server_because_its_failure_is_to_be_seen() -> None:
    assert entry(pod("a", containerStatuses=containers(vllm="terminated"))) is not None
