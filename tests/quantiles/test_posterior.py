"""Which values the observations of each poll may have had: single ones exactly, others as the sum allows."""

from __future__ import annotations

from math import exp
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from exactly import exact, gathered, observed
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from vllm_sidecar.quantiles import estimate
from vllm_sidecar.quantiles.fit import fit
from vllm_sidecar.quantiles.level import moving_level
from vllm_sidecar.quantiles.posterior import Posterior, density_of, read
from vllm_sidecar.quantiles.prior import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllm_sidecar.quantiles.evidence import Evidence

BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
QS = (0.5, 0.9, 0.95, 0.99)
Polls = list[list[float]]


def posterior(polls: Sequence[Sequence[float]], untrusted: Collection[int] = ()) -> tuple[Evidence, Posterior]:
    """Read polls; values are in the unit of the bounds."""
    evidence = gathered(polls, BOUNDS, untrusted)
    everything = np.ones(len(evidence.bucket), bool)
    with np.errstate(all="ignore"):  # as the program calls them
        found = fit(evidence)
        result = read(evidence, found, moving_level(evidence, found), everything)
    return evidence, result._replace(values=result.values * evidence.layout.scale[0])


def errors(polls: Polls) -> list[float]:
    """Return the relative errors of the quantiles of some polls."""
    values = [value for poll in polls for value in poll]
    found = estimate(BOUNDS, observed(polls, BOUNDS), QS)
    return [abs(each.value - exact(values, each.q)) / exact(values, each.q) for each in found]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_observation_that_was_alone_in_its_poll_is_exact(seed: int) -> None:
    rng = Random(seed)
    polls = [[rng.lognormvariate(0.0, 0.8) for _ in range(rng.choice((1, 1, 4)))] for _ in range(40)]
    _, found = posterior(polls)
    whole = found.values[found.weights == 1.0]
    for values in polls:
        if len(values) == 1:
            assert np.abs(whole - values[0]).min() < 1e-12


def test_an_observation_that_was_alone_without_a_sum_is_where_others_of_its_bucket_are() -> None:
    _, found = posterior([[1.1]] * 30 + [[1.4]], untrusted=[30])
    last = found.values[found.weights < 1.0]
    assert np.abs(last @ found.weights[found.weights < 1.0] - 1.1) < 0.05


@pytest.mark.parametrize("many", [2, 5, 40])
def test_the_observations_of_a_poll_in_one_bucket_have_its_mean(many: int) -> None:
    rng = Random(1)
    polls = [[rng.uniform(1.05, 1.45) for _ in range(many)] for _ in range(30)]
    _, found = posterior(polls)
    values, weights = found.values.reshape(30, -1), found.weights.reshape(30, -1)
    assert (values * weights).sum(1) == pytest.approx([sum(poll) for poll in polls], rel=1e-6)


def test_polls_of_few_observations_show_those_of_many_where_values_are() -> None:
    """Two groups in one bucket: single observations are of one or the other, and so are those of larger polls."""
    rng = Random(2)
    polls = [[rng.gauss(rng.choice((1.1, 1.4)), 0.01) for _ in range(rng.choice((1, 1, 2)))] for _ in range(60)]
    _, found = posterior(polls)
    between = (found.values > 1.17) & (found.values < 1.33)
    assert found.weights[between].sum() < 0.12 * found.weights.sum()


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("many", [2, 3, 6])
def test_slow_requests_are_separated_from_the_microseconds_of_all_others(seed: int, many: int) -> None:
    rng = Random(seed)
    polls = [[20e-6 * exp(rng.gauss(0.0, 0.4)) for _ in range(many)] for _ in range(60)]
    for number in rng.sample(range(60), 6):
        polls[number][0] = 0.05 * exp(rng.gauss(0.0, 0.1))
    _, found = posterior(polls)
    assert found.weights[found.values > 0.02].sum() == pytest.approx(6.0, abs=0.1)
    between = (found.values > 2e-4) & (found.values < 0.02)
    assert found.weights[between].sum() < 0.01 * found.weights.sum()
    assert max(errors(polls)[:2]) < 0.15


def test_a_slow_request_is_what_the_sum_of_its_poll_leaves_over() -> None:
    rng = Random(1)
    polls = [[10e-6 * exp(rng.gauss(0.0, 0.2)) for _ in range(3)] for _ in range(40)]
    _, found = posterior([*polls, *[[10e-6, 10e-6, 0.123]] * 3])
    slow = found.values > 0.01
    assert np.abs(found.values[slow] / 0.123 - 1.0) @ found.weights[slow] < 0.01


@pytest.mark.parametrize("many", [2, 5, 20])
def test_microseconds_without_a_slow_request_stay_microseconds(many: int) -> None:
    rng = Random(1)
    _, found = posterior([[20e-6 * exp(rng.gauss(0.0, 0.4)) for _ in range(many)] for _ in range(60)])
    assert found.values[found.weights > 0.05].max() < 200e-6


def test_small_waits_stay_small_next_to_polls_with_long_ones() -> None:
    rng = Random(1)
    polls = [[20e-6 * exp(rng.gauss(0.0, 0.3)) for _ in range(3)] for _ in range(40)]
    polls += [[20e-6, rng.uniform(1.0, 3.0)] for _ in range(10)]
    found = estimate(BOUNDS, observed(polls, BOUNDS), (0.5,))[0]
    assert found.value == pytest.approx(20e-6, rel=0.3)


@examples(60)
@given(
    st.lists(st.lists(st.floats(1e-6, 40.0), min_size=1, max_size=6), min_size=1, max_size=20),
    st.sets(st.integers(0, 19)),
)
def test_weights_add_up_to_the_counts_and_values_stay_in_their_buckets(polls: Polls, untrusted: set[int]) -> None:
    evidence, found = posterior(polls, untrusted)
    seen = np.bincount(found.slot, found.weights, len(evidence.bucket))
    assert seen == pytest.approx(evidence.held, rel=1e-9)
    scaled = found.values / evidence.layout.scale[0]
    assert (scaled >= evidence.lower[found.slot] - 1e-12).all()
    assert (scaled <= evidence.upper[found.slot] + 1e-12).all()


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_density_has_the_mean_and_the_variance_that_were_fitted(place: float, part: float) -> None:
    evidence = gathered([[1.2, 1.3, 1.7, 1.8]] * 10, BOUNDS)
    found = fit(evidence)
    mean = evidence.lower + place * evidence.width
    variance = part**2 * evidence.width**2 * np.minimum(1.0 / 12.0, (place * (1.0 - place)) ** 2)
    density = density_of(evidence, found._replace(mean=mean, within=variance))
    assert density @ WEIGHTS == pytest.approx(0.0, abs=1e-9)
    assert np.sqrt(density**2 @ WEIGHTS) == pytest.approx(np.sqrt(variance), rel=0.12)
