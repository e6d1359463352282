"""The share of a histogram's observations up to a threshold."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from observed_polls import poll
from readings import BOUNDS

from vllm_sidecar.quantiles import bucket_ending_at, count_up_to

WIDE = (0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)


@pytest.mark.parametrize(("threshold", "edge"), [(1.0, 0), (4.0, 2), (0.1 + 0.2, None), (4.1, None), (3.0, None)])
def test_an_edge_is_found_where_a_bucket_ends(threshold: float, edge: int | None) -> None:
    assert bucket_ending_at(BOUNDS, threshold) == edge


def test_an_edge_is_found_though_floats_write_it_in_two_ways() -> None:
    assert bucket_ending_at((0.1, 0.3), 0.1 + 0.2) == 1


@pytest.mark.parametrize(("threshold", "good"), [(1.0, 2.0), (2.0, 3.0), (4.0, 5.0)])
def test_at_an_edge_the_buckets_are_counted(threshold: float, good: float) -> None:
    assert count_up_to(BOUNDS, [poll(0.2, 1.0, 1.7, 3.0, 3.9, 50.0)], threshold) == good


@pytest.mark.parametrize("value", [1.01, 1.49, 1.5, 1.51, 1.99, 3.0, 100.0, 0.2])
def test_a_single_observation_is_told_by_its_sum(value: float) -> None:
    assert count_up_to(BOUNDS, [poll(value)], 1.5) == (value <= 1.5)


def test_beyond_the_last_edge_the_sum_tells() -> None:
    assert count_up_to(BOUNDS, [poll(5.0)], 6.0) == 1.0
    assert count_up_to(BOUNDS, [poll(7.0)], 6.0) == 0.0


def test_without_sums_values_lie_evenly() -> None:
    assert count_up_to(BOUNDS, [poll(*[1.5] * 20, summed=False)], 1.25) == 5.0


def test_nothing_observed_is_nothing_good() -> None:
    assert count_up_to(BOUNDS, [], 1.5) == 0.0
    assert count_up_to(BOUNDS, [poll()], 1.5) == 0.0


@given(
    st.lists(st.lists(st.floats(0.001, 20.0), max_size=6), max_size=6),
    st.floats(0.01, 19.0),
)
def test_the_result_is_within_what_the_buckets_certainly_hold(polls: list[list[float]], threshold: float) -> None:
    found = count_up_to(BOUNDS, [poll(*values) for values in polls], threshold)
    below = max((bound for bound in BOUNDS if bound <= threshold * (1 + 1e-9)), default=0.0)
    above = min((bound for bound in BOUNDS if bound >= threshold * (1 - 1e-9)), default=math.inf)
    values = [value for each in polls for value in each]
    assert sum(value <= below for value in values) <= found <= sum(value <= above for value in values)


@pytest.mark.parametrize(
    ("center", "spread", "near"),
    [(1.9, 0.05, 0.05), (1.5, 0.75, 0.05), (2.1, 0.05, 0.05)],
    ids=["narrow and below", "wide", "narrow and above"],
)
def test_many_polls_find_the_share_within_a_wide_bucket(center: float, spread: float, near: float) -> None:
    """An even split of the bucket from 1 s to 2.5 s would say 0.67 each time."""
    random = Random(7)
    drawn = [[max(0.01, random.gauss(center, spread)) for _ in range(4)] for _ in range(60)]
    found = count_up_to(WIDE, [poll(*values, bounds=WIDE) for values in drawn], 2.0)
    true = sum(value <= 2.0 for values in drawn for value in values)
    assert abs(found - true) / 240.0 < near
