"""Observing for a while: a tick each second, until the time is over or Ctrl-C ends it early."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING

from vllm_sidecar.config import format_duration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from vllm_sidecar.config import Config

TICK = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def unanswered(seconds: float, config: Config) -> str:
    """Return what is known of a server whose first poll had no outcome within the seconds of an observation."""
    observed, limit = format_duration(round(seconds) or 1), format_duration(config.scrape.timeout)
    return f"no answer within {observed}, and no error: a poll is given up after {limit}; observe for longer than that"


@contextlib.contextmanager
def set_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set the event at Ctrl-C or SIGTERM (of `timeout` or a pod that ends), which then have no other effect."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def ticks(seconds: float, stop: asyncio.Event, show: Callable[[str], None]) -> AsyncIterator[float]:
    """Yield the time since the start: now, each second, and a last time at the end or when `stop` is set.

    Args:
        seconds: Length of the observation.
        stop: Ends it early.
        show: Takes the text of the progress.
    """
    began = time.monotonic()
    while True:
        at = time.monotonic() - began
        if at >= seconds or stop.is_set():
            break
        show(f"observing for {format_duration(round(seconds - at) or 1)} more; Ctrl-C shows what is known")
        yield at
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), began + min(at + TICK, seconds) - time.monotonic())
    yield at
