"""Open connections: how many there may be, how long each may take, and which one is closed for a new one.

Clients hold connections open without sending anything, send a request byte by byte, or do not read the answer. None of
them may keep a scraper out: each state of a connection has a time limit, and at the limit of connections the one that
has been idle for the longest time is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import Counter
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

STALLED_SECONDS = 1.0
"""A connection whose client has not read for so long may be closed for a new one."""
SCRAPE_HANDLERS = frozenset({"metrics", "healthy", "ready"})
"""Handlers for which half of the connections are kept."""


class State(enum.Enum):
    """The next step of a connection."""

    HANDSHAKE = "handshake"
    REQUEST = "request"
    RESPONSE = "response"
    IDLE = "idle"


LIMITS = {State.HANDSHAKE: 10.0, State.REQUEST: 10.0, State.RESPONSE: 30.0, State.IDLE: 120.0}
"""Seconds for TLS; from the first byte, or from connecting, to the end of the headers; from there to the last byte of
the answer; and between two requests, which has to be longer than most scrape intervals."""
REASONS = {
    State.HANDSHAKE: "handshake_slow",
    State.REQUEST: "request_slow",
    State.RESPONSE: "reader_slow",
    State.IDLE: "idle",
}
AT_LIMIT = "connection_limit"
HANDSHAKE_FAILED = "handshake_failed"
CLOSE_REASONS = (*REASONS.values(), AT_LIMIT, HANDSHAKE_FAILED)


class Connection(asyncio.Protocol):
    """One connection: it passes everything to the HTTP protocol, and notes its state."""

    def __init__(self, connections: Connections, protocol: asyncio.Protocol, *, tls: bool) -> None:
        self._connections = connections
        self._protocol = protocol
        self.transport: asyncio.Transport | None = None
        self.close_early: Callable[[], object] | None = None
        """Ends the connection while there is no transport, during the TLS handshake."""
        self.unread_since: float | None = None
        """Since when the client has not read; None while it does."""
        self.handler = ""
        self.enter(State.HANDSHAKE if tls else State.REQUEST)

    def enter(self, state: State) -> None:
        """Begin to wait for something else."""
        self.state = state
        self.since = self._connections.clock()

    def end(self) -> None:
        """Close the connection at once; what was not sent yet is lost."""
        if self.transport is not None:
            self.transport.abort()
        elif self.close_early is not None:
            self.close_early()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: a TLS handshake is over."""
        self.transport = cast("asyncio.Transport", transport)
        self.enter(State.REQUEST)
        self._connections.opened(self, transport)
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass bytes of a request on."""
        if self.state is State.IDLE:
            self.enter(State.REQUEST)
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass the end of the requests on."""
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        self.unread_since = self._connections.clock()
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        self.unread_since = None
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._connections.forget(self)
        self._protocol.connection_lost(exc)


class Connections:
    """All connections, and the limit on them."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.clock = clock
        self.closed: Counter[str] = Counter(dict.fromkeys(CLOSE_REASONS, 0))
        """Connections that the sidecar closed, by reason."""
        self._all: dict[Connection, None] = {}
        self._by_transport: dict[asyncio.BaseTransport, Connection] = {}
        self._left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, protocol: asyncio.Protocol, *, tls: bool) -> Connection:
        """Register an accepted connection."""
        connection = Connection(self, protocol, tls=tls)
        self._all[connection] = None
        return connection

    def opened(self, connection: Connection, transport: asyncio.BaseTransport) -> None:
        """Note the transport of a connection."""
        self._by_transport[transport] = connection

    def forget(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self._all.pop(connection, None)
        if connection.transport is not None:
            self._by_transport.pop(connection.transport, None)
        self._left.set()

    def of(self, transport: asyncio.BaseTransport | None) -> Connection | None:
        """Return the connection with this transport; None if it has ended."""
        return self._by_transport.get(transport) if transport is not None else None

    def begin(self, transport: asyncio.BaseTransport | None, handler: str) -> bool:
        """Note that the headers of a request are complete; return False if there is no room for its handler."""
        connection = self.of(transport)
        if connection is None:
            return True
        connection.enter(State.RESPONSE)
        connection.handler = handler
        if handler in SCRAPE_HANDLERS:
            return True
        others = sum(each.state is State.RESPONSE and each.handler not in SCRAPE_HANDLERS for each in self._all)
        return others <= max(1, self.limit // 2)

    def finish(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that an answer was written."""
        connection = self.of(transport)
        if connection is not None:
            connection.enter(State.IDLE)

    def sweep(self) -> None:
        """Close the connections whose time is over."""
        now = self.clock()
        for connection in list(self._all):
            state = connection.state
            unsent = state is State.IDLE and _has_unsent(connection)
            limit = LIMITS[State.RESPONSE] if unsent else LIMITS[state]
            if now - connection.since > limit:
                self._close(connection, REASONS[State.RESPONSE if unsent else state])

    async def room(self) -> None:
        """Wait until there is room for one more connection, which closes another one if that is necessary."""
        while len(self._all) >= self.limit:
            self._left.clear()
            self.make_room()
            # Where all are being answered, this takes milliseconds, except for clients that do not read.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), STALLED_SECONDS / 4)

    def make_room(self) -> bool:
        """Close the connection that is missed least; return False if there is none."""
        now = self.clock()
        ranked = [(rank, each.since, each) for each in self._all if (rank := _rank(each, now)) is not None]
        if not ranked:
            return False
        self._close(min(ranked, key=lambda one: one[:2])[2], AT_LIMIT)
        return True

    def _close(self, connection: Connection, reason: str) -> None:
        self.closed[reason] += 1
        connection.end()


def _rank(connection: Connection, now: float) -> int | None:
    """Return the order in which connections are closed for others; None for one that is being answered."""
    if connection.state is State.IDLE:
        return 0
    if connection.state is not State.RESPONSE:
        return 1
    stalled = connection.unread_since is not None and now - connection.unread_since > STALLED_SECONDS
    return 2 if stalled else None


def _has_unsent(connection: Connection) -> bool:
    return connection.transport is not None and connection.transport.get_write_buffer_size() > 0
