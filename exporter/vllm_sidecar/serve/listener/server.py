"""The HTTP server as a whole: listening sockets, connections, the guard, and the application behind it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import time
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from vllm_sidecar import logs
from vllm_sidecar.serve.listener.acceptor import Acceptor
from vllm_sidecar.serve.listener.connections import Connections
from vllm_sidecar.serve.listener.guard import Guard
from vllm_sidecar.serve.listener.requests import Requests, observer, request_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aiohttp.typedefs import Handler

    from vllm_sidecar.config import WebSettings
    from vllm_sidecar.serve.listener.sockets import Listening
    from vllm_sidecar.serve.listener.web_file import WebFileInUse

SHUTDOWN_SECONDS = 0.5
"""Time for open scrapes to finish after SIGTERM."""
SWEEP_SECONDS = 5.0
"""Connections are closed at most so long after their time is over; more often would wake the program for nothing."""
AGAIN_SECONDS = 1.0
"""Pause before a part that failed runs again."""
KEPT_FILES = 64
"""Files that are not for scrapers: those of the program itself, and connections to servers."""
FILES_PER_TARGET = 4

_log = logging.getLogger(__name__)


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
        parts: list[Callable[[], Coroutine[object, object, None]]] = [
            *(partial(self._acceptor.run, each) for each in listening.sockets),
            self._sweep,
            self.file.follow,
        ]
        self._tasks = [asyncio.create_task(_keep(part)) for part in parts]

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


async def _keep(part: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run a part of the server until it is canceled; a bug, or a thread that cannot be started, must not end it."""
    while True:
        try:
            await part()
        except Exception as error:  # noqa: BLE001 - see above
            logs.event(_log, logging.ERROR, "internal_error", exc_info=error)
        else:
            return
        await asyncio.sleep(AGAIN_SECONDS)


def connection_limit(wanted: int, targets: int) -> int:
    """Return how many connections there may be: as configured, or fewer where open files are scarce."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(8, min(wanted, soft - KEPT_FILES - FILES_PER_TARGET * targets))


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, as every Go program does at its start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
