"""A Kubernetes API server with nothing but pods: list in pages, watch with resourceVersions, bookmarks, and failures.

It is as strict as the real one where clients make mistakes: a watch from a version that was compacted is 410 Gone, and
so is a page that is requested after a compaction.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    import ssl


def pod(
    name: str, *, namespace: str = "llm", ip: str = "10.0.0.1", phase: str = "Running", **more: Any
) -> dict[str, Any]:
    """Make a pod with one container `vllm` and its port `http`; `labels` and `annotations` go to its metadata."""
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}"}
    metadata |= {key: more.pop(key) for key in ("labels", "annotations", "deletionTimestamp") if key in more}
    return {
        "metadata": metadata,
        "spec": {"nodeName": "gpu-7", "containers": [{"name": "vllm", "ports": more.pop("ports", PORTS)}]},
        "status": {"phase": phase, "podIP": ip, "hostIP": "192.0.2.7", **more},
    }


PORTS = [{"name": "http", "containerPort": 8000}]


class FakeKubernetes:
    """The server, an async context manager.

    Attributes:
        url: Where it listens.
        requests: Path and query of every request.
        token: The only token that is accepted; None for everybody.
        status: Status of every answer, if it is not 200.
    """

    def __init__(self, *pods: dict[str, Any], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.token: str | None = None
        self.status = 200
        self.url = ""
        self._tls = tls
        self._pods: dict[tuple[str, str], dict[str, Any]] = {}
        self._version, self._oldest = 100, 100
        self._events: list[tuple[int, dict[str, Any], bool]] = []
        """Version, event, and whether it is of a pod, which a watch selects."""
        self._changed = asyncio.Event()
        self._watches: set[asyncio.Task[Any]] = set()
        self._runner: web.AppRunner | None = None
        for each in pods:
            self._put(each)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/api/v1/pods", self._answer)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.disconnect()
        if self._runner:
            await self._runner.cleanup()

    @property
    def watches(self) -> int:
        """Open watches."""
        return len(self._watches)

    def put(self, changed: dict[str, Any]) -> None:
        """Create or replace a pod."""
        key = (changed["metadata"]["namespace"], changed["metadata"]["name"])
        kind = "MODIFIED" if key in self._pods else "ADDED"
        self._put(changed)
        self._tell(kind, changed)

    def delete(self, name: str, namespace: str = "llm") -> None:
        """Delete a pod."""
        gone = self._pods.pop((namespace, name))
        self._version += 1
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._tell("DELETED", gone)

    def bookmark(self) -> None:
        """Send every watch the current version."""
        self.send({"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": str(self._version)}}})

    def compact(self) -> None:
        """Forget all changes until now: watches that are open continue, and none can start from before."""
        self._version += 1
        self._oldest = self._version

    def send(self, event: dict[str, Any]) -> None:
        """Send every open watch an event as it is; later watches do not get it."""
        self._events.append((self._version, event, False))
        self._wake()

    def disconnect(self) -> None:
        """Cut the connections of all watches."""
        for task in self._watches:
            task.cancel()

    def _put(self, changed: dict[str, Any]) -> None:
        self._version += 1
        changed["metadata"]["resourceVersion"] = str(self._version)
        self._pods[changed["metadata"]["namespace"], changed["metadata"]["name"]] = changed

    def _tell(self, kind: str, changed: dict[str, Any]) -> None:
        self._events.append((self._version, {"type": kind, "object": json.loads(json.dumps(changed))}, True))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.query)))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"kind": "Status", "message": "pods is forbidden: no RBAC policy"}, status=403)
        if self.status != 200:
            return web.json_response({"kind": "Status", "message": "it is broken"}, status=self.status)
        if request.query.get("watch") == "true":
            return await self._watch(request)
        return self._list(request)

    def _selected(self, request: web.Request, each: dict[str, Any]) -> bool:
        namespace = request.match_info.get("namespace", each["metadata"]["namespace"])
        wanted = [pair.split("=") for pair in request.query.get("labelSelector", "").split(",") if pair]
        labels = each["metadata"].get("labels", {})
        return each["metadata"]["namespace"] == namespace and all(labels.get(key) == value for key, value in wanted)

    def _list(self, request: web.Request) -> web.Response:
        found = [each for key, each in sorted(self._pods.items()) if self._selected(request, each)]
        begin, version = map(int, request.query.get("continue", f"0/{self._version}").split("/"))
        if version < self._oldest:
            return web.json_response({"kind": "Status", "code": 410, "message": "too old"}, status=410)
        end = begin + int(request.query.get("limit", "500"))
        more = {"continue": f"{end}/{version}"} if end < len(found) else {}
        return web.json_response({"metadata": {"resourceVersion": str(version), **more}, "items": found[begin:end]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        if version < self._oldest:
            return web.json_response({"kind": "Status", "code": 410, "message": "too old resource version"}, status=410)
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        task = asyncio.create_task(self._stream(request, answer, version, len(self._events)))
        self._watches.add(task)
        try:
            await asyncio.wait_for(task, float(request.query["timeoutSeconds"]))
        except TimeoutError:
            await answer.write_eof()
        except asyncio.CancelledError:
            if request.transport:
                request.transport.abort()
        finally:
            self._watches.discard(task)
        return answer

    async def _stream(self, request: web.Request, answer: web.StreamResponse, version: int, began: int) -> None:
        sent = 0
        while True:
            changed = self._changed
            for place, (number, event, is_pod) in enumerate(self._events[sent:], sent):
                wanted = number > version and self._selected(request, event["object"]) if is_pod else place >= began
                if wanted:
                    await answer.write(json.dumps(event).encode() + b"\n")
            sent = len(self._events)
            await changed.wait()
