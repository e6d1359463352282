"""Quantiles of what a histogram observed in a window."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.quantiles import window_quantiles

QS = (0.5, 0.9, 0.95, 0.99)
COUNTS = st.integers(0, 10**6).map(float)
EDGES = st.lists(st.floats(-10, 1e4, allow_subnormal=False), min_size=1, max_size=12, unique=True).map(sorted)


@st.composite
def histograms(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    bounds = draw(EDGES)
    counts = draw(st.lists(COUNTS, min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    return bounds, counts


def histogram_quantile(q: float, bounds: list[float], counts: list[float]) -> float:
    """As Prometheus's manual tells it: cumulative buckets, the one that holds the rank, and a line through it."""
    cumulative = list(accumulate(counts))
    rank = q * cumulative[-1]
    bucket = bisect_left(cumulative, rank)
    if bucket == len(bounds):
        return bounds[-1]
    if bucket == 0 and bounds[0] <= 0.0:
        return bounds[0]
    start = 0.0 if bucket == 0 else bounds[bucket - 1]
    below = 0.0 if bucket == 0 else cumulative[bucket - 1]
    return start + (bounds[bucket] - start) * (rank - below) / counts[bucket]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([10, 0, 0, 0], [0.5, 0.9, 0.95, 0.99]),
        ([0, 10, 0, 0], [1.5, 1.9, 1.95, 1.99]),
        ([50, 40, 10, 0], [1.0, 2.0, 3.0, 3.8]),
        ([1, 0, 0, 1], [1.0, 4.0, 4.0, 4.0]),
        ([0, 0, 0, 7], [4.0, 4.0, 4.0, 4.0]),
        ([0, 1, 0, 0], [1.5, 1.9, 1.95, 1.99]),
    ],
    ids=[
        "the first bucket begins at zero",
        "values lie evenly in their bucket",
        "a rank at an edge is that edge",
        "empty buckets are skipped",
        "beyond the last edge is the last edge",
        "one observation",
    ],
)
def test_a_quantile_is_interpolated_in_the_bucket_that_holds_it(counts: list[float], expected: list[float]) -> None:
    assert window_quantiles((1.0, 2.0, 4.0), [(counts, None)], QS) == pytest.approx(expected)


def test_the_smallest_and_the_largest_quantile_are_the_ends_of_the_buckets_that_hold_something() -> None:
    assert window_quantiles((1.0, 2.0, 4.0), [([0, 3, 1, 0], None)], (0.0, 1.0)) == [1.0, 4.0]


def test_a_first_edge_that_is_not_positive_is_the_quantile_of_its_bucket() -> None:
    assert window_quantiles((-1.0, 2.0), [([4, 1, 0], None)], (0.5,)) == [-1.0]


@pytest.mark.parametrize(
    ("bounds", "polls"),
    [
        ((1.0, 2.0), []),
        ((1.0, 2.0), [([0, 0, 0], 0.0)]),
        ((1.0, 2.0), [([0, 0, 0], 0.0), ([0, 0, 0], None)]),
        ((), [([3], None)]),
    ],
    ids=["no polls", "nothing observed", "nothing observed in two polls", "no finite bucket"],
)
def test_each_quantile_is_none_where_nothing_can_be_said(
    bounds: tuple[float, ...], polls: list[tuple[list[float], float | None]]
) -> None:
    assert window_quantiles(bounds, polls, QS) == [None, None, None, None]


def test_rounding_does_not_push_a_quantile_over_the_edge_of_its_bucket() -> None:
    assert 0.03 + (0.3 - 0.03) > 0.3
    assert window_quantiles((0.03, 0.3), [([0, 1, 0], None)], (1.0,)) == [0.3]


def test_no_quantiles_are_asked_for_and_none_are_given() -> None:
    assert window_quantiles((1.0,), [([1, 0], 0.5)], ()) == []


@given(found=histograms(), q=st.floats(0.001, 1.0))
def test_a_quantile_equals_that_of_prometheus(found: tuple[list[float], list[float]], q: float) -> None:
    bounds, counts = found
    if sum(counts) > 0.0:
        expected = histogram_quantile(q, bounds, counts)
        assert window_quantiles(bounds, [(counts, None)], (q,)) == [pytest.approx(expected, rel=1e-9, abs=1e-6)]


@given(found=histograms(), qs=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8).map(sorted))
def test_quantiles_grow_and_stay_in_the_buckets_that_hold_them(
    found: tuple[list[float], list[float]], qs: list[float]
) -> None:
    bounds, counts = found
    values = window_quantiles(bounds, [(counts, None)], qs)
    if sum(counts) <= 0.0:
        assert values == [None] * len(qs)
        return
    assert all(low <= high for low, high in pairwise(values))
    cumulative = list(accumulate(counts))
    for q, value in zip(qs, values, strict=True):
        bucket = bisect_left(cumulative, max(q * cumulative[-1], 1e-300))
        upper = bounds[min(bucket, len(bounds) - 1)]
        lower = bounds[bucket - 1] if bucket else min(0.0, bounds[0])
        assert min(lower, upper) <= value <= upper


@given(found=histograms(), cuts=st.lists(st.integers(0, 100), min_size=1, max_size=5))
def test_many_polls_are_as_one_poll_of_their_sum(found: tuple[list[float], list[float]], cuts: list[int]) -> None:
    bounds, counts = found
    polls = [([count * 1.0 * cut for count in counts], None) for cut in cuts]
    whole = [count * sum(cuts) for count in counts]
    assert window_quantiles(bounds, polls, QS) == window_quantiles(bounds, [(whole, None)], QS)
