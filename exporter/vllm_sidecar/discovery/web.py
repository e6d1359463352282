"""The HTTP client of a source: credentials as of a target, limits of time and size, and only SourceError.

As for targets, redirects are not followed, proxies from the environment are not used, and cookies are not stored.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from vllm_sidecar import __version__
from vllm_sidecar.catalog.discovery import SourceReason
from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.discovery.entries import MOST_BYTES
from vllm_sidecar.discovery.errors import SourceError, shown
from vllm_sidecar.vllm.credentials import Certificates, header_value, read_token
from vllm_sidecar.vllm.errors import classify

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from vllm_sidecar.config import HttpServer

TIMEOUT = 30.0
"""Seconds for a whole request."""
CONNECT_TIMEOUT = 5.0
MOST_LINE_BYTES = 4 * 1024 * 1024
"""Longest line of a stream; an object of Kubernetes has at most 1.5 MiB."""
_MESSAGE_BYTES = 8192

_REASONS = {
    Reason.CREDENTIALS: SourceReason.UNAUTHORIZED,
    Reason.NOT_HTTP: SourceReason.INVALID,
    Reason.INTERNAL: SourceReason.INTERNAL,
}
"""Reasons of the client of targets that are not UNREACHABLE."""
_FAILURES = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)


class StatusError(SourceError):
    """An answer with another status than 200."""

    def __init__(self, where: str, status: int, message: str) -> None:
        reason = SourceReason.UNAUTHORIZED if status in (401, 403) else SourceReason.HTTP_STATUS
        super().__init__(reason, f"{where}: status {status}{f': {message}' if message else ''}")
        self.status = status


class WebClient:
    """Reads answers of one server; each request has its own connection, for requests are rare or long.

    `shows_messages`: errors contain the message of a failed answer. Not for a server that is not trusted: it may
    return the token.
    """

    def __init__(self, server: HttpServer, *, shows_messages: bool = False) -> None:
        self._server = server
        self._shows_messages = shows_messages
        self._certificates = Certificates(server)

    async def get(self, url: str, query: Mapping[str, str] = MappingProxyType({})) -> bytes:
        """Return the body of an answer with status 200.

        Raises:
            SourceError: Any other outcome.
        """
        limits = aiohttp.ClientTimeout(total=TIMEOUT, connect=CONNECT_TIMEOUT, ceil_threshold=1e9)
        async with self._answer(url, query, limits) as answer:
            pieces, size = [], 0
            async for piece in answer.content.iter_any():
                size += len(piece)
                if size > MOST_BYTES:
                    raise SourceError(SourceReason.TOO_LARGE, f"{_where(url)}: more than {MOST_BYTES} bytes")
                pieces.append(piece)
            return b"".join(pieces)

    async def lines(self, url: str, query: Mapping[str, str], idle: float) -> AsyncGenerator[bytes, None]:
        """Yield the lines of an answer until it ends.

        Args:
            url: The address.
            query: Parameters.
            idle: Seconds without a byte after which the connection counts as lost.

        Raises:
            SourceError: There is no answer with status 200, the connection was lost, or a line is too long.
        """
        limits = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT, sock_read=idle, ceil_threshold=1e9)
        async with self._answer(url, query, limits) as answer:
            rest = b""
            async for piece in answer.content.iter_any():
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    yield line
                if len(rest) > MOST_LINE_BYTES:
                    detail = f"{_where(url)}: a line of more than {MOST_LINE_BYTES} bytes"
                    raise SourceError(SourceReason.TOO_LARGE, detail)

    @asynccontextmanager
    async def _answer(
        self, url: str, query: Mapping[str, str], limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        where, reading = _where(url), False
        resolver = aiohttp.AsyncResolver()
        try:
            address, headers = URL(url).update_query(query), self._headers()
            tls = await self._certificates.context() if address.scheme == "https" else True
            async with (
                aiohttp.TCPConnector(resolver=resolver) as connector,
                aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=limits
                ) as session,
                session.get(address, headers=headers, allow_redirects=False, ssl=tls) as answer,
            ):
                if answer.status != 200:
                    message = await _message(answer) if self._shows_messages else ""
                    raise StatusError(where, answer.status, message)
                reading = True
                yield answer
        except TimeoutError:
            raise SourceError(SourceReason.UNREACHABLE, f"{where}: the answer was not complete in time") from None
        except PollError as error:
            raise SourceError(_REASONS.get(error.reason, SourceReason.UNREACHABLE), error.detail) from None
        except _FAILURES as error:
            found = classify(error, where, reading=reading)
            raise SourceError(_REASONS.get(found.reason, SourceReason.UNREACHABLE), found.detail) from None
        finally:
            await resolver.close()

    def _headers(self) -> dict[str, str]:
        server = self._server
        headers = {"user-agent": f"vllm-sidecar/{__version__}", "accept": "application/json"}
        for name, secret in server.headers.items():
            headers[name.lower()] = header_value(name, secret.get_secret_value())
        if server.bearer_token_file is not None:
            headers["authorization"] = f"Bearer {read_token(server.bearer_token_file)}"
        elif server.bearer_token is not None:
            headers["authorization"] = f"Bearer {server.bearer_token.get_secret_value()}"
        return headers


def _where(url: str) -> str:
    """Return an address without its query, which may hold a secret."""
    return url.partition("?")[0]


async def _message(answer: aiohttp.ClientResponse) -> str:
    """Return the message of a failed answer of a Kubernetes API server; empty if there is none."""
    try:
        message = json.loads(await answer.content.read(_MESSAGE_BYTES))["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return shown(message) if isinstance(message, str) else ""
