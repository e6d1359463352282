"""The phases of a request: aiohttp's trace points, and the beginning of TLS -> seconds of each phase."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from vllm_sidecar.catalog.canary import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(slots=True)
class Moments:
    """Times of one request by a monotonic clock in seconds; None if it did not get so far."""

    began: float = field(default_factory=time.perf_counter)
    resolving: float | None = None
    resolved: float | None = None
    connecting: float | None = None
    handshake: float | None = None
    """When TLS began, so when TCP was connected."""
    connected: float | None = None
    headers: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    outputs: int = 0
    ended: float | None = None

    def output(self) -> None:
        """Note that an event with generated tokens arrived."""
        self.last_token = time.perf_counter()
        self.first_token = self.last_token if self.first_token is None else self.first_token
        self.outputs += 1

    def phases(self) -> Iterator[tuple[Phase, float]]:
        """Yield the phases that were completed, and their seconds."""
        tcp = self.handshake if self.handshake is not None else self.connected
        for phase, since, until in (
            (Phase.RESOLVE, self.resolving, self.resolved),
            (Phase.CONNECT, self.resolved if self.resolved is not None else self.connecting, tcp),
            (Phase.TLS, self.handshake, self.connected),
            (Phase.PROCESSING, self.connected, self.headers),
            (Phase.FIRST_TOKEN, self.headers, self.first_token),
            (Phase.TRANSFER, self.first_token, self.ended),
        ):
            if since is not None and until is not None:
                yield phase, max(0.0, until - since)

    @property
    def reached(self) -> str:
        """The phase in which the request is, for the detail of a timeout."""
        done = {phase for phase, _ in self.phases()}
        if Phase.PROCESSING not in done:
            return "waiting for the answer" if self.connected is not None else "connecting"
        return "generating" if Phase.FIRST_TOKEN in done else "waiting for the first token"

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the begin of the request to its first token."""
        return None if self.first_token is None else self.first_token - self.began

    @property
    def inter_token_latency(self) -> float | None:
        """Mean seconds between two outputs; None with fewer than two."""
        if self.first_token is None or self.last_token is None or self.outputs < 2:
            return None
        return (self.last_token - self.first_token) / (self.outputs - 1)


def tracing() -> aiohttp.TraceConfig:
    """Return trace points that fill the Moments which a request passes as `trace_request_ctx`."""
    config = aiohttp.TraceConfig()
    config.on_dns_resolvehost_start.append(_noting("resolving"))
    config.on_dns_resolvehost_end.append(_noting("resolved"))
    config.on_connection_create_start.append(_noting("connecting"))
    config.on_connection_create_end.append(_noting("connected"))
    return config


def _noting(name: str) -> Any:
    async def note(_session: aiohttp.ClientSession, context: Any, _parameters: object) -> None:
        setattr(context.trace_request_ctx, name, time.perf_counter())

    return note


def note_handshake(context: ssl.SSLContext, noted: Callable[[], None]) -> None:
    """Let a context, which only one request uses at a time, call `noted` when its next handshake begins."""

    class Noting(ssl.SSLObject):
        def do_handshake(self) -> None:
            noted()
            super().do_handshake()

    context.sslobject_class = Noting
