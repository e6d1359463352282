"""How long the event loop has waited: the part of a response time that the server, and not this process, takes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

_waited: WeakKeyDictionary[asyncio.AbstractEventLoop, Callable[[], float]] = WeakKeyDictionary()


def use_waiting_clock(loop: asyncio.AbstractEventLoop, waited: Callable[[], float]) -> None:
    """Let `waiting_clock` use the seconds for which an event loop has waited for sockets and timers."""
    _waited[loop] = waited


def waiting_clock() -> float:
    """Return a clock in seconds that does not advance while the event loop is busy.

    An answer that has arrived waits while other targets are read or a scrape is made. That is not a cost of its server
    and must not lengthen the poll interval; otherwise the interval of all targets would grow with their number. In
    another event loop than that of `serve` it is the usual clock.
    """
    return _waited.get(asyncio.get_running_loop(), time.perf_counter)()
