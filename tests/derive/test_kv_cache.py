"""KV cache capacity, growth, preemptions and pressure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import engine, grown, histogram, window

from vllm_sidecar.derive.kv_cache import (
    USAGE,
    capacity_tokens,
    free_tokens,
    held_ratio,
    preemptions_per_request,
    pressure,
    seconds_to_full,
)

PREEMPTIONS = "preemptions_total"
FINISHED = "request_seconds"
CAPACITY = ("requests_waiting", "capacity")
THRASHING = {"requests_waiting": 1, USAGE: 0.8}
BLOCKS = {"num_gpu_blocks": "1000", "block_size": "16"}


@pytest.mark.parametrize(
    ("config", "engines", "expected"),
    [
        (BLOCKS, 1, 16000.0),
        (BLOCKS, 2, 8000.0),
        ({**BLOCKS, "kv_cache_size_tokens": "15984"}, 2, 15984.0),
        ({**BLOCKS, "kv_cache_size_tokens": "None"}, 1, 16000.0),
        ({**BLOCKS, "mamba_block_size": "None"}, 1, 16000.0),
        ({**BLOCKS, "mamba_block_size": "784"}, 1, None),
        ({**BLOCKS, "mamba_block_size": "784", "kv_cache_size_tokens": "9000"}, 1, 9000.0),
        ({"num_gpu_blocks": "None", "block_size": "16"}, 1, None),
        ({"num_gpu_blocks": "0", "block_size": "16"}, 1, None),
        ({"num_gpu_blocks": "1000"}, 1, None),
        ({}, 1, None),
    ],
    ids=[
        "blocks times their size",
        "of two engines each repeats the sum of both",
        "the server tells the tokens of each engine",
        "the server does not know the tokens",
        "no hybrid model",
        "the blocks of a hybrid model are of several kinds",
        "a hybrid model whose server tells the tokens",
        "before the cache is made",
        "no blocks",
        "no size of a block",
        "no configuration",
    ],
)
def test_the_capacity_in_tokens(config: dict[str, str], engines: int, expected: float | None) -> None:
    assert capacity_tokens(engine(window({}), cache_config=config, engines=engines)) == expected


@pytest.mark.parametrize(
    ("poll", "config", "expected"),
    [
        ({USAGE: 0.25}, BLOCKS, 12000.0),
        ({USAGE: 1.0}, BLOCKS, 0.0),
        ({USAGE: 1.01}, BLOCKS, 0.0),
        ({USAGE: 0.0}, BLOCKS, 16000.0),
        ({}, BLOCKS, None),
        ({USAGE: 0.25}, {}, None),
    ],
    ids=["a quarter used", "full", "more than full", "empty", "usage is not known", "capacity is not known"],
)
def test_the_free_tokens(poll: dict, config: dict[str, str], expected: float | None) -> None:
    assert free_tokens(engine(window(poll), cache_config=config)) == expected


@pytest.mark.parametrize(
    ("usages", "expected"),
    [
        ([0.2, 0.9, 0.4], 60.0),
        ([0.4, 0.9, 0.4], None),
        ([0.9, 0.2], None),
        ([0.5], None),
        ([0.5, 1.0], 0.0),
        ([None, None], None),
    ],
    ids=["grows by 0.2 in 20 s", "stays", "falls", "one poll only", "is full", "is not known"],
)
def test_the_time_until_the_cache_is_full(usages: list[float | None], expected: float | None) -> None:
    seen = window(*({} if usage is None else {USAGE: usage} for usage in usages), every=10.0)
    assert seconds_to_full(engine(seen)) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ({PREEMPTIONS: 4, FINISHED: histogram(10, 0, 0, 0)}, {PREEMPTIONS: 7, FINISHED: histogram(16, 0, 0, 0)}, 0.5),
        ({PREEMPTIONS: 4, FINISHED: histogram(10, 0, 0, 0)}, {PREEMPTIONS: 4, FINISHED: histogram(16, 0, 0, 0)}, 0.0),
        ({PREEMPTIONS: 4, FINISHED: histogram(10, 0, 0, 0)}, {PREEMPTIONS: 7, FINISHED: histogram(10, 0, 0, 0)}, None),
        ({FINISHED: histogram(10, 0, 0, 0)}, {FINISHED: histogram(16, 0, 0, 0)}, None),
        ({PREEMPTIONS: 4}, {PREEMPTIONS: 7}, None),
    ],
    ids=["three in six", "none", "none finished", "preemptions are not told", "finished requests are not told"],
)
def test_preemptions_per_finished_request(first: dict, last: dict, expected: float | None) -> None:
    assert preemptions_per_request(engine(grown(first, last))) == expected
    assert preemptions_per_request(engine(window(last))) is None


def test_where_none_finished_preemptions_are_counted_per_request_that_ran() -> None:
    """Two long requests that throw each other out for a whole window are thrashing, not silence."""
    polls = [
        {PREEMPTIONS: float(10 * i), FINISHED: histogram(0, 0, 0, 0), "requests_running": float(1 + i % 2)}
        for i in range(3)
    ]
    assert preemptions_per_request(engine(window(*polls))) == 20.0 / 2.0
    idle = [{PREEMPTIONS: 5.0, FINISHED: histogram(7, 0, 0, 0), "requests_running": 0.0}] * 3
    assert preemptions_per_request(engine(window(*idle))) is None


def test_pressure_is_none_where_the_server_does_not_tell_usage() -> None:
    assert pressure(engine(grown({PREEMPTIONS: 0}, {PREEMPTIONS: 9}))) is None


def test_an_idle_engine_with_an_empty_cache_has_no_pressure() -> None:
    assert pressure(engine(window({USAGE: 0.0}, {USAGE: 0.0}))) == 0.0


@pytest.mark.parametrize(
    ("usage", "expected"),
    [(0.5, 0.0), (0.9, 0.0), (0.95, 0.25), (1.0, 0.5)],
    ids=["half full", "from 0.9 on", "between", "full"],
)
def test_usage_alone_makes_at_most_half_of_the_pressure(usage: float, expected: float) -> None:
    assert pressure(engine(window({USAGE: 0.1}, {USAGE: usage}, {USAGE: 0.1}))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("preempted", "finished", "expected"),
    [(1, 3, 0.25), (5, 5, 0.5), (2, 0, 1.0), (0, 9, 0.0)],
    ids=["one of four", "half", "none finished", "none preempted"],
)
def test_preemptions_are_pressure_by_their_share(preempted: float, finished: float, expected: float) -> None:
    first = {USAGE: 0.3, PREEMPTIONS: 70, FINISHED: histogram(50, 0, 0, 0)}
    last = {USAGE: 0.3, PREEMPTIONS: 70 + preempted, FINISHED: histogram(50 + finished, 0, 0, 0)}
    assert pressure(engine(grown(first, last))) == expected


@pytest.mark.parametrize(
    ("polls", "flags", "expected"),
    [
        ([{CAPACITY: 1}, {CAPACITY: 3}, {CAPACITY: 1}, {CAPACITY: 2}], {}, 0.96),
        ([{CAPACITY: 0}, {CAPACITY: 3}, {CAPACITY: 0}, {CAPACITY: 2}], {}, 0.48),
        ([{CAPACITY: 0, USAGE: 0.9}] * 4, {}, 0.0),
        ([{"requests_waiting": 1}] * 4, {}, 0.96),
        ([{"requests_waiting": 1, USAGE: 0.89}] * 4, {}, 0.0),
        ([{**THRASHING, PREEMPTIONS: i, FINISHED: histogram(99 * i, 0, 0, 0)} for i in range(4)], {}, 0.8),
        ([{"requests_waiting": 5, CAPACITY: 0, ("requests_waiting", "deferred"): 5, USAGE: 0.9}] * 4, {}, 0.0),
        ([{CAPACITY: 5, "requests_running": 8, USAGE: 0.9}] * 4, {"max_num_seqs": 8}, 0.0),
        ([{CAPACITY: 5, "requests_running": 7}] * 4, {"max_num_seqs": 8}, 0.96),
        ([{}] * 4, {}, 0.0),
    ],
    ids=[
        "at every poll",
        "at half of the polls",
        "at none",
        "the server does not tell why they wait",
        "the cache has room",
        "the cache has room because requests were preempted",
        "only for a transfer",
        "for a place in a full batch",
        "though the batch has places",
        "the server does not tell who waits",
    ],
)
def test_usage_while_requests_wait_for_capacity_is_pressure(polls: list[dict], flags: dict, expected: float) -> None:
    waiting = [
        {"requests_waiting": poll.get(CAPACITY, 0), USAGE: 0.96, **poll} if poll else {USAGE: 0.8} for poll in polls
    ]
    assert pressure(engine(window(*waiting), flags=flags)) == pytest.approx(expected)


def test_pressure_is_the_largest_of_its_parts() -> None:
    first = {USAGE: 1.0, PREEMPTIONS: 0, FINISHED: histogram(0, 0, 0, 0), "requests_waiting": 0}
    for preempted, waiting, expected in [(1, 0, 0.5), (9, 0, 0.9), (1, 1, 0.75), (9, 1, 0.9)]:
        last = {USAGE: 1.0, PREEMPTIONS: preempted, FINISHED: histogram(10 - preempted, 0, 0, 0)}
        polls = [{**first, "requests_waiting": waiting}, {**first, "requests_waiting": waiting}]
        polls += [first, {**last, "requests_waiting": waiting}]
        assert pressure(engine(window(*polls))) == pytest.approx(expected)


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20
    )
)
def test_pressure_is_a_ratio(steps: list[tuple[float, int, int, int]]) -> None:
    polls, preempted, finished = [], 0, 0
    for usage, waiting, more, done in steps:
        preempted, finished = preempted + more, finished + done
        polls.append(
            {USAGE: usage, CAPACITY: waiting, PREEMPTIONS: preempted, FINISHED: histogram(finished, 0, 0, 0)}
            | {"requests_waiting": waiting}
        )
    found = pressure(engine(window(*polls)))
    assert found is not None
    assert 0.0 <= found <= 1.0
    assert (found == 1.0) <= (preempted > 0 or any(usage == 1.0 and waiting for usage, waiting, *_ in steps))


@pytest.mark.parametrize(
    ("polls", "expected"),
    [
        ([{USAGE: 0.97, "requests_running": 0, "requests_waiting": 0}] * 10, 0.97),
        ([{USAGE: 0.97, "requests_running": 0}] * 10, 0.97),
        ([{USAGE: 0.97, "requests_running": 0, "requests_waiting": 0}] * 9, 0.0),
        ([{USAGE: 0.97, "requests_running": 1}] + [{USAGE: 0.97, "requests_running": 0}] * 20, 0.0),
        ([{USAGE: 0.97, "requests_running": 0, "requests_waiting": i // 20} for i in range(21)], 0.0),
        ([{USAGE: 0.1 * (i % 5), "requests_running": 0} for i in range(20)], 0.0),
        ([{"requests_running": 0}] * 20, None),
        ([{USAGE: 0.97}] * 20, None),
    ],
    ids=[
        "all the time",
        "the server does not tell who waits",
        "since just now",
        "a request ran in the window",
        "a request waits",
        "it is given back at times",
        "usage is not told",
        "running requests are not told",
    ],
)
def test_blocks_that_are_held_while_nothing_runs(polls: list[dict], expected: float | None) -> None:
    assert held_ratio(engine(window(*polls))) == expected
