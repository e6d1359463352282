"""Name lookups that nobody has to wait for: a dead name server must hold up neither another target nor the exit."""

from __future__ import annotations

import socket
from typing import Any

from vllm_sidecar.threads import in_daemon_thread


class Lookups:
    """The part of an event loop that aiohttp's resolver uses, with a daemon thread for each lookup.

    The loop's own threads are few, shared by all targets, and joined when the program ends; getaddrinfo() may take a
    minute and cannot be cancelled.
    """

    async def getaddrinfo(self, host: str, port: int, **options: int) -> list[Any]:
        """Look a name up, as the event loop's method does."""
        family, kind = options.get("family", 0), options.get("type", 0)
        proto, flags = options.get("proto", 0), options.get("flags", 0)
        found: list[Any] = await in_daemon_thread(
            "lookup", lambda: socket.getaddrinfo(host, port, family, kind, proto, flags)
        )
        return found

    async def getnameinfo(self, address: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """Look an address up, as the event loop's method does."""
        name: tuple[str, str] = await in_daemon_thread("lookup", lambda: socket.getnameinfo(address, flags))
        return name
