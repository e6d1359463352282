"""The running screen: each feed is refreshed at its own interval, keys change the view, both paint."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING

from vllm_sidecar.tools.observing import set_by_signals, ticks
from vllm_sidecar.tools.top.feeds import FeedError
from vllm_sidecar.tools.top.pages import Shown, body_height, lines_of, page_of
from vllm_sidecar.tools.top.servers import report, unreachable
from vllm_sidecar.tools.top.trails import Trails, from_history
from vllm_sidecar.tools.top.view import View, pressed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.tools.top.drawing import Trail
    from vllm_sidecar.tools.top.feeds import Feed
    from vllm_sidecar.tools.top.servers import Engine, Place, Report
    from vllm_sidecar.tools.top.terminal_screen import TerminalScreen

EVERY = 1.0
"""Least seconds between two refreshes."""
SHARE = 0.25
"""Largest share of the time that refreshes take: those of large fleets are rarer."""
MISSES = 3
"""Failed refreshes in a row after which the last values are dropped, as a sidecar does with failed polls."""
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_FRAME = 0.1
"""Least seconds between two paintings because of new values."""


class Refreshed:
    """One feed with its last report."""

    def __init__(self, feed: Feed, trails: Trails, changed: Callable[[], None]) -> None:
        self.feed, self._trails, self._changed = feed, trails, changed
        self.report: Report | None = None
        """None before the first refresh has ended."""
        self.every = EVERY
        """Seconds between the last refresh and the next one."""
        self.answered = False
        self._misses = 0

    async def run(self) -> None:
        """Refresh until canceled."""
        while True:
            took = await self.once()
            self.every = max(EVERY, took / SHARE)
            await asyncio.sleep(self.every - took)

    async def once(self) -> float:
        """Refresh; return how many seconds it took."""
        began = time.monotonic()
        try:
            status = await self.feed.status()
        except FeedError as error:
            self._misses += 1
            if not self.answered or self._misses >= MISSES:
                self.report = unreachable(self.feed.name, str(error))
        else:
            self._misses, self.answered = 0, True
            self.report = report(self.feed.name, status)
            self._trails.follow(self.report.servers, time.time())
        self._changed()
        return time.monotonic() - began


class Session:
    """All feeds, and what is shown of them."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._new = asyncio.Event()
        self._wanted = asyncio.Event()
        self._stop = asyncio.Event()
        self._trails = Trails()
        self.feeds = [Refreshed(feed, self._trails, self._new.set) for feed in feeds]
        self._view = View()
        self._shown = Shown(time.time(), ())
        self._opened: tuple[Place, str | None, Trail] | None = None

    async def run(self, screen: TerminalScreen) -> None:
        """Show the screen until a key, SIGTERM or SIGHUP ends it; then the terminal is restored."""
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGWINCH, lambda: self._resized(screen))
        loop.add_reader(sys.stdin.fileno(), lambda: self._typed(screen))
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(each.run()) for each in self.feeds]
                running += [tasks.create_task(self._keep_painting(screen)), tasks.create_task(self._follow_opened())]
                await self._stop.wait()
                for task in running:
                    task.cancel()
        finally:
            loop.remove_reader(sys.stdin.fileno())
            for number in (*_ENDING, signal.SIGWINCH):
                loop.remove_signal_handler(number)

    async def collect(self, seconds: float, show: Callable[[str], None]) -> Shown:
        """Refresh for so many seconds (0: once), or until SIGINT or SIGTERM; return the values at the end."""
        with set_by_signals(self._stop):
            async for _ in ticks(seconds, self._stop, show):
                pass
            await asyncio.gather(*(each.once() for each in self.feeds))
        self._look()
        if len(self._shown.servers) == 1:
            self._view = View(place=self._shown.servers[0].place)
            await self._read_opened()
            self._look()
        return self._shown

    def _look(self) -> None:
        """Take the newest values."""
        servers = [server for each in self.feeds if each.report for server in each.report.servers]
        self._trails.keep({server.place for server in servers})
        trail: Trail = ()
        if self._opened and self._opened[:2] == (self._view.place, self._view.engine):
            trail = self._opened[2]
        every = max(each.every for each in self.feeds)
        self._shown = Shown(time.time(), servers, self._trails.all(), trail, every)

    async def _keep_painting(self, screen: TerminalScreen) -> None:
        waiting = True
        while True:
            self._new.clear()
            if not self._view.paused:
                self._look()
            if waiting and all(each.report for each in self.feeds):
                waiting = False
                self._open_the_only_server()
            self._paint(screen)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._new.wait(), EVERY)
            await asyncio.sleep(_FRAME)

    def _open_the_only_server(self) -> None:
        if len(self._shown.servers) == 1 and self._view == View():
            self._view = View(place=self._shown.servers[0].place)
            self._wanted.set()

    def _paint(self, screen: TerminalScreen) -> None:
        screen.paint(lines_of(self._shown, self._view, screen.size, screen.glyphs))

    def _resized(self, screen: TerminalScreen) -> None:
        screen.resized()
        self._paint(screen)

    def _typed(self, screen: TerminalScreen) -> None:
        for key in screen.pressed_keys():
            before, size = self._view, screen.size
            page = page_of(self._shown, before, size, screen.glyphs)
            self._view = pressed(before, key, page, body_height(page, size))
            if (before.place, before.engine) != (self._view.place, self._view.engine):
                self._wanted.set()
        if self._view.ended:
            self._stop.set()
        self._paint(screen)

    async def _follow_opened(self) -> None:
        """Read the history of what is opened each second, and at once when something else is opened."""
        while True:
            if self._view.place is not None and not self._view.paused:
                await self._read_opened()
                self._new.set()
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._shown.every)

    async def _read_opened(self) -> None:
        place, engine = self._view.place, self._view.engine
        feed = next((each.feed for each in self.feeds if place and each.feed.name == place.feed), None)
        if place is None or feed is None:
            return
        chosen: Engine | None = self._shown.engine(self._view)
        with contextlib.suppress(FeedError):  # the row of the server says why
            self._opened = (place, engine, from_history(await feed.history(place.target), chosen))


def without_stray_lines() -> None:
    """Let no library write log lines over the screen."""
    logging.getLogger().addHandler(logging.NullHandler())
