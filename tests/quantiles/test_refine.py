"""Where the observations of each poll lie: single ones exactly, few by what is usual, all so that sums add up."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from exactly import gathered
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from vllm_sidecar.quantiles.groups import groups
from vllm_sidecar.quantiles.moments import fit
from vllm_sidecar.quantiles.nodes import nodes
from vllm_sidecar.quantiles.refine import refine
from vllm_sidecar.quantiles.shape import NODES

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllm_sidecar.quantiles.evidence import Floats, Single
    from vllm_sidecar.quantiles.settle import Observations

BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
Polls = list[list[float]]


def read(polls: Sequence[Sequence[float]], untrusted: Collection[int] = ()) -> tuple[Single, Observations]:
    """Read polls; values are in the unit of the bounds."""
    evidence = gathered(polls, BOUNDS, untrusted)
    moments = fit(evidence, [evidence])
    found = refine(evidence, moments, groups(evidence, moments, nodes(evidence, moments)))
    return evidence, found._replace(values=found.values * evidence.scale)


def near(found: Observations, which: int, value: float, within: float) -> float:
    """Return the share of the observations of a bin that lie near a value."""
    return float(found.weights[which, np.abs(found.values[which] - value) < within].sum())


def sums(evidence: Single, found: Observations) -> Floats:
    """Return what the observations of each poll add up to."""
    return evidence.per_poll(evidence.count * (found.weights * found.values).sum(1))


def totals(polls: Sequence[Sequence[float]]) -> Floats:
    return np.array([sum(values) for values in polls])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_observation_that_was_alone_in_its_poll_is_exact(seed: int) -> None:
    rng = Random(seed)
    polls = [[rng.lognormvariate(0.0, 0.8) for _ in range(rng.choice((1, 1, 4)))] for _ in range(40)]
    evidence, found = read(polls)
    singles = np.flatnonzero(evidence.size[evidence.poll] == 1.0)
    assert len(singles) > 20
    for one in singles:
        [value] = polls[evidence.poll[one]]
        assert found.values[one] == pytest.approx(np.full(NODES, value), rel=1e-15)
        assert found.weights[one].tolist() == [1.0] + [0.0] * (NODES - 1)


def test_an_observation_that_was_alone_but_has_no_sum_lies_where_others_of_its_bucket_do() -> None:
    rng = Random(1)
    polls = [[rng.gauss(1.1, 0.01)] for _ in range(40)]
    evidence, found = read(polls, untrusted={0})
    assert evidence.trusted.tolist() == [False] + [True] * 39
    assert near(found, 0, 1.1, 0.03) > 0.75
    assert found.weights[0].max() < 0.9


def alone_and_in_pairs(seed: int, pair: Sequence[float], pairs: int = 6) -> Polls:
    """Draw single observations around 1.1 and 1.4, and then some pairs."""
    rng = Random(seed)
    singles = [[rng.gauss((1.1, 1.4)[number % 2], 0.01)] for number in range(60)]
    return singles + [[value + rng.gauss(0.0, 0.005) for value in pair] for _ in range(pairs)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_pair_is_split_as_single_observations_have_shown_to_be_usual(seed: int) -> None:
    """Two observations that add up to 2.5 could both be 1.25, or anything around it."""
    _, found = read(alone_and_in_pairs(seed, (1.1, 1.4)))
    for pair in range(60, 66):
        assert near(found, pair, 1.1, 0.05) == pytest.approx(0.5, abs=0.05)
        assert near(found, pair, 1.4, 0.05) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("value", [1.1, 1.4])
def test_a_pair_whose_sum_has_one_explanation_has_it(value: float) -> None:
    _, found = read(alone_and_in_pairs(1, (value, value)))
    for pair in range(60, 66):
        assert near(found, pair, value, 0.05) > 0.95


def test_without_single_observations_a_pair_lies_around_its_mean() -> None:
    rng = Random(1)
    _, found = read([[rng.gauss(1.25, 0.02), rng.gauss(1.25, 0.02)] for _ in range(40)])
    assert all(near(found, pair, 1.25, 0.1) > 0.95 for pair in range(40))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_a_pair_of_two_buckets_what_is_known_of_one_tells_the_other(seed: int) -> None:
    """Values from 2.5 to 5 may lie anywhere, but those from 1 to 1.5 were all seen near 1.2."""
    rng = Random(seed)
    others = [rng.uniform(2.6, 4.9) for _ in range(6)]
    polls = [[rng.gauss(1.2, 0.02)] for _ in range(60)] + [[rng.gauss(1.2, 0.02), other] for other in others]
    evidence, found = read(polls)
    for number, other in enumerate(others):
        [one] = np.flatnonzero((evidence.poll == 60 + number) & (evidence.slot == 1))
        assert float(found.weights[one] @ found.values[one]) == pytest.approx(other, abs=0.06)
        assert near(found, one, other, 0.25) > 0.9


def test_polls_of_few_observations_tell_those_of_many_how_values_lie() -> None:
    rng = Random(2)

    def draw() -> float:
        return rng.gauss(rng.choice((1.05, 1.45)), 0.005)

    few = [[draw()] for _ in range(200)]
    _, found = read([*few, [draw() for _ in range(100)]])
    assert near(found, 200, 1.05, 0.07) + near(found, 200, 1.45, 0.07) > 0.85
    assert near(found, 200, 1.25, 0.1) < 0.1


def test_the_places_follow_a_level_that_moves_from_poll_to_poll() -> None:
    rng = Random(3)
    levels = [rng.uniform(1.1, 1.4) for _ in range(60)]
    polls = [[level + rng.gauss(0.0, 0.02) for _ in range(100)] for level in levels]
    _, found = read(polls)
    for poll, level in enumerate(levels):
        assert near(found, poll, level, 0.06) > 0.85


def test_a_poll_without_a_trusted_sum_may_be_at_any_level() -> None:
    rng = Random(3)
    polls = [[level + rng.gauss(0.0, 0.02) for _ in range(20)] for level in (rng.uniform(1.1, 1.4) for _ in range(60))]
    _, found = read(polls, untrusted={30})
    means = (found.weights * found.values).sum(1)
    spread = np.sqrt((found.weights * (found.values - means[:, None]) ** 2).sum(1))
    assert means[30] == pytest.approx(1.25, abs=0.05)
    assert spread[30] == pytest.approx(0.09, abs=0.02)
    assert np.delete(spread, 30).max() < 0.03


def test_slow_requests_among_small_waits_take_what_the_sum_has_left() -> None:
    rng = Random(1)
    polls = [[rng.uniform(15e-6, 25e-6) for _ in range(20)] for _ in range(60)]
    polls[7][0] = polls[31][0] = 0.005
    evidence, found = read(polls)
    mean = (found.weights * found.values).sum(1) * 20.0
    assert mean[[7, 31]] == pytest.approx([0.0054, 0.0054], rel=0.02)
    for poll in (0, 7, 30, 31):
        assert near(found, poll, 20e-6, 8e-6) > 0.85
    assert evidence.size.tolist() == [20.0] * 60


def waits(rng: Random, polls: int, many: int) -> Polls:
    """Draw waits of an idle queue."""
    return [[rng.uniform(1e-5, 2e-5) for _ in range(many)] for _ in range(polls)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_small_waits_stay_small_while_the_load_around_them_moves(seed: int) -> None:
    """More waits of other buckets at the end say that those of the first one rise; its small ones do not."""
    rng = Random(seed)
    polls = waits(rng, 60, 6)
    for number in (20, 35):
        polls[number][0] = rng.uniform(0.1, 0.25)
    for number in range(50, 60):
        polls[number] += [rng.uniform(0.31, 0.9) for _ in range(3)]
    evidence, found = read(polls)
    first = np.flatnonzero(evidence.slot == 0)
    alone = first[(evidence.count[first] == evidence.size[evidence.poll[first]]) & (evidence.poll[first] < 20)]
    assert len(alone) == 20
    for one in alone:
        assert near(found, one, 1.5e-5, 1e-5) > 0.9


def waits_and_two_slow(seed: int) -> Polls:
    rng = Random(seed)
    polls = waits(rng, 50, 6)
    for number in (10, 25):
        polls[number][0] = rng.uniform(0.15, 0.25)
    return polls


def small_in_last(evidence: Single, found: Observations) -> float:
    """Return the share of the last poll's observations in the first bucket that are small waits."""
    one = np.flatnonzero((evidence.poll == evidence.poll[-1]) & (evidence.slot == 0))[0]
    return near(found, int(one), 1.5e-5, 1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_other_buckets_cannot_take_makes_some_small_waits_slow_and_not_all_of_them(seed: int) -> None:
    # 0.85 s in all, of which the one beyond 0.3 has 0.5 at most.
    polls = [*waits_and_two_slow(seed), [*waits(Random(seed), 1, 5)[0], 0.15, 0.22, 0.48]]
    evidence, found = read(polls)
    assert 0.55 < small_in_last(evidence, found) < 0.85  # five of seven in truth
    assert sums(evidence, found) == pytest.approx(totals(polls), rel=1e-9)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_other_buckets_have_left_over_makes_none_of_the_small_waits_slow(seed: int) -> None:
    evidence, found = read([*waits_and_two_slow(seed), [*waits(Random(seed), 1, 7)[0], 0.31]])
    assert small_in_last(evidence, found) > 0.95


def test_sums_that_are_not_to_be_trusted_cost_only_those() -> None:
    rng = Random(5)
    polls = [[rng.gauss(1.2, 0.01) for _ in range(3)] for _ in range(40)]
    evidence, found = read(polls, untrusted=range(0, 40, 4))
    assert np.isfinite(found.values).all()
    trusted = evidence.trusted
    assert trusted.sum() == 30
    assert sums(evidence, found)[trusted] == pytest.approx(totals(polls)[trusted], rel=1e-9)
    assert sums(evidence, found)[~trusted] == pytest.approx(np.full(10, 3.6), rel=0.01)


@pytest.mark.parametrize("many", [2, 5, 20, 100])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_observations_of_each_poll_of_a_lognormal_add_up_to_its_sum(seed: int, many: int) -> None:
    rng = Random(seed)
    polls = [[rng.lognormvariate(0.0, 0.5) for _ in range(many)] for _ in range(60)]
    evidence, found = read(polls)
    off = np.abs(sums(evidence, found) / totals(polls) - 1.0)
    assert off.max() < 0.05
    assert off.mean() < 0.005


VALUES = st.one_of(st.floats(1e-6, 40.0), st.floats(1.0, 1.5), st.sampled_from((0.3, 1.0, 1.2, 1.5, 2e-5)))
POLLS = st.lists(st.lists(VALUES, min_size=1, max_size=6), min_size=1, max_size=20)


@examples(100)
@given(POLLS)
def test_the_observations_of_a_poll_add_up_to_its_sum_unless_an_edge_stops_them(polls: Polls) -> None:
    evidence, found = read(polls)
    lower, upper = evidence.lower * evidence.scale, (evidence.lower + evidence.width) * evidence.scale
    values = found.values
    stopped = (values <= lower[evidence.slot][:, None]) | (values >= upper[evidence.slot][:, None])
    free = evidence.per_poll((stopped & (found.weights > 0.0)).sum(1)) == 0.0
    expected = totals(polls)
    assert sums(evidence, found)[free] == pytest.approx(expected[free], rel=1e-9)
    single = evidence.size == 1.0
    assert sums(evidence, found)[single] == pytest.approx(expected[single], rel=1e-12)


@examples(100)
@given(POLLS, st.sets(st.integers(0, 19)))
def test_weights_of_a_bin_add_up_to_all_and_values_stay_in_their_bucket(polls: Polls, untrusted: set[int]) -> None:
    evidence, found = read(polls, untrusted)
    assert found.values.shape == found.weights.shape == (len(evidence.poll), NODES)
    assert (found.weights >= 0.0).all()
    assert found.weights.sum(1) == pytest.approx(np.ones(len(evidence.poll)))
    lower = (evidence.lower * evidence.scale)[evidence.slot][:, None]
    upper = ((evidence.lower + evidence.width) * evidence.scale)[evidence.slot][:, None]
    # A width is rounded, and a lower edge with it may be the last digit beyond the upper one.
    assert (found.values >= lower).all()
    assert (found.values <= upper * (1.0 + 1e-15)).all()
