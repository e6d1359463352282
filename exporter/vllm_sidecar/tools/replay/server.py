"""A recording -> an HTTP server that answers as the recorded one did, for a sidecar, Prometheus and Grafana."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from vllm_sidecar.logs import print_error
from vllm_sidecar.tools.recording.events import METRICS, Exchange
from vllm_sidecar.tools.recording.reader import Reader

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_sidecar.tools.recording.playback import Outline

_PATHS = ("/version", "/v1/models", "/server_info", "/load")


class RecordedAnswers:
    """The answers of the first server of a recording, by the time of the recording; read as far as needed."""

    def __init__(self, path: Path, found: Outline) -> None:
        self.seconds = found.seconds
        self._events = (each for each in Reader(path) if isinstance(each, Exchange) and each.server == 0)
        self._next: Exchange | None = next(self._events, None)
        self._last = {path: each for (server, path), each in found.probed.items() if server == 0}

    def at(self, seconds: float, path: str) -> Exchange | None:
        """Return the last exchange of a path at a time; None before the first. Time only moves forward."""
        while self._next is not None and self._next.at <= seconds:
            self._last[self._next.path] = self._next
            self._next = next(self._events, None)
        return self._last.get(path)


def make_app(answers: RecordedAnswers, speed: float) -> web.Application:
    """Make the aiohttp application; the time of the recording starts with it."""
    began = time.monotonic()

    async def answer(request: web.Request) -> web.StreamResponse:
        path = METRICS if request.path == "/metrics" else request.path
        found = answers.at((time.monotonic() - began) * speed, path)
        if found is None:
            return web.Response(status=404)
        if found.response is None:
            return web.Response(status=503, text=f"the recorded request failed: {found.reason}\n")
        headers = {hdrs.CONTENT_TYPE: found.response.content_type or "text/plain"}
        return web.Response(body=found.response.body, headers=headers)

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    for path in ("/metrics", *_PATHS):
        app.router.add_get(path, answer)
    app.router.add_get("/health", health)
    return app


async def serve(path: Path, found: Outline, host: str | None, port: int, speed: float) -> int:
    """Serve a recording until its end, SIGTERM or SIGINT; return the exit code.

    Raises:
        OSError: The address is not available.
        RecordingError: The recording can no longer be read.
    """
    runner = web.AppRunner(make_app(RecordedAnswers(path, found), speed), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await web.TCPSite(runner, host, port, reuse_address=True).start()
        name = runner.addresses[0]
        print_error(f"the recorded server answers on {name[0]}:{name[1]} for {found.seconds / speed:.0f} s")
        try:
            await asyncio.wait_for(stop.wait(), found.seconds / speed)
        except TimeoutError:
            print_error("end of the recording")
    finally:
        await runner.cleanup()
    return 0
