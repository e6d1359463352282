"""A few requests in each turn of the event loop, in the order of their arrival."""

from __future__ import annotations

import asyncio

from vllm_sidecar.serve.listener.turns import Turns


async def test_no_more_than_the_limit_go_through_in_one_turn_and_none_overtakes() -> None:
    turns, order, in_turn = Turns(3), [], []

    async def request(number: int) -> None:
        await turns.take()
        order.append(number)

    tasks = [asyncio.create_task(request(number)) for number in range(20)]
    while not all(task.done() for task in tasks):
        before = len(order)
        await asyncio.sleep(0)
        in_turn.append(len(order) - before)

    assert order == list(range(20))
    assert max(in_turn) == 3


async def test_a_single_request_does_not_wait() -> None:
    turns = Turns(1)
    for _ in range(5):
        done = asyncio.create_task(turns.take())
        await asyncio.sleep(0)
        assert done.done()
        await asyncio.sleep(0)


async def test_a_client_that_left_costs_no_turn() -> None:
    turns = Turns(1)
    tasks = [asyncio.create_task(turns.take()) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.wait_for(tasks[3], 1.0)

    assert tasks[0].done()
    assert not turns._waiting
