"""The lognormal whose scale moves from poll to poll: when it is believed, and what it is good for."""

from __future__ import annotations

from math import exp, pi, sin
from random import Random

import pytest
from exactly import counted, exact, gathered
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from vllm_sidecar.quantiles import window_quantiles
from vllm_sidecar.quantiles.moving import Moving, moving

BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
QS = (0.5, 0.9, 0.95, 0.99)
Values = list[list[float]]
Polls = list[tuple[list[float], float | None]]


def seen(polls: Values) -> Polls:
    """Return what the polls see of their values."""
    return [counted(values, BOUNDS) for values in polls]


def fitted(polls: Values) -> Moving | None:
    return moving(gathered(polls, BOUNDS))


def wave(rng: Random, many: int) -> Values:
    """Draw a minute in which the inter-token latency goes up and down between 9 and 24 ms."""
    middles = [0.021 * (0.8 + 0.35 * sin(second * 2.0 * pi / 25.0)) for second in range(60)]
    return [[middle * exp(rng.gauss(0.0, 0.15)) for _ in range(many)] for middle in middles]


def two_modes(rng: Random, many: int) -> Values:
    return [[rng.gauss(0.02, 0.001) if rng.random() < 0.5 else rng.gauss(0.12, 0.004) for _ in range(many)]
            for _ in range(60)]  # fmt: skip


@pytest.mark.parametrize("many", [10, 100])
def test_a_latency_that_goes_up_and_down_with_the_load_is_read_to_a_few_percent(many: int) -> None:
    for seed in range(5):
        polls = wave(Random(seed), many)
        true = [exact([value for poll in polls for value in poll], q) for q in QS]
        alone = window_quantiles(BOUNDS, [(counts, None) for counts, _ in seen(polls)], QS)
        assert window_quantiles(BOUNDS, seen(polls), QS) == pytest.approx(true, rel=0.07)
        assert alone[-1] == pytest.approx(true[-1], rel=0.8)
        assert alone[-1] > 1.3 * true[-1]


def test_its_deviation_and_the_means_of_the_buckets_are_found() -> None:
    polls = wave(Random(1), 100)
    model = fitted(polls)
    assert model is not None
    assert model.belief == 1.0
    assert model.deviation == pytest.approx(0.15, rel=0.05)
    slowest = [value for poll in polls for value in poll if value > 0.025]
    evidence = gathered(polls, BOUNDS)
    bins = evidence.slot == len(evidence.buckets) - 1
    means = (model.weights * model.nodes).sum(1)[bins] * evidence.scale
    found = float((evidence.count[bins] * means).sum()) / len(slowest)
    assert found == pytest.approx(sum(slowest) / len(slowest), rel=0.02)


def test_two_modes_are_no_lognormal() -> None:
    assert fitted(two_modes(Random(1), 20)) is None
    assert fitted(wave(Random(1), 20)) is not None  # as many polls and values of one latency


def test_waits_after_an_empty_queue_are_not_one_latency() -> None:
    rng = Random(3)
    empty = [[1e-5 * exp(rng.gauss(0.0, 0.4)) for _ in range(6)] for _ in range(54)]
    waits = [[0.2 * exp(rng.gauss(0.0, 0.4)) for _ in range(6)] for _ in range(6)]
    assert fitted(empty + waits) is None
    assert fitted([[0.02 * exp(rng.gauss(0.0, 0.4)) for _ in range(6)] for _ in range(60)]) is not None


@pytest.mark.parametrize(
    "polls",
    [
        pytest.param(wave(Random(1), 100)[:7], id="few polls"),
        pytest.param(wave(Random(1), 3), id="few observations"),
        pytest.param([[0.011, 0.012, 0.013, 0.014]] * 60, id="one bucket"),
        pytest.param([[*poll, 9.0] for poll in wave(Random(1), 20)], id="beyond the last bound"),
    ],
)
def test_it_is_not_tried_where_it_could_not_be_told(polls: Values) -> None:
    assert fitted(polls) is None


def test_sums_that_are_not_to_be_trusted_cost_only_those() -> None:
    polls = wave(Random(2), 50)
    some: Polls = [(counts, None if i % 5 == 0 else total) for i, (counts, total) in enumerate(seen(polls))]
    true = [exact([value for poll in polls for value in poll], q) for q in QS]
    assert window_quantiles(BOUNDS, some, QS) == pytest.approx(true, rel=0.1)
    nothing: Polls = [(counts, 0.0 if i == 3 else total) for i, (counts, total) in enumerate(seen(polls))]
    assert all(value is not None for value in window_quantiles(BOUNDS, nothing, QS))


POLLS = st.lists(st.lists(st.floats(0.005, 0.3), min_size=4, max_size=8), min_size=8, max_size=14)


@examples(60)
@given(POLLS, st.integers(0, 13), st.sampled_from((1e-9, -1e-9)))
def test_a_sum_that_differs_a_little_makes_quantiles_that_differ_a_little(
    values: Values, which: int, by: float
) -> None:
    before, after = seen(values), seen(values)
    counts, total = after[which % len(after)]
    assert total is not None
    after[which % len(after)] = (counts, total * (1.0 + by))
    assert window_quantiles(BOUNDS, after, QS) == pytest.approx(window_quantiles(BOUNDS, before, QS), rel=1e-4)


@examples(60)
@given(POLLS, st.sampled_from((1e-3, 1e3, 1e6)))
def test_the_unit_does_not_matter(values: Values, unit: float) -> None:
    polls = seen(values)
    other = [(counts, total * unit) for counts, total in polls if total is not None]
    bounds = [bound * unit for bound in BOUNDS]
    expected = [value * unit for value in window_quantiles(BOUNDS, polls, QS) if value is not None]
    assert window_quantiles(bounds, other, QS) == pytest.approx(expected, rel=1e-6)
