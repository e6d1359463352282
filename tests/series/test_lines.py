"""Slopes of lines through values that were observed over time."""

from __future__ import annotations

import random

import pytest

from vllm_sidecar.series.lines import Line

SLOPE = 0.5


def fitted(error: float, *, guided: bool, spread: float = 1.0) -> Line:
    """Return a line of `SLOPE` through 400 values of x, which are measured with an error."""
    rng, line = random.Random(3), Line()
    for _ in range(400):
        true = 10.0 + rng.gauss(0.0, spread)
        measured = true + rng.gauss(0.0, error)
        line.add(1.0, true if guided else measured, measured, 2.0 + SLOPE * true)
    return line


def test_the_slope_of_exact_values_is_found() -> None:
    line = fitted(0.0, guided=False)
    assert line.slope(3.0, 1.0) == pytest.approx(SLOPE, rel=1e-3)
    assert line.y == pytest.approx(2.0 + SLOPE * line.x)


def test_an_error_of_x_halves_the_slope_unless_a_guide_has_none() -> None:
    assert fitted(1.0, guided=False).slope(SLOPE, 1.0) == pytest.approx(0.5 * SLOPE, rel=0.15)
    assert fitted(1.0, guided=True).slope(SLOPE, 1.0) == pytest.approx(SLOPE, rel=0.15)


@pytest.mark.parametrize("line", [Line(), fitted(0.0, guided=False, spread=0.0)], ids=["nothing", "one value"])
def test_what_did_not_vary_has_the_expected_slope(line: Line) -> None:
    assert line.slope(3.0, 1.0) == pytest.approx(3.0)


def test_a_slope_that_varied_too_little_to_be_measured_is_drawn_to_the_expected_one() -> None:
    """The error of the measured slope is ten, and slopes usually differ by a half."""
    rng, doubtful = random.Random(4), Line()
    for _ in range(20):
        x = rng.gauss(10.0, 0.1)
        doubtful.add(1.0, x, x, SLOPE * x + rng.gauss(0.0, 5.0))
    assert doubtful.slope(3.0, 0.5) == pytest.approx(3.0, abs=0.2)


def test_what_was_observed_long_ago_loses_its_weight() -> None:
    line, keep = Line(), 0.5
    for slope in (5.0, SLOPE):
        for x in range(40):
            line.add(keep, float(x % 4), float(x % 4), slope * (x % 4))
    assert line.slope(3.0, 1.0) == pytest.approx(SLOPE, rel=0.01)
    assert line.count == pytest.approx(2.0, rel=0.01)
