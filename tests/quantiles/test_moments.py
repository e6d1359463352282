"""Mean and variance per bucket: what the sums of many polls tell of them, and what they do not."""

from __future__ import annotations

from math import sqrt
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from exactly import gathered
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from vllm_sidecar.quantiles import estimate
from vllm_sidecar.quantiles.evidence import gather
from vllm_sidecar.quantiles.moments import Moments, fit
from vllm_sidecar.quantiles.observed import Observed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.quantiles.evidence import Floats

BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
POLLS = 60
Polls = list[list[float]]


def fitted(polls: Sequence[Sequence[float]], untrusted: Sequence[int] = ()) -> tuple[Moments, float]:
    """Return the fit, and the unit of its means."""
    evidence = gathered(polls, BOUNDS, untrusted)
    return fit(evidence, [evidence]), evidence.scale


def means_of(polls: Sequence[Sequence[float]], untrusted: Sequence[int] = ()) -> Floats:
    found, unit = fitted(polls, untrusted)
    return found.means * unit


def deviations_of(polls: Sequence[Sequence[float]]) -> tuple[Floats, Floats]:
    """Return the deviations within polls and between them."""
    found, unit = fitted(polls)
    return np.sqrt(found.within) * unit, np.sqrt(found.between) * unit


def two_buckets(rng: Random, many: int = 20, spread: float = 0.02) -> Polls:
    """Draw polls whose shares of 1.15 and 1.9 differ, so that their sums tell both."""
    polls = []
    for _ in range(POLLS):
        low = rng.randrange(many + 1)
        polls.append([rng.gauss(1.15 if i < low else 1.9, spread) for i in range(many)])
    return polls


def levels(rng: Random, many: int, spread: float = 0.02) -> Polls:
    """Draw polls that each have a level of their own, anywhere from 1.1 to 1.4."""
    polls = []
    for _ in range(POLLS):
        level = rng.uniform(1.1, 1.4)
        polls.append([level + rng.gauss(0.0, spread) for _ in range(many)])
    return polls


@pytest.mark.parametrize("many", [2, 20, 200])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_means_of_two_buckets_are_found_from_sums_of_both(seed: int, many: int) -> None:
    polls = two_buckets(Random(seed), many)
    found, unit = fitted(polls)
    assert found.means * unit == pytest.approx([1.15, 1.9], abs=0.01)
    suggested = 1.0 + 0.5 * found.shapes.mean[0], 1.5 + 0.5 * found.shapes.mean[1]
    assert suggested[0] > 1.22
    assert suggested[1] < 1.75


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sums_that_are_not_to_be_trusted_are_left_out_and_the_others_suffice(seed: int) -> None:
    found = means_of(two_buckets(Random(seed)), untrusted=range(0, POLLS, 2))
    assert found == pytest.approx([1.15, 1.9], abs=0.02)


def test_a_bucket_that_only_polls_without_a_trusted_sum_saw_keeps_its_shape() -> None:
    polls = levels(Random(3), 5, spread=0.005)
    polls[30].append(1.8)
    found, unit = fitted(polls, untrusted={30})
    assert found.between[0] > 0.0
    assert found.means[1] * unit == pytest.approx(1.5 + 0.5 * found.shapes.mean[1], abs=0.01)
    assert found.within[1] == pytest.approx(found.shapes.variance[1] * (0.5 / unit) ** 2, rel=0.1)


def test_sums_that_all_have_the_same_counts_cannot_tell_two_means_and_the_shapes_decide() -> None:
    rng = Random(1)
    found, unit = fitted([[rng.gauss(1.2, 0.02) for _ in range(10)] + [rng.gauss(1.7, 0.02)] * 10] * POLLS)
    assert (found.means * unit).mean() == pytest.approx(1.45, abs=0.01)
    expected = 1.0 + 0.5 * found.shapes.mean[0], 1.5 + 0.5 * found.shapes.mean[1]
    assert found.means * unit == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize("many", [1, 5, 20, 100])
@pytest.mark.parametrize("spread", [0.01, 0.03])
def test_how_the_sums_scatter_tells_how_wide_values_lie_within_a_bucket(spread: float, many: int) -> None:
    rng = Random(5)
    within, between = deviations_of([[rng.gauss(1.25, spread) for _ in range(many)] for _ in range(POLLS)])
    assert within == pytest.approx([spread], rel=0.3)
    assert between == pytest.approx([0.0])


@pytest.mark.parametrize("many", [20, 100])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_drift_from_poll_to_poll_is_told_from_the_spread_within(seed: int, many: int) -> None:
    within, between = deviations_of(levels(Random(seed), many))
    assert between == pytest.approx([0.3 / sqrt(12.0)], rel=0.2)
    assert within[0] < 0.045  # 0.02 in truth; all values together have 0.09


@pytest.mark.parametrize("many", [5, 20, 100])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_drift_there_is_no_variance_between_polls(seed: int, many: int) -> None:
    rng = Random(seed)
    within, between = deviations_of([[rng.uniform(1.05, 1.45) for _ in range(many)] for _ in range(POLLS)])
    assert between.tolist() == [0.0]
    assert within == pytest.approx([0.4 / sqrt(12.0)], rel=0.25)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_polls_that_come_near_an_edge_which_nothing_crosses_lie_close_together(seed: int) -> None:
    rng = Random(seed)
    polls = []
    for _ in range(POLLS):
        level = rng.choice((1.006, 1.2, 1.494))
        polls.append([level + rng.uniform(-0.005, 0.005) for _ in range(20)])
    within, between = deviations_of(polls)
    assert within[0] < 0.008
    assert between[0] > 0.15


def test_slow_drift_is_what_neighbouring_polls_share() -> None:
    rng = Random(2)
    polls = [[1.1 + 0.3 * number / POLLS + rng.gauss(0.0, 0.02) for _ in range(5)] for number in range(POLLS)]
    _, between = deviations_of(polls)
    assert between == pytest.approx([0.3 / sqrt(12.0)], rel=0.3)
    rng.shuffle(polls)
    _, mixed = deviations_of(polls)
    assert mixed[0] < 0.9 * between[0]


def test_where_all_moves_together_the_means_of_buckets_move_with_their_counts() -> None:
    rng = Random(3)
    polls = [[rng.gauss(1.5 + 0.4 * (number / POLLS - 0.5), 0.15) for _ in range(40)] for number in range(POLLS)]
    evidence = gathered(polls, BOUNDS)
    found = fit(evidence, [evidence])
    early = found.shifts[(evidence.slot == evidence.slots[4]) & (evidence.poll < POLLS // 4)]
    late = found.shifts[(evidence.slot == evidence.slots[4]) & (evidence.poll >= 3 * POLLS // 4)]
    assert early.mean() < 0.0 < late.mean()
    assert 0.01 < (late.mean() - early.mean()) * evidence.scale < 0.15  # 0.11 in truth
    weighted = np.bincount(evidence.slot, evidence.count * found.shifts)
    assert weighted == pytest.approx(np.zeros(len(weighted)), abs=1e-9)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_small_values_in_a_first_bucket_have_a_scale_of_their_own(seed: int) -> None:
    rng = Random(seed)
    found, unit = fitted([[rng.uniform(15e-6, 25e-6) for _ in range(5)] for _ in range(POLLS)])
    assert found.means * unit == pytest.approx([20e-6], rel=0.05)
    assert np.sqrt(found.within) * unit == pytest.approx([10e-6 / sqrt(12.0)], rel=0.4)


@pytest.mark.parametrize("many", [3, 30])
def test_beyond_the_last_bound_the_sums_tell_the_mean(many: int) -> None:
    rng = Random(6)
    polls = [[rng.uniform(1.0, 1.5) for _ in range(many)] + [rng.uniform(25.0, 35.0)] * 2 for _ in range(POLLS)]
    assert means_of(polls)[-1] == pytest.approx(30.0, rel=0.05)


def test_two_polls_of_thousands_of_observations_leave_the_means_near_the_shapes() -> None:
    """Two sums have four unknown means, and the smallest error of a model would move them anywhere."""
    polls = [
        Observed(((0, 3664.0), (1, 431.0), (2, 12.0)), 25.62780984399342),
        Observed(((0, 7618.0), (1, 976.0), (2, 59.0), (8, 1.0)), 66.96102150701427),
    ]
    middle, slow = estimate(ITL, polls, (0.5, 0.99))
    assert 0.005 < middle.value < 0.009
    assert 0.018 < slow.value < 0.04
    counts = [0.0] * (len(ITL) + 1)
    for poll in polls:
        for bucket, count in poll.bins:
            counts[bucket] += count
    evidence = gather(ITL, polls, counts)
    found = fit(evidence, [evidence])
    suggested = evidence.lower + evidence.width * found.shapes.mean
    assert found.means[1:] == pytest.approx(suggested[1:], rel=0.25)
    assert found.between.tolist() == [0.0] * 4


VALUES = st.one_of(st.floats(1e-6, 40.0), st.sampled_from((0.30001, 0.5, 0.50001, 1.0, 1.00001, 1.5, 2.0, 5.0)))


@examples(60)
@given(st.lists(st.lists(VALUES, min_size=1, max_size=6), min_size=1, max_size=20))
def test_means_lie_inside_their_buckets_and_variances_are_those_of_some_density(polls: Polls) -> None:
    evidence = gathered(polls, BOUNDS)
    found = fit(evidence, [evidence])
    place = (found.means - evidence.lower) / np.maximum(evidence.width, 1e-300)
    assert (place >= -1e-9).all()
    assert (place <= 1.0 + 1e-9).all()
    assert (found.within >= 0.0).all()
    assert (found.between >= 0.0).all()
    inner = slice(None, -1 if evidence.infinite else None)
    assert (found.within[inner] <= (0.25 + 1e-9) * evidence.width[inner] ** 2).all()
