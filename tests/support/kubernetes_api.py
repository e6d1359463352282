"""An API server of Kubernetes that keeps objects in memory: enough of one for Helm, kubectl and Prometheus.

It discovers, creates, reads, lists by namespace, label and name, watches, patches, applies and deletes the kinds of
`KINDS`, and passes requests on to services. It accepts any field, runs no controller, and asks for no credentials.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import kubernetes_protobuf
import yaml
from aiohttp import web
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Object = dict[str, Any]
Key = tuple[str, str, str, str]
"""Version, plural, namespace and name of an object."""
KINDS = {
    "v1": "ConfigMap Secret Service ServiceAccount Pod Namespace",
    "apps/v1": "Deployment DaemonSet StatefulSet",
    "autoscaling/v2": "HorizontalPodAutoscaler",
    "networking.k8s.io/v1": "NetworkPolicy",
    "rbac.authorization.k8s.io/v1": "Role RoleBinding ClusterRole ClusterRoleBinding",
    "monitoring.coreos.com/v1": "PodMonitor ServiceMonitor PrometheusRule Prometheus Alertmanager",
    "monitoring.coreos.com/v1alpha1": "AlertmanagerConfig",
    "keda.sh/v1alpha1": "ScaledObject",
}
VERBS = ["create", "get", "list", "watch", "patch", "update", "delete"]
APPLY = "application/apply-patch+yaml"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
WHOLE_CLUSTER = ("Namespace", "ClusterRole", "ClusterRoleBinding")


def plural(kind: str) -> str:
    """Return the name of a kind in addresses."""
    name = kind.lower()
    if name.endswith("y"):
        return f"{name.removesuffix('y')}ies"
    return f"{name}es" if name.endswith("s") else f"{name}s"


class KubernetesApi:
    """The server; `objects` has what was created, by version, plural, namespace and name.

    `services` has where requests to a service go, by its namespace and `NAME:PORT`.
    """

    def __init__(self, version: str = "v1.31.0") -> None:
        self.version = version
        self.objects: dict[Key, Object] = {}
        self.services: dict[tuple[str, str], str] = {}
        self.changes = 0
        """Number of changes so far."""
        self._changed = asyncio.Condition()
        self._events: list[tuple[str, str, Object]] = []

    def app(self) -> web.Application:
        """Return the server's routes."""
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_get("/version", self._version)
        app.router.add_get("/api", self._core)
        app.router.add_get("/apis", self._groups)
        app.router.add_get("/openapi/v3", self._openapi)
        app.router.add_route("*", "/api/v1/namespaces/{namespace}/services/{service}/proxy/{path:.*}", self._service)
        for version in KINDS:
            root = f"/apis/{version}" if "/" in version else f"/api/{version}"
            app.router.add_get(root, self._kinds(version))
            app.router.add_get(f"/openapi/v3{root}", partial(self._openapi_of, version))
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

    async def _openapi(self, _: web.Request) -> web.Response:
        roots = [f"apis/{version}" if "/" in version else f"api/{version}" for version in KINDS]
        return web.json_response({"paths": {root: {"serverRelativeURL": f"/openapi/v3/{root}"} for root in roots}})

    async def _openapi_of(self, version: str, _: web.Request) -> web.Response:
        """Answer that requests have the parameters by which clients leave the validation to the server."""
        group, number = version.rpartition("/")[::2]
        parameters = [{"name": name, "in": "query"} for name in ("fieldValidation", "dryRun")]
        paths = {
            f"/{kind}": {
                "patch": {
                    "parameters": parameters,
                    "responses": {},
                    "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
                }
            }
            for kind in KINDS[version].split()
        }
        return web.json_response({"openapi": "3.0.0", "info": {"title": "", "version": ""}, "paths": paths})

    async def _service(self, request: web.Request) -> web.Response:
        place = request.match_info
        root = self.services.get((place["namespace"], place["service"]))
        if root is None:
            return _status(503, "ServiceUnavailable", f"no endpoints available for service {place['service']}")
        url, headers = f"{root}/{place['path']}", {"Content-Type": request.headers.get("Content-Type", "")}
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method, url, params=request.query, headers=headers, data=await request.read()
            ) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

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
                body = await _sent(request)
                name = body["metadata"]["name"]
                if (version, kind, namespace, name) in self.objects:
                    return _status(409, "AlreadyExists", f"{kind} {name} already exists")
                created = await self._put((version, kind, namespace, name), body, "ADDED", dry_run=_is_dry_run(request))
                return web.json_response(created, status=201)
            if request.query.get("sendInitialEvents") == "true":
                return _status(422, "Invalid", "sendInitialEvents is forbidden")  # the client lists and watches instead
            if request.query.get("watch") in {"1", "true"}:
                return await self._watch(request, version, kind, namespace)
            items = [found for key, found in self.objects.items() if _selects(request, key, found, version, kind)]
            singular = next(each for each in KINDS[version].split() if plural(each) == kind)
            meta = {"resourceVersion": str(self.changes)}
            return web.json_response(
                {"kind": f"{singular}List", "apiVersion": version, "metadata": meta, "items": items}
            )

        return answer

    def _of_one(self, version: str) -> Any:
        async def answer(request: web.Request) -> web.Response:
            found = request.match_info
            key = (version, found["plural"], found.get("namespace", ""), found["name"])
            old = self.objects.get(key)
            applies = request.method == "PATCH" and request.content_type == APPLY
            if old is None and not applies:
                return _status(404, "NotFound", f"{found['plural']} {found['name']} not found")
            if request.method == "PATCH":
                body = _patched(old or {}, request.content_type, await request.text())
                return web.json_response(
                    await self._put(key, body, "MODIFIED" if old else "ADDED", dry_run=_is_dry_run(request))
                )
            if request.method == "PUT":
                return web.json_response(
                    await self._put(key, await _sent(request), "MODIFIED", dry_run=_is_dry_run(request))
                )
            if request.method == "DELETE":
                await self._tell("DELETED", key[1], self.objects.pop(key))
            return web.json_response(self.objects.get(key, {"kind": "Status", "apiVersion": "v1", "status": "Success"}))

        return answer

    async def store(self, body: Object) -> None:
        """Create or replace an object, as a controller does."""
        metadata = body["metadata"]
        key = (body["apiVersion"], plural(body["kind"]), metadata.get("namespace", ""), metadata["name"])
        await self._put(key, body, "MODIFIED" if key in self.objects else "ADDED")

    async def remove(self, body: Object) -> None:
        """Delete an object, as a controller does."""
        key = (
            body["apiVersion"],
            plural(body["kind"]),
            body["metadata"].get("namespace", ""),
            body["metadata"]["name"],
        )
        await self._tell("DELETED", key[1], self.objects.pop(key))

    async def _put(self, key: Key, body: Object, event: str, *, dry_run: bool = False) -> Object:
        old = self.objects.get(key, {"metadata": {"generation": 0}})
        self.changes += 1
        own = {"namespace": key[2]} if key[2] else {}
        known = {"uid": f"uid-{self.changes}", "creationTimestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        generation = old["metadata"]["generation"] + (old.get("spec") != body.get("spec") or "spec" not in body)
        counted = {"generation": generation, "resourceVersion": str(self.changes)}
        body["metadata"] = {**known, **body["metadata"], **own, **counted}
        if dry_run:
            return body
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


@asynccontextmanager
async def cluster(version: str = "v1.31.0") -> AsyncIterator[tuple[KubernetesApi, str]]:
    """Run an API server; yield it with its address."""
    api = KubernetesApi(version)
    runner = web.AppRunner(api.app(), shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield api, f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def _selects(request: web.Request, key: Key, found: Object, version: str, kind: str) -> bool:
    """Return whether a list or watch includes an object."""
    namespace = request.match_info.get("namespace", "")
    labels = found["metadata"].get("labels", {})
    wanted = dict(each.split("=", 1) for each in request.query.get("labelSelector", "").split(",") if "=" in each)
    name = request.query.get("fieldSelector", "").removeprefix("metadata.name=")
    named = not name or found["metadata"]["name"] == name
    return key[:2] == (version, kind) and namespace in {"", key[2]} and named and wanted.items() <= labels.items()


def _is_dry_run(request: web.Request) -> bool:
    return request.query.get("dryRun") == "All"


async def _sent(request: web.Request) -> Object:
    if request.content_type == kubernetes_protobuf.CONTENT_TYPE:
        return kubernetes_protobuf.secret(await request.read())
    body: Object = await request.json()
    return body


def _patched(old: Object, content_type: str, text: str) -> Object:
    """Return an object after a merge patch, a strategic merge patch, or an apply of its only owner."""
    patch = yaml.load(text, _LOADER) if content_type == APPLY else json.loads(text)  # noqa: S506 - a safe loader
    patched: Object = _merged(old, patch, by_name=content_type == "application/strategic-merge-patch+json")
    return patched


def _merged(old: Any, patch: Any, *, by_name: bool) -> Any:
    """Apply a merge patch (RFC 7386); with `by_name` lists of named objects are merged, as Kubernetes does."""
    if by_name and isinstance(patch, list) and all(isinstance(each, dict) and "name" in each for each in patch):
        known = {each["name"]: each for each in old or ()}
        return list(
            {**known, **{each["name"]: _merged(known.get(each["name"]), each, by_name=True) for each in patch}}.values()
        )
    if not isinstance(patch, dict):
        return patch
    kept = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            kept.pop(key, None)
        elif not (by_name and key.startswith("$")):  # directives, such as the order of a list
            kept[key] = _merged(kept.get(key), value, by_name=by_name)
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
