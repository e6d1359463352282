"""Raw servers on the loopback that misbehave as told, and short ways to ask them."""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.vllm.client import Client, Response

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pydantic import SecretStr

BODY = b"""# HELP vllm:num_requests_running Running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
# HELP vllm:e2e Seconds.
# TYPE vllm:e2e histogram
vllm:e2e_bucket{le="1.0"} 1.0
vllm:e2e_bucket{le="+Inf"} 2.0
vllm:e2e_count 2.0
vllm:e2e_sum 5.5
"""


@dataclass
class Target:
    """Stands for config.Target."""

    url: str = "http://127.0.0.1:1"
    headers: dict[str, SecretStr] = field(default_factory=dict)
    bearer_token_file: Path | None = None
    bearer_token: SecretStr | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    insecure_skip_verify: bool = False
    unix_socket: Path | None = None


@dataclass
class Scrape:
    """Stands for config.Scrape."""

    timeout: float = 2.0
    connect_timeout: float = 1.0
    max_body_size: int = 1_000_000


async def fetch(target: Target | str, path: str = "/metrics", **scrape: float) -> Response:
    target = Target(url=target) if isinstance(target, str) else target
    async with Client(target, Scrape(**scrape)) as client:
        return await client.get(path)


async def failure(target: Target | str, path: str = "/metrics", **scrape: float) -> PollError:
    with pytest.raises(PollError) as caught:
        await fetch(target, path, **scrape)
    return caught.value


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Listen with a function for each connection; it is cancelled and its connection closed at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await handler(reader, writer)
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(on_connect, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(data: bytes, *, then_wait: bool = False, reads: bool = True) -> Handler:
    """Make a handler that reads a request, answers with `data`, then closes or keeps silent."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reads:
            await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        if then_wait:
            await asyncio.Event().wait()

    return handler


async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def answer(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def wait_for(url: str, wanted: str = "", seconds: float = 40.0) -> None:
    """Wait until an address answers with a text that holds another; an AssertionError where it does not in time."""
    end, said = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5) as found:  # noqa: S310 - loopback
                said = found.read().decode()
            if wanted in said:
                return
        except OSError as error:
            said = str(error)
        time.sleep(0.1)
    raise AssertionError(f"{url} does not say {wanted!r}: {said[:500]}")
