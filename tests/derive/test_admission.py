"""What requests wait for."""

from __future__ import annotations

from math import inf

import pytest
from readings import engine, window

from vllm_sidecar.derive.admission import LIMITS, admission_limit, seats
from vllm_sidecar.series.readings import Adapters

CAPACITY, DEFERRED = ("requests_waiting", "capacity"), ("requests_waiting", "deferred")
FETCHING = ("requests_kv_fetching", "transfer")


def polls(
    running: float = 16, waiting: float = 3, usage: float = 0.5, seconds: int = 20, preempted: float = 0, **more: float
) -> list[dict]:
    """Make polls of an engine that goes on and has a queue."""
    return [
        {
            "requests_running": running,
            "requests_waiting": waiting,
            "kv_cache_usage_ratio": usage,
            "preemptions_total": preempted * i,
            "generation_tokens_total": i,
        }
        | more
        for i in range(seconds)
    ]


def deferred(count: float, waiting: float = 3) -> dict:
    return {"requests_waiting": waiting, CAPACITY: waiting - count, DEFERRED: count}  # type: ignore[dict-item]


def limit(seen: list[dict], adapters: Adapters | None = None, **flags: int) -> str | None:
    """Return the one limit that is 1; None where there is none."""
    view = engine(window(*seen), flags=flags)
    object.__setattr__(view.server, "adapters", adapters)
    found = admission_limit(view)
    assert not found or (found.keys() == set(LIMITS) and sum(found.values()) == 1.0)
    return next((name for name, value in found.items() if value), None)


WANTED = Adapters(("a", "b"), ("c",), 2)


@pytest.mark.parametrize(
    ("seen", "facts", "expected"),
    [
        (polls(waiting=0), {}, None),
        (polls(usage=0.56), {"max_num_seqs": 16}, "batch"),
        (polls(usage=0.56), {}, "batch"),
        (polls(usage=0.95), {}, "batch"),
        (polls(usage=0.95), {"max_num_seqs": 64}, "kv_cache"),
        (polls(usage=0.95), {"max_num_seqs": 16}, "batch"),
        (polls(usage=0.99), {}, "kv_cache"),
        (polls(usage=0.6, preempted=1), {}, "kv_cache"),
        (polls(usage=0.6, preempted=1), {"max_num_seqs": 16}, "kv_cache"),
        ([*polls(40, usage=0.93), *polls(31, usage=0.95), *polls(27, usage=0.92)], {}, "kv_cache"),
        (polls(0, 6, 0.0), {}, "unknown"),
        (polls(4, 3, 0.5), {"max_num_seqs": 64}, "unknown"),
        (polls(1, 14, 0.765), {}, "batch"),
        ([{**poll, **deferred(3)} for poll in polls()], {}, "transfer"),
        ([{**poll, **deferred(2)} for poll in polls()], {}, "batch"),
        ([{**poll, FETCHING: 3} for poll in polls(2)], {}, "transfer"),
        ([{**poll, **deferred(3)} for poll in polls()], {"adapters": WANTED}, "adapter"),
        ([{**poll, **deferred(0)} for poll in polls()], {"adapters": WANTED}, "batch"),
        (polls(), {"adapters": WANTED}, "adapter"),
        (polls(), {"adapters": Adapters(("a", "b"), ("b",), 2)}, "batch"),
        (polls(), {"adapters": Adapters(("a", "b"), ("c",), None), "max_loras": 2}, "adapter"),
        (polls(), {"adapters": Adapters(("a", "b"), ("c",), None)}, "batch"),
    ],
    ids=[
        "nobody waits",
        "all seats are taken",
        "as many run as ever did",
        "as many run as ever did, and the cache is nearly full",
        "the cache is nearly full and seats are free",
        "the cache is nearly full and no seat is free",
        "the cache is full",
        "requests are preempted",
        "requests are preempted though the batch is full",
        "the number that runs changes with their length",
        "nothing runs and the cache is empty",
        "there is room for more",
        "one runs",
        "all are deferred",
        "some are deferred",
        "they wait for blocks of a connector",
        "they wait for a slot of an adapter",
        "none of them for a slot of an adapter",
        "vLLM does not say why they wait, and adapters are too many",
        "the adapters have slots",
        "only the flag tells the slots",
        "nothing tells the slots",
    ],
)
def test_the_limit_that_requests_wait_for(seen: list[dict], facts: dict, expected: str | None) -> None:
    assert limit(seen, **facts) == expected


def test_the_gauges_of_an_engine_that_froze_name_no_limit() -> None:
    still = [{**poll, "generation_tokens_total": 0} for poll in polls(seconds=150)]
    assert limit(still) is None


@pytest.mark.parametrize(
    ("seen", "flags", "expected"),
    [
        (polls(4), {"max_num_seqs": 64}, 64.0),
        (polls(4), {}, 4.0),
        (polls(4, seconds=4), {}, inf),
        (polls(4, waiting=0), {}, inf),
        ([*polls(4), *polls(9, waiting=0, seconds=1)], {}, inf),
        ([*polls(4), *polls(9)], {}, inf),
        ([*polls(4), *polls(9, seconds=60)], {}, 9.0),
        ([{**poll, **deferred(3)} for poll in polls(4)], {}, inf),
    ],
    ids=[
        "a flag tells",
        "the most that ran beside a queue",
        "a queue of a moment is none",
        "no queue",
        "more ran without one",
        "more run, since just now",
        "more run, for long",
        "who is deferred waits for no seat",
    ],
)
def test_the_seats_of_the_batch(seen: list[dict], flags: dict, expected: float) -> None:
    assert seats(engine(window(*seen), flags=flags)) == expected
