"""The sidecar's HTTP server; no handler waits for a target."""

from __future__ import annotations

import asyncio
import json
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from aiohttp import hdrs, web, web_response

from vllm_sidecar.discovery.report import status as discovery_status
from vllm_sidecar.exposition import CONTENT_TYPE_OPENMETRICS, CONTENT_TYPE_TEXT
from vllm_sidecar.serve.negotiation import has_already, takes_gzip, takes_openmetrics
from vllm_sidecar.serve.page import asset, page
from vllm_sidecar.serve.page.runbooks import runbook
from vllm_sidecar.serve.state import without_targets
from vllm_sidecar.serve.status import NodeGpus, status_steps
from vllm_sidecar.slices import in_slices

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_sidecar.config import Config, ConfigError
    from vllm_sidecar.discovery import Finder
    from vllm_sidecar.serve.metrics import Exporter
    from vllm_sidecar.serve.otlp.push import OtlpPush
    from vllm_sidecar.serve.page import Asset


class Running(Protocol):
    """The part of the running sidecar that the HTTP server uses."""

    config: Config
    exporter: Exporter
    finder: Finder
    otlp: OtlpPush

    async def reload(self) -> ConfigError | None:
        """Load the configuration again; return its error, if any."""


TOO_LATE = (
    "the signals of all engines take longer than the scraper waits: raise scrape_timeout, or use more sidecars.\n"
)
NO_RUNBOOK = "no alert has a runbook of this name; /runbooks/ lists them all.\n"
USUAL_TELEMETRY_PATH = "/metrics"
SCRAPE_TIMEOUT = "X-Prometheus-Scrape-Timeout-Seconds"
"""Header in which Prometheus says how long it waits."""
TRANSFER_SECONDS = 0.5
"""Part of that time for the way back, as in blackbox_exporter."""
MOST_NAMES = 20
"""Names of targets in an answer about one that is unknown."""
MOST_SHOWN = 100
"""Characters of the unknown name in that answer."""
SIDECAR: web.AppKey[Running] = web.AppKey("sidecar")


def make_app(sidecar: Running, telemetry_path: str = USUAL_TELEMETRY_PATH) -> web.Application:
    """Make the aiohttp application of one sidecar, with the metrics on a path."""
    app = web.Application()
    app[SIDECAR] = sidecar
    # aiohttp names itself and Python with their versions, also in answers to what is not HTTP; that helps an attacker.
    vars(web_response)["SERVER_SOFTWARE"] = "vllm-sidecar"
    # The names of routes are the values of the label `handler`.
    get = app.router.add_get
    get("/", _page, name="page")
    get("/page/{name}", _asset, name="asset")
    get("/runbooks", _to_the_runbooks, name="runbooks")
    get("/runbooks/", _runbook, name="runbook_list")
    get("/runbooks/{name}", _runbook, name="runbook")
    get(telemetry_path, _metrics, name="metrics")
    if telemetry_path != USUAL_TELEMETRY_PATH:
        get(USUAL_TELEMETRY_PATH, _to_the_metrics, name="metrics_redirect")
    get("/-/healthy", _healthy, name="healthy")
    get("/-/ready", _ready, name="ready")
    app.router.add_post("/-/reload", _reload, name="reload")
    get("/api/v1/status", _status, name="status")
    get("/api/v1/history", _history, name="history")
    get("/api/v1/quantiles", _quantiles, name="quantiles")
    get("/debug/last-scrape", _last_scrape, name="last_scrape")
    return app


async def _metrics(request: web.Request) -> web.Response:
    openmetrics = takes_openmetrics(_header(request, hdrs.ACCEPT))
    compressed = takes_gzip(_header(request, hdrs.ACCEPT_ENCODING))
    headers = {
        hdrs.CONTENT_TYPE: CONTENT_TYPE_OPENMETRICS if openmetrics else CONTENT_TYPE_TEXT,
        hdrs.VARY: "Accept, Accept-Encoding",
    }
    if compressed:
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    exporter = request.app[SIDECAR].exporter
    try:
        async with asyncio.timeout(_seconds_left(request)):
            snapshots = await exporter.prepare()
    except TimeoutError:
        return web.Response(status=503, text=TOO_LATE)
    body = exporter.render(openmetrics=openmetrics, compressed=compressed, snapshots=snapshots)
    return web.Response(body=body, headers=headers)


def _seconds_left(request: web.Request) -> float | None:
    """Return how long the scraper still waits; None if it does not say so."""
    seconds = _number(request.headers.get(SCRAPE_TIMEOUT, ""))
    return max(seconds - TRANSFER_SECONDS, seconds / 2) if seconds is not None and seconds > 0 else None


def _header(request: web.Request, name: str) -> str:
    """Return a header that may be given several times, which means the same as a list."""
    return ",".join(request.headers.getall(name, ()))


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="vllm-sidecar is healthy.\n")


async def _ready(request: web.Request) -> web.Response:
    sidecar = request.app[SIDECAR]
    if sidecar.config.headless:  # a worker pod has no HTTP server to wait for
        return web.Response(text="vllm-sidecar is ready: a headless worker has no server to poll.\n")
    exporter = sidecar.exporter
    healths = [source.health for source in exporter.sources.values()]
    if not healths and exporter.node:  # only GPUs are watched
        healths.append(exporter.node.health)
    if not healths and sidecar.finder.has_answered:  # nothing to watch, so a rollout must not wait for it
        return web.Response(text="vllm-sidecar is ready: discovery lists no server.\n")
    if any(health.last_success is not None for health in healths):
        return web.Response(text="vllm-sidecar is ready.\n")
    return web.Response(status=503, text="no target has been polled successfully yet.\n")


async def _reload(request: web.Request) -> web.Response:
    sidecar = request.app[SIDECAR]
    if not sidecar.config.web.enable_lifecycle:
        return web.Response(status=403, text="the lifecycle API is off: set web.enable_lifecycle to true.\n")
    error = await sidecar.reload()
    if error is not None:
        return web.Response(status=500, text=f"the previous configuration remains in use:\n{error}\n")
    return web.Response(text="configuration reloaded.\n")


async def _status(request: web.Request) -> web.Response:
    sidecar = request.app[SIDECAR]
    exporter = sidecar.exporter
    snapshots = await exporter.prepare()
    gpus = NodeGpus(exporter.node.health, exporter.node_samples()) if exporter.node else None
    discovery, otlp = discovery_status(sidecar.finder), sidecar.otlp.status()
    reason = None if exporter.sources else without_targets(sidecar.config, discovery)
    report = await in_slices(status_steps(snapshots.values(), gpus, reason, discovery, otlp))
    return web.json_response(report, dumps=_json)


async def _last_scrape(request: web.Request) -> web.Response:
    sources = request.app[SIDECAR].exporter.sources
    wanted = request.query.get("target")
    if wanted is None and len(sources) > 1:
        return web.Response(status=400, text=f"several targets: choose one with ?target=: {', '.join(sources)}\n")
    if wanted is not None and wanted not in sources:
        return web.Response(status=404, text=f"{_unknown_target(wanted, sources)}\n")
    source = sources.get(wanted) if wanted is not None else next(iter(sources.values()), None)
    if source is None or source.last_response is None:
        return web.Response(status=404, text="no body of this target yet.\n" if source else "no target yet.\n")
    response = source.last_response
    headers = {
        hdrs.CONTENT_TYPE: "text/plain; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
        "X-Upstream-Content-Type": response.content_type.encode("ascii", "replace").decode(),
        "X-Upstream-Seconds": f"{response.seconds:.6f}",
    }
    return web.Response(body=response.body, headers=headers)


async def _quantiles(request: web.Request) -> web.Response:
    found = await request.app[SIDECAR].exporter.explanations()
    report = [{"target": name or None, "quantiles": quantiles} for name, quantiles in found.items()]
    return web.json_response({"targets": report}, dumps=_json)


async def _history(request: web.Request) -> web.Response:
    since = _number(request.query.get("since", "0"))
    if since is None:
        return web.Response(status=400, text="since must be a Unix time in seconds.\n")
    exporter, query = request.app[SIDECAR].exporter, request.query
    wanted = query.get("target")
    if wanted is not None and wanted not in exporter.sources:
        return web.json_response({"error": _unknown_target(wanted, exporter.sources)}, status=404, dumps=_json)
    targets = await exporter.history(since, wanted, query.get("engine"))
    report = [{"target": name or None, "engines": engines} for name, engines in targets.items()]
    return web.json_response({"targets": report}, dumps=_json)


def _unknown_target(wanted: str, known: Iterable[str]) -> str:
    """Return why no target has this name, and which names there are; a sole target has none."""
    names = [name for name in known if name]
    shown = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    hint = f"the targets are {shown}" if names else "the only target has no name: leave ?target= out"
    return f"no target is named {wanted[:MOST_SHOWN]!r}; {hint}."


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


async def _page(request: web.Request) -> web.Response:
    return _serve(request, page())


async def _asset(request: web.Request) -> web.Response:
    found = asset(request.match_info["name"])
    return _serve(request, found) if found else web.Response(status=404, text="no such file.\n")


async def _to_the_metrics(request: web.Request) -> web.Response:
    """Redirect the link of the status page, and scrapers with the usual path."""
    path = request.app.router["metrics"].url_for().path
    return web.Response(status=308, headers={hdrs.LOCATION: path.lstrip("/")})


async def _to_the_runbooks(request: web.Request) -> web.Response:
    # Relative, so that the path prefix of a proxy stays.
    query = request.rel_url.raw_query_string
    return web.Response(status=308, headers={hdrs.LOCATION: f"runbooks/?{query}" if query else "runbooks/"})


async def _runbook(request: web.Request) -> web.Response:
    found = runbook(request.match_info.get("name", ""), request.query)
    return _serve(request, found) if found else web.Response(status=404, text=NO_RUNBOOK)


def _serve(request: web.Request, found: Asset) -> web.Response:
    headers = {
        hdrs.ETAG: f'"{found.etag}"',
        hdrs.CACHE_CONTROL: "no-cache",  # ask each time: a newer sidecar has a newer page
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    if found.policy:
        headers["Content-Security-Policy"] = found.policy
    if has_already(_header(request, hdrs.IF_NONE_MATCH), found.etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=found.body, headers=headers, content_type=found.content_type, charset="utf-8")


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
