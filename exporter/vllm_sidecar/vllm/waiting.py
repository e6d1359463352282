"""How long the event loop has waited: the part of a response time that the server, and not this process, takes."""

from __future__ import annotations

import asyncio
import selectors
import time
from weakref import WeakKeyDictionary


class _TimedSelector(selectors.DefaultSelector):
    """Adds up the seconds in which the event loop waits for sockets and timers."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        began = time.perf_counter()
        try:
            return super().select(timeout)
        finally:
            self.waited += time.perf_counter() - began


_selectors: WeakKeyDictionary[asyncio.AbstractEventLoop, _TimedSelector] = WeakKeyDictionary()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop that measures how long it has waited."""
    selector = _TimedSelector()
    loop = asyncio.SelectorEventLoop(selector)
    _selectors[loop] = selector
    return loop


def waiting_clock() -> float:
    """Return a clock in seconds that does not advance while the event loop is busy.

    An answer that has arrived waits while other targets are read or a scrape is made. That is not a cost of its server
    and must not lengthen the poll interval; otherwise the interval of all targets would grow with their number. In
    another event loop than that of `serve` it is the usual clock.
    """
    selector = _selectors.get(asyncio.get_running_loop())
    return time.perf_counter() if selector is None else selector.waited
