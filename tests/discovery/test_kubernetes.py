"""Pods that are watched: changes, connections that end, versions that expire, and an API server that refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fake_kubernetes import FakeKubernetes, pod
from following_lists import names, running, until

from vllm_sidecar.catalog.discovery import SourceReason
from vllm_sidecar.config import PodList
from vllm_sidecar.discovery import kubernetes, source
from vllm_sidecar.discovery.errors import SourceError
from vllm_sidecar.discovery.kubernetes import PodSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.io


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(kubernetes, "SHORT_WATCH", 0.01)


@pytest.fixture
async def api() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes(pod("a", ip="10.0.0.1")) as server:
        yield server


def pods(api: FakeKubernetes, namespace: str | None = "llm", **more: Any) -> PodSource:
    settings = PodList.model_validate({"url": api.url, **more})
    return PodSource("kubernetes.0", settings, namespace, lambda: None)


def lists(api: FakeKubernetes) -> int:
    """How often all pods were listed."""
    return sum("watch" not in query for _, query in api.requests)


async def test_pods_that_appear_change_and_vanish_are_followed(api: FakeKubernetes) -> None:
    async with running(pods(api)) as found:
        await until(lambda: names(found) == ["llm/a"] and api.watches)
        api.put(pod("b", ip="10.0.0.2"))
        await until(lambda: names(found) == ["llm/a", "llm/b"])
        api.put(pod("a", ip="10.0.0.3"))
        await until(lambda: found.listed.targets[0].url == "http://10.0.0.3:8000")
        api.put(pod("b", phase="Succeeded"))
        await until(lambda: names(found) == ["llm/a"])
        api.delete("a")
        await until(lambda: names(found) == [])
        assert found.is_current

    assert lists(api) == 1


async def test_a_selector_a_namespace_and_all_namespaces_are_asked_for(api: FakeKubernetes) -> None:
    api.put(pod("b", namespace="other", labels={"app": "vllm"}))
    selected = pods(api, "*", label_selector="app=vllm", field_selector="spec.nodeName=gpu-7")
    async with running(selected), running(pods(api, "other")) as other:
        await until(lambda: names(selected) == names(other) == ["other/b"])

    paths = {path for path, _ in api.requests}
    assert paths == {"/api/v1/pods", "/api/v1/namespaces/other/pods"}
    assert api.requests[0][1]["fieldSelector"] == "spec.nodeName=gpu-7"


async def test_many_pods_are_listed_in_pages(api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "PAGE", 10)
    for number in range(25):
        api.put(pod(f"p{number:02}", ip=f"10.0.1.{number}"))
    async with running(pods(api)) as found:
        await until(lambda: len(names(found)) == 26)

    assert lists(api) == 3


async def test_a_watch_that_ends_or_is_cut_continues_where_it_was(api: FakeKubernetes) -> None:
    async with running(pods(api, refresh="1s")) as found:
        await until(lambda: api.watches)
        api.disconnect()
        api.put(pod("b", ip="10.0.0.2"))
        await until(lambda: names(found) == ["llm/a", "llm/b"])
        await until(lambda: sum("watch" in query for _, query in api.requests) >= 4)  # it ended by itself
        api.put(pod("c", ip="10.0.0.3"))
        await until(lambda: names(found) == ["llm/a", "llm/b", "llm/c"])

    assert lists(api) == 1


async def test_a_bookmark_moves_the_point_from_which_a_watch_continues(api: FakeKubernetes) -> None:
    async with running(pods(api)) as found:
        await until(lambda: api.watches)
        for number in range(5):
            api.put(pod(f"x{number}", namespace="other"))
        api.compact()
        api.bookmark()
        last = api.requests[-1][1]["resourceVersion"]
        await until(lambda: found._version != last)
        api.disconnect()
        await until(lambda: len(api.requests) == 3 and api.watches)
        assert int(api.requests[-1][1]["resourceVersion"]) > int(last)

    assert lists(api) == 1


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_version_that_expired_is_answered_with_a_new_list(api: FakeKubernetes, is_open: bool) -> None:
    async with running(pods(api)) as found:
        await until(lambda: api.watches)
        if is_open:  # the error arrives as an event
            api.send({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})
            await until(lambda: lists(api) == 2)
        else:  # the next watch is refused
            api.compact()
            api.disconnect()
            api.delete("a")
            await until(lambda: names(found) == [])
            assert lists(api) == 2
        assert found.failures[SourceReason.INVALID] == 0


async def test_an_api_server_that_fails_keeps_the_pods_and_a_pod_deleted_meanwhile_leaves(api: FakeKubernetes) -> None:
    api.put(pod("b", ip="10.0.0.2"))
    async with running(pods(api)) as found:
        await until(lambda: len(names(found)) == 2 and api.watches)
        api.status = 503
        api.disconnect()
        await until(lambda: found.failures[SourceReason.HTTP_STATUS])
        assert names(found) == ["llm/a", "llm/b"]
        assert not found.is_current
        assert found.last_error is not None
        assert found.last_error.detail == f"{api.url}/api/v1/namespaces/llm/pods: status 503: 'it is broken'"
        api.delete("b")
        api.compact()
        api.status = 200
        await until(lambda: names(found) == ["llm/a"] and found.is_current)


async def test_an_account_without_the_role_is_told_so(api: FakeKubernetes) -> None:
    api.token = "good"
    with pytest.raises(SourceError) as caught:
        await pods(api, bearer_token="bad").refresh()

    assert caught.value.reason is SourceReason.UNAUTHORIZED
    assert caught.value.detail.endswith("status 403: 'pods is forbidden: no RBAC policy'")


@pytest.mark.parametrize(
    "event",
    [
        {"type": "ADDED", "object": {}},
        {"type": "ADDED", "object": {"metadata": {"name": "x", "resourceVersion": "7"}, "status": "x"}},
        {"object": None},
        {"type": "ERROR", "object": {"code": 500, "message": "storage is broken"}},
    ],
)
async def test_nonsense_in_a_watch_is_a_failure_after_which_it_continues(
    api: FakeKubernetes, event: dict[str, Any]
) -> None:
    async with running(pods(api)) as found:
        await until(lambda: api.watches)
        api.send(event)
        await until(lambda: found.failures)
        api._events.clear()
        api.put(pod("b", ip="10.0.0.2"))
        await until(lambda: names(found) == ["llm/a", "llm/b"])

    assert set(found.failures) <= {SourceReason.INVALID, SourceReason.HTTP_STATUS}


async def test_too_many_pods_are_refused(api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_sidecar.discovery.entries.MOST_ENTRIES", 3)
    for name in "bcd":
        api.put(pod(name))

    with pytest.raises(SourceError, match="too_large"):
        await pods(api).refresh()


async def test_in_a_pod_the_service_account_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("t1\n")
    (tmp_path / "ca.crt").write_text("no certificate")
    (tmp_path / "namespace").write_text("llm\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    found = PodSource("kubernetes.0", PodList(), None, lambda: None, account=tmp_path)

    found._connect()

    assert found._url == "https://[fd00::1]:6443/api/v1/namespaces/llm/pods"
    assert found._client._headers()["authorization"] == "Bearer t1"
    (tmp_path / "token").write_text("t2\n")  # Kubernetes replaces it each hour
    assert found._client._headers()["authorization"] == "Bearer t2"
    with pytest.raises(SourceError, match="unauthorized: cannot load ca_file"):
        await found.refresh()


@pytest.mark.parametrize(
    ("host", "more", "detail"),
    [
        (None, {}, "KUBERNETES_SERVICE_HOST is not set"),
        ("10.0.0.1", {}, "no {account}/token"),
        (None, {"url": "http://127.0.0.1:1"}, "no {account}/namespace: set namespaces"),
    ],
)
async def test_outside_of_a_cluster_it_says_what_to_set(
    host: str | None, more: dict[str, str], detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if host:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)

    with pytest.raises(SourceError) as caught:
        await PodSource("kubernetes.0", PodList.model_validate(more), None, lambda: None, account=tmp_path).refresh()

    assert (caught.value.reason, caught.value.detail) == (
        SourceReason.NOT_IN_CLUSTER,
        detail.replace("{account}", str(tmp_path)),
    )
