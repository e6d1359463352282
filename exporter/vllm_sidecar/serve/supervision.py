"""Keeps a part of the program running: if it ends, its series are dropped and it is restarted."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol

from vllm_sidecar.logs import event
from vllm_sidecar.vllm.cancellation import is_canceled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FIRST_PAUSE = 1.0
LAST_PAUSE = 60.0
"""Seconds before a part is restarted: doubled from the first to the last while it keeps ending."""
CALM = 300.0
"""A part that has run for so many seconds starts at the first pause again when it ends."""

_log = logging.getLogger(__name__)


class Supervised(Protocol):
    """A part of the program: a target, or the GPUs."""

    async def run(self) -> None:
        """Run until canceled; any other end is a bug."""

    def drop_series(self, error: BaseException) -> None:
        """Drop all series that would look live; `run` is called again afterwards."""


async def supervise(
    part: Supervised,
    label: str,
    count: Callable[[], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Run a part until canceled, and again each time that it ends.

    Args:
        part: What to run.
        label: Its name in the log.
        count: Called at each end.
        clock: Returns monotonic seconds.
        sleep: Waits.

    Raises:
        Exception: Its series cannot be dropped either; then the program has to end.
    """
    pause = FIRST_PAUSE
    while True:
        began = clock()
        error = await _end_of(part)
        count()
        part.drop_series(error)
        pause = FIRST_PAUSE if clock() - began > CALM else pause
        event(_log, logging.ERROR, "part_ended", part=label, again_in=f"{pause:g}s", exc_info=error)
        await sleep(pause)
        pause = min(2.0 * pause, LAST_PAUSE)


async def _end_of(part: Supervised) -> BaseException:
    """Return why a part ended; only a cancellation from outside is raised, not a CancelledError of a library."""
    try:
        await part.run()
    except (Exception, asyncio.CancelledError) as error:
        if is_canceled():
            raise asyncio.CancelledError from error
        return error
    return RuntimeError("it returned")
