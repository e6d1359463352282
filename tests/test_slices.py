"""Computations in slices: the same result as at once, and other tasks run in between."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.slices import SLICE, at_once, in_slices

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


async def test_an_error_of_a_computation_is_raised_where_it_is_awaited() -> None:
    with pytest.raises(ValueError, match="a bug"):
        await in_slices(broken())
    with pytest.raises(ValueError, match="a bug"):
        at_once(broken())
