"""Autoscalers on saturation, and the algorithm of Kubernetes that decides for them."""

from __future__ import annotations

import pytest
from autoscaled_day import HOUR, Day, Scaler, scaled_day
from autoscaler import Autoscaler


def test_the_total_of_a_metric_is_divided_by_its_target_and_rounded_up() -> None:
    assert Autoscaler(0.7, 1, 10).decide(0.0, 2.9, 2) == 5


def test_within_a_tenth_of_the_target_nothing_changes() -> None:
    scaler = Autoscaler(0.7, 1, 10)
    assert scaler.decide(0.0, 1.53, 2) == 2
    assert scaler.decide(15.0, 1.55, 2) == 3


def test_without_the_metric_nothing_changes() -> None:
    assert Autoscaler(0.7, 1, 10).decide(0.0, None, 4) == 4


def test_at_most_four_replicas_or_as_many_as_there_are_start_within_fifteen_seconds() -> None:
    scaler = Autoscaler(0.7, 1, 100)
    assert scaler.decide(0.0, 50.0, 2) == 6
    assert scaler.decide(1.0, 50.0, 6) == 6
    assert scaler.decide(15.0, 50.0, 6) == 12


def test_replicas_leave_one_in_five_minutes_after_ten_minutes_of_less_load() -> None:
    scaler, current, numbers = Autoscaler(0.7, 1, 10), 5, []
    scaler.decide(0.0, 3.4, current)
    for now in range(15, 1500, 15):
        current = scaler.decide(float(now), 1.0, current)
        numbers.append((now, current))
    assert next(now for now, number in numbers if number == 4) == 600
    assert next(now for now, number in numbers if number == 3) == 900
    assert current == 2


@pytest.mark.parametrize(("current", "total", "expected"), [(3, 99.0, 4), (2, 0.0, 2)], ids=["most", "fewest"])
def test_the_number_stays_within_its_bounds(current: int, total: float, expected: int) -> None:
    assert Autoscaler(0.7, 2, 4).decide(0.0, total, current) == expected


def test_changes_of_direction_are_counted() -> None:
    history = ((0.0, 1), (60.0, 2), (120.0, 4), (180.0, 3), (240.0, 5))
    day = Day(1.0, 1.0, 3.0, history)
    assert (day.changes, day.turns, day.most, day.replicas_at(130.0)) == (4, 2, 5, 4)


@pytest.mark.slow
def test_a_ramp_is_followed_in_time_on_saturation_and_too_late_on_the_queue() -> None:
    """From an hour before the ramp to the middle of it; replicas take three minutes to load their model."""
    ours = scaled_day(Scaler("saturation", 0.7), 2.5 * HOUR, seed=1)
    queue = scaled_day(Scaler("waiting", 5.0), 2.5 * HOUR, seed=1)
    assert ours.in_time > 0.99
    assert ours.turns == 0
    assert queue.in_time < ours.in_time - 0.01
