"""A whole sidecar in this process, behind a real socket, and a client that asks it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from yarl import URL

from vllm_sidecar.config import Config, ConfigError
from vllm_sidecar.serve.app import Sidecar
from vllm_sidecar.serve.http import make_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vllm_sidecar.serve.snapshot import Snapshot


class Client:
    """Asks one sidecar."""

    def __init__(self, sidecar: Sidecar, session: aiohttp.ClientSession) -> None:
        self.sidecar = sidecar
        self._session = session

    async def get(self, path: str, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
        async with self._session.get(path, headers=headers) as answer:
            return answer, await answer.read()

    async def get_raw(self, path: str) -> tuple[aiohttp.ClientResponse, bytes]:
        """Ask for a path as it is written: clients take dots out of it, attackers do not."""
        async with self._session.get(URL(path, encoded=True)) as answer:
            return answer, await answer.read()

    async def head(self, path: str, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
        async with self._session.head(path, headers=headers) as answer:
            return answer, await answer.read()

    async def post(self, path: str) -> tuple[int, str]:
        async with self._session.post(path) as answer:
            return answer.status, await answer.text()

    async def until(self, what: Callable[[dict[str, Snapshot]], bool]) -> None:
        async with asyncio.timeout(5.0):
            while not what(self.sidecar.exporter.snapshots):  # noqa: ASYNC110 - a poll ends without telling
                await asyncio.sleep(0.01)

    async def until_polled(self) -> None:
        await self.until(lambda snapshots: all(snapshot.health.polls for snapshot in snapshots.values()))


@asynccontextmanager
async def serving(*configs: Config | ConfigError) -> AsyncIterator[Client]:
    """Serve the first configuration; every reload loads the next one."""
    following = list(configs[1:])

    def load() -> Config:
        given = following.pop(0)
        if isinstance(given, ConfigError):
            raise given
        return given

    first = configs[0]
    assert isinstance(first, Config)
    sidecar = Sidecar(first, load)
    runner = web.AppRunner(make_app(sidecar, first.web.telemetry_path), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await sidecar.start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}", auto_decompress=True) as session:
            yield Client(sidecar, session)
    finally:
        await sidecar.stop()
        await runner.cleanup()
