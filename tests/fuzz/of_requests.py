"""Fuzz targets for what anybody may send to the port."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from functools import cache

from web_server import web_server

from vllm_sidecar.serve.negotiation import has_already, takes_gzip, takes_openmetrics

SECONDS = 10.0
"""Most that the answer to a scrape takes."""
SOON = 0.05
"""Wait for an answer to other bytes: the server waits longer than that for the end of a request."""
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@cache
def _port() -> int:
    """The port of a server that runs in a thread of its own until the process ends."""
    ready, found = threading.Event(), []

    async def serve() -> None:
        async with web_server() as serving:
            found.append(serving.port)
            ready.set()
            await asyncio.Event().wait()

    threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
    assert ready.wait(5.0)
    return found[0]


def _status_line(data: bytes, seconds: float) -> bytes:
    """Send some bytes; return the first line of the answer, empty without one in this time."""
    with socket.create_connection(("127.0.0.1", _port()), timeout=SECONDS) as connection:
        connection.settimeout(seconds)
        with suppress(TimeoutError, ConnectionError):
            connection.sendall(data)
            return connection.recv(65536).partition(b"\r\n")[0]
    return b""


def http(data: bytes) -> None:
    """Bytes get no answer, or one with a status that is not a failure of the server; then a scrape gets its own."""
    # `/broken` and `/big` of the server in tests fail, and are long, on purpose.
    request = data.replace(b"/broken", b"/metrics").replace(b"/big", b"/metrics").replace(b"/slow", b"/metrics")
    line = _status_line(request, SOON)
    assert not line or line.startswith(b"HTTP/"), line
    assert b" 500 " not in line, line
    assert b" 200 " in _status_line(SCRAPE, SECONDS)


def headers(data: bytes) -> None:
    """Whatever a header says, one of the formats is chosen."""
    text = data.decode("latin-1")
    assert takes_openmetrics(text) in (True, False)
    assert takes_gzip(text) in (True, False)
    assert has_already(text, '"etag"') in (True, False)
