"""Stage 5: which observations of a poll are good."""

from __future__ import annotations

import pytest

from readings import BOUNDS
from test_distribution_share import poll
from vllm_sidecar.config.objectives import AVAILABILITY as CONFIGURED
from vllm_sidecar.config.objectives import LatencyName
from vllm_sidecar.derive.latency import LATENCIES
from vllm_sidecar.derive.slo import AVAILABILITY, Objective, good_of, is_exact, objectives_of

ALL = Objective("ttft", "time_to_first_token_seconds", 2.0)
OF_M = Objective("ttft", "time_to_first_token_seconds", 0.5, "m")
OTHER = Objective("itl", "inter_token_latency_seconds", 0.1)


def test_the_configuration_can_name_every_latency() -> None:
    assert set(LatencyName.__args__) == set(LATENCIES)
    assert CONFIGURED == AVAILABILITY


@pytest.mark.parametrize("objectives", [(ALL, OF_M, OTHER), (OTHER, OF_M, ALL)])
def test_an_objective_of_a_model_goes_before_the_one_for_all(objectives: tuple[Objective, ...]) -> None:
    assert set(objectives_of(objectives, "m")) == {OF_M, OTHER}
    assert set(objectives_of(objectives, "n")) == {ALL, OTHER}


def test_an_edge_is_exact_and_nothing_else() -> None:
    assert is_exact(BOUNDS, 2.0)
    assert not is_exact(BOUNDS, 1.5)


def test_at_an_edge_the_window_says_nothing() -> None:
    assert good_of(BOUNDS, poll(0.5, 1.5, 3.0), [poll(1.9, 1.9, 1.9)], 2.0) == 2.0


def test_a_single_observation_is_exact_whatever_the_window_says() -> None:
    recent = [poll(1.01) for _ in range(30)]
    assert good_of(BOUNDS, poll(1.9), [*recent, poll(1.9)], 1.5) == 0.0


def test_the_bucket_of_the_threshold_is_split_as_the_window_says() -> None:
    """Alone the sum of this poll says little; each poll before had one observation and tells its value."""
    now = poll(1.1, 1.1, 1.9, 1.9)
    recent = [*(poll(1.1) for _ in range(24)), *(poll(1.9) for _ in range(24)), now]
    assert good_of(BOUNDS, now, recent, 1.5) == pytest.approx(2.0, abs=0.2)
    low = [*(poll(1.1) for _ in range(48)), poll(1.1, 1.1, 1.1, 1.1)]
    assert good_of(BOUNDS, low[-1], low, 1.5) == pytest.approx(4.0, abs=0.2)


def test_what_lies_in_other_buckets_is_counted_for_certain() -> None:
    now = poll(0.5, 0.6, 1.9, 3.0, 9.0)
    recent = [*(poll(1.9) for _ in range(30)), now]
    assert good_of(BOUNDS, now, recent, 1.5) == pytest.approx(2.0, abs=0.1)


def test_without_a_window_the_poll_stands_alone() -> None:
    assert good_of(BOUNDS, poll(1.1, 1.1, 1.1), [], 1.9) >= 2.0
    assert good_of(BOUNDS, poll(1.2, 1.2), [poll(0.1)], 1.9) >= 1.0
