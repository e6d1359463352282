"""The lognormal whose level moves from poll to poll: when it is believed, and what it improves."""

from __future__ import annotations

from math import exp, pi, sin
from random import Random

import pytest
from exactly import counted, exact, gathered

from vllm_sidecar.quantiles import window_quantiles
from vllm_sidecar.quantiles.fit import fit
from vllm_sidecar.quantiles.level import MovingLevel, moving_level

BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
QS = (0.5, 0.9, 0.95, 0.99)
Values = list[list[float]]


def fitted(polls: Values) -> MovingLevel | None:
    evidence = gathered(polls, BOUNDS)
    return moving_level(evidence, fit(evidence))


def wave(rng: Random, many: int) -> Values:
    """Draw a minute in which the inter-token latency goes up and down between 9 and 24 ms."""
    middles = [0.021 * (0.8 + 0.35 * sin(second * 2.0 * pi / 25.0)) for second in range(60)]
    return [[middle * exp(rng.gauss(0.0, 0.15)) for _ in range(many)] for middle in middles]


@pytest.mark.parametrize("many", [10, 100])
def test_a_latency_that_goes_up_and_down_with_the_load_is_read_to_a_few_percent(many: int) -> None:
    for seed in range(5):
        polls = wave(Random(seed), many)
        true = [exact([value for poll in polls for value in poll], q) for q in QS]
        found = window_quantiles(BOUNDS, [counted(values, BOUNDS) for values in polls], QS)
        assert found == pytest.approx(true, rel=0.07)


def test_it_is_believed_for_one_latency_that_moves() -> None:
    found = fitted(wave(Random(1), 100))
    assert found is not None
    assert (found.belief == 1.0).all()


def test_it_is_not_believed_for_one_latency_that_stays() -> None:
    rng = Random(1)
    assert fitted([[0.021 * exp(rng.gauss(0.0, 0.3)) for _ in range(100)] for _ in range(60)]) is None


def test_two_modes_are_not_one_lognormal() -> None:
    rng = Random(1)
    polls = [[rng.gauss(0.02, 0.001) if rng.random() < 0.5 else rng.gauss(0.12, 0.004) for _ in range(20)]
             for _ in range(60)]  # fmt: skip
    assert fitted(polls) is None


def test_waits_after_an_empty_queue_are_not_one_latency() -> None:
    rng = Random(3)
    empty = [[1e-5 * exp(rng.gauss(0.0, 0.4)) for _ in range(6)] for _ in range(54)]
    waits = [[0.2 * exp(rng.gauss(0.0, 0.4)) for _ in range(6)] for _ in range(6)]
    assert fitted(empty + waits) is None


@pytest.mark.parametrize(
    "polls",
    [
        pytest.param(wave(Random(1), 100)[:7], id="few polls"),
        pytest.param(wave(Random(1), 3), id="few observations"),
        pytest.param([[0.011, 0.012, 0.013, 0.014]] * 60, id="one bucket"),
        pytest.param([[*poll, 9.0] for poll in wave(Random(1), 20)], id="beyond the last bound"),
    ],
)
def test_it_is_not_tried_where_the_levels_are_unknown(polls: Values) -> None:
    assert fitted(polls) is None


def test_a_poll_without_a_sum_costs_only_itself() -> None:
    polls = wave(Random(2), 50)
    seen = [counted(values, BOUNDS) for values in polls]
    some = [(counts, None if i % 5 == 0 else total) for i, (counts, total) in enumerate(seen)]
    true = [exact([value for poll in polls for value in poll], q) for q in QS]
    assert window_quantiles(BOUNDS, some, QS) == pytest.approx(true, rel=0.1)
