"""Progress, what corroborates that work is real, gauges that froze, sleep. Scenarios are in test_stalls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from readings import START, engine, histogram, reading, window

from vllm_sidecar.derive.inputs import DeriveSettings
from vllm_sidecar.derive.stalls import (
    CORROBORATING,
    age_seconds,
    clients_left,
    gauges_stale,
    sleeping,
    stall_corroborated,
    stalled,
    waited_seconds,
)

if TYPE_CHECKING:
    from vllm_sidecar.series.window import Window

SECONDS = 150
"""How long things last in these tests; a stall is one after 120 s."""
BUSY = {
    "requests_running": 3,
    "requests_waiting": 2,
    "generation_tokens_total": 50,
    "prompt_tokens_total": 9,
    "kv_cache_usage_ratio": 0.5,
    "iteration_tokens": histogram(7, 0, 0, 0),
    "request_seconds": histogram(1, 0, 0, 0),
    ("requests_finished_total", "stop"): 1,
}
IDLE = {**BUSY, "requests_running": 0, "requests_waiting": 0}
AWAKE = {("engine_sleep_state", "awake"): 1, ("engine_sleep_state", "weights_offloaded"): 0}
ASLEEP = {("engine_sleep_state", "awake"): 0, ("engine_sleep_state", "weights_offloaded"): 1}


def lasting(poll: dict, seconds: int = SECONDS, then: dict | None = None) -> Window:
    """Make the window of a poll that stays the same, but for the last one."""
    return window(*[poll] * seconds, then or poll)


def outcome_of(seen: Window, **facts: object) -> tuple[float, float]:
    view = engine(seen, **facts)  # type: ignore[arg-type]
    return stalled(view), gauges_stale(view)


STALLED, STALE, FINE = (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)


def test_the_age_of_the_last_progress_grows_on_an_idle_engine_too() -> None:
    assert age_seconds(engine(lasting(IDLE))) == 150.0
    assert age_seconds(engine(lasting(IDLE, then={**IDLE, "prompt_tokens_total": 10}))) == 0.0
    assert age_seconds(engine(window(IDLE))) == 0.0


@pytest.mark.parametrize(
    ("poll", "expected"),
    [
        (AWAKE, 0.0),
        (ASLEEP, 1.0),
        ({("engine_sleep_state", "discard_all"): 1, ("engine_sleep_state", "weights_offloaded"): 0}, 1.0),
        ({}, None),
        ({("engine_sleep_state", "awake"): 1}, None),
    ],
    ids=["awake", "asleep at level 1", "asleep at level 2", "the server does not tell", "only that it is awake"],
)
def test_the_sleep_state(poll: dict, expected: float | None) -> None:
    assert sleeping(engine(window(poll))) == expected


def test_a_sleeping_engine_neither_stalls_nor_has_stale_gauges() -> None:
    for poll, facts, expected in [
        (ASLEEP, {"in_flight": 5.0}, FINE),
        (ASLEEP, {}, FINE),
        (AWAKE, {"in_flight": 5.0}, STALLED),
        (AWAKE, {}, STALE),
    ]:
        assert outcome_of(lasting({**BUSY, **poll}), **facts) == expected


def test_work_that_does_not_move_and_is_not_corroborated_is_stale_gauges() -> None:
    view = engine(lasting(BUSY))
    assert (stalled(view), gauges_stale(view), clients_left(view), waited_seconds(view)) == (0.0, 1.0, 0.0, 0.0)
    assert stall_corroborated(view) == dict.fromkeys(CORROBORATING, 0.0)


@pytest.mark.parametrize(
    ("poll", "facts", "signal"),
    [
        ({"requests_waiting": 3}, {}, "waiting_grew"),
        ({}, {"in_flight": 5.0}, "http_in_flight"),
        ({"engine_healthy": 0}, {}, "engine_unhealthy"),
    ],
    ids=["more wait", "requests are open", "vLLM calls it failed"],
)
def test_one_thing_that_corroborates_it_is_enough_for_a_stall(poll: dict, facts: dict, signal: str) -> None:
    seen = lasting(BUSY, then={**BUSY, **poll})
    assert outcome_of(seen, **facts) == STALLED
    assert stall_corroborated(engine(seen, **facts)) == {name: float(name == signal) for name in CORROBORATING}
    assert waited_seconds(engine(seen, **facts)) == 150.0


@pytest.mark.parametrize(("in_flight", "expected"), [(6.0, STALE), (7.0, STALLED)])
def test_requests_that_another_engine_has_corroborate_nothing(in_flight: float, expected: tuple[float, float]) -> None:
    other = {"requests_running": 4, "requests_waiting": 2, ("requests_finished_total", "stop"): 70}
    works = lasting(other, then={**other, ("requests_finished_total", "stop"): 71})
    assert outcome_of(lasting(BUSY), in_flight=in_flight, beside=[works]) == expected


@pytest.mark.parametrize("seconds", [119, 120])
def test_nothing_is_frozen_before_the_configured_time(seconds: int) -> None:
    frozen = seconds >= 120
    assert outcome_of(lasting(BUSY, seconds), in_flight=5.0) == (STALLED if frozen else FINE)
    assert bool(stall_corroborated(engine(lasting(BUSY, seconds)))) is frozen
    assert outcome_of(lasting(BUSY, 20), in_flight=5.0, settings=DeriveSettings(stall_after=20.0)) == STALLED


def test_an_idle_engine_has_nothing_that_could_freeze() -> None:
    assert outcome_of(lasting(IDLE), in_flight=5.0) == FINE
    assert stall_corroborated(engine(lasting(IDLE))) == {}


def test_the_first_request_after_a_long_idle_time_has_its_own_time_to_make_progress() -> None:
    """It waits for its grammar or for a transfer: more wait than at the last progress, but only since just now."""
    seen = lasting(IDLE, 600)
    answers = []
    for i in range(601, 601 + SECONDS):
        seen.append(START + i, reading({**IDLE, "requests_waiting": 1}))
        answers.append(outcome_of(seen, in_flight=1.0))
    assert answers == [FINE] * 120 + [STALLED] * (SECONDS - 120)


def test_after_the_first_poll_nothing_is_frozen() -> None:
    assert outcome_of(window(BUSY), in_flight=5.0) == FINE


@pytest.mark.parametrize(
    "signal",
    [
        "kv_cache_usage_ratio",
        "generation_tokens_total",
        "prompt_tokens_total",
        "iteration_tokens",
        "time_to_first_token_seconds",
        ("requests_finished_total", "stop"),
    ],
)
def test_work_of_which_one_signal_moves_is_no_stall(signal: str) -> None:
    """A long prompt that is computed in parts moves only the KV usage."""
    made = {"iteration_tokens": histogram, "time_to_first_token_seconds": histogram}.get(signal)
    polls = [{**BUSY, signal: made(7 + i, 0, 0, 0) if made else 0.001 * i} for i in range(SECONDS)]
    assert outcome_of(window(*polls), in_flight=5.0) == FINE


def test_a_stall_ends_with_progress() -> None:
    seen = lasting(BUSY, then={**BUSY, "requests_waiting": 3})
    assert outcome_of(seen) == STALLED
    seen.append(START + 151, reading({**BUSY, "requests_waiting": 3, "generation_tokens_total": 51}))
    assert outcome_of(seen) == FINE


def test_requests_that_the_engine_itself_counts_as_aborted_have_no_clients() -> None:
    """The Rust front end does, and may show nothing of HTTP."""
    aborted = ("requests_finished_total", "abort")
    for count, expected in [(5, (0.0, 1.0)), (4, STALE)]:
        seen = window({**BUSY, aborted: 0}, *[{**BUSY, aborted: count}] * SECONDS)
        view = engine(seen)
        assert (stalled(view), gauges_stale(view)) == expected
        assert clients_left(view) == float(count == 5)
