"""Stage 5: progress, stalls and their witnesses, gauges that froze, sleep."""

from __future__ import annotations

import pytest

from readings import START, engine, histogram, reading, window
from vllm_sidecar.derive.progress import age_seconds, gauges_stale, sleeping, stall_witnesses, stalled, witnesses
from vllm_sidecar.derive.views import Settings
from vllm_sidecar.window import Window

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
COMPLETIONS = ("http_requests_total", "/v1/completions", "POST", "2xx")


def lasting(poll: dict, seconds: int = SECONDS, then: dict | None = None) -> Window:
    """Make the window of a poll that stays the same, but for the last one."""
    return window(*[poll] * seconds, then or poll)


def counting(*ends: int, key: tuple[str, ...] = COMPLETIONS, seconds: int = SECONDS) -> Window:
    """Make the window of HTTP requests that ended so many seconds after the first poll."""
    return window(*({key: 100 + sum(end <= at for end in ends)} for at in range(seconds + 1)))


def verdict(seen: Window, **facts: object) -> tuple[float, float]:
    view = engine(seen, **facts)  # type: ignore[arg-type]
    return stalled(view), gauges_stale(view)


STALLED, STALE, FINE = (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)


def test_the_age_of_the_last_progress_grows_on_an_idle_engine_too() -> None:
    assert age_seconds(engine(lasting(IDLE))) == 150.0
    assert age_seconds(engine(lasting(IDLE, then={**IDLE, "prompt_tokens_total": 10}))) == 0.0
    assert age_seconds(engine(window(IDLE))) == 0.0


def test_work_that_does_not_move_and_has_no_witness_is_stale_gauges() -> None:
    assert verdict(lasting(BUSY)) == STALE
    assert stall_witnesses(engine(lasting(BUSY))) == {"waiting_grew": 0.0}


@pytest.mark.parametrize(
    ("poll", "facts", "found"),
    [
        ({"requests_waiting": 3}, {}, {"waiting_grew": 1.0}),
        ({}, {"http": counting(140)}, {"waiting_grew": 0.0, "http_traffic": 1.0}),
        ({}, {"http": counting(), "in_flight": 5.0}, {"waiting_grew": 0.0, "http_traffic": 0.0, "http_in_flight": 1.0}),
        ({}, {"in_flight": 5.0}, {"waiting_grew": 0.0, "http_in_flight": 1.0}),
    ],
    ids=["more wait", "HTTP requests end", "HTTP requests are open", "without HTTP counters"],
)
def test_one_witness_is_enough_for_a_stall(poll: dict, facts: dict, found: dict[str, float]) -> None:
    seen = lasting(BUSY, then={**BUSY, **poll})
    assert verdict(seen, **facts) == STALLED
    assert stall_witnesses(engine(seen, **facts)) == found


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"http": counting()}, {"waiting_grew": 0.0, "http_traffic": 0.0}),
        ({"http": counting(), "in_flight": 0.0}, {"waiting_grew": 0.0, "http_traffic": 0.0, "http_in_flight": 0.0}),
        ({"http": counting(0, 1, 1, 2, 60)}, {"waiting_grew": 0.0, "http_traffic": 0.0}),
    ],
    ids=["silence", "no open request", "a mass abort right after the last progress"],
)
def test_without_a_witness_the_gauges_are_stale(facts: dict, found: dict[str, float]) -> None:
    assert verdict(lasting(BUSY), **facts) == STALE
    assert stall_witnesses(engine(lasting(BUSY), **facts)) == found


@pytest.mark.parametrize(
    "key",
    [
        ("http_requests_total", "none", "POST", "4xx"),
        ("http_requests_total", "/tokenize", "POST", "2xx"),
        ("http_requests_total", "/v1/models", "GET", "2xx"),
        ("http_requests_total", "/v1/completions", "POST", "4xx"),
    ],
    ids=["unknown routes", "tokenisation", "reading", "bad requests"],
)
def test_http_requests_that_reach_no_engine_are_no_witness(key: tuple[str, ...]) -> None:
    assert verdict(lasting(BUSY), http=counting(140, key=key)) == STALE


def test_a_request_that_failed_in_the_server_is_a_witness() -> None:
    key = ("http_requests_total", "/v1/completions", "POST", "5xx")
    assert verdict(lasting(BUSY), http=counting(140, key=key)) == STALLED


@pytest.mark.parametrize(
    ("finished", "in_flight", "expected"),
    [(1, 6.0, STALE), (1, 7.0, STALLED), (0, 6.0, STALLED)],
    ids=["the other engine explains all", "one open request too many", "nobody finished the request that ended"],
)
def test_what_the_other_engines_do_is_no_witness(
    finished: int, in_flight: float, expected: tuple[float, float]
) -> None:
    """The other engine has 6 requests; one HTTP request ended, which it may have finished."""
    other = {"requests_running": 4, "requests_waiting": 2, ("requests_finished_total", "stop"): 70}
    works = lasting(other, then={**other, ("requests_finished_total", "stop"): 70 + finished})
    assert verdict(lasting(BUSY), http=counting(140), in_flight=in_flight, beside=[works]) == expected


@pytest.mark.parametrize("seconds", [119, 120])
def test_nothing_is_frozen_before_the_configured_time(seconds: int) -> None:
    frozen = seconds >= 120
    assert verdict(lasting(BUSY, seconds), in_flight=5.0) == (STALLED if frozen else FINE)
    assert stall_witnesses(engine(lasting(BUSY, seconds))) == ({"waiting_grew": 0.0} if frozen else {})
    assert verdict(lasting(BUSY, 20), in_flight=5.0, settings=Settings(stall_after=20.0)) == STALLED


def test_an_idle_engine_never_stalls() -> None:
    assert verdict(lasting(IDLE), http=counting(140), in_flight=5.0) == FINE
    assert stall_witnesses(engine(lasting(IDLE), http=counting(140))) == {}


def test_the_first_request_after_a_long_idle_time_has_its_own_time_to_make_progress() -> None:
    """It waits for its grammar or for a transfer: more wait than at the last progress, but only since just now."""
    seen = lasting(IDLE, 600)
    answers = []
    for i in range(601, 601 + SECONDS):
        seen.append(START + i, reading({**IDLE, "requests_waiting": 1}))
        answers.append(verdict(seen, in_flight=1.0))
    assert answers == [FINE] * 120 + [STALLED] * (SECONDS - 120)


def test_after_the_first_poll_nothing_is_frozen() -> None:
    assert verdict(window(BUSY), http=window({COMPLETIONS: 5}), in_flight=5.0) == FINE


@pytest.mark.parametrize(
    "signal", ["kv_cache_usage_ratio", "generation_tokens_total", "prompt_tokens_total", "iteration_tokens"]
)
def test_work_of_which_one_signal_moves_is_no_stall(signal: str) -> None:
    """A long prompt that is computed in parts moves only the KV usage."""
    polls = [
        {**BUSY, signal: histogram(7 + i, 0, 0, 0) if signal == "iteration_tokens" else 0.001 * i}
        for i in range(SECONDS)
    ]
    assert verdict(window(*polls), http=counting(140), in_flight=5.0) == FINE


def test_a_stall_ends_with_progress() -> None:
    seen = lasting(BUSY, then={**BUSY, "requests_waiting": 3})
    assert verdict(seen) == STALLED
    seen.append(START + 151, reading({**BUSY, "requests_waiting": 3, "generation_tokens_total": 51}))
    assert verdict(seen) == FINE


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
        assert verdict(lasting({**BUSY, **poll}), **facts) == expected


def test_witnesses_reach_back_as_far_as_polls_are_kept() -> None:
    """After an hour without progress the second half of that time is longer than what is kept."""
    seen, http = Window(60.0, 300.0), Window(60.0, 300.0)
    for i in range(3600):
        seen.append(START + i, reading(BUSY))
        http.append(START + i, reading({COMPLETIONS: 100 + (i >= 3400)}))
    assert witnesses(engine(seen, http=http)) == {"waiting_grew": 0.0, "http_traffic": 1.0}
