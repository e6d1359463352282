"""Mean and variance of each bucket: what the sums of many polls determine, and what they do not."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from exactly import gathered
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from vllm_sidecar.quantiles.fit import Fit, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # as the program calls it

BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
POLLS = 60
Polls = list[list[float]]


def fitted(polls: Sequence[Sequence[float]], untrusted: Sequence[int] = ()) -> tuple[Fit, float]:
    """Return the fit, and the unit of its means."""
    evidence = gathered(polls, BOUNDS, untrusted)
    return fit(evidence), float(evidence.layout.scale[0])


def two_buckets(rng: Random, many: int = 20, spread: float = 0.02) -> Polls:
    """Draw polls whose shares of 1.15 and 1.9 differ, so that their sums determine both."""
    polls = []
    for _ in range(POLLS):
        low = rng.randrange(many + 1)
        polls.append([rng.gauss(1.15 if i < low else 1.9, spread) for i in range(many)])
    return polls


def levels(rng: Random, many: int, spread: float = 0.02) -> Polls:
    """Draw polls that each have a level of their own, anywhere from 1.1 to 1.4."""
    found = []
    for _ in range(POLLS):
        level = rng.uniform(1.1, 1.4)
        found.append([level + rng.gauss(0.0, spread) for _ in range(many)])
    return found


@pytest.mark.parametrize("many", [2, 20, 200])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_means_of_two_buckets_are_found_from_sums_of_both(seed: int, many: int) -> None:
    found, unit = fitted(two_buckets(Random(seed), many))
    assert found.mean * unit == pytest.approx([1.15, 1.9], abs=0.015)
    assert np.abs(found.prior.mean * unit - [1.15, 1.9]).min() > 0.03


def test_unknown_sums_are_left_out_and_the_others_suffice() -> None:
    found, unit = fitted(two_buckets(Random(1)), untrusted=range(0, POLLS, 2))
    assert found.mean * unit == pytest.approx([1.15, 1.9], abs=0.02)


def test_a_bucket_seen_only_by_polls_without_a_sum_keeps_its_prior() -> None:
    polls = [[1.2] * 5] * 30 + [[1.2] * 4 + [3.0]] * 30
    found, _ = fitted(polls, untrusted=range(30, 60))
    assert found.mean[-1] == found.prior.mean[-1]
    assert found.mean[0] != found.prior.mean[0]


def test_sums_of_equal_counts_cannot_separate_two_means_and_the_prior_decides() -> None:
    found, unit = fitted([[1.15] * 10 + [1.9] * 10] * POLLS)
    assert (found.mean * unit).sum() == pytest.approx(3.05, abs=0.02)
    assert np.diff(found.mean - found.prior.mean)[0] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("many", [3, 30])
@pytest.mark.parametrize("spread", [0.01, 0.02, 0.05])
def test_the_scatter_of_the_sums_shows_how_wide_values_are_spread(spread: float, many: int) -> None:
    rng = Random(5)
    found, unit = fitted([[rng.gauss(1.25, spread) for _ in range(many)] for _ in range(POLLS)])
    assert np.sqrt(found.within[0]) * unit == pytest.approx(spread, rel=0.4)


@pytest.mark.parametrize("many", [20, 200])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_drift_from_poll_to_poll_is_told_from_the_spread_within(seed: int, many: int) -> None:
    found, unit = fitted(levels(Random(seed), many))
    assert np.sqrt(found.between[0]) * unit == pytest.approx(0.3 / np.sqrt(12.0), rel=0.3)
    assert np.sqrt(found.within[0]) * unit < 0.06


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_drift_there_is_no_variance_between_polls(seed: int) -> None:
    rng = Random(seed)
    found, _ = fitted([[rng.uniform(1.0, 1.5) for _ in range(20)] for _ in range(POLLS)])
    assert found.between[0] == 0.0


def test_means_move_with_the_counts_where_all_of_the_latency_moves() -> None:
    rng = Random(4)
    polls = []
    for second in range(POLLS):
        level = 1.1 + 0.9 * second / POLLS
        polls.append([level + rng.gauss(0.0, 0.05) for _ in range(30)])
    found, _ = fitted(polls)
    assert np.abs(found.shift).max() > 0.005


def test_beyond_the_last_bound_the_sums_determine_the_mean() -> None:
    rng = Random(3)
    found, unit = fitted([[rng.gauss(30.0, 0.5) for _ in range(5)] for _ in range(POLLS)])
    assert found.mean * unit == pytest.approx([30.0], rel=0.01)


def test_two_polls_of_thousands_leave_the_means_near_the_prior() -> None:
    rng = Random(6)
    polls = [[rng.lognormvariate(0.2, 0.4) for _ in range(3000)] for _ in range(2)]
    evidence = gathered(polls, BOUNDS)
    found = fit(evidence)
    assert np.abs((found.mean - found.prior.mean) / evidence.width).max() < 0.15


@examples(60)
@given(st.lists(st.lists(st.floats(1e-6, 40.0), min_size=1, max_size=8), min_size=1, max_size=20))
def test_means_are_inside_their_buckets_and_variances_possible(polls: Polls) -> None:
    evidence = gathered(polls, BOUNDS)
    found = fit(evidence)
    assert (found.mean >= evidence.lower).all()
    assert (found.mean <= evidence.upper).all()
    assert (found.within >= 0.0).all()
    assert (found.between >= 0.0).all()
    assert (found.within <= 0.51 * evidence.width**2 + 1e-20).all()
