"""Blocking calls in daemon threads: one that hangs in the kernel must not delay the event loop or the exit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def in_daemon_thread(name: str, call: Callable[[], T]) -> T:
    """Return the result of `call`; the event loop's own threads are few, and are joined at the end of the program."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(finish: Callable[[], None]) -> None:
        if not done.done():
            finish()

    def work() -> None:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
            failed = error
            finish = lambda: done.set_exception(failed)  # noqa: E731
        else:
            finish = lambda: done.set_result(result)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # the loop may already be closed
            loop.call_soon_threadsafe(settle, finish)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await done
