"""How often to poll."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.pace import POLLS, QUESTIONS, Pace

COSTS = st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.0, 5.0)), max_size=100)


def pace(*polls: float, questions: float = 0.0) -> Pace:
    made = Pace(1.0, 60.0, 0.01)
    for seconds in polls:
        made.spent(seconds, questions)
    return made


def test_before_the_first_poll_the_pace_is_as_configured() -> None:
    assert (pace().interval, pace().server_time_ratio) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("polls", "interval", "ratio"),
    [
        ([0.004], 1.0, 0.004),
        ([0.01], 1.0, 0.01),
        ([0.02], 2.0, 0.01),
        ([6.0], 60.0, 0.1),
        ([5.0, 0.02], 2.0, 0.01),
        ([0.02, 5.0], 2.0, 0.01),
        ([0.004, *[0.02] * (POLLS - 1)], 1.0, 0.004),
        ([0.004, *[0.02] * POLLS], 2.0, 0.01),
    ],
    ids=[
        "a cheap poll",
        "just what is allowed",
        "twice what is allowed",
        "never longer than the longest interval",
        "one slow answer is forgotten at the next quick one",
        "one slow answer after a quick one is waiting",
        "the quickest of the last polls is what one costs",
        "until it is too long ago",
    ],
)
def test_the_interval_stretches_by_what_a_poll_costs(polls: list[float], interval: float, ratio: float) -> None:
    made = pace(*polls)
    assert (made.interval, made.server_time_ratio) == (pytest.approx(interval), pytest.approx(ratio))


def test_rare_questions_count_by_their_mean() -> None:
    made = pace(*[0.01] * (QUESTIONS - 1))
    made.spent(0.01, 0.6)
    assert made.interval == pytest.approx((0.01 + 0.6 / QUESTIONS) / 0.01)
    for _ in range(QUESTIONS):
        made.spent(0.01)
    assert made.interval == 1.0


@given(costs=COSTS, interval=st.floats(0.1, 60.0), stretch=st.floats(1.0, 100.0), allowed=st.floats(0.001, 1.0))
def test_the_interval_is_never_below_the_configured_one_and_respects_the_ratio_up_to_the_longest(
    costs: list[tuple[float, float]], interval: float, stretch: float, allowed: float
) -> None:
    made = Pace(interval, interval * stretch, allowed)
    for poll, questions in costs:
        made.spent(poll, questions)
        assert interval <= made.interval <= interval * stretch
        assert made.server_time_ratio <= allowed * (1 + 1e-9) or made.interval == interval * stretch
