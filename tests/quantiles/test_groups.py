"""Two groups of values in one bucket: where they are told from the sums of polls, and where nothing is split."""

from __future__ import annotations

from math import exp, log
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from exactly import gathered

from vllm_sidecar.quantiles.groups import MOST, Groups, binomial, groups
from vllm_sidecar.quantiles.moments import Moments, fit
from vllm_sidecar.quantiles.nodes import nodes
from vllm_sidecar.quantiles.shape import NODES, Outline, shapes

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.quantiles.evidence import Floats, Single

BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
POLLS = 60
LOW, HIGH = 1.1, 1.4
Polls = list[list[float]]


def drawn(seed: int, draw: Callable[[Random], float], many: int, polls: int = POLLS) -> Polls:
    rng = Random(seed)
    return [[draw(rng) for _ in range(many)] for _ in range(polls)]


def two(share: float, spread: float = 0.01) -> Callable[[Random], float]:
    """Draw values around 1.1, and this share of them around 1.4."""
    return lambda rng: rng.gauss(HIGH if rng.random() < share else LOW, spread)


def in_truth(polls: Polls, evidence: Single, between: float = 0.0) -> Moments:
    """Return the moments of the values themselves, which a fit only sees the sums of."""
    values = np.array([value for poll in polls for value in poll])
    slots = [values[np.searchsorted(BOUNDS, values) == bucket] for bucket in evidence.buckets]
    means, variances = np.array([s.mean() for s in slots]), np.array([s.var() for s in slots])
    suggested = shapes(Outline(evidence.bounds, evidence.counts, evidence.buckets))
    unit = evidence.scale
    shared = np.full(len(means), between / unit**2)
    return Moments(suggested, means / unit, variances / unit**2, shared, np.zeros(len(evidence.poll)))


def found_in(polls: Polls, *, summed: bool = True, between: float = 0.0) -> Groups:
    evidence = gathered(polls, BOUNDS, () if summed else range(len(polls)))
    moments = in_truth(polls, evidence, between)
    found = groups(evidence, moments, nodes(evidence, moments))
    return found._replace(nodes=found.nodes * evidence.scale)


def fitted_in(polls: Polls) -> Groups:
    evidence = gathered(polls, BOUNDS)
    moments = fit(evidence, [evidence])
    found = groups(evidence, moments, nodes(evidence, moments))
    return found._replace(nodes=found.nodes * evidence.scale)


def parts(found: Groups, slot: int = 0) -> tuple[float, float, float]:
    """Return the share of the upper group, and the means of the lower and of the upper one."""
    upper = found.weights[slot] * found.upper[slot]
    lower = found.weights[slot] - upper
    values = found.nodes[slot]
    return float(upper.sum()), float(lower @ values / lower.sum()), float(upper @ values / upper.sum())


def unsplit(found: Groups) -> bool:
    """Whether all is as it was before groups were looked for."""
    return bool(not found.split.any() and not found.upper.any() and (found.weights == 1.0 / NODES).all())


@pytest.mark.parametrize("many", [5, 20])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_groups_are_found_with_their_places_and_share(seed: int, share: float, many: int) -> None:
    evidence = gathered(drawn(seed, two(share), many), BOUNDS)
    # At 20 observations the steps are so dense that the moments have to be those of the law, not of the sample.
    mean = (LOW + (HIGH - LOW) * share) / evidence.scale
    variance = ((HIGH - LOW) ** 2 * share * (1.0 - share) + 0.01**2) / evidence.scale**2
    suggested = shapes(Outline(evidence.bounds, evidence.counts, evidence.buckets))
    moments = Moments(suggested, np.array([mean]), np.array([variance]), np.zeros(1), np.zeros(POLLS))
    found = groups(evidence, moments, nodes(evidence, moments))
    found = found._replace(nodes=found.nodes * evidence.scale)
    assert found.split.tolist() == [1.0]
    assert parts(found) == pytest.approx((share, LOW, HIGH), abs=0.05)
    middle = (found.nodes[0] > 1.17) & (found.nodes[0] < 1.33)
    assert found.weights[0, middle].sum() < 0.1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_groups_are_found_with_what_was_fitted_to_the_sums(seed: int) -> None:
    found = fitted_in(drawn(seed, two(0.5), 5))
    assert found.split.tolist() == [1.0]
    share, low, high = parts(found)
    assert share == pytest.approx(0.5, abs=0.15)
    assert (low, high) == pytest.approx((LOW, HIGH), abs=0.06)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_groups_are_found_where_polls_have_different_counts(seed: int) -> None:
    rng = Random(seed)
    found = found_in([[two(0.5)(rng) for _ in range(rng.randrange(1, 10))] for _ in range(POLLS)])
    assert parts(found) == pytest.approx((0.5, LOW, HIGH), abs=0.05)


def test_values_of_another_bucket_that_hardly_vary_do_not_blur_the_steps() -> None:
    rng = Random(4)
    polls = [[two(0.5)(rng) for _ in range(5)] + [rng.gauss(1.75, 0.002)] * 3 for _ in range(POLLS)]
    found = found_in(polls)
    assert found.split.tolist() == [1.0, 0.0]
    assert parts(found) == pytest.approx((0.5, LOW, HIGH), abs=0.05)
    assert (found.weights[1] == 1.0 / NODES).all()


def test_values_of_another_bucket_that_vary_more_than_a_step_hide_the_groups() -> None:
    rng = Random(4)
    polls = [[two(0.5)(rng) for _ in range(5)] + [rng.uniform(2.5, 5.0) for _ in range(3)] for _ in range(POLLS)]
    assert unsplit(found_in(polls))


@pytest.mark.parametrize("many", [2, 5, 20])
@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda rng: rng.lognormvariate(log(1.2), 0.05), id="lognormal"),
        pytest.param(lambda rng: rng.uniform(1.0, 1.5), id="even"),
        pytest.param(lambda rng: rng.gauss(1.25, 0.01), id="narrow"),
    ],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_group_is_not_split(seed: int, draw: Callable[[Random], float], many: int) -> None:
    polls = drawn(seed, draw, many)
    assert unsplit(found_in(polls))
    assert unsplit(fitted_in(polls))


def test_groups_that_lie_close_together_are_one() -> None:
    assert unsplit(found_in(drawn(1, two(0.5, spread=0.12), 5)))


def test_what_moves_from_poll_to_poll_is_not_split() -> None:
    polls = drawn(1, two(0.5), 5)
    assert not unsplit(found_in(polls, between=0.0))
    assert unsplit(found_in(polls, between=0.3 * 0.15**2))


def test_a_little_movement_makes_groups_less_certain() -> None:
    polls = drawn(1, two(0.5), 5)
    still, moving = (found_in(polls, between=between) for between in (0.0, 0.1 * 0.15**2))
    middle = (still.nodes[0] > 1.17) & (still.nodes[0] < 1.33)
    assert still.weights[0, middle].sum() + 0.1 < moving.weights[0, middle].sum() < middle.sum() / NODES


@pytest.mark.parametrize("seed", [0, 2, 5, 10])
def test_few_polls_do_not_tell_groups(seed: int) -> None:
    assert unsplit(found_in(drawn(seed, two(0.5), 5, polls=7)))
    assert not unsplit(found_in(drawn(seed, two(0.5), 5, polls=20)))


def test_polls_of_very_many_observations_have_no_steps() -> None:
    assert unsplit(found_in(drawn(1, two(0.5, spread=1e-4), MOST + 1)))
    assert not unsplit(found_in(drawn(1, two(0.5, spread=1e-4), MOST)))


def test_single_observations_have_no_steps_and_need_none() -> None:
    assert unsplit(found_in(drawn(1, two(0.5), 1)))


def test_without_sums_nothing_is_split() -> None:
    assert unsplit(found_in(drawn(1, two(0.5), 5), summed=False))


def test_beyond_the_last_bound_nothing_is_split() -> None:
    polls = drawn(1, lambda rng: rng.gauss(14.0 if rng.random() < 0.5 else 11.0, 0.1), 5)
    assert unsplit(found_in(polls))


def queued(rng: Random, slow: int, many: int, wait: float = 0.05) -> Polls:
    """Draw waits of some 20 microseconds, and in so many polls a slow one."""
    polls = [[20e-6 * exp(rng.gauss(0.0, 0.4)) for _ in range(many)] for _ in range(POLLS)]
    for number in rng.sample(range(POLLS), slow):
        polls[number][0] = wait * exp(rng.gauss(0.0, 0.1))
    return polls


def ranked(found: Groups, q: float) -> float:
    """Return the node up to which this share of the first slot lies."""
    return float(found.nodes[0][np.searchsorted(found.weights[0].cumsum(), q)])


@pytest.mark.parametrize("many", [2, 5, 20])
@pytest.mark.parametrize("slow", [2, 6])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_slow_requests_are_told_from_the_microseconds_of_all_others(seed: int, slow: int, many: int) -> None:
    found = found_in(queued(Random(seed), slow, many))
    share, body, _ = parts(found)
    assert found.split.tolist() == [1.0]
    assert share == pytest.approx(slow / POLLS / many, rel=0.2)
    assert body == pytest.approx(21e-6, rel=0.3)
    assert 15e-6 < ranked(found, 0.5) < 25e-6
    assert ranked(found, 1.0 - 2.0 * share) < 100e-6
    assert found.nodes[0, -1] > 0.05


def test_a_slow_request_of_milliseconds_is_told_with_what_was_fitted_to_the_sums() -> None:
    found = fitted_in(queued(Random(1), 2, 20, wait=0.005))
    assert parts(found)[0] == pytest.approx(2 / POLLS / 20, rel=0.1)
    assert 15e-6 < ranked(found, 0.5) < 25e-6


@pytest.mark.parametrize(("alone", "told"), [(2, 0.0), (3, 1.0), (5, 1.0)])
def test_while_all_other_polls_have_longer_waits_three_tell_which_requests_were_slow(alone: int, told: float) -> None:
    rng = Random(1)
    waits = queued(rng, 0, 4)[:20]
    waits[0][0] = 0.2
    polls = [values if number < alone else [*values, rng.uniform(1.0, 3.0)] for number, values in enumerate(waits)]
    found = fitted_in(polls)
    assert found.slow[0] == told
    assert (ranked(found, 0.5) < 30e-6) == bool(told)


@pytest.mark.parametrize("many", [2, 5, 20])
def test_microseconds_without_a_slow_request_are_not_split(many: int) -> None:
    polls = queued(Random(1), 0, many)
    assert unsplit(found_in(polls))
    assert unsplit(fitted_in(polls))


def test_a_first_bucket_whose_values_fill_it_has_groups_like_any_other() -> None:
    found = found_in(drawn(1, lambda rng: rng.gauss(0.25 if rng.random() < 0.5 else 0.1, 0.005), 5))
    assert parts(found) == pytest.approx((0.5, 0.1, 0.25), abs=0.04)


@pytest.mark.parametrize(
    "polls",
    [
        pytest.param(drawn(1, two(0.5), 5), id="two groups"),
        pytest.param(drawn(1, two(0.25), 20), id="more at the lower one"),
        pytest.param(queued(Random(1), 4, 5), id="slow requests"),
        pytest.param(drawn(1, lambda rng: rng.lognormvariate(0.0, 0.6), 5), id="one group"),
    ],
)
def test_weights_add_up_to_all_and_nodes_ascend_inside_the_bucket(polls: Polls) -> None:
    evidence = gathered(polls, BOUNDS)
    moments = in_truth(polls, evidence)
    before = nodes(evidence, moments)
    found = groups(evidence, moments, before.copy())
    assert found.weights.sum(1) == pytest.approx(np.ones(len(before)))
    assert (found.weights >= 0.0).all()
    assert ((found.upper >= 0.0) & (found.upper <= 1.0)).all()
    assert (np.diff(found.nodes, axis=1) >= 0.0).all()
    assert (found.nodes >= evidence.lower[:, None]).all()
    assert (found.nodes <= (evidence.lower + evidence.width)[:, None]).all()


def whole(count: float, share: float) -> Floats:
    return np.exp(binomial(np.array([count])[:, None], np.arange(MOST + 1), np.array([[share]])))[0]


@pytest.mark.parametrize("count", [0.0, 1.0, 5.0, 48.0])
@pytest.mark.parametrize("share", [0.12, 0.5, 0.88])
def test_the_chances_of_all_steps_are_those_of_a_binomial(count: float, share: float) -> None:
    chances = whole(count, share)
    steps = np.arange(MOST + 1)
    assert chances.sum() == pytest.approx(1.0)
    assert chances @ steps == pytest.approx(count * share)
    assert chances @ steps**2 - (chances @ steps) ** 2 == pytest.approx(count * share * (1.0 - share))
    assert not chances[steps > count].any()
