"""Who waits, and for how long."""

from __future__ import annotations

import pytest
from readings import engine, histogram, window

from vllm_sidecar.derive.queue import live_wait_seconds, mean_of, peak_of

TTFT = "time_to_first_token_seconds"


def poll(waiting: float, admitted: float, running: float = 4) -> dict:
    return {"requests_waiting": waiting, "requests_running": running, TTFT: histogram(admitted, 0, 0, 0)}


def test_peak_and_mean_are_over_the_polls_of_the_window() -> None:
    seen = engine(window({"requests_waiting": 0}, {"requests_waiting": 9}, {"requests_waiting": 3}))
    assert (peak_of("requests_waiting")(seen), mean_of("requests_waiting")(seen)) == (9.0, 4.0)


def test_peak_and_mean_are_there_after_one_poll() -> None:
    seen = engine(window({"requests_waiting": 7}))
    assert (peak_of("requests_waiting")(seen), mean_of("requests_waiting")(seen)) == (7.0, 7.0)


def test_a_gauge_that_the_server_does_not_give_has_no_peak_and_no_mean() -> None:
    seen = engine(window({}, {}))
    assert (peak_of("requests_waiting")(seen), mean_of("requests_waiting")(seen)) == (None, None)


@pytest.mark.parametrize(
    ("polls", "expected"),
    [
        ([{}, {}], None),
        ([poll(0, 5), poll(0, 9)], 0.0),
        ([poll(6, 5)], 0.0),
        ([poll(6, 0), poll(6, 1), poll(6, 2), poll(6, 4)], 6 * 30.0 / 4),
        ([poll(3, 7), poll(3, 7), poll(3, 7)], 20.0),
        ([poll(3, 7), poll(3, 7), poll(3, 7, running=5), poll(3, 7, running=5)], 10.0),
        ([poll(1, 0), poll(1, 50), poll(1, 50), poll(1, 50)], 20.0),
        ([poll(0, 0), poll(0, 0), poll(2, 0), poll(2, 0)], 10.0),
        ([poll(3, 7), poll(0, 8), poll(5, 8), poll(5, 8)], 10.0),
        ([{"requests_waiting": 2}, {"requests_waiting": 2}], 10.0),
    ],
    ids=[
        "the server does not tell how many wait",
        "nobody waits",
        "one poll only",
        "six wait, four were admitted in thirty seconds",
        "nobody was admitted since two polls",
        "one more runs, so somebody was admitted",
        "the last admission is longer ago than Little's law says",
        "requests wait only for ten seconds",
        "the queue was empty in between",
        "the server does not count first tokens",
    ],
)
def test_the_live_wait(polls: list[dict], expected: float | None) -> None:
    assert live_wait_seconds(engine(window(*polls, every=10.0))) == expected


def test_the_rate_of_admissions_before_anybody_waited_is_no_service_rate() -> None:
    """An idle minute, then a burst of a hundred of which ten get in each second: ten seconds, not ten minutes."""
    idle = [poll(0, 0, running=0) for _ in range(60)]
    burst = [poll(100 - 10 * i, 10 * i) for i in range(3)]
    assert live_wait_seconds(engine(window(*idle, *burst))) == 80 * 2.0 / 20


def test_a_queue_older_than_the_window_is_measured_over_the_window() -> None:
    fast = [poll(50, 10 * i) for i in range(100)]
    slow = [poll(50, 990 + i) for i in range(1, 61)]
    assert live_wait_seconds(engine(window(*fast, *slow))) == 50.0


def test_the_live_wait_grows_while_nobody_is_admitted() -> None:
    polls = [{**poll(8, min(i, 5)), "generation_tokens_total": i} for i in range(300)]
    waits = [live_wait_seconds(engine(window(*polls[:n]))) for n in (6, 20, 60, 120, 300)]
    assert waits == [8 * 5.0 / 5, 8 * 19.0 / 5, 8 * 59.0 / 5, 119.0 - 5, 299.0 - 5]


def test_a_gauge_that_froze_says_nothing_of_the_wait() -> None:
    polls = [poll(8, min(i, 5)) for i in range(300)]
    assert live_wait_seconds(engine(window(*polls[:120]))) == 119.0 - 5
    assert live_wait_seconds(engine(window(*polls))) is None
