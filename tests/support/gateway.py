"""A gateway in front of a server, which passes requests on or misbehaves as gateways do."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = "key-of-the-gateway"
LATE_SECONDS = 0.3


@asynccontextmanager
async def gateway(server: str, behavior: str) -> AsyncIterator[str]:
    """Serve the address of `server` anew; yield the address.

    Behaviors: `passes`, `slow` (a wait before each request), `502`, `504` (after a wait), `buffers` (the whole
    answer), `closes` (after the first bytes of it), `drops` (before it), `redirects`, `needs_key`, `logs_in` (an HTML
    page with status 200) and `compresses`.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        if behavior in ("504", "slow"):
            await asyncio.sleep(LATE_SECONDS)
        if behavior in ("502", "504"):
            return web.Response(status=int(behavior), text="<html>no upstream</html>", content_type="text/html")
        if behavior == "logs_in":
            return web.Response(text="<html>log in</html>", content_type="text/html")
        if behavior == "redirects":
            raise web.HTTPTemporaryRedirect(f"https://login.example.com{request.path}?back=1")
        if behavior == "needs_key" and request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.Response(status=401, text="no API key")
        if behavior == "drops":
            _cut(request)
            return web.Response()
        return await _pass_on(request)

    async def _pass_on(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Server": "a-gateway"})
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{server}{request.path}", data=await request.read()) as upstream,
        ):
            answer.set_status(upstream.status)
            answer.content_type = upstream.content_type
            if behavior == "compresses":
                answer.enable_compression(web.ContentCoding.gzip)
            pieces = [await upstream.read()] if behavior == "buffers" else upstream.content.iter_any()
            if behavior != "buffers":
                await answer.prepare(request)
            async for piece in _each(pieces):
                if not answer.prepared:
                    await answer.prepare(request)
                await answer.write(piece)
                if behavior == "closes":
                    _cut(request)
                    return answer
        await answer.write_eof()
        return answer

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    app.on_response_prepare.append(_name)
    async with TestServer(app) as started:
        yield str(started.make_url("")).rstrip("/")


async def _name(_: web.Request, answer: web.StreamResponse) -> None:
    answer.headers["Server"] = "a-gateway"


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


async def _each(pieces: object) -> AsyncIterator[bytes]:
    if isinstance(pieces, list):
        for piece in pieces:
            yield piece
    else:
        async for piece in pieces:  # type: ignore[attr-defined]
            yield piece
