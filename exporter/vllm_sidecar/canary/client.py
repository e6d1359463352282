"""Sends one request of the canary over a new connection, as a user does, and reads its stream to the end.

`CanaryClient.send` always ends within the timeout, reads at most `max_body_size` bytes and raises only CanaryError.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from vllm_sidecar.canary.errors import CanaryError, of_request
from vllm_sidecar.canary.phases import Moments, note_handshake, tracing
from vllm_sidecar.canary.requests import marks
from vllm_sidecar.canary.stream import DONE, Answer, EventStream
from vllm_sidecar.catalog.canary import CanaryReason
from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.redaction import KNOWN, Secrets, redact
from vllm_sidecar.vllm.client import is_address, join
from vllm_sidecar.vllm.credentials import Certificates, TokenFile, header_value
from vllm_sidecar.vllm.errors import check_status, classify

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

    from vllm_sidecar.canary.requests import CanaryRequest
    from vllm_sidecar.config import HttpServer
    from vllm_sidecar.config.canary import CanarySettings

_ERROR_BYTES = 2048
"""Bytes of the body of a refused request that are read for the detail."""
_SERVER_CHARACTERS = 60
"""Most characters of the Server header in a detail."""
_OF_GATEWAYS = (502, 504)
"""Statuses that vLLM never sends."""


class CanaryClient:
    """Sends requests to one server, with credentials of the canary; one at a time."""

    def __init__(self, server: HttpServer, settings: CanarySettings, unix_socket: Path | None = None) -> None:
        self._server = server
        self._settings = settings
        self._socket = unix_socket
        self._base = URL(server.url)
        self._certificates = Certificates(server)
        path = server.bearer_token_file
        self._token_file = TokenFile(path) if path is not None else None
        self._secrets = Secrets()

    async def send(self, request: CanaryRequest, model: str, moments: Moments) -> Answer:
        """Send a request for `model`; return its complete answer, and fill `moments` as far as it gets.

        Raises:
            CanaryError: There is no complete answer.
        """
        url = join(self._base, request.path)
        where = f"{url} on {self._socket}" if self._socket is not None else str(url)
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await self._send(url, where, request.body(model), moments)
        except CanaryError as error:
            raise CanaryError(error.reason, self._secrets.hide(error.detail)) from error
        except PollError as error:
            raise of_request(PollError(error.reason, self._secrets.hide(error.detail))) from error
        except TimeoutError as error:
            detail = f"{where}: gave up after {self._settings.timeout:g} s while {moments.reached}"
            raise CanaryError(CanaryReason.TIMEOUT, detail) from error
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            failed = classify(error, where, reading=moments.headers is not None)
            raise of_request(PollError(failed.reason, self._secrets.hide(failed.detail))) from error
        finally:
            moments.ended = time.perf_counter()

    async def _send(self, url: URL, where: str, body: dict[str, object], moments: Moments) -> Answer:
        headers = await self._headers()
        tls: ssl.SSLContext | bool = True
        if url.scheme == "https":
            tls = await self._certificates.context()
            note_handshake(tls, lambda: _note_handshake(moments))
        # A session for each request: name lookup, connection and handshake are measured, and nothing is shared.
        async with (
            self._connector() as connector,
            aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                trace_configs=[tracing()],
            ) as session,
            session.post(
                url, data=json.dumps(body), headers=headers, allow_redirects=False, ssl=tls, trace_request_ctx=moments
            ) as answer,
        ):
            moments.headers = time.perf_counter()
            where = _with_server(where, answer)
            await _check(answer, where)
            return await self._read(answer, where, moments)

    @asynccontextmanager
    async def _connector(self) -> AsyncIterator[aiohttp.BaseConnector]:
        if self._socket is not None:
            yield aiohttp.UnixConnector(path=str(self._socket), force_close=True)
            return
        if is_address(self._base.host or ""):
            yield aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver(), force_close=True)
            return
        resolver = aiohttp.AsyncResolver()  # its lookups can be canceled, unlike those in threads
        try:
            yield aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True)
        finally:
            await resolver.close()

    async def _read(self, answer: aiohttp.ClientResponse, where: str, moments: Moments) -> Answer:
        stream, found = EventStream(self._settings.max_body_size), Answer()
        async for piece in answer.content.iter_any():
            for data in stream.feed(piece):
                if data == DONE:
                    return found
                if found.add(data):
                    moments.output()
            await asyncio.sleep(0)  # a server that is faster than this process must not hold the event loop
        if found.finish:
            return found
        raise CanaryError(
            CanaryReason.TRUNCATED, f"{where}: the stream ended without a finish reason and without [DONE]"
        )

    async def _headers(self) -> dict[str, str]:
        secret: dict[str, str] = {
            name.lower(): header_value(name, value.get_secret_value()) for name, value in self._server.headers.items()
        }
        if self._token_file is not None:
            secret["authorization"] = f"Bearer {await self._token_file.token()}"
        elif self._server.bearer_token is not None:
            secret["authorization"] = f"Bearer {self._server.bearer_token.get_secret_value()}"
        for name, value in secret.items():
            self._secrets.add_header(name, value)
            KNOWN.add_header(name, value)
        plain = {"accept": "text/event-stream", "accept-encoding": "identity", "content-type": "application/json"}
        return secret | plain | marks()


def _note_handshake(moments: Moments) -> None:
    if moments.handshake is None:  # a handshake has several steps
        moments.handshake = time.perf_counter()


def _with_server(where: str, answer: aiohttp.ClientResponse) -> str:
    """Add the program that answered: a gateway such as nginx or envoy, or uvicorn, which is vLLM's own."""
    name = redact(answer.headers.get("Server", ""))[:_SERVER_CHARACTERS]
    return f"{where} (Server: {name})" if name else where


async def _check(answer: aiohttp.ClientResponse, where: str) -> None:
    """Raise the error of an answer that is not an event stream."""
    try:
        check_status(answer.status, answer.headers.get("Location"), where)
    except PollError as error:
        said = redact((await answer.content.read(_ERROR_BYTES)).decode("utf-8", "replace")[:200])
        detail = f"{error.detail}: {said}" if said else error.detail
        if answer.status in _OF_GATEWAYS:
            raise CanaryError(CanaryReason.BAD_GATEWAY, detail) from error
        raise of_request(PollError(error.reason, detail)) from error
    if answer.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise CanaryError(CanaryReason.BAD_ENCODING, f"{where}: the answer is compressed, which was not requested")
    if answer.content_type != "text/event-stream":
        detail = f"{where}: the answer is {answer.content_type[:100]}, not an event stream"
        raise CanaryError(CanaryReason.BAD_STREAM, detail)
