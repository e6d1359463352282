"""Accepts connections, as many as there is room for; without free files it pauses quietly."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from typing import TYPE_CHECKING

from vllm_sidecar.logs import event
from vllm_sidecar.serve.listener.connections import HANDSHAKE_FAILED, LIMITS, Connections, State

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from vllm_sidecar.serve.listener.connections import Connection

PAUSE_SECONDS = 0.2
"""Pause after an accept that failed because the machine lacks something."""
_LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_log = logging.getLogger(__name__)


class Acceptor:
    """Accepts the connections of all listening sockets."""

    def __init__(
        self,
        connections: Connections,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: Callable[[], ssl.SSLContext | None],
    ) -> None:
        """Prepare.

        Args:
            connections: Keeps the limits.
            make_protocol: Makes the HTTP protocol of a connection.
            tls: Returns the TLS context for the next connection, which may differ from that of the last one; None for
                plain HTTP.
        """
        self._connections = connections
        self._make_protocol = make_protocol
        self._tls = tls
        self._opening: set[asyncio.Task[None]] = set()
        self.failures = 0
        """Accepts that failed because the machine lacked files or memory."""

    async def run(self, listening: socket.socket) -> None:
        """Accept until canceled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _LACKING:
                    self.failures += 1
                    event(_log, logging.WARNING, "accept_failed", detail=error.strerror)
                    self._connections.make_room()
                    await asyncio.sleep(PAUSE_SECONDS)
                continue  # the client left before it was accepted
            try:
                await self._connections.room()
            except BaseException:
                accepted.close()
                raise
            self._begin(accepted)
            await asyncio.sleep(0)  # an accept that need not wait does not let other tasks run

    def _begin(self, accepted: socket.socket) -> None:
        context = self._tls()
        connection = self._connections.add(self._make_protocol(), tls=context is not None)
        task = asyncio.create_task(self._open(accepted, connection, context))
        connection.close_early = task.cancel
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket, connection: Connection, context: ssl.SSLContext | None) -> None:
        handshake = LIMITS[State.HANDSHAKE] if context else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=context, ssl_handshake_timeout=handshake
            )
        except OSError as error:
            self._connections.closed[HANDSHAKE_FAILED] += 1
            event(_log, logging.DEBUG, "handshake_failed", detail=str(error))
        finally:
            if connection.transport is None:  # it never opened
                self._connections.forget(connection)
                with contextlib.suppress(OSError):
                    accepted.close()

    async def stop(self) -> None:
        """End handshakes that have not ended."""
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
