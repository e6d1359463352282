"""How many requests fill the KV cache, of engines whose prefixes are known."""

from __future__ import annotations

import random
from math import inf

import pytest
from readings import engine, histogram, window

from vllm_sidecar.derive.cache_room import BLOCK, CacheRoom, cache_room

SIZE = 16_000.0
PROMPT, ANSWER = 300.0, 200.0
OWN = PROMPT + 0.5 * ANSWER * 1.0 + 0.5 * BLOCK
"""Tokens that a request holds: its prompt, half of its answer and half a block."""
BOUNDS = (150.0, 199.0, 201.0)
"""Answers of equal length in a narrow bucket, so that they do not vary."""


def filled(held: list[float], running: list[float], size: float | None = SIZE) -> CacheRoom:
    """Return the room of a cache in which so many tokens were held while so many requests ran."""
    polls = [
        {
            "requests_running": n,
            "requests_waiting": 0.0,
            "kv_cache_usage_ratio": tokens / SIZE,
            "time_to_first_token_seconds": histogram(5 + i, 0, 0, 0),
            "request_generation_tokens": histogram(0, 0, 5 + i, 0, total=ANSWER * (5 + i), bounds=BOUNDS),
            "prompt_tokens_total": PROMPT * (5 + i),
        }
        for i, (tokens, n) in enumerate(zip(held, running, strict=True))
    ]
    config = {} if size is None else {"kv_cache_size_tokens": str(size)}
    return cache_room(engine(window(*polls), cache_config=config))


def some(most: int, seconds: int = 900) -> list[float]:
    """Return running requests of each second, which change every ten seconds."""
    rng = random.Random(most)
    tens = [float(rng.randint(1, most)) for _ in range(seconds // 10)]
    return [tens[i // 10] for i in range(seconds)]


def test_requests_that_share_nothing_fill_the_cache_with_what_each_holds() -> None:
    running = some(10)
    found = filled([OWN * n for n in running], running)
    assert found.requests == pytest.approx(SIZE / OWN, rel=0.01)
    assert found.tokens == pytest.approx(OWN, rel=0.01)


def test_the_room_of_one_prefix_is_taken_once() -> None:
    running = some(6)
    found = filled([8000.0 + OWN * n for n in running], running)
    assert found.requests == pytest.approx(8000.0 / OWN, rel=0.05)
    assert found.tokens == pytest.approx(OWN, rel=0.05)
    assert found.shared == pytest.approx(1.0, abs=0.05)


def test_prefixes_of_four_kinds_take_no_more_room_once_all_are_in_use() -> None:
    running = some(6)
    found = filled([8000.0 * (1.0 - 0.75**n) + OWN * n for n in running], running)
    assert found.requests == pytest.approx(8000.0 / OWN, rel=0.15)
    assert found.requests > 1.1 * SIZE / (8000.0 * (1.0 - 0.75**3.5) + OWN * 3.5) * 3.5


def test_a_prefix_of_each_request_its_own_takes_room_each_time() -> None:
    """The turns of a conversation find their beginning in the cache, and nobody else holds it."""
    running = some(6)
    found = filled([(1000.0 + OWN) * n for n in running], running)
    assert found.requests == pytest.approx(SIZE / (1000.0 + OWN), rel=0.01)
    assert found.tokens == pytest.approx(1000.0 + OWN, rel=0.01)
    assert found.shared == 0.0


def test_while_the_requests_do_not_vary_each_counts_with_all_that_is_in_use() -> None:
    found = filled([4000.0] * 300, [4.0] * 300)
    assert found.requests == pytest.approx(16.0)


def test_a_cache_that_holds_less_than_the_lengths_is_counted_as_it_is_used() -> None:
    """A sliding window drops the beginning of a long prompt."""
    running = some(10)
    assert filled([100.0 * n for n in running], running).requests == pytest.approx(160.0)


def test_without_the_size_of_the_cache_its_usage_grows_with_the_requests() -> None:
    assert filled([4000.0] * 30, [4.0] * 30, None) == (pytest.approx(16.0), None, 0.0)


def test_nothing_that_runs_fills_nothing() -> None:
    assert filled([0.0] * 30, [0.0] * 30).requests == inf
    assert cache_room(engine(window({"requests_running": 1.0}))).requests == inf
