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
STEADY_SLICE = 0.04
"""Most seconds of a slice that grows with the time that other tasks take, so that nothing waits for 50 ms."""
OVERLOAD = 0.2
"""Seconds of other tasks in one pause from which on they fill the core and wait longer for each other."""
LONGEST_SLICE = 0.25
"""Most seconds of a slice while other tasks fill the core."""


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


async def to_the_end(steps: Generator[None, None, T]) -> T:
    """Return the result of a computation in slices that is not left half done: a cancellation finishes it first."""
    try:
        return await in_slices(steps)
    except asyncio.CancelledError:
        at_once(steps)
        raise


def even_slice(others: float) -> float:
    """Return the length of a slice after a pause in which other tasks took so many seconds."""
    return min(max(SLICE, others), LONGEST_SLICE if others >= OVERLOAD else STEADY_SLICE)


class EvenSlices:
    """Slices of one long computation that is done while many short ones are: each has half of the time of a full core.

    A slice lasts as long as other tasks took in the pause before it, within the bounds of `even_slice`. With slices of
    a fixed length a computation would get the less, the more other tasks are waiting: a scrape of hundreds of servers
    would never end once their polls fill a core. Only one computation at a time may have such slices, as each of two
    would wait longer for the other.
    """

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE

    async def run(self, steps: Generator[None, None, T]) -> T:
        """Return the result of a computation."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            await self.pause()

    async def pause(self) -> None:
        """Let other tasks run, if the slice is over."""
        began = time.perf_counter()
        if began >= self._until:
            await asyncio.sleep(0)
            ended = time.perf_counter()
            self._until = ended + even_slice(ended - began)
