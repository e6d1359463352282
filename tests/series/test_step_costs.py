"""Costs of steps, learned from polls of an engine whose costs are known."""

from __future__ import annotations

import random
from math import exp, factorial, inf, log

import pytest
from readings import histogram, reading, window

from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.step_costs import (
    LEAST_SHARE,
    USUAL_VARIATION,
    Costs,
    Sizes,
    StepCosts,
    computed_prompt_tokens,
    requests_met,
)

TRUTH = Costs(0.02, 0.0004, 0.0001)
PROMPT = 300.0


def polls(seconds: int, truth: Costs = TRUTH, *, seed: int = 1, begin: float = 0.0) -> list[dict]:
    """Return a poll each second of an engine whose number of sequences wanders."""
    rng, made, sequences = random.Random(seed), [], 8.0
    steps = gaps = spent = firsts = prefill = begin
    for _ in range(seconds):
        made.append({
            "iteration_tokens": histogram(steps, 0, 0, 0),
            "inter_token_latency_seconds": histogram(gaps, 0, 0, 0, total=spent),
            "time_to_first_token_seconds": histogram(firsts, 0, 0, 0),
            "request_prefill_seconds": histogram(firsts, 0, 0, 0, total=prefill),
            "prompt_tokens_total": PROMPT * firsts,
        })  # fmt: skip
        sequences = min(20.0, max(1.0, sequences + rng.uniform(-2.0, 2.0)))
        rate = rng.choice((1, 2, 3))
        alone = truth.fixed + truth.sequence * sequences
        step = alone / (1.0 - truth.prompt_token * rate * PROMPT)
        steps, gaps, spent = steps + 1.0 / step, gaps + sequences / step, spent + sequences
        firsts, prefill = firsts + rate, prefill + rate * (step + truth.prompt_token * PROMPT)
    return made


def learned(seen: list[dict]) -> StepCosts:
    return window(*seen).step_costs


def test_the_costs_of_a_step_are_found() -> None:
    found = learned(polls(600)).estimate(2048.0)
    assert found is not None
    assert found.fixed == pytest.approx(TRUTH.fixed, rel=0.05)
    assert found.sequence == pytest.approx(TRUTH.sequence, rel=0.15)
    assert found.prompt_token == pytest.approx(TRUTH.prompt_token, rel=0.05)


def test_a_gpu_that_becomes_slower_is_followed_within_an_hour() -> None:
    costs, fast, slow = StepCosts(), polls(601), polls(3600, Costs(0.06, 0.0004, 0.0001))
    for at, seen in enumerate(fast):
        costs.follow(float(at), reading(seen))
    for at, seen in enumerate(slow):
        costs.follow(601.0 + at, reading({name: plus(value, fast[-1][name]) for name, value in seen.items()}))
    found = costs.estimate(None)
    assert found is not None
    assert found.fixed == pytest.approx(0.06, rel=0.1)


def plus(one: float | Histogram, other: float | Histogram) -> float | Histogram:
    """Return the later value of a counter that continues from another one."""
    if not isinstance(one, Histogram) or not isinstance(other, Histogram):
        return one + other  # type: ignore[operator]
    cumulative = tuple(map(sum, zip(one.cumulative, other.cumulative, strict=True)))
    return Histogram(one.bounds, cumulative, (one.total or 0.0) + (other.total or 0.0))


def test_constant_sequences_cost_nothing_that_was_not_measured() -> None:
    """One number of sequences cannot show what another costs: the whole step is the fixed part."""
    step, seen = 0.03, list[dict]()
    for i in range(120):
        gaps = 5.0 * i / step
        seen.append({
            "iteration_tokens": histogram(i / step, 0, 0, 0),
            "inter_token_latency_seconds": histogram(gaps, 0, 0, 0, total=gaps * step),
        })  # fmt: skip
    found = learned(seen).estimate(None)
    assert found == pytest.approx((step, 0.0, 0.0), abs=1e-6)


def test_answers_of_one_token_that_share_their_steps_cost_no_more_than_alone() -> None:
    token, prompt, rate = 0.0002, 1000.0, 2.5
    busy = token * prompt * rate
    prefill = token * prompt * (1.0 + busy * busy * (1.0 + USUAL_VARIATION))
    seen = [
        {
            "time_to_first_token_seconds": histogram(rate * i, 0, 0, 0),
            "request_prefill_seconds": histogram(rate * i, 0, 0, 0, total=prefill * rate * i),
            "prompt_tokens_total": prompt * rate * i,
        }
        for i in range(60)
    ]
    found = learned(seen).estimate(4096.0)
    assert found is not None
    assert found.prompt_token == pytest.approx(token, rel=0.05)


WIDE = tuple(16.0 * 2.0**power for power in range(8))


def one_token_answers(fixed: float, token: float, *, counted: bool = True) -> list[dict]:
    """Return polls of an engine whose answers have one token; 1 to 4 prompts of 96 tokens share each step."""
    seen, steps, firsts, prefill, cells = [], 0.0, 0.0, 0.0, [0.0] * (len(WIDE) + 1)
    for i in range(400):
        seen.append({
            "time_to_first_token_seconds": histogram(firsts, 0, 0, 0),
            "request_prefill_seconds": histogram(firsts, 0, 0, 0, total=prefill),
            "request_prompt_tokens": histogram(*(firsts * (bound == 128.0) for bound in WIDE), 0.0,
                                               total=96.0 * firsts, bounds=WIDE),
            "prompt_tokens_total": 96.0 * firsts,
        })  # fmt: skip
        if counted:
            seen[-1]["iteration_tokens"] = histogram(*cells, bounds=WIDE)
        together = 1 + i // 10 % 4
        cells[sum(96.0 * together > bound for bound in WIDE)] += 3.0
        steps, firsts = steps + 3.0, firsts + 3.0 * together
        prefill += 3.0 * together * (fixed + token * 96.0 * together)
    return seen


def test_the_fixed_part_of_a_step_is_found_from_answers_of_one_token() -> None:
    found = learned(one_token_answers(0.03, 0.0004)).estimate(2048.0)
    assert found is not None
    assert found.sequence == 0.0
    assert found.fixed == pytest.approx(0.03, rel=0.2)
    assert found.prompt_token == pytest.approx(0.0004, rel=0.1)


def test_without_the_tokens_of_each_step_the_fixed_part_counts_as_a_part_of_each_token() -> None:
    found = learned(one_token_answers(0.03, 0.0004, counted=False)).estimate(2048.0)
    assert found is not None
    assert found.fixed == 0.0
    assert found.prompt_token > 0.0005


def test_a_token_that_seems_to_cost_nothing_has_a_part_of_its_step() -> None:
    """The weights take longer to read than a few hundred tokens to compute, but not than a few thousand."""
    found = learned(one_token_answers(0.03, 0.0)).estimate(2048.0)
    assert found is not None
    assert found.fixed == pytest.approx((1.0 - LEAST_SHARE) * 0.03, rel=0.01)
    assert found.prompt_token > 0.0


@pytest.mark.parametrize("arrivals", [0.0, 0.05, 0.5, 2.0, 8.0])
def test_a_request_meets_as_many_others_as_arrive_during_a_step(arrivals: float) -> None:
    """Steps have one request, or the Poisson number that arrived during the step before."""
    shares = [exp(-arrivals) * arrivals**k / factorial(k) for k in range(60)]
    mean = sum(max(1, k) * share for k, share in enumerate(shares))
    met = sum(max(1, k) ** 2 * share for k, share in enumerate(shares)) / mean
    assert requests_met(mean) == pytest.approx(met, rel=1e-3)


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0])
def test_where_steps_outnumber_the_requests_each_request_is_alone(mean: float) -> None:
    """Steps that decode are counted, too; several API servers each count every step."""
    assert requests_met(mean) == pytest.approx(1.0)


def test_nothing_is_known_of_an_idle_engine() -> None:
    still = {"inter_token_latency_seconds": histogram(9, 0, 0, 0, total=1.0), "prompt_tokens_total": 9.0}
    assert learned([still] * 60).estimate(2048.0) is None


def test_an_idle_hour_forgets_nothing() -> None:
    seen = polls(301)
    assert learned([*seen, *[seen[-1]] * 3600]).estimate(None) == learned(seen).estimate(None)


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ({("prompt_tokens_by_source_total", "local_compute"): 30.0, "prompt_tokens_total": 100.0}, 30.0),
        ({"prompt_tokens_total": 100.0, "prompt_tokens_cached_total": 60.0}, 40.0),
        ({"prompt_tokens_total": 100.0, "prefix_cache_hit_tokens_total": 70.0}, 30.0),
        ({"prompt_tokens_total": 100.0}, 100.0),
    ],
    ids=["by source", "cached ones", "hits of the prefix cache", "all that is known"],
)
def test_prompt_tokens_from_a_cache_cost_nothing(counters: dict, expected: float) -> None:
    assert computed_prompt_tokens(reading(counters)) == expected


def test_lengths_vary_as_their_buckets_show() -> None:
    spread = [{"time_to_first_token_seconds": histogram(i, 0, 0, 0),
               "request_prompt_tokens": histogram(i, 0, 0, i, total=5.0 * i)} for i in range(30)]  # fmt: skip
    same = [{"time_to_first_token_seconds": histogram(i, 0, 0, 0),
             "request_prompt_tokens": histogram(0, 0, 2 * i, 0, total=6.0 * i)} for i in range(30)]  # fmt: skip
    assert learned(spread).prompts.variation > 0.5 > 0.1 > learned(same).prompts.variation
    assert learned(same).prompts.mean == pytest.approx(3.0)


@pytest.mark.parametrize("sigma", [0.5, 0.8])
def test_wide_buckets_add_nothing_to_the_variation(sigma: float) -> None:
    """Buckets of vLLM, of which one holds a third of these prompts."""
    bounds, rng, counts = (
        (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4),
        random.Random(1),
        [],
    )
    drawn = [rng.lognormvariate(log(700.0), sigma) for _ in range(20_000)]
    counts = [sum(each <= bound for each in drawn) for bound in (*bounds, inf)]
    sizes = Sizes()
    empty = Histogram(bounds, (0.0,) * len(counts), 0.0)
    sizes.add(1.0, empty, Histogram(bounds, tuple(map(float, counts)), sum(drawn)))
    assert sizes.variation == pytest.approx(exp(sigma**2) - 1.0, rel=0.15)


def lengths(count: float, variation: float) -> Histogram:
    """Return so many lengths in two narrow buckets, whose middles have this variance / mean squared."""
    low, high = (1.0 - variation**0.5) * 1000.0, (1.0 + variation**0.5) * 1000.0
    bounds = (max(0.0, low - 1.0), low + 1.0, high - 1.0, high + 1.0) if variation else (999.0, 1001.0)
    half = 0.5 * count
    cumulative = (0.0, half, half, count, count) if variation else (0.0, count, count)
    return Histogram(bounds, cumulative, 900.0 * count)


@pytest.mark.parametrize("variation", [0.0, 1.0], ids=["equal", "unequal"])
def test_prompts_that_share_their_steps_cost_no_more_than_alone(variation: float) -> None:
    """Each waits for the tokens of those that arrived in the same step: its prefill takes longer, its tokens do not."""
    base, token, prompt, rate = 0.02, 0.0003, 900.0, 1.5
    busy = token * prompt * rate
    # An arrival meets a step of its mean length only if all are equal: longer ones meet more arrivals.
    together = rate * (base + busy * token * prompt * (1.0 + variation))
    prefill, step = base + token * prompt * (1.0 + together), base / (1.0 - busy)
    seen = [
        {
            "iteration_tokens": histogram(i / step, 0, 0, 0),
            "inter_token_latency_seconds": histogram(5.0 * i / step, 0, 0, 0, total=5.0 * i),
            "time_to_first_token_seconds": histogram(rate * i, 0, 0, 0),
            "request_prefill_seconds": histogram(rate * i, 0, 0, 0, total=prefill * rate * i),
            "prompt_tokens_total": prompt * rate * i,
            "request_prefill_computed_tokens": lengths(i, variation),
        }
        for i in range(300)
    ]
    found = learned(seen).estimate(4096.0)
    assert found is not None
    assert found.prompt_token == pytest.approx(token, rel=0.02)


def test_one_prefill_that_hangs_for_half_a_minute_is_not_the_cost_of_a_prompt() -> None:
    seen = polls(601)
    for i in range(300, 601):
        prefill = seen[i]["request_prefill_seconds"]
        seen[i]["request_prefill_seconds"] = prefill._replace(total=prefill.total + 30.0)
    found = learned(seen).estimate(2048.0)
    assert found is not None
    assert found.prompt_token == pytest.approx(TRUTH.prompt_token, rel=0.3)


def test_the_first_requests_of_a_process_are_not_observed() -> None:
    slow = [
        {
            "time_to_first_token_seconds": histogram(min(i, 4), 0, 0, 0),
            "request_prefill_seconds": histogram(min(i, 4), 0, 0, 0, total=20.0 * min(i, 4)),
            "prompt_tokens_total": 100.0 * min(i, 4),
        }
        for i in range(60)
    ]
    assert learned(slow).estimate(2048.0) is None
