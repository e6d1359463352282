"""Where values end inside a bucket: ends that are there are found from the sums, and none are seen in a tail."""

from __future__ import annotations

from itertools import pairwise
from math import log
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from exactly import gathered

from vllm_sidecar.quantiles.evidence import Single, gather
from vllm_sidecar.quantiles.observed import Observed
from vllm_sidecar.quantiles.shape import Outline, Shapes, shapes
from vllm_sidecar.quantiles.support import suggested

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BOUNDS = (0.1, 0.25, 0.5, 0.75, 1.0, 2.5)
LONG = (0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
POLLS = 60


def drawn(seed: int, draw: Callable[[Random], float], many: int = 20) -> list[list[float]]:
    rng = Random(seed)
    return [[draw(rng) for _ in range(many)] for _ in range(POLLS)]


def smooth(evidence: Single) -> Shapes:
    """Return the shapes as the counts alone suggest them."""
    return shapes(Outline(evidence.bounds, evidence.counts, evidence.buckets))


def true_places(polls: Sequence[Sequence[float]], evidence: Single) -> list[float]:
    """Return the means of the values in each finite slot, in widths of its bucket."""
    values = np.array([value for poll in polls for value in poll])
    places = []
    for slot, bucket in enumerate(evidence.buckets[: -1 if evidence.infinite else None]):
        lower, width = evidence.lower[slot] * evidence.scale, evidence.width[slot] * evidence.scale
        inside = values[np.searchsorted(evidence.bounds, values) == bucket]
        places.append(float((inside.mean() - lower) / width))
    return places


@pytest.mark.parametrize("many", [5, 20, 100])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_even_values_that_end_inside_the_last_bucket_do_not_pile_up_at_its_beginning(seed: int, many: int) -> None:
    polls = drawn(seed, lambda rng: rng.uniform(0.2, 0.7), many)
    evidence = gathered(polls, BOUNDS)
    found, alone, true = suggested([evidence]), smooth(evidence), true_places(polls, evidence)
    assert found.mean[2] == pytest.approx(true[2], abs=0.1 if many == 5 else 0.06)
    assert alone.mean[2] < true[2] - 0.15
    assert found.quantiles[2, -1] == pytest.approx(0.8, abs=0.1)  # 0.7 between 0.5 and 0.75
    assert found.variance[2] == pytest.approx(0.8**2 / 12.0, rel=0.3)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_values_that_begin_inside_a_bucket_are_not_taken_for_a_tail(seed: int) -> None:
    """A Pareto distribution is densest where it begins, at 0.3 between 0.25 and 0.5."""
    polls = drawn(seed, lambda rng: 0.3 * rng.paretovariate(2.5), 100)
    evidence = gathered(polls, LONG)
    found, alone, true = suggested([evidence]), smooth(evidence), true_places(polls, evidence)
    assert evidence.buckets[0] == 2
    assert found.mean[0] == pytest.approx(true[0], abs=0.06)
    assert alone.mean[0] > true[0] + 0.1
    assert 0.1 < found.quantiles[0, 0] < 0.3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_values_beyond_the_last_bound_do_not_hide_where_the_others_begin(seed: int) -> None:
    polls = drawn(seed, lambda rng: 0.3 * rng.paretovariate(2.5), 100)
    evidence = gathered(polls, LONG[:6])
    assert evidence.infinite
    assert suggested([evidence]).mean[0] == pytest.approx(true_places(polls, evidence)[0], abs=0.08)
    assert smooth(evidence).mean[0] > 0.58


@pytest.mark.parametrize("many", [20, 100])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_lognormal_nearly_keeps_its_smooth_shape(seed: int, many: int) -> None:
    evidence = gathered(drawn(seed, lambda rng: rng.lognormvariate(log(0.4), 0.3), many), BOUNDS)
    found, alone = suggested([evidence]), smooth(evidence)
    counts = np.array([evidence.counts[bucket] for bucket in evidence.buckets])
    much = counts > 0.05 * counts.sum()
    assert much.sum() == 3
    assert found.mean[much] == pytest.approx(alone.mean[much], abs=0.04)


@pytest.mark.parametrize(
    ("lower", "upper"), [(0.2, 0.7), (0.3, 0.7)], ids=["an end in two buckets", "the first of both has more room"]
)
def test_without_sums_the_smooth_shapes_stay(lower: float, upper: float) -> None:
    polls = drawn(1, lambda rng: rng.uniform(lower, upper))
    evidence = gathered(polls, BOUNDS, range(len(polls)))
    found, alone = suggested([evidence]), smooth(evidence)
    assert found.mean.tolist() == alone.mean.tolist()
    assert found.quantiles.tolist() == alone.quantiles.tolist()
    assert suggested([gathered(polls, BOUNDS)]).mean.tolist() != alone.mean.tolist()


def test_values_in_one_bucket_have_no_neighbour_that_could_tell_an_end() -> None:
    evidence = gathered(drawn(1, lambda rng: rng.uniform(0.3, 0.4)), BOUNDS)
    assert suggested([evidence]).mean.tolist() == smooth(evidence).mean.tolist()


def filled(share: float) -> Single:
    """Return polls of values that lie evenly from 0.25 on, and up to this share of the bucket from 0.5 to 0.75."""
    rng, polls, counts = Random(1), [], [0.0] * (len(BOUNDS) + 1)
    for number in range(POLLS):
        below = float(number % 20 + 1)
        above = (21.0 - below) * share
        total = below * 0.375 + above * (0.5 + 0.125 * min(1.0, share)) + rng.gauss(0.0, 0.3)
        polls.append(Observed(((2, below), (3, above)), total))
        counts[2] += below
        counts[3] += above
    return gather(BOUNDS, polls, counts)


@pytest.mark.parametrize("share", [0.6, 0.7, 0.8])
def test_the_density_of_the_bucket_before_goes_on_until_the_count_is_used_up(share: float) -> None:
    found = suggested([filled(share)])
    assert found.mean[1] == pytest.approx(share / 2.0, abs=0.02)
    assert found.quantiles[1, [0, -1]] == pytest.approx([0.0, share], abs=0.04)


def test_a_bucket_that_is_filled_to_its_end_has_no_end_in_it() -> None:
    evidence = filled(1.0)
    found, alone = suggested([evidence]), smooth(evidence)
    assert found.mean == pytest.approx(alone.mean, abs=1e-9)
    assert found.variance == pytest.approx(alone.variance, abs=1e-9)
    assert found.quantiles == pytest.approx(alone.quantiles, abs=1e-9)


def test_the_shapes_do_not_jump_while_the_bucket_fills() -> None:
    means = [suggested([filled(share)]).mean for share in np.linspace(0.95, 1.05, 51)]
    assert means[0][1] - means[25][1] > 0.1  # on the way the end vanishes
    assert max(np.abs(after - before).max() for before, after in pairwise(means)) < 0.015


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_shapes_are_those_of_any_unit(seed: int) -> None:
    polls = drawn(seed, lambda rng: rng.uniform(0.2, 0.7))
    one = suggested([gathered(polls, BOUNDS)])
    other = suggested([gathered([[1000.0 * v for v in poll] for poll in polls], [1000.0 * b for b in BOUNDS])])
    assert other.mean == pytest.approx(one.mean, abs=1e-6)
    assert other.variance == pytest.approx(one.variance, abs=1e-6)
