"""A server that looks like vLLM and replays recorded metrics; a library for tests, a program for demos.

    python tests/fake_vllm.py CAPTURE... [--host 127.0.0.1] [--port 8000] [--interval 1]

The program shows one capture after the other, each for one interval, and begins again after the last, which looks like
a reset of all counters. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import logging
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Request:
    """What a client asked: the path with its query as it was sent, and the headers (names in lower case)."""

    path: str
    headers: Mapping[str, str]


class FakeVllm:
    """A vLLM look-alike on a free port of the loopback; an async context manager.

    Attributes:
        body: What `/metrics` shows, or a function that gives it at each request.
        status: Of `/metrics`; the other paths go on as if nothing was wrong, as they do in vLLM.
        headers: Added to those of `/metrics`.
        delay: Seconds before `/metrics` answers.
        drip: Seconds between two bytes of the body of `/metrics`; 0 sends it in one piece.
        endpoints: Path -> (status, JSON value, or None for no body); goes before what is built in.
        requests: Every request so far, in order.
        url: Where it listens.
    """

    def __init__(
        self,
        body: bytes | Callable[[], bytes] = b"",
        *,
        version: str = "0.32.0",
        models: Sequence[str | Mapping[str, Any]] = ("tiny",),
        host: str = "127.0.0.1",
        port: int = 0,
        unix_socket: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.body = body
        self.status = 200
        self.headers: dict[str, str] = {}
        self.delay = 0.0
        self.drip = 0.0
        self.endpoints: dict[str, tuple[int, Any]] = {}
        self.requests: list[Request] = []
        self.url = ""
        self._built_in: dict[str, tuple[int, Any]] = {
            "/health": (200, None),
            "/ping": (200, None),
            "/version": (200, {"version": version}),
            "/load": (200, {"server_load": 0}),
            "/v1/models": (200, {"object": "list", "data": [model_card(model) for model in models]}),
        }
        self._address = (host, port)
        self._unix_socket = unix_socket
        self._tls = tls
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        host, port = self._address
        site: web.BaseSite
        if self._unix_socket is not None:
            site = web.UnixSite(self._runner, str(self._unix_socket))
        else:
            site = web.TCPSite(self._runner, host, port, ssl_context=self._tls)
        await site.start()
        if self._unix_socket is None:
            port = self._runner.addresses[0][1]
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(Request(request.raw_path, {name.lower(): text for name, text in request.headers.items()}))
        endpoint = self.endpoints.get(request.path)
        if endpoint is None and request.path in ("/metrics", "/metrics/"):
            return await self._metrics(request)
        status, value = endpoint or self._built_in.get(request.path, (404, {"detail": "Not Found"}))
        if request.method != "GET" and endpoint is None and status != 404:
            status, value = 405, {"detail": "Method Not Allowed"}
        if value is None:
            return web.Response(status=status, headers={"Server": "uvicorn"})
        body = json.dumps(value, separators=(",", ":")).encode()
        return web.Response(body=body, status=status, content_type="application/json", headers={"Server": "uvicorn"})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        body = self.body if isinstance(self.body, bytes) else self.body()
        status = self.status
        await asyncio.sleep(self.delay)
        headers = {"Server": "uvicorn", "Content-Type": "text/plain; version=1.0.0; charset=utf-8"}
        if request.path == "/metrics/":
            # Behind the slash prometheus_client's own application answers, which knows gzip.
            headers["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
            if "gzip" in request.headers.get("Accept-Encoding", ""):
                body = gzip.compress(body)
                headers["Content-Encoding"] = "gzip"
        headers |= self.headers
        if not self.drip:
            return web.Response(body=body, status=status, headers=headers)
        answer = web.StreamResponse(status=status, headers=headers)
        await answer.prepare(request)
        for byte in body:
            await answer.write(bytes([byte]))
            await asyncio.sleep(self.drip)
        return answer


def model_card(model: str | Mapping[str, Any]) -> dict[str, Any]:
    """Make an entry of `/v1/models` from an id, or from the fields that differ from a usual one."""
    given = {"id": model} if isinstance(model, str) else dict(model)
    usual = {"object": "model", "created": 1795459830, "owned_by": "vllm", "root": f"/models/{given['id']}"}
    return {**usual, "parent": None, "max_model_len": 2048, "permission": [], **given}


def _replay(captures: Sequence[Path], interval: float) -> Callable[[], bytes]:
    bodies = [capture.read_bytes() for capture in captures]
    start = time.monotonic()
    return lambda: bodies[int((time.monotonic() - start) / interval) % len(bodies)]


async def _serve(options: argparse.Namespace) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    body = _replay(options.captures, options.interval)
    async with FakeVllm(body, version=options.version, host=options.host, port=options.port) as fake:
        logging.info("replaying %d captures on %s/metrics, Ctrl-C ends it", len(options.captures), fake.url)
        await ended.wait()


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Replay recorded metrics of vLLM.")
    parser.add_argument("captures", nargs="+", type=Path, metavar="CAPTURE", help="bodies of /metrics, in order")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=8000, type=int, help="port to listen on (default: %(default)s)")
    parser.add_argument("--interval", default=1.0, type=float, help="seconds for each capture (default: %(default)s)")
    parser.add_argument("--version", default="0.32.0", help="what /version says (default: %(default)s)")
    options = parser.parse_args()
    if not options.interval > 0:
        parser.error("--interval must be above 0")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
