"""Exponential histograms: exact counts and sums, and values at the place that the polls suggest."""

from __future__ import annotations

import random
from math import floor

import pytest

from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.readings import Reading
from vllm_sidecar.series.stored_reading import StoredReading
from vllm_sidecar.serve.otlp.narrow import EMPTY, MOST_BUCKETS, Exponential, NarrowHistograms
from vllm_sidecar.serve.otlp.streams import minus

BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SIGNAL = "time_to_first_token_seconds"


def observed(values: list[float]) -> Histogram:
    cumulative = tuple(float(sum(value <= bound for value in values)) for bound in (*BOUNDS, float("inf")))
    return Histogram(BOUNDS, cumulative, sum(values))


def polls(values: list[float], each: int, start: int = 0) -> list[tuple[float, StoredReading]]:
    """Return polls between which so many values are observed."""
    ends = range(0, len(values) + 1, each)
    return [
        (float(start + n), StoredReading.of(Reading({}, {}, {SIGNAL: observed(values[:end])})))
        for n, end in enumerate(ends)
    ]


def quantile(histogram: Exponential, q: float) -> float:
    rank, base = q * histogram.observations, 2.0 ** (2.0**-histogram.scale)
    below = histogram.zeros
    for index in sorted(histogram.buckets):
        below += histogram.buckets[index]
        if below >= rank:
            return base ** (index + 0.5)
    raise AssertionError("no such rank")


def followed(
    history: list[tuple[float, StoredReading]], narrow: NarrowHistograms | None = None
) -> tuple[Exponential, float]:
    found = (narrow or NarrowHistograms()).follow("series", SIGNAL, history, 1000.0)
    assert found is not None
    return found


def test_single_observations_are_in_their_own_bucket() -> None:
    found, began = followed(polls([0.3, 0.7], 1))
    assert found.observations == 2
    assert sorted(2.0 ** (index / 2**found.scale) for index in found.buckets) == pytest.approx([0.3, 0.7], rel=0.045)
    assert began == 998.0, "of the first poll"


def test_counts_and_sums_are_exact_and_quantiles_closer_than_the_buckets() -> None:
    values = [random.Random(1).lognormvariate(-0.7, 0.5) for _ in range(2000)]
    found, _ = followed(polls(values, 10))
    assert found.observations == len(values) == found.zeros + sum(found.buckets.values())
    assert found.total == pytest.approx(sum(values))
    for q in (0.5, 0.9, 0.99):
        assert quantile(found, q) == pytest.approx(sorted(values)[floor(q * len(values))], rel=0.08)


def test_pushes_add_up_and_read_each_poll_once() -> None:
    history, narrow = polls([0.3] * 40, 2), NarrowHistograms()
    followed(history[:8], narrow)
    assert followed(history, narrow)[0].observations == 40
    assert followed(history, narrow)[0].observations == 40


def test_a_restart_begins_a_new_histogram() -> None:
    narrow = NarrowHistograms()
    followed(polls([0.3] * 10, 2), narrow)
    found, began = followed(polls([0.3] * 4, 2, start=10), narrow)
    assert found.observations == 4
    assert began > 995.0


def test_a_poll_without_a_sum_leaves_the_sum_out() -> None:
    first, second = observed([0.3]), observed([0.3, 0.4])
    readings = [Reading({}, {}, {SIGNAL: each}) for each in (first, second._replace(total=None))]
    history = [(float(at), StoredReading.of(each)) for at, each in enumerate(readings)]
    assert followed(history)[0].total is None
    assert followed(history)[0].observations == 1


def test_a_wide_range_of_values_gets_wider_buckets_and_loses_none() -> None:
    found = EMPTY.plus({10.0**power: 3 for power in range(-6, 7)}, 1.0)
    assert max(found.buckets) - min(found.buckets) < MOST_BUCKETS
    assert found.scale < EMPTY.scale
    assert sum(found.buckets.values()) == 39


def test_an_increase_is_that_of_each_bucket_also_across_scales() -> None:
    old = EMPTY.plus({0.5: 2, 0.0: 1}, 1.0)
    new = old.plus({1e6: 1, 0.5: 1}, 1e6 + 0.5)
    grown = minus(new, old)
    assert isinstance(grown, Exponential)
    assert (grown.observations, grown.zeros, sum(grown.buckets.values())) == (2, 0, 2)
    assert grown.total == pytest.approx(1e6 + 0.5)
