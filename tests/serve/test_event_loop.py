"""How long the event loop was held, as measured and exported."""

from __future__ import annotations

import asyncio
import time

import pytest

from vllm_sidecar.serve.event_loop import SLOT_SECONDS, SLOTS, LoopTime, loop_factory


def test_the_longest_turn_is_that_of_the_last_minute() -> None:
    now = [1000.0]
    times = LoopTime(lambda: now[0])
    seen = []
    for held in (0.1, 0.8, 0.2):
        times.turn(held, 0.0)
        now[0] += 1.0
    for _ in range(SLOTS + 1):
        seen.append(times.lag_seconds)
        now[0] += SLOT_SECONDS
        times.turn(0.3, 0.0)

    assert seen == [0.8] * SLOTS + [0.3]
    now[0] += SLOT_SECONDS * SLOTS
    assert times.lag_seconds == 0.0


def test_busy_time_is_the_sum_of_turns_and_waking_too_late_is_a_lag_only() -> None:
    times = LoopTime(lambda: 0.0)
    times.turn(0.25, 0.0)
    times.turn(0.25, 2.0)

    assert (times.busy_seconds, times.lag_seconds) == (0.5, 2.0)


@pytest.mark.io
def test_a_task_that_holds_the_loop_is_measured_exactly() -> None:
    times = LoopTime()

    async def main() -> None:
        await asyncio.sleep(0.05)
        time.sleep(0.2)  # noqa: ASYNC251 - this is what is measured
        await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=loop_factory(times)) as runner:
        runner.run(main())

    assert 0.2 <= times.lag_seconds < 1.0
    assert 0.2 <= times.busy_seconds < 1.0
