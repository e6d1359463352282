"""Where values lie in a bucket as the counts of its neighbours suggest: densities whose truth is known."""

from __future__ import annotations

from itertools import pairwise
from math import exp, inf, isfinite, log
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.quantiles.shape import NODES, SHARES, Outline, power_law, shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NORMAL = NormalDist()
TTFT = (0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
QUEUE = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
DOUBLING = tuple(2.0**i for i in range(8))
MANY = 1e5


def counts_of(share_below: Callable[[float], float], bounds: Sequence[float]) -> list[float]:
    """Return the counts per bucket that a distribution function promises, that of +Inf last."""
    shares = [0.0, *(share_below(bound) for bound in bounds), 1.0]
    return [MANY * (high - low) for low, high in pairwise(shares)]


def lognormal_below(value: float, middle: float, deviation: float) -> float:
    return NORMAL.cdf((log(value) - log(middle)) / deviation) if value > 0.0 else 0.0


def lognormal_mean(lower: float, upper: float, middle: float, deviation: float) -> float:
    """Return the mean of a lognormal between two values."""
    low, high = ((log(edge) - log(middle)) / deviation if edge > 0.0 else -inf for edge in (lower, upper))
    part = [NORMAL.cdf(z) if isfinite(z) else 0.0 for z in (low - deviation, high - deviation, low, high)]
    return middle * exp(deviation**2 / 2.0) * (part[1] - part[0]) / (part[3] - part[2])


def power_counts(power: float) -> list[float]:
    """Return counts of a density like x ** power from 1 to 128."""
    whole = power + 1.0
    held = [(b**whole - a**whole) / whole if whole else log(b / a) for a, b in pairwise(DOUBLING)]
    return [0.0, *(MANY * one for one in held), 0.0]


LOGNORMALS = pytest.mark.parametrize(
    ("bounds", "middle", "deviation"),
    [(TTFT, 0.6, 0.4), (TTFT, 1.0, 0.8), (TTFT, 1.0, 1.2), (QUEUE, 0.6, 0.4), (QUEUE, 1.0, 0.8), (QUEUE, 0.6, 1.0)],
)


@LOGNORMALS
def test_the_mean_of_each_bucket_of_a_lognormal_is_found(
    bounds: tuple[float, ...], middle: float, deviation: float
) -> None:
    counts = counts_of(lambda value: lognormal_below(value, middle, deviation), bounds)
    buckets = [bucket for bucket in range(1, len(bounds)) if counts[bucket] > 0.005 * MANY]
    found = shapes(Outline(bounds, counts, buckets))
    assert len(buckets) >= 4
    for bucket, place in zip(buckets, found.mean, strict=True):
        lower, upper = bounds[bucket - 1], bounds[bucket]
        true = lognormal_mean(lower, upper, middle, deviation)
        # Where a neighbour holds hardly anything, or is the first bucket, the parabola is led astray a little.
        settled = bucket > 1 and counts[bucket - 1] > 0.01 * MANY and bucket + 1 < len(bounds)
        assert lower + (upper - lower) * place == pytest.approx(true, rel=0.004 if settled else 0.025)


@LOGNORMALS
def test_the_median_of_each_bucket_of_a_lognormal_is_found(
    bounds: tuple[float, ...], middle: float, deviation: float
) -> None:
    counts = counts_of(lambda value: lognormal_below(value, middle, deviation), bounds)
    buckets = [bucket for bucket in range(2, len(bounds) - 1) if counts[bucket] > 0.01 * MANY]
    found = shapes(Outline(bounds, counts, buckets))
    for bucket, places in zip(buckets, found.quantiles, strict=True):
        lower, upper = bounds[bucket - 1], bounds[bucket]
        share = (lognormal_below(lower, middle, deviation) + lognormal_below(upper, middle, deviation)) / 2.0
        true = middle * exp(deviation * NORMAL.inv_cdf(share))
        assert lower + (upper - lower) * np.interp(0.5, SHARES, places) == pytest.approx(true, rel=0.003)


@pytest.mark.parametrize(("middle", "deviation", "within"), [(1.0, 0.8, 0.02), (1.0, 1.2, 0.03), (0.2, 1.0, 0.07)])
def test_in_the_first_bucket_the_density_falls_to_meet_the_second_at_the_edge(
    middle: float, deviation: float, within: float
) -> None:
    counts = counts_of(lambda value: lognormal_below(value, middle, deviation), TTFT)
    found = shapes(Outline(TTFT, counts, range(10)))
    assert 0.1 * found.mean[0] == pytest.approx(lognormal_mean(0.0, 0.1, middle, deviation), rel=within)


def test_the_first_bucket_leans_to_its_end_as_far_as_its_neighbour_holds_more() -> None:
    def first(beside: float) -> float:
        counts = [100.0, beside] + [0.0] * 8
        return float(shapes(Outline(TTFT, counts, [0, 1] if beside else [0])).mean[0])

    means = [first(beside) for beside in (0.0, 150.0, 9999.0)]
    assert means == sorted(means)
    assert means[0] == pytest.approx(1.0 / 3.0)  # a density like 1 / sqrt(x), the steepest that falls
    assert means[2] == pytest.approx(0.9)  # one like x ** 8, the steepest that rises


def test_values_lie_evenly_where_all_buckets_are_equally_full() -> None:
    bounds = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
    found = shapes(Outline(bounds, [100, 100, 100, 100, 100, 200, 300, 0], range(7)))
    assert found.mean[2:] == pytest.approx(np.full(5, 0.5), abs=2e-4)
    assert found.variance[2:] == pytest.approx(np.full(5, 1.0 / 12.0), rel=1e-3)
    assert found.quantiles[2:] == pytest.approx(np.tile(SHARES, (5, 1)), abs=2e-4)
    assert found.mean[:2] == pytest.approx(np.full(2, 0.5), abs=0.05)


@pytest.mark.parametrize("power", [-3.0, -2.5, -1.0, 0.0, 1.0])
def test_a_power_law_is_found_though_it_is_cut_off(power: float) -> None:
    found = shapes(Outline(DOUBLING, power_counts(power), range(2, 8)))
    mean, variance, quantiles = power_law(1.0, 2.0, power, 1.0, 2.0)
    assert found.mean == pytest.approx(np.full(6, mean), abs=0.002)
    assert found.variance == pytest.approx(np.full(6, variance), rel=0.01)
    assert found.quantiles == pytest.approx(np.tile(quantiles, (6, 1)), abs=0.01)


@pytest.mark.parametrize("bounds", [(-2.0, -1.0, 1.0, 2.0, 4.0), (-2.0, 0.0, 1.0, 2.0, 4.0)])
def test_buckets_that_begin_below_zero_or_at_it_have_no_logarithm_and_are_even(bounds: tuple[float, ...]) -> None:
    found = shapes(Outline(bounds, [10, 10, 500, 100, 10, 0], range(5)))
    assert found.mean[:3].tolist() == [0.5] * 3
    assert found.variance[:3].tolist() == [1.0 / 12.0] * 3
    assert found.quantiles[:3].tolist() == [SHARES.tolist()] * 3
    assert 0.2 < found.mean[3] < 0.45


def test_bounds_that_are_all_below_zero_are_even() -> None:
    found = shapes(Outline((-3.0, -2.0, -1.0), [1, 1000, 1, 0], range(3)))
    assert found.mean.tolist() == [0.5] * 3


def test_the_last_bucket_has_no_width_and_an_even_shape_stands_for_it() -> None:
    found = shapes(Outline((1.0, 2.0), [5, 50, 100], [1, 2]))
    assert (found.mean[1], found.variance[1]) == (0.5, 1.0 / 12.0)
    assert found.quantiles[1].tolist() == SHARES.tolist()
    assert found.mean[0] > 0.55


def test_between_empty_buckets_values_crowd_in_the_middle() -> None:
    found = shapes(Outline(DOUBLING, [0, 0, 0, 1000, 0, 0, 0, 0, 0], [3]))
    assert found.mean[0] == pytest.approx(0.43, abs=0.03)  # the middle on a logarithmic axis is at 0.41
    assert 0.02 < found.variance[0] < 0.045
    fewer = shapes(Outline(DOUBLING, [0, 0, 0, 3, 0, 0, 0, 0, 0], [3]))
    assert found.variance[0] < fewer.variance[0] < 1.0 / 12.0


def test_beside_one_empty_bucket_values_keep_away_from_it() -> None:
    below = shapes(Outline(DOUBLING, [0, 0, 0, 100, 200, 100, 50, 20, 0], [3]))
    above = shapes(Outline(DOUBLING, [0, 50, 100, 200, 100, 0, 0, 0, 0], [4]))
    assert below.mean[0] > 0.6
    assert above.mean[0] < 0.35


def test_a_bucket_with_less_than_both_neighbours_is_hardly_hollow() -> None:
    found = shapes(Outline(DOUBLING, [0, 100, 1000, 1, 1000, 100, 0, 0, 0], [3]))
    assert 1.0 / 12.0 < found.variance[0] < 0.12


def test_only_the_buckets_that_are_asked_for_are_answered_in_their_order() -> None:
    counts = counts_of(lambda value: lognormal_below(value, 1.0, 0.8), TTFT)
    every, some = shapes(Outline(TTFT, counts, range(10))), shapes(Outline(TTFT, counts, [2, 3, 7]))
    assert some.mean.tolist() == every.mean[[2, 3, 7]].tolist()
    assert some.quantiles == pytest.approx(every.quantiles[[2, 3, 7]], rel=1e-12)


EDGES = st.lists(st.floats(-10, 1e4, allow_subnormal=False), min_size=1, max_size=10, unique=True).map(sorted)
COUNTS = st.one_of(st.just(0), st.integers(1, 3), st.integers(1, 10**6))


@given(EDGES, st.lists(COUNTS, min_size=11, max_size=11))
def test_quantiles_ascend_in_the_bucket_and_have_the_mean_that_is_told(bounds: list[float], many: list[int]) -> None:
    counts = [float(count) for count in many[: len(bounds) + 1]]
    buckets = [bucket for bucket, count in enumerate(counts) if count]
    if not buckets:
        return
    found = shapes(Outline(bounds, counts, buckets))
    assert (found.quantiles >= 0.0).all()
    assert (found.quantiles <= 1.0).all()
    assert (np.diff(found.quantiles, axis=1) >= 0.0).all()
    assert ((found.mean > 0.0) & (found.mean < 1.0)).all()
    assert ((found.variance > 0.0) & (found.variance < 0.25)).all()
    assert found.quantiles.shape == (len(buckets), NODES)
    assert found.quantiles.mean(1) == pytest.approx(found.mean, abs=0.02)


@pytest.mark.parametrize(
    ("power", "begin", "end"), [(0.0, 1.0, 2.0), (-1.0, 1.2, 2.0), (-3.0, 1.0, 1.5), (2.0, 1.3, 1.9)]
)
def test_a_power_law_on_a_part_of_a_bucket_has_its_mean_and_variance(power: float, begin: float, end: float) -> None:
    mean, variance, quantiles = power_law(1.0, 2.0, power, begin, end)
    x = begin + (end - begin) * (np.arange(100_000) + 0.5) / 100_000
    weights = x**power / (x**power).sum()
    assert mean == pytest.approx(float((weights * (x - 1.0)).sum()), abs=1e-3)
    assert variance == pytest.approx(float((weights * (x - 1.0 - mean) ** 2).sum()), rel=0.01)
    assert quantiles[[0, -1]] == pytest.approx([begin - 1.0, end - 1.0], abs=0.02)
    assert quantiles == pytest.approx(np.interp(SHARES, weights.cumsum(), x) - 1.0, abs=1e-4)
