"""An API server of Kubernetes that keeps objects in memory: enough of one for Helm, kubectl and Prometheus.

It discovers, creates, reads, lists by namespace and label, watches, patches (as merge patches) and deletes the kinds of
`KINDS`. It validates nothing, runs no controller, and asks for no credentials.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Object = dict[str, Any]
KINDS = {
    "v1": "ConfigMap Secret Service ServiceAccount Pod Namespace",
    "apps/v1": "Deployment DaemonSet StatefulSet",
    "autoscaling/v2": "HorizontalPodAutoscaler",
    "networking.k8s.io/v1": "NetworkPolicy",
    "rbac.authorization.k8s.io/v1": "Role RoleBinding ClusterRole ClusterRoleBinding",
    "monitoring.coreos.com/v1": "PodMonitor ServiceMonitor PrometheusRule",
    "monitoring.coreos.com/v1alpha1": "AlertmanagerConfig",
    "keda.sh/v1alpha1": "ScaledObject",
}
VERBS = ["create", "get", "list", "watch", "patch", "update", "delete"]
WHOLE_CLUSTER = ("Namespace", "ClusterRole", "ClusterRoleBinding")


def plural(kind: str) -> str:
    """Return the name of a kind in addresses."""
    return kind.lower().removesuffix("y") + "ies" if kind.endswith("y") else f"{kind.lower()}s"


class KubernetesApi:
    """The server; `objects` has what was created, by version, plural, namespace and name."""

    def __init__(self, version: str = "v1.31.0") -> None:
        self.version = version
        self.objects: dict[tuple[str, str, str, str], Object] = {}
        self._number = 0
        self._changed = asyncio.Condition()
        self._events: list[tuple[str, str, Object]] = []

    def app(self) -> web.Application:
        """Return the server's routes."""
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_get("/version", self._version)
        app.router.add_get("/api", self._core)
        app.router.add_get("/apis", self._groups)
        for version in KINDS:
            root = f"/apis/{version}" if "/" in version else f"/api/{version}"
            app.router.add_get(root, self._kinds(version))
            for path in (f"{root}/namespaces/{{namespace}}/{{plural}}", f"{root}/{{plural}}"):
                app.router.add_route("*", path, self._of_many(version))
                app.router.add_route("*", f"{path}/{{name}}", self._of_one(version))
        return app

    def of_kind(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind by name."""
        return {name: found for (_, each, _, name), found in self.objects.items() if each == plural(kind)}

    async def _version(self, _: web.Request) -> web.Response:
        major, minor = self.version.removeprefix("v").split(".")[:2]
        return web.json_response({"major": major, "minor": minor, "gitVersion": self.version})

    async def _core(self, _: web.Request) -> web.Response:
        return web.json_response({"kind": "APIVersions", "versions": ["v1"]})

    async def _groups(self, _: web.Request) -> web.Response:
        versions = [{"groupVersion": each, "version": each.partition("/")[2]} for each in KINDS if "/" in each]
        names = dict.fromkeys(each["groupVersion"].partition("/")[0] for each in versions)
        groups = []
        for name in names:
            own = [each for each in versions if each["groupVersion"].startswith(f"{name}/")]
            groups.append({"name": name, "versions": own, "preferredVersion": own[0]})
        return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})

    def _kinds(self, version: str) -> Any:
        resources = [
            {
                "name": plural(kind),
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": kind not in WHOLE_CLUSTER,
                "verbs": VERBS,
            }
            for kind in KINDS[version].split()
        ]
        found = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}

        async def answer(_: web.Request) -> web.Response:
            return web.json_response(found)

        return answer

    def _of_many(self, version: str) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            kind = request.match_info["plural"]
            namespace = request.match_info.get("namespace", "")
            if request.method == "POST":
                body = await request.json()
                name = body["metadata"]["name"]
                if (version, kind, namespace, name) in self.objects:
                    return _status(409, "AlreadyExists", f"{kind} {name} already exists")
                if namespace:
                    body["metadata"]["namespace"] = namespace
                return web.json_response(await self._put((version, kind, namespace, name), body, "ADDED"), status=201)
            if request.query.get("sendInitialEvents") == "true":
                return _status(422, "Invalid", "sendInitialEvents is forbidden")  # the client lists and watches instead
            if request.query.get("watch") in {"1", "true"}:
                return await self._watch(request, version, kind, namespace)
            items = [found for key, found in self.objects.items() if _selects(request, key, found, version, kind)]
            singular = next(each for each in KINDS[version].split() if plural(each) == kind)
            meta = {"resourceVersion": str(self._number)}
            return web.json_response(
                {"kind": f"{singular}List", "apiVersion": version, "metadata": meta, "items": items}
            )

        return answer

    def _of_one(self, version: str) -> Any:
        async def answer(request: web.Request) -> web.Response:
            found = request.match_info
            key = (version, found["plural"], found.get("namespace", ""), found["name"])
            if key not in self.objects:
                return _status(404, "NotFound", f"{found['plural']} {found['name']} not found")
            if request.method == "PATCH":
                return web.json_response(
                    await self._put(key, _merged(self.objects[key], await request.json()), "MODIFIED")
                )
            if request.method == "PUT":
                return web.json_response(await self._put(key, await request.json(), "MODIFIED"))
            if request.method == "DELETE":
                gone = self.objects[key]
                await self._put(key, gone, "DELETED")
                del self.objects[key]
            return web.json_response(self.objects.get(key, {"kind": "Status", "apiVersion": "v1", "status": "Success"}))

        return answer

    async def _put(self, key: tuple[str, str, str, str], body: Object, event: str) -> Object:
        self._number += 1
        body["metadata"] = {**body["metadata"], "uid": f"uid-{self._number}", "resourceVersion": str(self._number)}
        self.objects[key] = body
        await self._tell(event, key[1], body)
        return body

    async def _tell(self, event: str, kind: str, body: Object) -> None:
        async with self._changed:
            self._events.append((event, kind, body))
            self._changed.notify_all()

    async def _watch(self, request: web.Request, version: str, kind: str, namespace: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async for event, body in self._changes(int(request.query.get("resourceVersion") or 0), kind):
            key = (version, kind, body["metadata"].get("namespace", namespace), "")
            if _selects(request, key, body, version, kind):
                await response.write(json.dumps({"type": event, "object": body}).encode() + b"\n")
        return response

    async def _changes(self, after: int, kind: str) -> AsyncIterator[tuple[str, Object]]:
        seen = 0
        while True:
            for event, each, body in self._events[seen:]:
                if each == kind and int(body["metadata"]["resourceVersion"]) > after:
                    yield event, body
            seen = len(self._events)
            async with self._changed:
                while len(self._events) == seen:
                    await self._changed.wait()


def _selects(request: web.Request, key: tuple[str, str, str, str], found: Object, version: str, kind: str) -> bool:
    """Return whether a list or watch includes an object."""
    namespace = request.match_info.get("namespace", "")
    labels = found["metadata"].get("labels", {})
    wanted = dict(each.split("=", 1) for each in request.query.get("labelSelector", "").split(",") if "=" in each)
    return key[:2] == (version, kind) and namespace in {"", key[2]} and wanted.items() <= labels.items()


def _merged(old: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    kept = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = _merged(kept.get(key), value)
    return kept


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    return web.json_response(body, status=code)
