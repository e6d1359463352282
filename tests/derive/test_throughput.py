"""Tokens per second, computed prompts, and how full the batch is."""

from __future__ import annotations

import pytest
from readings import engine, grown, histogram, window

from vllm_sidecar.derive.throughput import (
    batch_occupancy,
    computed_prompt_ratio,
    rate_of,
    requests_per_second,
    tokens_per_step,
)

TOKENS = "generation_tokens_total"
SOURCE = "prompt_tokens_by_source_total"
STEPS = "iteration_tokens"


def done(**reasons: float) -> dict:
    return {("requests_finished_total", reason): count for reason, count in reasons.items()}


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ({TOKENS: 100}, {TOKENS: 350}, 25.0),
        ({TOKENS: 100}, {TOKENS: 100}, 0.0),
        ({}, {TOKENS: 30}, 3.0),
        ({}, {}, None),
    ],
    ids=["grows", "idle is 0", "comes up", "is not there"],
)
def test_the_rate_of_a_counter(first: dict, last: dict, expected: float | None) -> None:
    assert rate_of(TOKENS)(engine(grown(first, last))) == expected


def test_one_poll_has_no_rate() -> None:
    assert rate_of(TOKENS)(engine(window({TOKENS: 100}))) is None


def by_source(computed: float, local: float, external: float) -> dict:
    parts = {"local_compute": computed, "local_cache_hit": local, "external_kv_transfer": external}
    return {(SOURCE, source): tokens for source, tokens in parts.items()}


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (by_source(100, 10, 0), by_source(125, 80, 5), 0.25),
        (by_source(100, 10, 0), by_source(100, 20, 0), 0.0),
        (by_source(100, 10, 0), by_source(100, 10, 0), None),
        ({}, {(SOURCE, "local_cache_hit"): 4}, 0.0),
        (
            {"prompt_tokens_total": 10, "prompt_tokens_cached_total": 4},
            {"prompt_tokens_total": 50, "prompt_tokens_cached_total": 34},
            0.25,
        ),
        (
            {"prompt_tokens_total": 10, "prompt_tokens_cached_total": 4},
            {"prompt_tokens_total": 10, "prompt_tokens_cached_total": 4},
            None,
        ),
        (
            {"prompt_tokens_total": 10, "prompt_tokens_cached_total": 4},
            {"prompt_tokens_total": 12, "prompt_tokens_cached_total": 9},
            0.0,
        ),
        ({"prompt_tokens_total": 10}, {"prompt_tokens_total": 50}, None),
        ({}, {}, None),
    ],
    ids=[
        "by source",
        "by source, all from a cache",
        "by source, no prompt",
        "by source, nothing was ever computed",
        "from the cached ones",
        "no prompt",
        "more cached than came",
        "the cached ones are not told",
        "nothing is told",
    ],
)
def test_the_share_of_computed_prompt_tokens(first: dict, last: dict, expected: float | None) -> None:
    assert computed_prompt_ratio(engine(grown(first, last))) == expected
    assert computed_prompt_ratio(engine(window(last))) is None


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (histogram(5, 0, 0, 0, total=5.0), histogram(5, 0, 0, 4, total=1005.0), 250.0),
        (histogram(5, 0, 0, 0, total=5.0), histogram(5, 0, 0, 0, total=5.0), None),
        (histogram(5, 0, 0, 0, total=5.0), histogram(9, 0, 0, 0, total=4.0), None),
    ],
    ids=["four steps", "no step", "a sum that fell"],
)
def test_the_mean_tokens_of_a_step(first: object, last: object, expected: float | None) -> None:
    assert tokens_per_step(engine(grown({STEPS: first}, {STEPS: last}))) == expected


def test_without_steps_there_is_no_mean() -> None:
    assert tokens_per_step(engine(window({}, {}))) is None


@pytest.mark.parametrize(
    ("running", "flags", "expected"),
    [
        ([4, 8, 6], {"max_num_seqs": 8}, 0.75),
        ([4], {"max_num_seqs": 16}, 0.25),
        ([0, 0], {"max_num_seqs": 8}, 0.0),
        ([4, 8], {}, None),
        ([4, 8], {"max_num_seqs": 0}, None),
        ([4, 8], {"max_num_seqs": "8"}, None),
        ([4, 8], {"max_num_seqs": True}, None),
        ([], {"max_num_seqs": 8}, None),
    ],
    ids=[
        "mean",
        "one poll",
        "idle",
        "no flag",
        "a flag of 0",
        "a flag as text",
        "a flag that is no number",
        "no gauge",
    ],
)
def test_the_occupancy_of_the_batch(running: list[float], flags: dict, expected: float | None) -> None:
    polls = [{"requests_running": number} for number in running] or [{}, {}]
    assert batch_occupancy(engine(window(*polls), flags=flags)) == expected


def test_a_frozen_gauge_fills_no_batch() -> None:
    """0 where its clients have left, nothing where nobody can say, and the mean where a stall is corroborated."""
    flags, aborted = {"max_num_seqs": 8}, ("requests_finished_total", "abort")
    claim = {"requests_running": 6, "generation_tokens_total": 7}
    assert batch_occupancy(engine(window(*[claim] * 150), flags=flags)) is None
    assert batch_occupancy(engine(window(*[claim] * 150), flags=flags, in_flight=9.0)) == 0.75
    left = window({**claim, aborted: 0}, *[{**claim, aborted: 6}] * 150)
    assert batch_occupancy(engine(left, flags=flags)) == 0.0


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (done(stop=4, length=1), done(stop=9, length=6), 1.0),
        (done(stop=4), done(stop=4), 0.0),
        (
            {**done(stop=4), "request_seconds": histogram(1, 0, 0, 0)},
            {**done(stop=6), "request_seconds": histogram(9, 0, 0, 0)},
            0.2,
        ),
        ({"request_seconds": histogram(1, 0, 0, 0)}, {"request_seconds": histogram(6, 0, 0, 0)}, 0.5),
        ({}, {}, None),
    ],
    ids=["of all reasons", "none", "the counter goes before", "only how long they took is told", "nothing is told"],
)
def test_requests_per_second(first: dict, last: dict, expected: float | None) -> None:
    assert requests_per_second(engine(grown(first, last))) == expected
    assert requests_per_second(engine(window(last))) is None
