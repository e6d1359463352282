"""The middleware in front of all handlers: it counts requests, and refuses what may not pass."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from vllm_sidecar.serve.listener.connections import SCRAPE_HANDLERS
from vllm_sidecar.serve.listener.hosts import is_allowed, is_same_origin
from vllm_sidecar.serve.listener.passwords import Passwords, TooManyError
from vllm_sidecar.serve.listener.requests import HANDLER, OTHER
from vllm_sidecar.serve.listener.tls import names_of
from vllm_sidecar.serve.listener.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler

    from vllm_sidecar.config import WebSettings
    from vllm_sidecar.config.web_file import RateLimit
    from vllm_sidecar.serve.listener.connections import Connections
    from vllm_sidecar.serve.listener.requests import Requests
    from vllm_sidecar.serve.listener.web_file import WebFileInUse

FROM_OTHER_SITES = frozenset({"reload"})
"""Handlers that refuse requests which a browser sends for a page of another site."""
AUTHENTICATE = {hdrs.WWW_AUTHENTICATE: 'Basic realm="vllm-sidecar", charset="UTF-8"'}


class Guard:
    """Decides which requests reach their handler."""

    def __init__(
        self, web_settings: WebSettings, file: WebFileInUse, connections: Connections, requests: Requests
    ) -> None:
        self._web = web_settings
        self._file = file
        self._connections = connections
        self._requests = requests
        self._passwords = Passwords()
        self._bucket = TokenBucket()
        self._turns = Turns()

    async def pass_on(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, or refuse it."""
        name = request.match_info.route.name or OTHER
        request[HANDLER] = name
        self._requests.in_flight += 1
        try:
            has_room = self._connections.begin(request.transport, name)
            refusal = _later("too many requests are open; try again.\n", 503) if not has_room else None
            await self._turns.take()
            refusal = refusal or await self._refusal(request, name)
            return refusal or await handler(request)
        finally:
            self._requests.in_flight -= 1

    async def _refusal(self, request: web.Request, name: str) -> web.Response | None:
        content = self._file.content
        if not self._bucket.takes(content.rate_limit):
            return _later("more requests than rate_limit of the web configuration allows; try again.\n", 429)
        sans = content.tls_server_config.client_allowed_sans
        if sans and not names_of(request.get_extra_info("peercert")) & set(sans):
            return web.Response(status=403, text="the client's certificate has none of client_allowed_sans.\n")
        if content.basic_auth_users:
            try:
                known = await self._passwords.check(
                    content.basic_auth_users, request.headers.get(hdrs.AUTHORIZATION, "")
                )
            except TooManyError:
                return _later("too many passwords are being checked; try again.\n", 429)
            if not known:
                return web.Response(status=401, text="a user and password are needed.\n", headers=AUTHENTICATE)
        host = request.headers.get(hdrs.HOST, "")
        is_open = name in SCRAPE_HANDLERS or self._file.names_are_safe
        if not is_open and not is_allowed(host, self._web.allowed_hosts):
            return web.Response(status=403, text="add this name to web.allowed_hosts to open pages under it.\n")
        if name in FROM_OTHER_SITES:
            origin, site = request.headers.get(hdrs.ORIGIN), request.headers.get("Sec-Fetch-Site")
            if not is_same_origin(host, origin, site):
                return web.Response(status=403, text="requests from pages of other sites are refused.\n")
        return None

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG002
        """Add the headers of the web file; a handler's own policy is stricter and stays."""
        for name, text in self._file.content.http_server_config.headers.items():
            response.headers.setdefault(name, text)


class TokenBucket:
    """Limits requests as the exporter-toolkit does: a burst, and one more in each interval."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limit: RateLimit | None = None
        self._tokens = 0.0
        self._at = 0.0

    def takes(self, limit: RateLimit) -> bool:
        """Return whether one more request is allowed."""
        if not limit.interval:
            return True
        now = self._clock()
        if limit != self._limit:
            self._limit, self._tokens = limit, float(limit.burst)
        else:
            self._tokens = min(float(limit.burst), self._tokens + (now - self._at) / limit.interval)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def _later(text: str, status: int) -> web.Response:
    return web.Response(status=status, text=text, headers={hdrs.RETRY_AFTER: "1"})
