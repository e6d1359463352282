"""Servers in pods of Kubernetes: a list of the pods in one namespace, and then a watch that resumes where it ended.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import json
import os
import time
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.discovery import SourceReason
from vllm_sidecar.discovery.entries import Entry, check_count, read_json
from vllm_sidecar.discovery.errors import SourceError, shown
from vllm_sidecar.discovery.pods import pod_entry, pod_key
from vllm_sidecar.discovery.source import Source
from vllm_sidecar.discovery.web import StatusError, WebClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vllm_sidecar.config import PodList
    from vllm_sidecar.discovery.target_rules import Refusal

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts token, CA certificate and namespace of a pod's service account."""
PAGE = 250
"""Pods in one answer to a list request."""
IDLE_SECONDS = 15.0
"""A watch that has not ended so many seconds after its time counts as lost."""
SHORT_WATCH = 1.0
"""Seconds after which the next watch starts at the earliest, if the server ends them at once."""
GONE = 410


class PodSource(Source):
    """The servers in the pods of one namespace, or of all."""

    def __init__(
        self, place: str, settings: PodList, namespace: str | None, changed: Callable[[], None], *,
        account: Path = SERVICE_ACCOUNT,
    ) -> None:  # fmt: skip
        super().__init__(place, settings.target, settings.refresh, changed)
        self._settings = settings
        self._namespace = namespace
        self._account = account
        self._pods: dict[str, Entry | Refusal] = {}
        self._version: str | None = None
        """The resourceVersion from which a watch can continue; None if the pods must be listed."""
        self._web: WebClient | None = None
        self._url = ""

    async def refresh(self) -> float:
        """List the pods if needed, and follow their changes until the watch ends."""
        if self._web is None:
            self._connect()
        if self._version is None:
            await self._list()
        began = time.monotonic()
        try:
            await self._watch(self._version or "")
        except _ExpiredError:
            self._version = None
            return 0.0
        except SourceError as error:
            if error.reason is SourceReason.INVALID:
                self._version = None  # an event may have been lost
            raise
        self.succeeded()
        return max(0.0, SHORT_WATCH - (time.monotonic() - began))

    def _connect(self) -> None:
        """Find out where the API server and the namespace are.

        Raises:
            SourceError: The configuration does not say it, and this is not a pod with a service account.
        """
        settings, account = self._settings, self._account
        namespace = self._namespace
        if settings.url is None:
            host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host or not (account / "token").is_file():
                lacks = f"no {account}/token" if host else "KUBERNETES_SERVICE_HOST is not set"
                raise SourceError(SourceReason.NOT_IN_CLUSTER, lacks)
            found: dict[str, object] = {"url": f"https://{f'[{host}]' if ':' in host else host}:{port}"}
            if settings.bearer_token is None and settings.bearer_token_file is None and settings.cert_file is None:
                found["bearer_token_file"] = account / "token"
            if settings.ca_file is None:
                found["ca_file"] = account / "ca.crt"
            settings = settings.model_copy(update=found)
        if namespace is None:
            try:
                namespace = (account / "namespace").read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                raise SourceError(SourceReason.NOT_IN_CLUSTER, f"no {account}/namespace: set namespaces") from None
        below = "" if namespace == "*" else f"/namespaces/{namespace}"
        self._url = f"{settings.url}/api/v1{below}/pods"
        self._web = WebClient(settings, shows_messages=True)

    def _query(self, **more: str) -> dict[str, str]:
        given = {"labelSelector": self._settings.label_selector, "fieldSelector": self._settings.field_selector, **more}
        return {name: value for name, value in given.items() if value}

    async def _list(self) -> None:
        pods: dict[str, Entry | Refusal] = {}
        page: dict[str, Any] = {}
        while True:
            query = self._query(limit=str(PAGE), **({"continue": page["continue"]} if page.get("continue") else {}))
            with self._expected_form():
                answer: Any = read_json(await self._client.get(self._url, query))
                page = answer["metadata"]
                for pod in answer.get("items") or ():
                    self._take(pods, pod)
                version = page["resourceVersion"]
            check_count(len(pods))
            if not page.get("continue"):
                break
        self._pods, self._version = pods, str(version)
        self._publish()
        self.succeeded()

    async def _watch(self, version: str) -> None:
        query = self._query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=version,
            timeoutSeconds=str(max(1, round(self._refresh))),
        )
        try:
            async with aclosing(self._client.lines(self._url, query, self._refresh + IDLE_SECONDS)) as lines:
                async for line in lines:
                    with self._expected_form():
                        self._follow(json.loads(line))
        except StatusError as error:
            if error.status == GONE:
                raise _ExpiredError from None
            raise

    def _follow(self, event: Any) -> None:
        kind, pod = event["type"], event["object"]
        if kind == "ERROR":
            if pod.get("code") == GONE:
                raise _ExpiredError
            raise SourceError(SourceReason.HTTP_STATUS, f"{self._url}: {shown(pod.get('message'))}")
        before = self._pods.get(pod_key(pod)) if kind != "BOOKMARK" else None
        if kind in ("ADDED", "MODIFIED"):
            self._take(self._pods, pod)
        elif kind == "DELETED":
            self._pods.pop(pod_key(pod), None)
        self._version = str(pod["metadata"]["resourceVersion"])
        if kind != "BOOKMARK" and self._pods.get(pod_key(pod)) != before:
            check_count(len(self._pods))
            self._publish()
        self.succeeded()

    def _take(self, pods: dict[str, Entry | Refusal], pod: dict[str, Any]) -> None:
        entry = pod_entry(pod, self._settings.port, self._rules.labels_read)
        if entry is None:
            pods.pop(pod_key(pod), None)
        else:
            pods[pod_key(pod)] = entry

    def _publish(self) -> None:
        # Sorted, so that the same pods result in the same targets in every gateway.
        self.found([self._pods[key] for key in sorted(self._pods)])

    @property
    def _client(self) -> WebClient:
        if self._web is None:
            raise RuntimeError("refresh makes the client first")
        return self._web

    @contextmanager
    def _expected_form(self) -> Iterator[None]:
        """Turn the surprise of an answer in another form into an error of the source."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            detail = f"{self._url}: not an answer of the Kubernetes API ({type(error).__name__}: {shown(str(error))})"
            raise SourceError(SourceReason.INVALID, detail) from None


class _ExpiredError(Exception):
    """The API server no longer has the changes since the last resourceVersion."""
