"""How often to send requests of one kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.vllm.throttle import RECENT, Throttle


def throttle(*answers: float) -> Throttle:
    made = Throttle(1.0, 60.0, 0.01)
    for seconds in answers:
        made.spent(seconds)
    return made


def test_before_the_first_answer_the_interval_is_as_configured() -> None:
    assert (throttle().interval, throttle().server_time_ratio) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("answers", "interval", "ratio"),
    [
        ([0.004], 1.0, 0.004),
        ([0.01], 1.0, 0.01),
        ([0.02], 2.0, 0.01),
        ([6.0], 60.0, 0.1),
        ([5.0, 0.02], 2.0, 0.01),
        ([0.02, 5.0], 2.0, 0.01),
        ([0.004, *[0.02] * (RECENT - 1)], 1.0, 0.004),
        ([0.004, *[0.02] * RECENT], 2.0, 0.01),
    ],
    ids=[
        "a cheap answer",
        "just what is allowed",
        "twice what is allowed",
        "never longer than the longest interval",
        "one slow answer is forgotten at the next quick one",
        "one slow answer after a quick one is waiting",
        "the quickest of the recent answers is what one costs",
        "until it is too long ago",
    ],
)
def test_the_interval_stretches_by_what_an_answer_costs(answers: list[float], interval: float, ratio: float) -> None:
    made = throttle(*answers)
    assert (made.interval, made.server_time_ratio) == (pytest.approx(interval), pytest.approx(ratio))


def test_an_answer_that_waited_stretches_nothing_where_several_are_needed() -> None:
    made = Throttle(1.0, 60.0, 0.01, answers_needed=3)
    intervals = []
    for seconds in (5.0, 4.0, 0.02, 4.0):
        made.spent(seconds)
        intervals.append(made.interval)
    assert intervals == [1.0, 1.0, 2.0, 2.0]


@given(
    answers=st.lists(st.floats(0.0, 30.0), max_size=100),
    interval=st.floats(0.1, 60.0),
    stretch=st.floats(1.0, 100.0),
    allowed=st.floats(0.001, 1.0),
)
def test_the_interval_is_never_below_the_configured_one_and_respects_the_ratio_up_to_the_longest(
    answers: list[float], interval: float, stretch: float, allowed: float
) -> None:
    made = Throttle(interval, interval * stretch, allowed)
    for seconds in answers:
        made.spent(seconds)
        assert interval <= made.interval <= interval * stretch
        assert made.server_time_ratio <= allowed * (1 + 1e-9) or made.interval == interval * stretch
