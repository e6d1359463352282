"""The load at which the objective breaks, next to results that are known."""

from __future__ import annotations

from dataclasses import replace
from math import exp, factorial, inf

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vllm_sidecar.derive.capacity import MISSING, MOST, Load, capacity, misses
from vllm_sidecar.series.step_costs import Costs

CHAT = Load(
    requests=2.0,
    prompt_tokens=400.0,
    sequence_steps=400.0,
    running=4.2,
    costs=Costs(0.01, 0.0001, 0.00005),
    threshold=2.5,
    seats=32.0,
)
LONG_WAIT = 1e9


def test_with_patience_the_batch_is_full_where_littles_law_fills_it() -> None:
    """1 request takes 200 steps of 10 ms: 16 seats without any growth of the step serve 8 requests a second."""
    load = replace(CHAT, costs=Costs(0.01, 0.0, 0.0), running=4.0, seats=16.0, threshold=LONG_WAIT)
    found = capacity(load)
    assert load.requests * found.factor == pytest.approx(8.0, rel=0.02)
    assert found.limit == "batch"


def test_steps_that_get_slower_lower_the_limit_more_than_the_seats_in_use_show() -> None:
    steady = replace(CHAT, costs=Costs(0.01, 0.0, 0.0), threshold=LONG_WAIT)
    growing = replace(CHAT, costs=Costs(0.008, 0.0005, 0.0), threshold=LONG_WAIT)
    assert capacity(growing).factor < capacity(steady).factor == pytest.approx(32 / 4.2, rel=0.02)


def test_the_share_that_finds_all_seats_taken_is_erlang_c() -> None:
    servers, offered = 5, 3.0
    load = replace(CHAT, costs=Costs(0.01, 0.0, 0.0), running=offered, seats=float(servers), prompt_tokens=0.0)
    top = offered**servers / factorial(servers) * servers / (servers - offered)
    erlang = top / (sum(offered**k / factorial(k) for k in range(servers)) + top)
    assert misses(load, 1.0, 0.0)["batch"] == pytest.approx(erlang, rel=1e-3)


def test_prompts_of_exponential_length_miss_the_objective_as_in_an_m_m_1_queue() -> None:
    """The time in that system is exponential, with the spare capacity as its rate."""
    load = replace(CHAT, prompt_tokens=1000.0, costs=Costs(0.0, 0.0, 0.0007), prompt_variation=1.0, budget=1e-6)
    busy, seconds = 0.7, 0.35
    expected = exp(-(1.0 - busy) / seconds * 2.5)
    assert misses(load, 1.0, 2.5)["prefill"] == pytest.approx(expected, rel=0.01)


def test_a_large_token_budget_does_not_break_the_objective_of_an_idle_engine() -> None:
    """8192 tokens of 1 ms each are a step of eight seconds, which one short prompt never fills."""
    slow = replace(CHAT, requests=0.2, prompt_tokens=40.0, costs=Costs(0.01, 0.0001, 0.001), budget=8192.0)
    assert misses(slow, 1.0, 2.5)["prefill"] < 1e-3


@pytest.mark.parametrize("tokens", [1e-300, 1e-9, 1e-3])
def test_an_engine_that_computes_next_to_nothing_misses_nothing(tokens: float) -> None:
    assert misses(replace(CHAT, prompt_tokens=tokens), 1.0, 2.5)["prefill"] == pytest.approx(0.0, abs=1e-12)


def test_equal_prompts_miss_the_objective_less_often_than_unequal_ones() -> None:
    load = replace(CHAT, prompt_tokens=13_000.0)
    shares = [misses(replace(load, prompt_variation=variation), 1.0, 2.5)["prefill"] for variation in (0.0, 0.5, 3.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.2 * shares[2]


def test_an_engine_of_which_no_poll_saw_a_request_has_a_capacity() -> None:
    """Answers of one token end before the gauges count them."""
    unseen = replace(CHAT, running=0.0, sequence_steps=0.0, cached_requests=8.0)
    assert misses(unseen, 1.0, 2.5)["batch"] == misses(unseen, 1.0, 2.5)["kv_cache"] == 0.0
    assert capacity(unseen).limit == "prefill"


def test_requests_that_differ_in_size_fill_the_cache_at_a_lower_load() -> None:
    """With twice the unit, half as many units fit, of which one stays free, and they end half as often."""
    equal = replace(CHAT, cached_requests=12.0, size_variation=0.0, seats=inf)
    unequal = replace(equal, size_variation=1.0)
    scaled = replace(CHAT, cached_requests=6.0, requests=1.0, running=2.1, sequence_steps=200.0, prompt_tokens=200.0,
                     costs=Costs(0.01, 0.0002, 0.0001), size_variation=0.0, seats=inf)  # fmt: skip
    assert capacity(unequal).factor < 0.9 * capacity(equal).factor
    assert misses(unequal, 1.5, 2.5)["kv_cache"] == pytest.approx(misses(scaled, 1.5, 2.5)["kv_cache"], rel=0.1)


def test_prompts_that_delay_others_fill_the_batch_more_often() -> None:
    """Prompts take half of the time in both: in steps of half the length, or as a half of each step."""
    steady = replace(CHAT, costs=Costs(0.02, 0.0, 0.0), running=8.4, prompt_tokens=1000.0)
    uneven = replace(steady, costs=Costs(0.01, 0.0, 0.0005))
    assert misses(uneven, 2.0, 2.5)["prefill"] == 1.0
    assert misses(uneven, 1.2, 2.5)["batch"] > 3.0 * misses(steady, 1.2, 2.5)["batch"] > 0.0


def test_short_prompts_do_not_fill_a_step_that_has_few_seats() -> None:
    """Eight prompts of 50 tokens are 400, whatever the token budget is."""
    short = replace(CHAT, requests=60.0, prompt_tokens=3000.0, running=0.0, sequence_steps=0.0, seats=8.0,
                    costs=Costs(0.03, 0.0, 0.0002))  # fmt: skip
    assert capacity(short).factor == pytest.approx(capacity(replace(short, budget=400.0)).factor)
    assert capacity(short).factor < 0.85 * capacity(replace(short, seats=64.0)).factor


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, "batch"),
        ({"cached_requests": 8.0}, "kv_cache"),
        ({"prompt_tokens": 9000.0}, "prefill"),
        ({"slots": 2.0, "adapters": 12}, "adapter"),
        ({"seats": inf, "prompt_tokens": 0.0, "costs": Costs(0.01, 0.001, 0.0)}, "decode"),
    ],
    ids=["seats", "KV cache", "prompts", "adapters", "steps"],
)
def test_the_limit_that_is_met_first_is_named(changes: dict, limit: str) -> None:
    assert capacity(replace(CHAT, **changes)).limit == limit


def test_without_any_limit_none_is_named() -> None:
    free = replace(CHAT, seats=inf, costs=Costs(0.01, 0.0, 0.0), prompt_tokens=0.0)
    assert capacity(free) == (MOST, "unknown")


def test_as_many_adapters_as_slots_limit_nothing() -> None:
    assert "adapter" not in misses(replace(CHAT, slots=4.0, adapters=4), 1.0, 2.5)


def test_a_thousand_adapters_are_counted_with_finite_numbers() -> None:
    assert 0.0 < capacity(replace(CHAT, slots=60.0, adapters=2000, seats=256.0)).factor < MOST


def test_an_objective_that_breaks_without_load_leaves_the_largest_stable_load() -> None:
    slow = replace(CHAT, costs=Costs(5.0, 0.0, 0.0))
    assert capacity(slow).factor == pytest.approx(capacity(replace(slow, threshold=LONG_WAIT)).factor, rel=0.1)


LOADS = st.builds(
    Load,
    requests=st.floats(0.05, 50.0),
    prompt_tokens=st.floats(0.0, 15_000.0),
    sequence_steps=st.floats(1.0, 5000.0),
    running=st.floats(0.05, 200.0),
    costs=st.builds(Costs, st.floats(0.001, 0.2), st.floats(0.0, 0.002), st.floats(0.0, 0.0005)),
    threshold=st.floats(0.05, 20.0),
    seats=st.sampled_from((1.0, 16.0, 256.0, inf)),
    cached_requests=st.floats(0.5, 500.0) | st.just(inf),
    slots=st.sampled_from((1.0, 4.0, inf)),
    adapters=st.integers(0, 40),
)


@given(LOADS)
def test_the_factor_is_where_the_objective_breaks(load: Load) -> None:
    found = capacity(load)
    assert 1.0 / MOST <= found.factor <= MOST
    if found.limit != "unknown":
        assert max(misses(load, 1.02 * found.factor, load.threshold).values()) > MISSING / 5


@given(LOADS)
def test_a_longer_threshold_and_more_seats_never_lower_the_capacity(load: Load) -> None:
    """An objective that breaks without load is ignored, and one that can be kept with more seats is not."""
    assume(sum(misses(load, 1.0 / MOST, load.threshold).values()) <= MISSING)
    lowest = 0.98 * capacity(load).factor
    assert capacity(replace(load, threshold=2.0 * load.threshold)).factor >= lowest
    assert capacity(replace(load, seats=inf)).factor >= lowest
