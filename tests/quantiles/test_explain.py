"""How quantiles came about, bucket by bucket."""

from __future__ import annotations

from random import Random

import pytest
from exactly import observed

from vllm_sidecar.quantiles import estimate, explain

BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0)
QS = (0.5, 0.95)


def test_the_quantiles_are_those_of_the_estimate_with_those_of_prometheus_next_to_them() -> None:
    rng = Random(1)
    polls = observed([[rng.uniform(1.0, 1.2) for _ in range(3)] for _ in range(30)], BOUNDS)
    found = explain(BOUNDS, polls, QS)
    assert found.quantiles == estimate(BOUNDS, polls, QS)
    assert found.interpolated == pytest.approx([1.25, 1.475])
    assert found.quantiles[0].value == pytest.approx(1.1, abs=0.03)


def test_each_bucket_has_its_mean_deviation_and_drift_in_the_unit_of_the_bounds() -> None:
    rng = Random(1)
    polls = observed([[rng.gauss(1.2, 0.03), rng.gauss(1.2, 0.03), 0.1] for _ in range(60)], BOUNDS)
    first, last = explain(BOUNDS, polls, QS).buckets
    assert (first.lower, first.upper, first.observations) == (0.0, 0.3, 60.0)
    assert (last.lower, last.upper, last.observations) == (1.0, 1.5, 120.0)
    assert last.mean == pytest.approx(1.2, abs=0.03)
    assert last.deviation == pytest.approx(0.03, rel=0.8)
    assert last.drift is not None


def test_values_that_were_alone_in_their_poll_are_known_exactly() -> None:
    (found,) = explain(BOUNDS, observed([[1.1], [1.2], [1.3, 1.4]], BOUNDS), QS).buckets
    assert found.exact_ratio == pytest.approx(0.5)


def test_without_sums_there_are_counts_and_the_line_of_prometheus() -> None:
    found = explain(BOUNDS, observed([[1.1, 1.2]], BOUNDS, untrusted=[0]), QS)
    assert [each.value for each in found.quantiles] == found.interpolated
    (bucket,) = found.buckets
    assert (bucket.observations, bucket.mean, bucket.deviation, bucket.drift) == (2.0, None, None, None)


def test_nothing_observed_is_nothing_explained() -> None:
    found = explain(BOUNDS, [], QS)
    assert (found.quantiles, found.buckets, found.moving_level_belief) == ([], [], 0.0)


def test_beyond_the_last_bound_there_is_no_upper_one() -> None:
    (found,) = explain(BOUNDS, observed([[9.0, 7.0]], BOUNDS), QS).buckets
    assert (found.lower, found.upper) == (2.0, None)
    assert found.mean == pytest.approx(8.0)
