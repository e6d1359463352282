"""Long computations in slices: the event loop runs other tasks in between, so that polls and scrapes stay on time.

A computation is a generator that yields wherever it may pause, and returns its result.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

T = TypeVar("T")

SLICE = 0.01
"""Seconds after which a computation pauses at its next yield."""


def at_once(steps: Generator[None, None, T]) -> T:
    """Return the result of a computation without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def in_slices(steps: Generator[None, None, T]) -> T:
    """Return the result of a computation that pauses every `SLICE` seconds for other tasks of the event loop."""
    until = time.perf_counter() + SLICE
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE
