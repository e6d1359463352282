"""How many requests are answered in one turn of the event loop, so that polls get theirs.

A poll takes about ten turns. If hundreds of scrapers are answered in each of them, it takes a second instead of
milliseconds, and looks like a slow server.
"""

from __future__ import annotations

import asyncio
from collections import deque

MOST_IN_A_TURN = 8
"""An answer takes about a third of a millisecond."""


class Turns:
    """Lets requests through in the order of their arrival, a few in each turn of the event loop."""

    def __init__(self, most: int = MOST_IN_A_TURN) -> None:
        self._most = most
        self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_scheduled = False

    async def take(self) -> None:
        """Wait until it is this request's turn."""
        if self._left and not self._waiting:
            self._left -= 1
            self._schedule()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._schedule()
        await turn

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._is_scheduled = False
        self._left = self._most
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # otherwise its client has left
                turn.set_result(None)
                self._left -= 1
        if self._left < self._most:
            self._schedule()
