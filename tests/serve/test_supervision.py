"""Parts of the program that end although they must not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.serve.supervision import CALM, FIRST_PAUSE, LAST_PAUSE, supervise

if TYPE_CHECKING:
    from collections.abc import Callable


class Part:
    """Ends each time that it is run, after some seconds; what happens to it is written down."""

    def __init__(self, *ends: Callable[[], None], lasts: float = 0.0) -> None:
        self._ends = list(ends)
        self._lasts = lasts
        self.now = 0.0
        self.errors: list[str] = []
        self.pauses: list[float] = []
        self.counted = 0

    async def run(self) -> None:
        self.now += self._lasts
        if not self._ends:
            await asyncio.Event().wait()
        self._ends.pop(0)()

    def drop_series(self, error: BaseException) -> None:
        self.errors.append(f"{type(error).__name__}: {error}")

    def count(self) -> None:
        self.counted += 1

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def supervised(self) -> None:
        """Supervise it until it runs without an end."""
        task = asyncio.create_task(supervise(self, "part", self.count, clock=lambda: self.now, sleep=self.sleep))
        while self._ends and not task.done():  # noqa: ASYNC110 - it has its own clock
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


async def test_a_part_that_ends_drops_its_series_and_is_restarted() -> None:
    grouped = ExceptionGroup("several", [ValueError("bug")])
    part = Part(failing(ValueError("bug")), lambda: None, failing(asyncio.CancelledError()), failing(grouped))
    await part.supervised()
    assert part.errors[:3] == ["ValueError: bug", "RuntimeError: it returned", "CancelledError: "]
    assert part.errors[3].startswith("ExceptionGroup: ")
    assert part.counted == 4


async def test_a_part_that_keeps_ending_is_restarted_ever_more_rarely() -> None:
    part = Part(*[failing(ValueError())] * 9)
    await part.supervised()
    assert part.pauses == [FIRST_PAUSE * 2**n for n in range(6)] + [LAST_PAUSE] * 3


async def test_a_part_that_ran_for_long_is_restarted_soon() -> None:
    part = Part(*[failing(ValueError())] * 5, lasts=CALM + 1.0)
    await part.supervised()
    assert part.pauses == [FIRST_PAUSE] * 5


async def test_a_part_that_breaks_while_it_is_cancelled_is_cancelled() -> None:
    class Breaking(Part):
        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("while it closes")

    part = Breaking()
    task = asyncio.create_task(supervise(part, "part", part.count))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert part.counted == 0


async def test_a_part_whose_series_cannot_be_dropped_ends_the_program() -> None:
    class Stuck(Part):
        def drop_series(self, error: BaseException) -> None:
            raise LookupError("still live") from error

    part = Stuck(failing(ValueError()))
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(supervise(part, "part", part.count))
    assert [str(error) for error in caught.value.exceptions] == ["still live"]
