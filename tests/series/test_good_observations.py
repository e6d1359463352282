"""Which observations of a poll are good."""

from __future__ import annotations

import pytest
from observed_polls import poll
from readings import BOUNDS

from vllm_sidecar.catalog.derived import LATENCIES
from vllm_sidecar.config.service_levels import LatencyName
from vllm_sidecar.series.good_observations import (
    Objective,
    good_of,
    is_certain,
    is_exact,
    objectives_of,
    split,
)

ALL = Objective("ttft", "time_to_first_token_seconds", 2.0)
OF_M = Objective("ttft", "time_to_first_token_seconds", 0.5, "m")
OTHER = Objective("itl", "inter_token_latency_seconds", 0.1)


def test_the_configuration_can_name_every_latency() -> None:
    assert set(LatencyName.__args__) == set(LATENCIES)


@pytest.mark.parametrize("objectives", [(ALL, OF_M, OTHER), (OTHER, OF_M, ALL)])
def test_an_objective_of_a_model_goes_before_the_one_for_all(objectives: tuple[Objective, ...]) -> None:
    assert set(objectives_of(objectives, "m")) == {OF_M, OTHER}
    assert set(objectives_of(objectives, "n")) == {ALL, OTHER}


def test_a_bound_is_exact_and_nothing_else() -> None:
    assert is_exact(BOUNDS, 2.0)
    assert not is_exact(BOUNDS, 1.5)


def test_at_a_bound_the_split_says_nothing() -> None:
    assert good_of(BOUNDS, poll(0.5, 1.5, 3.0), 2.0, share=0.0) == 2.0


def test_a_single_observation_is_certain_whatever_the_split_says() -> None:
    assert good_of(BOUNDS, poll(1.9), 1.5, share=1.0) == 0.0
    assert good_of(BOUNDS, poll(1.1), 1.5, share=0.0) == 1.0


@pytest.mark.parametrize(
    ("values", "threshold", "certain"),
    [
        ((1.9,), 1.5, True),
        ((1.1, 1.9), 1.5, False),
        ((0.5, 1.9), 1.5, False),
        ((0.5, 3.0), 1.5, True),
        ((1.1, 1.9), 2.0, True),
    ],
    ids=["one", "two in the bucket", "one of two in the bucket", "none in the bucket", "an edge"],
)
def test_a_poll_is_certain_where_no_bucket_must_be_split(
    values: tuple[float, ...], threshold: float, certain: bool
) -> None:
    assert is_certain(BOUNDS, poll(*values), threshold) is certain


def test_a_bucket_is_split_as_the_polls_of_the_window_say() -> None:
    """Each of these polls had one observation and tells its value."""
    both = [poll(value) for value in (1.1, 1.9) * 24]
    assert split(BOUNDS, both, 1.5) == pytest.approx(0.5, abs=0.05)
    assert split(BOUNDS, [poll(1.1)] * 48, 1.5) == pytest.approx(1.0, abs=0.05)
    assert split(BOUNDS, [poll(0.5, 3.0)], 1.5) is None
    assert split(BOUNDS, [], 1.5) is None


def test_what_lies_in_other_buckets_is_counted_for_certain() -> None:
    assert good_of(BOUNDS, poll(0.5, 0.6, 1.9, 3.0, 9.0), 1.5, share=0.25) == 2.25


def test_without_a_split_the_poll_stands_alone() -> None:
    assert good_of(BOUNDS, poll(1.1, 1.1, 1.1), 1.9, share=None) >= 2.0
