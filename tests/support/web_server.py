"""The sidecar's HTTP server in this process, in front of a small application."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from vllm_sidecar.config import WebSettings
from vllm_sidecar.serve.listener.server import WebServer
from vllm_sidecar.serve.listener.sockets import open_sockets
from vllm_sidecar.serve.listener.web_file import WebFileInUse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BIG = b"x" * 8_000_000
"""More than the buffers of a connection hold."""


@dataclass
class Serving:
    """A running server."""

    server: WebServer
    port: int

    async def connect(self) -> Raw:
        """Open a connection."""
        return Raw(*await asyncio.open_connection("127.0.0.1", self.port))

    async def status(self, path: str = "/metrics", **headers: str) -> int:
        """Return the status of one request over a connection of its own."""
        raw = await self.connect()
        try:
            return await raw.status(path, **headers)
        finally:
            raw.close()

    async def until(self, seconds: float, reason: str) -> None:
        """Wait until a connection was closed for a reason."""
        async with asyncio.timeout(seconds):
            while not self.server.connections.closed[reason]:  # noqa: ASYNC110 - a sweep ends without telling
                await asyncio.sleep(0.01)


@dataclass
class Raw:
    """One connection of a client that does not have to behave."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def status(self, path: str = "/metrics", **headers: str) -> int:
        """Send a whole request and return the status of the answer, whose body is read."""
        await self.send(path, **headers)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        await self.reader.readexactly(length)
        return int(head.split()[1])

    async def send(self, path: str, **headers: str) -> None:
        """Send a request, and do not read its answer."""
        given = {"Host": "127.0.0.1", **{name.replace("_", "-"): text for name, text in headers.items()}}
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {text}" for name, text in given.items())]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        await self.writer.drain()

    def close(self) -> None:
        """Close the connection."""
        self.writer.close()


@asynccontextmanager
async def web_server(
    file: Path | None = None, *, sweep_seconds: float = 0.05, **settings: object
) -> AsyncIterator[Serving]:
    """Serve `/metrics`, `/big` and `/slow` with settings of the section `web`."""
    given = WebSettings.model_validate({"listen_address": "127.0.0.1:0", **settings})
    server = WebServer(given, WebFileInUse(file))
    app = web.Application()
    release = asyncio.Event()

    async def small(_: web.Request) -> web.Response:
        return web.Response(text="small")

    async def big(_: web.Request) -> web.Response:
        return web.Response(body=BIG)

    async def slow(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response(text="late")

    async def broken(_: web.Request) -> web.Response:
        raise ZeroDivisionError

    app.router.add_get("/metrics", small, name="metrics")
    app.router.add_get("/page", small, name="page")
    app.router.add_post("/-/reload", small, name="reload")
    app.router.add_get("/big", big, name="big")
    app.router.add_get("/slow", slow, name="slow")
    app.router.add_get("/broken", broken, name="broken")
    server.protect(app)
    listening = open_sockets(given)
    port = next((one.getsockname()[1] for one in listening.sockets if one.family == socket.AF_INET), 0)
    server.sweep_seconds = sweep_seconds
    await server.start(app, listening)
    try:
        yield Serving(server, port)
    finally:
        release.set()
        await server.stop()
        listening.close()
