"""Servers that answer whatever bytes a fault wants, many at one port: the first part of the path names one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self

from places import TESTS

if TYPE_CHECKING:
    from types import TracebackType

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Writes an answer of its own; the connection ends when it returns."""
Answer = bytes | Handler

_CAPTURE = TESTS / "captures" / "0.32.0__baseline__after.prom"
_GROWING = re.compile(r"(?:_bucket|_sum|_count|_total)(?:\{|\s)")
STEP = 0.02
"""Share by which all counters grow each second."""


def http(body: bytes | str, status: str = "200 OK", headers: str = "Content-Type: text/plain\r\n") -> bytes:
    """Return a whole answer."""
    body = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body
    return (
        f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode("utf-8", "surrogateescape") + body
    )


class Body:
    """A recorded body whose counters grow with time."""

    def __init__(self) -> None:
        self._lines = _CAPTURE.read_text(encoding="utf-8").splitlines()
        self._began = time.monotonic()

    def text(self) -> str:
        """Return the body of now."""
        factor = 1.0 + STEP * int(time.monotonic() - self._began)
        return "\n".join(self._grown(line, factor) for line in self._lines) + "\n"

    @staticmethod
    def _grown(line: str, factor: float) -> str:
        if line.startswith("#") or not _GROWING.search(line):
            return line
        head, _, value = line.rpartition(" ")
        grown = float(value) * factor
        return f"{head} {grown if '_sum' in head else round(grown)!r}"


BODY = Body()


def models() -> bytes:
    """Return the answer of /v1/models."""
    card = {"id": "tiny", "object": "model", "root": "tiny", "parent": None, "max_model_len": 2048}
    return http(json.dumps({"object": "list", "data": [card]}), headers="Content-Type: application/json\r\n")


class Upstream:
    """An async context manager; `faults` maps (name of a server, path) to what it answers instead."""

    def __init__(self) -> None:
        self.faults: dict[tuple[str, str], Callable[[], Answer]] = {}
        self.asked: dict[tuple[str, str], int] = {}
        self.polled: list[float] = []
        """When the server `control` was polled."""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=1 << 20)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        traceback: TracebackType | None) -> None:  # fmt: skip
        if self._server is not None:
            self._server.close()
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    @property
    def url(self) -> str:
        """Return the address without the name of a server."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        ended = OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError
        with contextlib.suppress(*ended):
            while await self._answered((await reader.readuntil(b"\r\n\r\n")).split()[1].decode(), writer):
                pass
        writer.close()

    async def _answered(self, address: str, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays."""
        name, _, rest = address.partition("?")[0].lstrip("/").partition("/")
        key = name, f"/{rest}"
        self.asked[key] = self.asked.get(key, 0) + 1
        if key == ("control", "/metrics"):
            self.polled.append(time.monotonic())
        fault = self.faults.get(key)
        answer = fault() if fault else _usual(key[1])
        if callable(answer):
            await answer(writer)
            return False
        writer.write(answer)
        await writer.drain()
        return fault is None


def _usual(path: str) -> bytes:
    if path == "/metrics":
        return http(BODY.text())
    if path == "/version":
        return http('{"version":"0.32.0"}', headers="Content-Type: application/json\r\n")
    if path == "/v1/models":
        return models()
    if path == "/load":
        return http('{"server_load":0}', headers="Content-Type: application/json\r\n")
    return http("") if path in ("/health", "/ping") else http("", "404 Not Found")
