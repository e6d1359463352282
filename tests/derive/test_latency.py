"""Recent latency quantiles, and what the time to the first token consists of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import engine, grown, histogram, observed, window

from vllm_sidecar.catalog.derived import LATENCIES
from vllm_sidecar.derive.inputs import DeriveSettings
from vllm_sidecar.derive.latency import first_token_shares, observations, p95_bounds, quantiles_of
from vllm_sidecar.exposition.metric_values import Summary

TTFT = "time_to_first_token_seconds"
QUEUE = "request_queue_seconds"
PREFILL = "request_prefill_seconds"


EVENLY = ((0.5, 1.5), (0.9, 1.9), (0.95, 1.95), (0.99, 1.99))
SECOND = ((1.0, 2.0),) * 4
"""Edges of the second bucket, for each quantile."""


def test_quantiles_are_those_of_the_window_and_sum_and_count_those_of_the_process() -> None:
    seen = window(
        {TTFT: histogram(90, 0, 0, 0, total=9.0)},
        {TTFT: histogram(90, 1, 0, 0, total=10.25)},
        {TTFT: histogram(90, 1, 1, 0, total=12.75)},
    )
    expected = Summary(
        ((0.5, 1.25), (0.9, 2.5), (0.95, 2.5), (0.99, 2.5)), 12.75, 92.0, ((1.0, 2.0), *((2.0, 4.0),) * 3), 2.0
    )
    assert quantiles_of(TTFT)(engine(seen, settings=DeriveSettings(min_observations=1))) == expected


def test_a_quantile_beyond_the_last_bound_has_no_upper_one() -> None:
    seen = grown({TTFT: histogram(0, 0, 0, 0)}, {TTFT: histogram(0, 0, 0, 1, total=7.5)})
    found = quantiles_of(TTFT)(engine(seen, settings=DeriveSettings(min_observations=1)))
    assert found == Summary(tuple((q, 7.5) for q, _ in EVENLY), 7.5, 1.0, ((4.0, None),) * 4, 1.0)


def test_quantiles_need_as_many_observations_as_the_settings_say() -> None:
    seen = grown({TTFT: histogram(0, 0, 0, 0)}, {TTFT: histogram(0, 9, 0, 0, total=13.0)})
    found = [quantiles_of(TTFT)(engine(seen, settings=DeriveSettings(min_observations=least))) for least in (9, 10)]
    assert [summary and len(summary.quantiles) for summary in found] == [4, 0]
    assert found[1] == Summary((), 13.0, 9.0, (), 9.0)


def test_after_the_first_poll_there_are_sum_and_count_but_no_quantiles() -> None:
    seen = engine(window({TTFT: histogram(0, 50, 0, 0, total=70.0)}))
    assert quantiles_of(TTFT)(seen) == Summary((), 70.0, 50.0)


def test_while_nothing_is_observed_there_are_no_quantiles() -> None:
    same = {TTFT: histogram(0, 50, 0, 0, total=70.0)}
    for least in (5, 0):
        seen = engine(window(same, same), settings=DeriveSettings(min_observations=least))
        assert quantiles_of(TTFT)(seen) == Summary((), 70.0, 50.0)


def test_a_histogram_that_the_server_does_not_give_has_no_summary() -> None:
    assert quantiles_of(TTFT)(engine(window({}, {}))) is None


def test_a_sum_that_fell_costs_no_quantile() -> None:
    seen = grown({TTFT: histogram(0, 0, 0, 0, total=5.0)}, {TTFT: histogram(0, 10, 0, 0, total=4.0)})
    expected = Summary(EVENLY, 4.0, 10.0, SECOND, 10.0)
    assert quantiles_of(TTFT)(engine(seen)) == expected


def test_observations_are_told_for_each_latency_that_the_server_gives() -> None:
    first = {TTFT: histogram(1, 0, 0, 0), QUEUE: histogram(5, 0, 0, 0)}
    last = {TTFT: histogram(1, 2, 0, 1), QUEUE: histogram(5, 0, 0, 0), PREFILL: histogram(0, 0, 7, 0)}
    assert observations(engine(grown(first, last))) == {"time_to_first_token": 3.0, "queue": 0.0, "prefill": 7.0}
    assert observations(engine(window(last))) == {}


def test_the_p95_has_the_bounds_of_its_bucket_where_there_are_quantiles() -> None:
    first = {TTFT: histogram(1, 0, 0, 0), QUEUE: histogram(0, 0, 0, 0), PREFILL: histogram(0, 0, 0, 0)}
    last = {TTFT: histogram(1, 9, 1, 0), QUEUE: histogram(0, 0, 0, 5), PREFILL: histogram(4, 0, 0, 0)}
    assert p95_bounds(engine(grown(first, last))) == {
        ("time_to_first_token", "lower"): 2.0,
        ("time_to_first_token", "upper"): 4.0,
        ("queue", "lower"): 4.0,
    }


def test_each_latency_has_a_value_of_its_own() -> None:
    seen = grown({}, {name: histogram(i, 0, 0, 0) for i, name in enumerate(LATENCIES.values())})
    assert observations(engine(seen)) == {name: float(i) for i, name in enumerate(LATENCIES)}


def shares(whole: object, queue: object, prefill: object) -> dict[str, float]:
    last = {TTFT: whole, QUEUE: queue, PREFILL: prefill}
    nothing = {name: histogram(0, 0, 0, 0) for name in last}
    return first_token_shares(engine(grown(nothing, {name: value for name, value in last.items() if value})))


def test_the_time_to_the_first_token_is_split_by_means() -> None:
    found = shares(observed(2.0, times=10), observed(0.5, times=8), observed(1.0, times=8))
    assert found == {"queue": 0.25, "prefill": 0.5, "other": 0.25}


def test_queue_and_prefill_that_exceed_the_whole_are_scaled_down_to_it() -> None:
    found = shares(observed(1.0, times=10), observed(3.0, times=4), observed(1.0, times=4))
    assert found == {"queue": 0.75, "prefill": 0.25, "other": 0.0}


def test_first_tokens_are_those_of_the_requests_that_finished_which_came_by_the_time_of_decoding_before() -> None:
    """A queue begins: first tokens come late, but the requests that finish now did not wait yet."""
    polls = []
    for second in range(61):
        early, late, over = min(second, 40), max(0, second - 40), max(0, second - 20)
        first = observed(*[1.0] * early, *[3.5] * late)
        polls.append({TTFT: first, QUEUE: observed(0.5, times=over), PREFILL: observed(0.5, times=over),
                      "request_decode_seconds": observed(20.0, times=over)})  # fmt: skip
    assert first_token_shares(engine(window(*polls))) == {"queue": 0.5, "prefill": 0.5, "other": 0.0}


@pytest.mark.parametrize(
    ("whole", "queue", "prefill"),
    [
        (observed(), observed(1.0), observed(1.0)),
        (observed(1.0), observed(), observed(1.0)),
        (observed(1.0), observed(1.0), observed()),
        (None, observed(1.0), observed(1.0)),
        (observed(1.0), None, observed(1.0)),
        (observed(1.0), observed(1.0), None),
        (observed(0.0), observed(0.0), observed(0.0)),
        (observed(1.0), histogram(1, 0, 0, 0, total=-1.0), observed(1.0)),
        (observed(1.0), histogram(1, 0, 0, 0, total=None), observed(1.0)),
    ],
    ids=[
        "no first token",
        "no queue time",
        "no prefill time",
        "the server gives no first tokens",
        "the server gives no queue times",
        "the server gives no prefill times",
        "all took no time at all",
        "the sum of queue times fell",
        "queue times have no sum",
    ],
)
def test_without_three_means_there_are_no_shares(whole: object, queue: object, prefill: object) -> None:
    assert shares(whole, queue, prefill) == {}


@given(*(st.floats(0.0, 1e5, allow_subnormal=False) for _ in range(3)), st.integers(1, 1000))
def test_shares_are_ratios_that_add_up_to_one(whole: float, queue: float, prefill: float, times: int) -> None:
    found = shares(*(histogram(times, 0, 0, 0, total=mean * times) for mean in (whole, queue, prefill)))
    assert (found == {}) == (whole == 0.0)
    if found:
        assert sum(found.values()) == pytest.approx(1.0)
        assert all(0.0 <= share <= 1.0 for share in found.values())
