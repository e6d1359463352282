"""Histograms side by side: each gets what it gets alone, whatever stands beside it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from exactly import counted, polled
from hypothesis import example, given
from hypothesis import strategies as st
from properties import examples

from vllm_sidecar.quantiles import estimate, estimates
from vllm_sidecar.quantiles.buckets import Observed
from vllm_sidecar.quantiles.evidence import Evidence
from vllm_sidecar.quantiles.fit import fit

if TYPE_CHECKING:
    from collections.abc import Sequence

QS = (0.5, 0.9, 0.95, 0.99)
QUEUE = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2)
Window = tuple[tuple[float, ...], list[Observed]]


def window(bounds: tuple[float, ...], polls: Sequence[Sequence[float]], untrusted: Sequence[int] = ()) -> Window:
    """Make what the polls of a histogram see of values; the sums of some are not to be trusted."""
    found = []
    for number, values in enumerate(polls):
        counts, total = counted(values, bounds)
        found.append(polled(counts, None if number in untrusted else total))
    return bounds, found


def lognormal(rng: Random, bounds: tuple[float, ...], many: int, middle: float = 0.0, width: float = 0.5) -> Window:
    return window(bounds, [[rng.lognormvariate(middle, width) for _ in range(many)] for _ in range(30)])


def kinds(seed: int) -> list[Window]:
    """Make windows that take every way through the estimate."""
    rng = Random(seed)
    few = [[rng.uniform(1.05, 1.45) for _ in range(rng.choice((0, 1, 1, 2, 5)))] for _ in range(30)]
    waits = [[rng.uniform(15e-6, 25e-6) for _ in range(20)] for _ in range(30)]
    waits[7][0] = 0.005
    two = [[rng.gauss(rng.choice((1.1, 1.4)), 0.01) for _ in range(6)] for _ in range(60)]
    levels = [[rng.gauss(level, 0.005) for _ in range(80)] for level in (rng.uniform(0.03, 0.18) for _ in range(30))]
    return [
        window(QUEUE, few),
        window(QUEUE, waits),
        window(QUEUE, two),
        window(ITL, levels),
        lognormal(rng, QUEUE, 12),
        lognormal(rng, ITL, 200, -3.0, 0.3),
        lognormal(rng, QUEUE, 6, 2.0),
        window(QUEUE, few, untrusted=range(0, 30, 2)),
        window(QUEUE, few, untrusted=range(30)),
        window(QUEUE, []),
        window(QUEUE, [[1.2, 1.7, 3.0]]),
        ((), []),
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_of_many_kinds_gets_what_it_gets_alone(seed: int) -> None:
    windows = kinds(seed)
    alone = [estimate(*one, QS) for one in windows]
    assert [len(one) for one in alone] == [4, 4, 4, 4, 4, 4, 4, 4, 4, 0, 4, 0]
    together = estimates(windows, QS)
    for one, other in zip(together, alone, strict=True):
        assert [quantile.value for quantile in one] == pytest.approx(
            [quantile.value for quantile in other], rel=1e-8, abs=1e-12
        )
        assert [(quantile.q, quantile.lower, quantile.upper) for quantile in one] == [
            (quantile.q, quantile.lower, quantile.upper) for quantile in other
        ]


@pytest.mark.parametrize(
    ("bounds", "bins", "total"),
    [
        ((-1e308, 1e308), ((0, 1.0), (1, 2.0)), 3.0),
        ((1.0, 1e308), ((0, 1.0), (1, 2.0)), 3.0),
        ((0.3, 0.3, 1.0), ((0, 2.0), (1, 1.0)), 0.8),
        ((1.0, 1.0, 1.0), ((1, 2.0), (2, 1.0)), 3.0),
        (QUEUE, ((0, 1e-3), (1, 1e-3)), 4e-4),
        (QUEUE, ((0, 1e-3),), 1e-8),
        (QUEUE, ((0, 2.0), (9, 1.0)), float("nan")),
        (QUEUE, ((0, 1e9), (4, 1.0)), float("inf")),
    ],
)
def test_a_histogram_that_no_server_has_costs_no_other_one(
    bounds: tuple[float, ...], bins: tuple[tuple[int, float], ...], total: float
) -> None:
    strange, good = (bounds, [Observed(bins, total)] * 12), kinds(1)[0]
    alone = [[quantile.value for quantile in estimate(*one, QS)] for one in (strange, good)]
    assert np.isfinite(alone).all()
    for windows in ([strange, good], [good, strange]):
        found = [[quantile.value for quantile in one] for one in estimates(windows, QS)]
        for one, window in zip(found, windows, strict=True):
            assert one == pytest.approx(alone[0 if window is strange else 1], rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("told", [0, 5])
def test_a_sum_that_is_no_number_is_not_to_be_trusted(told: int) -> None:
    bins = ((0, 2.0), (9, 1.0))
    polls = [Observed(bins, 21.0)] * told
    found = estimate(QUEUE, [*polls, Observed(bins, float("nan"))], QS)
    assert found == estimate(QUEUE, [*polls, Observed(bins, None)], QS)


def test_nothing_is_asked_for_and_nothing_is_given() -> None:
    assert estimates([], QS) == []
    assert estimates(kinds(1), ()) == [[]] * 12


def test_the_order_in_which_histograms_stand_makes_no_difference() -> None:
    windows = kinds(4)
    found, turned = estimates(windows, QS), estimates(windows[::-1], QS)[::-1]
    for one, other in zip(found, turned, strict=True):
        assert [quantile.value for quantile in one] == pytest.approx(
            [quantile.value for quantile in other], rel=1e-8, abs=1e-12
        )


VALUES = st.one_of(st.floats(1e-6, 40.0), st.floats(1.0, 1.5), st.sampled_from((0.3, 1.0, 1.2, 1.5, 2e-5)))
POLLS = st.lists(st.lists(VALUES, max_size=6), max_size=12)
WINDOWS = st.lists(st.tuples(st.sampled_from((QUEUE, ITL)), POLLS, st.sets(st.integers(0, 11))), max_size=4)


@examples(100)
@given(WINDOWS)
@example([(QUEUE, [[1.0]], {0}), (ITL, [[0.02]], set())])
def test_whatever_was_observed_each_gets_what_it_gets_alone(
    drawn: list[tuple[tuple[float, ...], list[list[float]], set[int]]],
) -> None:
    windows = [window(bounds, polls, sorted(untrusted)) for bounds, polls, untrusted in drawn]
    for one, other in zip(estimates(windows, QS), [estimate(*each, QS) for each in windows], strict=True):
        assert [quantile.value for quantile in one] == pytest.approx(
            [quantile.value for quantile in other], rel=1e-8, abs=1e-12
        )


def test_side_by_side_polls_and_slots_are_numbered_through() -> None:
    parts = window(QUEUE, [[1.2, 1.7], [1.1]]), window(ITL, [[0.02], [30.0, 0.004]])
    found = Evidence(parts)
    assert found.histograms == 2
    assert found.owner.tolist() == [0, 0, 1, 1, 1]
    assert found.source.tolist() == [0, 0, 1, 1]
    assert found.poll.tolist() == [0, 0, 1, 2, 3, 3]
    assert found.slot.tolist() == [0, 1, 0, 3, 2, 4]
    assert found.first.tolist() == [False, False, True, False, False]
    assert found.endless.tolist() == [False, False, False, False, True]
    assert (found.row.tolist(), found.column.tolist()) == ([0, 1, 0, 1], [0, 1, 0, 1, 2])
    assert found.per_histogram(found.size).tolist() == [3.0, 3.0]
    assert found.per_owner(found.per_slot(found.count)).tolist() == [3.0, 3.0]


def test_a_histogram_without_a_known_sum_keeps_its_prior_beside_others() -> None:
    rng = Random(1)
    polls = [[rng.uniform(1.0, 2.0) for _ in range(5)] for _ in range(20)]
    known, unknown = window(QUEUE, polls), window(QUEUE, polls, untrusted=range(20))
    together = fit(Evidence([known, unknown]))
    assert together.mean[2:].tolist() == together.prior.mean[2:].tolist()
    assert together.mean[:2] == pytest.approx(fit(Evidence([known])).mean, rel=1e-9)
