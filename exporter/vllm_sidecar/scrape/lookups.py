"""Name lookups that nobody has to wait for: a dead name server must hold up neither another target nor the exit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Lookups:
    """The part of an event loop that aiohttp's resolver uses, with a daemon thread for each lookup.

    The loop's own threads are few, shared by all targets, and joined when the program ends; getaddrinfo() may take a
    minute and cannot be cancelled.
    """

    async def getaddrinfo(self, host: str, port: int, **options: int) -> list[Any]:
        """Look a name up, as the event loop's method does."""
        family, kind = options.get("family", 0), options.get("type", 0)
        proto, flags = options.get("proto", 0), options.get("flags", 0)
        found: list[Any] = await _in_daemon(lambda: socket.getaddrinfo(host, port, family, kind, proto, flags))
        return found

    async def getnameinfo(self, address: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """Look an address up, as the event loop's method does."""
        name: tuple[str, str] = await _in_daemon(lambda: socket.getnameinfo(address, flags))
        return name


async def _in_daemon(call: Callable[[], Any]) -> Any:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not done.done():
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as raised:  # noqa: BLE001 - it is raised where the lookup is awaited
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="lookup", daemon=True).start()
    return await done
