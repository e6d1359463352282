"""The HTTP client of one target.

`Client.get` always ends within its deadline, holds at most `max_body_size` bytes and raises only PollError. Where
answers and details repeat a credential that was sent, they have *** instead.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from vllm_sidecar import __version__
from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.redaction import KNOWN, Secrets, redact_body
from vllm_sidecar.vllm.credentials import Certificates, TokenFile, basic_auth, header_value
from vllm_sidecar.vllm.errors import check_status, classify
from vllm_sidecar.vllm.memory_limit import memory_limit, most_body_bytes
from vllm_sidecar.vllm.waiting import waiting_clock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp.connector import Connection

    from vllm_sidecar.config import ScrapeSettings, Target
    from vllm_sidecar.vllm.validity import Validity

# For an OpenMetrics request prometheus_client renames `vllm:x` to `vllm_x` and cuts `_total`; its text format does not.
METRICS_ACCEPT = "text/plain;version=0.0.4"

RECONNECT_SECONDS = 3600.0
"""A connection with TLS is not used for longer: a server that renewed its certificate shows the new one to new ones."""
_PATH_SAFE = "/%:@!$&'()*+,;=-._~"
_CONNECTING, _WAITING, _READING = "connecting", "waiting for the answer", "reading the answer"


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer with status 200: its `body`, its `content_type`, and what it cost."""

    body: bytes
    content_type: str
    seconds: float
    """Seconds from sending the request to the last byte."""
    date: float | None = None
    """The server's clock when it answered: Unix time of the Date header; None without the header."""
    waited: float | None = None
    """The part of `seconds` in which the event loop waited; None if it was not measured."""

    @property
    def cost(self) -> float:
        """Seconds that the answer may have cost the server: without those in which this process was busy."""
        return self.seconds if self.waited is None else self.waited


@dataclass(slots=True)
class _Progress:
    """Progress of one request, for the detail of a timeout and for the response time."""

    phase: str = _CONNECTING
    sent_at: float = 0.0
    waited_before: float = 0.0

    def sent(self) -> None:
        """Note that the request is sent now, or sent again after a stale kept-alive connection."""
        self.phase = _WAITING
        self.sent_at, self.waited_before = time.perf_counter(), waiting_clock()


_progress: ContextVar[_Progress] = ContextVar("progress")
"""That of the request of the running task. aiohttp's trace points would cost each request a tenth of its CPU."""


class _TCPConnector(aiohttp.TCPConnector):
    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        connection = await super().connect(*args, **kwargs)
        _progress.get().sent()  # nothing is waited for between this and sending
        return connection


class _UnixConnector(aiohttp.UnixConnector):
    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        connection = await super().connect(*args, **kwargs)
        _progress.get().sent()
        return connection


class Client:
    """One target's HTTP client: keep-alive, one deadline per request, size limits, credentials.

    Proxies from the environment are not used, cookies are not stored and redirects are not followed: the sidecar
    connects only to the configured address.
    """

    def __init__(self, target: Target, scrape: ScrapeSettings) -> None:
        self._target = target
        self._scrape = scrape
        address = URL(target.url)
        self._base = address.with_user(None)
        self._basic = basic_auth(address)
        self._session: aiohttp.ClientSession | None = None
        self._resolver: aiohttp.AsyncResolver | None = None
        self._certificates = Certificates(target)
        self._token_file = TokenFile(target.bearer_token_file) if target.bearer_token_file is not None else None
        self._secrets = Secrets()
        self._connected_at = time.monotonic()
        self._sent: dict[str, str] = {}
        """The last headers that may hold a secret."""

    async def __aenter__(self) -> Self:
        connector: aiohttp.BaseConnector
        if self._target.unix_socket is not None:
            connector = _UnixConnector(path=str(self._target.unix_socket))
        else:
            # A lookup in a thread cannot be canceled: a dead name server would delay the exit. The other resolver has
            # threads of its own, which an address does not need.
            self._resolver = None if is_address(self._base.host or "") else aiohttp.AsyncResolver()
            connector = _TCPConnector(resolver=self._resolver or aiohttp.ThreadedResolver())
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            # get() has the deadline: aiohttp rounds totals from 5 s up to whole seconds
            timeout=aiohttp.ClientTimeout(total=None, connect=self._scrape.connect_timeout, ceil_threshold=1e9),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
        if self._resolver is not None:
            await self._resolver.close()

    @property
    def certificates(self) -> Mapping[str, Validity]:
        """The validity of the certificates in use; see `Certificates.validities`. Empty without TLS."""
        return dict(self._certificates.validities)

    async def get(
        self,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        accept: str = METRICS_ACCEPT,
        timeout: float | None = None,  # noqa: ASYNC109 - it names the phase, which asyncio.timeout around get() cannot
        max_size: int | None = None,
    ) -> Response:
        """Fetch `path` below the target's url.

        Args:
            path: May contain a query, to which `query` is added.
            query: Pairs; names may repeat.
            accept: The Accept header.
            timeout: Seconds for everything from connecting to the last byte; None for `scrape.timeout`.
            max_size: Most bytes of the body, if that is less than `scrape.max_body_size`.

        Raises:
            PollError: Any outcome other than status 200 with a complete body within the limits.
        """
        seconds = self._scrape.timeout if timeout is None else timeout
        url = join(self._base, path, tuple(query))
        where = str(url.with_query(None) if url.raw_query_string else url)
        if self._target.unix_socket is not None:
            where += f" on {self._target.unix_socket}"
        progress = _Progress()
        try:
            async with asyncio.timeout(seconds) as deadline:
                return await self._fetch(url, where, accept, progress, max_size)
        except PollError as error:
            raise PollError(error.reason, self._secrets.hide(error.detail)) from error
        except TimeoutError as error:
            limit = seconds if deadline.expired() else self._scrape.connect_timeout
            raise PollError(Reason.TIMEOUT, f"{where}: gave up after {limit:g} s while {progress.phase}") from error
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            failed = classify(error, where, reading=progress.phase == _READING)
            raise PollError(failed.reason, self._secrets.hide(failed.detail)) from error

    async def _fetch(self, url: URL, where: str, accept: str, progress: _Progress, max_size: int | None) -> Response:
        if self._session is None:
            raise RuntimeError("Client.get outside `async with`")
        token = await self._token_file.token() if self._token_file else None
        headers = self._headers(accept, token)
        if url.scheme == "https" and time.monotonic() - self._connected_at >= RECONNECT_SECONDS:
            headers["connection"] = "close"
            self._connected_at = time.monotonic()
        tls = await self._certificates.context() if url.scheme == "https" else True
        _progress.set(progress)
        async with self._session.get(url, headers=headers, allow_redirects=False, ssl=tls) as answer:
            progress.phase = _READING
            check_status(answer.status, answer.headers.get("Location"), where)
            body = await self._read(answer, where, max_size)
        seconds, waited = time.perf_counter() - progress.sent_at, waiting_clock() - progress.waited_before
        encoding = answer.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            detail = f"{where}: the body is compressed ({encoding[:40]!r}), which was not requested"
            raise PollError(Reason.BAD_ENCODING, detail)
        content_type = self._secrets.hide(answer.headers.get("Content-Type", ""))
        body = self._secrets.hide_in_body(redact_body(body))
        return Response(body, content_type, seconds, unix_time(answer.headers.get("Date", "")), waited)

    async def _read(self, answer: aiohttp.ClientResponse, where: str, max_size: int | None) -> bytes:
        limit, name = self._scrape.max_body_size, " (max_body_size)"
        fits = most_body_bytes(memory_limit())
        if fits is not None and fits < limit:
            limit, name = fits, ", more than is safe with this memory limit: raise it for the sidecar"
        if max_size is not None and max_size < limit:
            limit, name = max_size, ""
        if (answer.content_length or 0) <= limit:
            pieces: list[bytes] = []
            size = 0
            async for piece in answer.content.iter_any():
                size += len(piece)
                if size > limit:
                    break
                pieces.append(piece)
            else:
                return b"".join(pieces)
        answer.close()
        raise PollError(Reason.TOO_LARGE, f"{where}: the body is larger than {limit} bytes{name}")

    def _headers(self, accept: str, token: str | None) -> dict[str, str]:
        """Return the headers of a request; `token` is that of the file, if there is one."""
        headers: dict[str, str] = {}
        if self._basic is not None:
            headers["authorization"] = self._basic
        for name, secret in self._target.headers.items():
            headers[name.lower()] = header_value(name, secret.get_secret_value())
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        elif self._target.bearer_token is not None:
            headers["authorization"] = f"Bearer {self._target.bearer_token.get_secret_value()}"
        if headers != self._sent:
            self._sent = headers
            for name, value in headers.items():
                self._secrets.add_header(name, value)
                KNOWN.add_header(name, value)
        # Compression costs the server more than the transfer over loopback.
        agent = {"user-agent": f"vllm-sidecar/{__version__}"}
        return agent | headers | {"accept": accept, "accept-encoding": "identity"}


@lru_cache(maxsize=2048)
def join(base: URL, path: str, query: tuple[tuple[str, str], ...] = ()) -> URL:
    """Put `path` below the path of `base`, without double slashes; a trailing slash is preserved."""
    path, _, own_query = path.partition("?")
    joined = re.sub("/{2,}", "/", f"{base.raw_path}/{quote(path, safe=_PATH_SAFE)}")
    pairs = [*URL.build(query_string=own_query).query.items(), *query]
    return base.with_path(joined, encoded=True).with_query(pairs or None)


def unix_time(date: str) -> float | None:
    """Return the Unix time of a Date header; None if it is not a date."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, for which no name is looked up."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
