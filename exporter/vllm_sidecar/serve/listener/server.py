"""The HTTP server as a whole: listening sockets, connections, the guard, and the application behind it."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from typing import TYPE_CHECKING

from aiohttp import web

from vllm_sidecar import logs
from vllm_sidecar.serve.listener.acceptor import Acceptor
from vllm_sidecar.serve.listener.connections import Connections
from vllm_sidecar.serve.listener.guard import Guard
from vllm_sidecar.serve.listener.requests import Requests, observer, request_logger

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from vllm_sidecar.config import WebSettings
    from vllm_sidecar.serve.listener.sockets import Listening
    from vllm_sidecar.serve.listener.web_file import WebFileInUse

SHUTDOWN_SECONDS = 0.5
"""Time for open scrapes to finish after SIGTERM."""
SWEEP_SECONDS = 1.0
KEPT_FILES = 64
"""Files that are not for scrapers: those of the program itself, and connections to servers."""
FILES_PER_TARGET = 4


class WebServer:
    """Serves one application on the sockets of the configuration."""

    def __init__(self, settings: WebSettings, file: WebFileInUse, targets: int = 1) -> None:
        self.file = file
        self.sweep_seconds = SWEEP_SECONDS
        self.requests = Requests()
        self.connections = Connections(connection_limit(settings.max_connections, targets), time.monotonic)
        self._guard = Guard(settings, file, self.connections, self.requests)
        self._runner: web.AppRunner | None = None
        self._acceptor: Acceptor | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def accept_failures(self) -> int:
        """Accepts that failed because the machine lacked files or memory."""
        return self._acceptor.failures if self._acceptor else 0

    def protect(self, app: web.Application) -> None:
        """Put the guard in front of an application."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard.pass_on(request, handler)

        app.middlewares.append(guard)
        app.on_response_prepare.append(self._guard.add_headers)

    async def start(self, app: web.Application, listening: Listening) -> None:
        """Begin to accept connections."""
        self._runner = web.AppRunner(
            app,
            access_log_class=observer(self.requests, self.connections),
            access_log=logging.getLogger("aiohttp.access"),
            logger=request_logger(),
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the application has not been set up")
        self._acceptor = Acceptor(self.connections, self._runner.server, self.file.tls)
        self._tasks = [
            *(asyncio.create_task(self._acceptor.run(each), name="accept") for each in listening.sockets),
            asyncio.create_task(self._sweep(), name="sweep connections"),
            asyncio.create_task(self.file.follow(), name="web file"),
        ]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.sweep_seconds)
            self.connections.sweep()
            logs.flush()

    async def stop(self) -> None:
        """Stop accepting, let open answers finish for a moment, and close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._acceptor:
            await self._acceptor.stop()
        if self._runner:
            await self._runner.cleanup()


def connection_limit(wanted: int, targets: int) -> int:
    """Return how many connections there may be: as configured, or fewer where open files are scarce."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(8, min(wanted, soft - KEPT_FILES - FILES_PER_TARGET * targets))


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, as every Go program does at its start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
