"""How requests end."""

from __future__ import annotations

import pytest
from readings import engine, grown, histogram, model, server, window

from vllm_sidecar.derive.outcomes import error_ratio, http_errors, outcomes, rejected

TTFT = "time_to_first_token_seconds"
COMPLETIONS = "/v1/completions"


def done(**reasons: float) -> dict:
    return {("requests_finished_total", reason): count for reason, count in reasons.items()}


def poll(first_tokens: float, running: float = 0, waiting: float = 0, preempted: float = 0, **reasons: float) -> dict:
    return {
        TTFT: histogram(first_tokens, 0, 0, 0),
        "requests_running": running,
        "requests_waiting": waiting,
        "preemptions_total": preempted,
        **done(**reasons),
    }


def http(**statuses: float) -> dict:
    """Answers to completions by status class."""
    return {("http_requests_total", COMPLETIONS, "POST", name[1:]): count for name, count in statuses.items()}


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (poll(9, stop=4, length=5), poll(16, stop=9, length=7), (7, 0, 0)),
        (poll(9, stop=9, error=0, abort=0), poll(14, stop=12, error=2, abort=0), (3, 2, 0)),
        (poll(9, stop=9, error=0, abort=0), poll(12, stop=11, error=0, abort=1), (2, 0, 1)),
        (poll(0, abort=0, stop=0), poll(0, abort=3, stop=0), (0, 0, 3)),
        (poll(9, stop=9), poll(20, stop=15), (6, 0, 5)),
        (poll(9, stop=9, error=0), poll(20, stop=15, error=2), (6, 2, 3)),
        (poll(9, stop=9, error=0), poll(15, stop=15, error=4), (6, 4, 0)),
        (poll(9, 4, stop=5), poll(20, 4, stop=16), (11, 0, 0)),
        (poll(9, 4, stop=5), poll(20, 4, stop=10), (5, 0, 6)),
        (poll(20, 10, stop=10), poll(20, 0, stop=10), (0, 0, 10)),
        (poll(9, stop=9), poll(9, stop=9), (0, 0, 0)),
        (poll(9, 3, stop=6), poll(9, 2, 1, 1, stop=6), (0, 0, 0)),
        (poll(0), poll(0, stop=8), (8, 0, 0)),
    ],
    ids=[
        "all finished",
        "two failed after their first token",
        "the front end counts aborts itself",
        "aborts before the first token that the front end counts",
        "five got a first token and are gone",
        "of the gone some had failed",
        "more failed than got a first token",
        "as many run as before",
        "as many run, but fewer finished than began",
        "all that ran are gone",
        "an idle engine",
        "one was preempted and waits",
        "a server that makes no tokens, but embeddings",
    ],
)
def test_requests_end_as_finished_failed_or_aborted(first: dict, last: dict, expected: tuple[float, ...]) -> None:
    finished, failed, aborted = expected
    assert outcomes(engine(grown(first, last))) == {"finished": finished, "failed": failed, "aborted": aborted}


def test_a_burst_that_waited_for_its_first_token_when_the_window_began_was_not_aborted() -> None:
    """A window that begins when fifty run without a token yet, and ends when all have finished."""
    idle, prefill, decode, end = poll(0, 0, stop=0), poll(0, 50, stop=0), poll(50, 50, stop=0), poll(50, 0, stop=50)
    seen = window(idle, prefill, decode, *[end] * 9, length=10.0)
    assert seen.seconds == 10.0
    assert outcomes(engine(seen)) == {"finished": 50.0, "failed": 0.0, "aborted": 0.0}


def test_aborts_are_counted_once_and_leave_with_the_window() -> None:
    polls = [poll(0, 0, stop=0), poll(8, 8, stop=0), *[poll(8, 5, stop=0)] * 4, *[poll(8, 0, stop=5)] * 8]
    counts = [outcomes(engine(window(*polls[:n], length=5.0))).get("aborted") for n in range(2, len(polls) + 1)]
    assert counts == [0, 3, 3, 3, 3, 3, 0, 0, 0, 0, 0, 0, 0]


def test_outcomes_need_two_polls_and_either_counter() -> None:
    assert outcomes(engine(window(poll(9, stop=9)))) == {}
    assert outcomes(engine(window({}, {}))) == {}
    assert outcomes(engine(grown(done(stop=1), done(stop=4)))) == {"finished": 3.0, "failed": 0.0, "aborted": 0.0}


def test_rejected_requests_are_told_by_the_limit_that_was_hit() -> None:
    def limits(tokens: float, **more: float) -> dict:
        counts = {"max_num_queued_tokens": tokens, **more}
        return {("requests_rejected_total", reason): count for reason, count in counts.items()}

    seen = grown(limits(4), limits(6, max_num_queued_reqs=3))
    expected = {"max_num_queued_tokens": 2.0, "max_num_queued_reqs": 3.0}
    assert rejected(model(window({}), own=seen)) == expected
    assert rejected(model(window({}), own=window(limits(4)))) == {}
    assert rejected(model(window({}), own=window({}, {}))) == {}
    assert rejected(model(window({}))) == {}


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (http(_2xx=5, _4xx=1, _5xx=0), http(_2xx=11, _4xx=2, _5xx=1), {"client": 0.125, "server": 0.125}),
        (http(_2xx=5), http(_2xx=7), {"client": 0.0, "server": 0.0}),
        (http(_2xx=5), http(_2xx=5), {}),
        (
            http(_2xx=5),
            {**http(_2xx=7), ("http_requests_total", "none", "POST", "4xx"): 50},
            {"client": 0, "server": 0},
        ),
        (
            http(_2xx=5),
            {**http(_2xx=7), ("http_requests_total", "/v1/models", "GET", "5xx"): 9},
            {"client": 0, "server": 0},
        ),
        (
            http(_2xx=5),
            {**http(_2xx=7), ("http_requests_total", "/tokenize", "POST", "5xx"): 9},
            {"client": 0, "server": 0},
        ),
        ({}, {("http_requests_total", "/v1/chat/completions", "POST", "5xx"): 3}, {"client": 0.0, "server": 1.0}),
        ({}, {}, {}),
    ],
    ids=[
        "six fine, one of each error",
        "no error is 0",
        "no request is absent",
        "unknown routes do not count",
        "reading requests do not count",
        "routes that reach no engine do not count",
        "only errors",
        "no counter",
    ],
)
def test_the_shares_of_http_errors(first: dict, last: dict, expected: dict[str, float]) -> None:
    assert http_errors(server(grown(first, last))) == expected


def test_without_a_window_of_http_counters_there_are_no_http_errors() -> None:
    assert http_errors(server(None)) == {}
    assert http_errors(server(window(http(_2xx=5)))) == {}


@pytest.mark.parametrize(
    ("requests", "finished", "expected"),
    [
        (http(_2xx=8, _5xx=2), done(stop=8, error=2), 0.2),
        (http(_2xx=10), done(stop=8, error=2), 0.2),
        (http(_2xx=6, _5xx=4), done(stop=6), 0.4),
        (http(_2xx=8, _4xx=2), done(stop=8), 0.0),
        (http(_2xx=2), done(stop=9, error=1), 0.1),
        (http(_5xx=3), done(error=5), 1.0),
        (http(), done(stop=3, error=1), 0.25),
        (http(_2xx=3, _5xx=1), {}, 0.25),
        ({("http_requests_total", "/v1/load_lora_adapter", "POST", "5xx"): 9}, done(stop=8), 0.0),
        (http(_2xx=0), done(stop=0, error=0), None),
        ({}, {}, None),
    ],
    ids=[
        "one failure shows as an engine error and as a 5xx and counts once",
        "a stream that failed was a 2xx",
        "refused before the engine",
        "a client's mistake is no error of the server",
        "several prompts in a request",
        "all failed",
        "engines only",
        "HTTP only",
        "a route that reaches no engine failed",
        "nothing ended",
        "nothing is told",
    ],
)
def test_the_error_ratio(requests: dict, finished: dict, expected: float | None) -> None:
    assert error_ratio(server(grown({}, requests), grown({}, finished))) == expected


def test_the_error_ratio_adds_up_engines_and_works_without_http_counters() -> None:
    engines = [grown({}, done(stop=3, error=1)), grown({}, done(stop=4))]
    assert error_ratio(server(None, *engines)) == 0.125
    assert error_ratio(server(None)) is None
