"""The simulator's HTTP server: vLLM's own endpoints, and `/simulate/...` for the state of the simulation."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import time
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from vllm_sidecar.logs import event
from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.completions import COMPLETIONS, complete
from vllm_sidecar.simulator.lookalike import Lookalike

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllm_sidecar.simulator.script import Script

TICK_SECONDS = 0.1
LAG_SECONDS = 1.0
"""Real seconds of delay after which the simulated time skips the rest."""

_log = logging.getLogger(__name__)


class Simulator:
    """A simulated server in real time, `speed` times as fast."""

    def __init__(self, script: Script) -> None:
        self._speed = script.speed
        self._began = time.monotonic()
        self._lag_logged = False
        self.look = Lookalike(script, time.time())

    def catch_up(self) -> Lookalike:
        """Advance the simulated clock to now; if the machine is too slow for that, continue from its current time."""
        look, now = self.look, time.monotonic()
        look.advance((now - self._began) * self._speed)
        elapsed = time.monotonic() - now
        if elapsed > LAG_SECONDS:
            self._began += elapsed
            if not self._lag_logged:
                self._lag_logged = True
                event(_log, logging.WARNING, "cannot_keep_up", speed=self._speed, hint="choose a lower --speed")
        return look


def make_app(simulator: Simulator) -> web.Application:
    """Make the aiohttp application of a simulator."""
    app = web.Application()
    for path, handler in _handlers(simulator).items():
        app.router.add_get(path, handler)

    async def completions(request: web.Request) -> web.StreamResponse:
        return await complete(request, simulator.catch_up)

    for path in COMPLETIONS:
        app.router.add_post(path, completions)
    return app


def _handlers(simulator: Simulator) -> dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]:
    settings, dialect = simulator.look.settings, simulator.look.dialect

    async def metrics(request: web.Request) -> web.Response:
        body = exposition(simulator.catch_up())
        names = request.query.getall("name[]", []) if request.path == "/metrics/" else []
        if names and not dialect.rust:
            body = _only(body, set(names))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: dialect.content_type})

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    async def version(_: web.Request) -> web.Response:
        rust = {"rust_frontend_version": dialect.release} if dialect.rust else {}
        return web.json_response({"version": dialect.release, **rust})

    async def load(_: web.Request) -> web.Response:
        return web.json_response({"server_load": 0})  # as without --enable-server-load-tracking

    async def models(_: web.Request) -> web.Response:
        names: list[tuple[str, str | None]] = [(settings.model_name, None)]
        names += [(name, settings.model_name) for name in settings.adapter_names]
        cards = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "vllm",
                "root": name,
                "parent": parent,
                "max_model_len": None if parent else settings.max_model_len,
            }
            for name, parent in names
        ]
        return web.json_response({"object": "list", "data": cards})

    async def gpus(_: web.Request) -> web.Response:
        look = simulator.catch_up()
        return web.json_response({"gpus": [gpu.report(settings) for gpu in look.gpus]})

    async def phase(_: web.Request) -> web.Response:
        look = simulator.catch_up()
        left = look.phase_seconds_left
        report = {
            "phase": look.phase.scenario.name,
            "description": look.phase.scenario.description,
            "alerts": look.phase.scenario.alerts,
            "seconds": look.clock,
            "seconds_left": None if math.isinf(left) else left,
        }
        return web.json_response(report)

    return {
        "/metrics": metrics,
        "/metrics/": metrics,
        "/health": health,
        "/ping": health,
        "/version": version,
        "/load": load,
        "/v1/models": models,
        "/simulate/gpus": gpus,
        "/simulate/phase": phase,
    }


def _only(body: bytes, names: set[str]) -> bytes:
    """Filter the samples with exactly these names, as the application behind vLLM's `/metrics/` does."""
    lines = body.decode().splitlines(keepends=True)
    return "".join(line for line in lines if line.partition("{")[0].partition(" ")[0] in names).encode()


async def serve(script: Script, host: str, port: int) -> int:
    """Run until SIGTERM or SIGINT; return the exit code.

    Raises:
        OSError: the address is not available.
    """
    simulator = Simulator(script)
    runner = web.AppRunner(make_app(simulator), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    site: web.TCPSite | None = None
    shown = None
    try:
        while not stop.is_set():
            look = simulator.catch_up()
            if look.listening and site is None:
                site = web.TCPSite(runner, host, port, reuse_address=True)
                await site.start()
                address = runner.addresses[0]
                host, port = address[0], address[1]  # the same one after a crash
                event(_log, logging.INFO, "listening", address=f"{host}:{port}", dialect=script.dialect)
            elif not look.listening and site is not None:
                await site.stop()
                site = None
                event(_log, logging.INFO, "crashed", address=f"{host}:{port}")
            if look.phase is not shown:
                shown = look.phase
                event(_log, logging.INFO, "phase", scenario=shown.scenario.name, seconds=shown.seconds)
            with_timeout = asyncio.wait_for(stop.wait(), TICK_SECONDS)
            try:
                await with_timeout
            except TimeoutError:
                continue
        event(_log, logging.INFO, "stopping")
    finally:
        await runner.cleanup()
    return 0
