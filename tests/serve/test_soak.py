"""Hours in which everything that has a name is replaced again and again leave nothing behind."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
import virtual_time
from soak import soak

if TYPE_CHECKING:
    from soak import Checkpoint

pytestmark = pytest.mark.slow

EVERY = 3
"""Periods between checkpoints: half an hour, after which all servers have restarted."""
GROWTH = 0.02
LOG_BYTES = 50_000
"""Most bytes that half an hour of restarts and outages of three targets logs."""


async def _checkpoints(count: int) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    running = soak(EVERY, interval="10s")
    async for at in running:
        found.append(at)
        if len(found) == count:
            break
    await running.aclose()
    return found


def test_memory_tasks_files_series_and_log_do_not_grow_while_names_come_and_go() -> None:
    tracemalloc.start()
    try:
        first, *_, last = virtual_time.run(_checkpoints(4))[1:]
    finally:
        tracemalloc.stop()
    assert last.seconds - first.seconds == 3600.0
    assert 0 < last.traced <= first.traced * (1.0 + GROWTH)
    assert (last.tasks, last.files, last.series) == (first.tasks, first.files, first.series)
    assert last.series > 500
    assert 0 < last.log_bytes <= LOG_BYTES
