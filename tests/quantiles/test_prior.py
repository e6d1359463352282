"""Where values are in a bucket, as far as the counts of its neighbors suggest."""

from __future__ import annotations

from math import log
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from exactly import gathered
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from vllm_sidecar.quantiles.buckets import Observed
from vllm_sidecar.quantiles.evidence import Evidence
from vllm_sidecar.quantiles.fit import fit
from vllm_sidecar.quantiles.prior import NORMAL, SHARES, WEIGHTS, suggest

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.quantiles.evidence import Floats

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # as the program calls it

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5)
POLLS = 60


def drawn(draw: Callable[[Random], float], many: int = 100, seed: int = 1) -> list[list[float]]:
    rng = Random(seed)
    return [[draw(rng) for _ in range(many)] for _ in range(POLLS)]


def true_means(polls: list[list[float]], evidence: Evidence) -> Floats:
    """Return the mean of the values in each slot, in the unit of the evidence."""
    values = np.array([value for poll in polls for value in poll])
    bucket = np.searchsorted(BOUNDS, values)
    means = [values[bucket == each].mean() for each in evidence.bucket]
    return np.array(means) / evidence.layout.scale[0]


@pytest.mark.parametrize("spread", [0.3, 0.6, 0.8])
def test_the_mean_of_each_bucket_of_a_lognormal_is_found_from_counts_alone(spread: float) -> None:
    polls = drawn(lambda rng: rng.lognormvariate(log(0.2), spread))
    evidence = gathered(polls, BOUNDS, untrusted=range(POLLS))
    found, much = suggest(evidence), evidence.held > 0.03 * evidence.held.sum()
    off = np.abs(found.mean - true_means(polls, evidence)) / evidence.width
    assert off[much].max() < 0.03


def test_a_power_law_is_found_though_it_is_cut_off() -> None:
    polls = drawn(lambda rng: 0.05 * rng.paretovariate(1.5))
    evidence = gathered([[value for value in poll if value <= BOUNDS[-1]] for poll in polls], BOUNDS)
    inner = evidence.bucket > 3
    off = np.abs(suggest(evidence).mean - true_means(polls, evidence)) / evidence.width
    assert off[inner].max() < 0.08


def test_values_are_evenly_spread_if_all_buckets_are_equally_dense() -> None:
    bounds = (1.0, 2.0, 3.0, 4.0, 5.0)
    evidence = gathered([[0.5 + each for each in range(5)]] * 10, bounds)
    places = evidence.places(suggest(evidence).mean)
    assert places[1:4] == pytest.approx([0.5] * 3, abs=0.02)


def test_values_keep_away_from_an_empty_neighbor_and_crowd_towards_a_full_one() -> None:
    evidence = gathered([[0.15] * 2 + [0.3] * 30 + [0.6] * 1] * 10, BOUNDS)
    places = evidence.places(suggest(evidence).mean)
    assert places[0] > 0.6
    assert places[2] < 0.4


def test_the_mean_beyond_the_last_bound_is_what_the_sums_leave() -> None:
    evidence = gathered([[2.0, 7.0, 9.0]] * 10, BOUNDS)
    assert suggest(evidence).mean[-1] * evidence.layout.scale[0] == pytest.approx(8.0, abs=0.3)


def test_a_first_bucket_of_microseconds_has_the_scale_of_its_sums() -> None:
    evidence = gathered([[2e-5, 3e-5]] * 20, (0.3, 0.5))
    found = suggest(evidence)
    assert found.mean[0] * evidence.layout.scale[0] == pytest.approx(2.5e-5, rel=0.01)
    assert found.reach[0] < 1e-3 * evidence.width[0]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_even_values_that_end_inside_an_outermost_bucket_do_not_pile_up_at_its_beginning(seed: int) -> None:
    polls = drawn(lambda rng: rng.uniform(0.12, 0.6), seed=seed)
    evidence = gathered(polls, BOUNDS)
    smooth, found, true = suggest(evidence), fit(evidence).prior, true_means(polls, evidence)
    ends = [0, -1]
    assert np.abs(found.mean - true)[ends].sum() < 0.7 * np.abs(smooth.mean - true)[ends].sum()
    assert evidence.lower[-1] + evidence.width[-1] > found.mean[-1] + 1.9 * np.sqrt(found.variance[-1])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_lognormal_keeps_its_smooth_prior(seed: int) -> None:
    evidence = gathered(drawn(lambda rng: rng.lognormvariate(log(0.2), 0.5), seed=seed), BOUNDS)
    smooth, found = suggest(evidence), fit(evidence).prior
    assert np.abs(found.mean - smooth.mean).max() < 0.1 * evidence.width.max()
    inner = slice(1, -1)
    assert found.mean[inner].tolist() == smooth.mean[inner].tolist()


def test_without_sums_there_is_no_end() -> None:
    evidence = gathered(drawn(lambda rng: rng.uniform(0.12, 0.6)), BOUNDS, untrusted=range(POLLS))
    smooth, found = suggest(evidence), fit(evidence).prior
    assert found.mean == pytest.approx(smooth.mean, rel=0.2)


def test_one_bucket_has_no_neighbor_that_could_show_an_end() -> None:
    evidence = gathered(drawn(lambda rng: rng.uniform(0.3, 0.4)), BOUNDS)
    assert fit(evidence).prior.mean.tolist() == suggest(evidence).mean.tolist()


@examples(60)
@given(
    st.lists(st.floats(0.001, 1e3), min_size=1, max_size=12, unique=True).map(sorted),
    st.lists(st.integers(0, 10**6), min_size=13, max_size=13),
)
def test_means_are_inside_their_buckets_and_shapes_ascend(bounds: list[float], many: list[int]) -> None:
    bins = tuple((bucket, float(count)) for bucket, count in enumerate(many[: len(bounds) + 1]) if count)
    if not bins:
        return
    evidence = Evidence([(tuple(bounds), [Observed(bins, None)])])
    found = suggest(evidence)
    assert np.isfinite(found.mean).all()
    assert (found.mean >= evidence.lower).all()
    assert (found.mean <= evidence.upper).all()
    assert (np.diff(found.shape, axis=1) >= -1e-9).all()
    assert found.shape @ WEIGHTS == pytest.approx(0.0, abs=1e-9)


def test_the_shares_of_the_nodes_add_up_and_the_normal_ones_have_variance_1() -> None:
    assert WEIGHTS.sum() == pytest.approx(1.0)
    assert (np.diff(SHARES) > 0.0).all()
    assert pytest.approx(1.0) == WEIGHTS @ NORMAL**2
    assert pytest.approx(0.0, abs=1e-12) == WEIGHTS @ NORMAL
