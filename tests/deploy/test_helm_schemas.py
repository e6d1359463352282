"""Objects of the Helm chart keep to the schemas of Kubernetes and of the operators, and to its restrictions."""

from __future__ import annotations

import copy

import kubernetes_tools
import pods
import pytest
from helm_chart import RENDERED, VALUES, of_kind, rendered

pytestmark = pytest.mark.io

VERSIONS = [f"1.{minor}" for minor in range(28, 38)]


@pytest.mark.e2e
@pytest.mark.parametrize("name", RENDERED)
def test_custom_resources_keep_to_the_schemas_of_their_operators(name: str) -> None:
    found = [each for each in rendered(name) if kubernetes_tools.is_custom(each)]
    assert kubernetes_tools.mistakes_of_custom(found) == []


@pytest.mark.e2e
def test_the_schemas_of_the_operators_notice_a_mistake() -> None:
    (monitor,) = copy.deepcopy(of_kind(rendered("default"), "PodMonitor"))
    monitor["spec"]["podMetricsEndpoints"][0]["interval"] = "often"
    (mistake,) = kubernetes_tools.mistakes_of_custom([monitor])
    assert "interval" in mistake


@pytest.mark.e2e
@pytest.mark.parametrize("version", VERSIONS)
def test_all_objects_keep_to_the_strict_schemas_of_kubernetes(version: str) -> None:
    found = [each for name in VALUES for each in rendered(name) if not kubernetes_tools.is_custom(each)]
    boards = [each for each in found if each["metadata"].get("labels", {}).get("grafana_dashboard")]
    assert (
        kubernetes_tools.mistakes_of_kinds([*boards[:1], *(each for each in found if each not in boards)], version)
        == []
    )


@pytest.mark.e2e
def test_every_container_is_restricted_and_has_requests_and_limits() -> None:
    found = [each for name in VALUES for each in rendered(name)]
    containers = [(each, pod) for one in found for pod in pods.pod_specs(one) for each in pod["containers"]]
    assert len(containers) == 8
    for container, pod in containers:
        assert pods.offenses(container, pod) == []
