"""Signs of progress, admissions, and how long requests wait, from one poll to the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import START, histogram, reading, window

from vllm_sidecar.series.window import Window

TOKENS = "generation_tokens_total"
STOP = ("requests_finished_total", "stop")
TTFT = "time_to_first_token_seconds"

IDLE = {
    TOKENS: 5,
    "prompt_tokens_total": 9,
    "kv_cache_usage_ratio": 0.25,
    "iteration_tokens": histogram(1, 0, 0, 0),
    "request_seconds": histogram(1, 0, 0, 0),
    "requests_running": 1,
    "requests_waiting": 1,
    TTFT: histogram(1, 0, 0, 0),
}


@pytest.mark.parametrize(
    "change",
    [
        {TOKENS: 6},
        {"prompt_tokens_total": 10},
        {"kv_cache_usage_ratio": 0.26},
        {"kv_cache_usage_ratio": 0.24},
        {"iteration_tokens": histogram(2, 0, 0, 0)},
        {"request_seconds": histogram(1, 1, 0, 0)},
    ],
    ids=[
        "generated tokens",
        "prompt tokens",
        "KV usage that rises",
        "KV usage that falls",
        "engine steps",
        "finished requests",
    ],
)
def test_any_single_signal_of_the_progress_is_progress(change: dict[str, float]) -> None:
    progress = window(IDLE, IDLE, {**IDLE, **change}, {**IDLE, **change}).progress
    assert (progress.progress_at, progress.waiting_at_progress) == (START + 2, 1.0)


@pytest.mark.parametrize(
    "change",
    [{}, {"requests_running": 3}, {"requests_waiting": 3}, {"requests_running": 0, "requests_waiting": 0}],
    ids=["nothing", "more run", "more wait", "none is left"],
)
def test_the_number_of_requests_is_no_progress(change: dict[str, float]) -> None:
    progress = window(IDLE, IDLE, {**IDLE, **change}).progress
    assert (progress.progress_at, progress.waiting_at_progress) == (START, 1.0)


@pytest.mark.parametrize(
    ("change", "admitted_at"),
    [
        ({}, START),
        ({"requests_running": 2}, START + 2),
        ({"requests_running": 0}, START),
        ({TTFT: histogram(1, 1, 0, 0)}, START + 2),
        ({TOKENS: 99, "requests_waiting": 9}, START),
    ],
    ids=["nothing", "one more runs", "one less runs", "a first token came", "tokens and arrivals"],
)
def test_an_admission_is_a_first_token_or_one_more_request_that_runs(
    change: dict[str, float], admitted_at: float
) -> None:
    assert window(IDLE, IDLE, {**IDLE, **change}, {**IDLE, **change}).progress.admission_at == admitted_at


def test_the_first_poll_counts_as_progress_and_admission_even_at_time_zero() -> None:
    seen = Window(60.0, 300.0)
    seen.append(0.0, reading({}))
    seen.append(5.0, reading({}))
    assert (seen.progress.progress_at, seen.progress.admission_at) == (0.0, 0.0)


def test_waiting_and_being_busy_begin_anew_when_nothing_waits_or_runs() -> None:
    numbers = [(0, 0), (1, 0), (1, 2), (0, 2), (1, 0), (0, 0), (0, 1)]
    seen, found = Window(60.0, 300.0), []
    for i, (running, waiting) in enumerate(numbers):
        seen.append(START + i, reading({"requests_running": running, "requests_waiting": waiting}))
        found.append((seen.progress.busy_since, seen.progress.waiting_since))
    s = START
    assert found == [
        (None, None),
        (s + 1, None),
        (s + 1, s + 2),
        (s + 1, s + 2),
        (s + 1, None),
        (None, None),
        (s + 6, s + 6),
    ]


def test_first_tokens_count_as_admissions_from_when_requests_wait() -> None:
    numbers = [(10, 0), (20, 3), (24, 5), (31, 1), (40, 0), (50, 2)]
    seen, found = Window(60.0, 300.0), []
    for i, (tokens, waiting) in enumerate(numbers):
        seen.append(START + i, reading({TTFT: histogram(tokens, 0, 0, 0), "requests_waiting": waiting}))
        found.append(seen.progress.admitted_while_waiting)
    assert found == [0.0, 0.0, 4.0, 11.0, 0.0, 0.0]


@given(
    steps=st.lists(
        st.tuples(*(st.integers(0, 3) for _ in range(5)), st.booleans()), min_size=1, max_size=60
    ),
    length=st.integers(1, 30),
)  # fmt: skip
def test_requests_that_are_gone_are_never_overcounted_and_exact_when_the_engine_idles(
    steps: list[tuple[int, int, int, int, int, bool]], length: int
) -> None:
    """A random engine: requests start, get their first token, finish, are aborted before or after it."""
    prefilling = decoding = first = finished = preempted = waiting = 0
    aborted = [0]
    seen = Window(length, length)
    seen.append(START, reading({TTFT: histogram(0, 0, 0, 0), STOP: 0, "requests_running": 0, "requests_waiting": 0}))
    for i, (started, may_come, may_end, may_go, early, preempt) in enumerate(steps, 1):
        prefilling += started
        came = min(may_come, prefilling)
        prefilling, decoding, first = prefilling - came, decoding + came, first + came
        decoding, waiting = decoding + waiting, 0
        ended = min(may_end, decoding)
        decoding, finished = decoding - ended, finished + ended
        gone = min(may_go, decoding)
        decoding -= gone
        aborted.append(aborted[-1] + gone)
        prefilling -= min(early, prefilling)
        if preempt and decoding:
            decoding, waiting, preempted = decoding - 1, 1, preempted + 1
        seen.append(
            START + i,
            reading(
                {
                    TTFT: histogram(first, 0, 0, 0),
                    STOP: finished,
                    "preemptions_total": preempted,
                    "requests_running": prefilling + decoding,
                    "requests_waiting": waiting,
                }
            ),
        )
        since_the_start = seen.progress._left[-1][1]
        assert since_the_start <= aborted[-1]
        assert 0.0 <= seen.progress.left_unfinished <= aborted[-1]
        if prefilling + decoding + waiting == 0:
            assert since_the_start == aborted[-1]
