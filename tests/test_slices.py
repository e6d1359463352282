"""Computations in slices: the same result as at once, and other tasks run in between."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.slices import (
    LONGEST_SLICE,
    OVERLOAD,
    SLICE,
    STEADY_SLICE,
    EvenSlices,
    at_once,
    even_slice,
    in_slices,
    to_the_end,
)

if TYPE_CHECKING:
    from collections.abc import Generator


def busy(steps: int, seconds: float = 0.0) -> Generator[None, None, int]:
    for _ in range(steps):
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        yield
    return steps


def broken() -> Generator[None, None, int]:
    yield
    raise ValueError("a bug")


async def test_a_computation_has_the_same_result_at_once_and_in_slices() -> None:
    assert at_once(busy(5)) == await in_slices(busy(5)) == 5


async def test_other_tasks_run_between_the_slices_of_a_long_computation() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    await in_slices(busy(20, SLICE))
    task.cancel()
    assert turns >= 19


async def test_a_computation_next_to_tasks_that_fill_a_core_gets_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn of the others takes five slices; with slices of a fixed length the computation would need 20 turns."""
    turns, now = 0, 0.0
    monkeypatch.setattr("vllm_sidecar.slices.time", SimpleNamespace(perf_counter=lambda: now))

    def work() -> Generator[None, None, int]:
        nonlocal now
        for _ in range(20):
            now += SLICE
            yield
        return 20

    async def others() -> None:
        nonlocal turns, now
        while True:
            now += 5 * SLICE
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert await EvenSlices().run(work()) == 20
    task.cancel()
    assert turns == 5


def test_a_slice_is_as_long_as_the_pause_before_it_and_holds_nothing_for_50_ms_unless_the_core_is_full() -> None:
    assert [even_slice(others) for others in (0.0, SLICE, 0.03)] == [SLICE, SLICE, 0.03]
    assert [even_slice(others) for others in (0.04, 0.056, 0.199)] == [STEADY_SLICE] * 3
    assert STEADY_SLICE < 0.05 < OVERLOAD
    assert [even_slice(others) for others in (OVERLOAD, 3.0)] == [OVERLOAD, LONGEST_SLICE]


async def test_a_computation_that_must_not_stay_half_done_is_finished_before_it_is_cancelled() -> None:
    done = []

    def steps() -> Generator[None, None, None]:
        yield from busy(5, SLICE)
        done.append(True)

    task = asyncio.create_task(to_the_end(steps()))
    await asyncio.sleep(0)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


async def test_even_slices_of_a_short_computation_have_no_pause() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        turns += 1

    task = asyncio.create_task(other())
    assert await EvenSlices().run(busy(5)) == 5
    assert not turns
    await task


async def test_an_error_of_a_computation_is_raised_where_it_is_awaited() -> None:
    with pytest.raises(ValueError, match="a bug"):
        await in_slices(broken())
    with pytest.raises(ValueError, match="a bug"):
        at_once(broken())
