"""Order statistics of values that each stand for so many observations, and of observations that values share."""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.quantiles.order import order_statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)
SHARES = st.lists(st.floats(1e-3, 20.0), min_size=30, max_size=30)
RANKS = st.lists(st.floats(-5.0, 200.0), min_size=1, max_size=8).map(sorted)


def ordered(values: Sequence[float], weights: Sequence[float], ranks: Sequence[float]) -> list[float]:
    signed = min(values) < 0.0
    return list(order_statistics(np.array(values, float), np.array(weights, float), ranks, signed=signed))


@given(VALUES)
def test_values_that_stand_for_one_observation_each_are_exact(values: list[float]) -> None:
    ranks = range(1, len(values) + 1)
    assert ordered(values, [1.0] * len(values), ranks) == sorted(values)


@given(VALUES, st.lists(st.integers(1, 9), min_size=30, max_size=30), st.floats(0.001, 1.0))
def test_a_value_that_stands_for_several_is_found_at_each_of_their_ranks(
    values: list[float], many: list[int], q: float
) -> None:
    counts = many[: len(values)]
    spelt_out = sorted(value for value, count in zip(values, counts, strict=True) for _ in range(count))
    rank = q * len(spelt_out)
    assert ordered(values, counts, [rank]) == [pytest.approx(spelt_out[ceil(rank) - 1], abs=1e-9)]


@pytest.mark.parametrize(
    ("rank", "expected"), [(0.5, 1.0), (1.0, 1.0), (1.01, 2.0), (1.99, 2.0), (2.0, 2.0), (2.5, 4.0)]
)
def test_a_rank_between_two_observations_is_the_later_one(rank: float, expected: float) -> None:
    assert ordered([4.0, 1.0, 2.0], [1.0, 1.0, 1.0], [rank]) == [expected]


@pytest.mark.parametrize("rank", [-3.0, 0.0, 1e-9])
def test_a_rank_before_the_first_observation_is_the_first(rank: float) -> None:
    assert ordered([7.0, 5.0], [1.0, 1.0], [rank]) == [5.0]


@pytest.mark.parametrize("rank", [2.0, 2.0000001, 3.0, 1e9])
def test_a_rank_beyond_the_last_observation_is_the_last(rank: float) -> None:
    assert ordered([7.0, 5.0], [1.0, 1.0], [rank]) == [7.0]


def test_an_observation_that_several_values_share_is_their_geometric_mean() -> None:
    assert ordered([1.0, 2.0, 8.0], [0.5, 0.25, 0.25], [1.0]) == [pytest.approx(2.0)]


@pytest.mark.parametrize(("share", "expected"), [(0.1, 4.4e-5), (0.5, 2.2e-3), (0.9, 0.11)])
def test_an_observation_that_may_be_of_two_magnitudes_is_between_them(share: float, expected: float) -> None:
    assert ordered([2e-5, 0.25], [1.0 - share, share], [1.0]) == [pytest.approx(expected, rel=0.2)]


@pytest.mark.parametrize("low", [0.0, 1e-300, 1e-12, 1e-6])
def test_0_counts_as_a_millionth_of_the_largest_value(low: float) -> None:
    assert ordered([low, 1.0], [0.1, 0.9], [1.0]) == [pytest.approx(1e-6**0.1, rel=1e-9)]


def test_where_values_may_be_below_0_they_have_a_mean() -> None:
    assert ordered([-3.0, 1.0], [0.75, 0.25], [1.0]) == [pytest.approx(-2.0)]


def test_an_observation_takes_what_the_one_before_has_left_of_a_value() -> None:
    """1.0 is one observation and half of the next, whose other half is 4.0; the last is 4.0 alone."""
    assert ordered([4.0, 1.0], [1.5, 1.5], [1.0, 2.0, 3.0]) == [1.0, pytest.approx(2.0), 4.0]


def test_values_that_make_up_less_than_an_observation_are_taken_together() -> None:
    assert ordered([4.0, 2.0], [0.1, 0.3], [1.0]) == [pytest.approx(2.0 * 2.0**0.25)]


def test_a_last_observation_that_is_not_whole_is_the_last_one_that_is() -> None:
    """Of 2.5 observations the last one reaches from 1.5 to 2.5, and a quarter of it is 1.0."""
    assert ordered([1.0, 4.0], [1.75, 0.75], [3.0]) == [pytest.approx(4.0**0.75)]


def test_values_of_no_weight_are_nobody() -> None:
    assert ordered([1.0, 2.0, 3.0, 9.0], [0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 2.0, 5.0]) == [2.0, 2.0, 3.0, 3.0]


def test_where_no_value_has_weight_the_largest_is_taken() -> None:
    assert ordered([1.0, 2.0], [0.0, 0.0], [1.0]) == [2.0]


@given(st.floats(-1e3, 1e3), SHARES, RANKS)
def test_rounding_does_not_move_values_that_are_all_the_same(
    value: float, many: list[float], ranks: list[float]
) -> None:
    assert ordered([value] * len(many), many, ranks) == [value] * len(ranks)


def test_no_ranks_are_asked_for_and_none_are_given() -> None:
    assert ordered([1.0], [1.0], []) == []


@given(VALUES, SHARES, RANKS)
def test_values_grow_with_the_rank_and_stay_between_the_ends(
    values: list[float], many: list[float], ranks: list[float]
) -> None:
    found = ordered(values, many[: len(values)], ranks)
    assert len(found) == len(ranks)
    assert all(after >= before for before, after in pairwise(found))
    assert min(values) <= found[0]
    assert found[-1] <= max(values)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), SHARES)
def test_the_geometric_mean_over_all_ranks_is_that_of_the_values(values: list[float], many: list[float]) -> None:
    weights = np.array(many[: len(values)])
    weights *= ceil(weights.sum()) / weights.sum()
    found = ordered(values, weights.tolist(), range(1, round(weights.sum()) + 1))
    assert np.log(found).mean() == pytest.approx(float(np.average(np.log(values), weights=weights)), abs=1e-6)
