"""Which requests count for availability, and which of them are good."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from followed_counters import FollowedCounters, available, ended, ttft
from readings import TARGET, histogram

from vllm_sidecar.series.slo_counters import SloCounters
from vllm_sidecar.series.store import WindowStore

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings


def test_a_request_that_finishes_is_good_and_an_error_or_a_rejection_is_not() -> None:
    first, last = ended(), ended(stop=5, length=2, repetition=1, error=3, rejected=4)
    assert available(first, last) == (15.0, 8.0)


def test_an_aborted_request_is_neither() -> None:
    assert available(ended(stop=1, abort=1), ended(stop=2, abort=9)) == (1.0, 1.0)


def test_an_engines_failure_that_is_answered_with_5xx_counts_once() -> None:
    zero = ended(stop=0, error=0, http={"5xx": 0})
    same = ended(stop=0, error=2, http={"5xx": 2})
    assert available(zero, same) == (2.0, 0.0)
    late = ended(stop=0, error=2, http={"5xx": 0})
    assert available(zero, late, same) == (2.0, 0.0)
    rejected = ended(rejected=3, stop=0, error=0, http={"5xx": 3})
    assert available(zero, rejected) == (3.0, 0.0)


def test_answers_of_5xx_that_no_engine_told_of_are_failures_too() -> None:
    zero = ended(stop=0, error=0, http={"5xx": 0})
    dead = ended(stop=0, error=0, http={"5xx": 7})
    assert available(zero, dead) == (7.0, 0.0)


def test_failures_that_were_streamed_hide_no_later_5xx() -> None:
    """Of a stream that breaks the status is 200; ten polls later the engine dies."""
    zero = ended(stop=0, error=0, http={"5xx": 0})
    streamed = ended(stop=0, error=4, http={"5xx": 0})
    dead = ended(stop=0, error=4, http={"5xx": 4})
    assert available(zero, streamed, streamed, dead) == (8.0, 0.0)


@pytest.mark.parametrize("http", [{"4xx": 5}, {"2xx": 5}])
def test_answers_of_other_classes_are_no_failures(http: dict[str, float]) -> None:
    assert available(ended(stop=0), ended(stop=0, http=http)) == (0.0, 0.0)


def test_other_methods_and_unknown_routes_are_no_requests() -> None:
    zero = ended(stop=0)
    odd = ended(stop=0)
    odd.groups[TARGET].counters.update(  # type: ignore[attr-defined]
        {("http_requests_total", "/health", "GET", "5xx"): 5.0, ("http_requests_total", "none", "POST", "5xx"): 5.0}
    )
    assert available(zero, odd) == (0.0, 0.0)


@pytest.mark.parametrize("route", ["/tokenize", "/v1/load_lora_adapter", "/v1/messages/count_tokens", "/v1/new"])
def test_failures_of_routes_that_reach_no_engine_are_none_of_requests(route: str) -> None:
    failed = ended(stop=0)
    failed.groups[TARGET].counters["http_requests_total", route, "POST", "5xx"] = 5.0  # type: ignore[index]
    assert available(ended(stop=0), failed) == (0.0, 0.0)


def test_requests_whose_clients_gave_up_on_an_engine_that_answers_none_are_failures() -> None:
    """They end with status 200, some time after the last one that the engine finished."""
    busy = [ended(stop=n, http={"2xx": n}) for n in range(1, 6)]
    still = [ended(stop=5, http={"2xx": 5})] * 20
    leaving = [ended(stop=5, http={"2xx": n}) for n in range(6, 13)]
    back = [ended(stop=n, http={"2xx": n + 7}) for n in range(6, 9)]
    followed = FollowedCounters(*busy, *still, *leaving)
    assert followed.count("m", "", "availability") == (4.0 + 7.0, 4.0)
    for poll in back:
        followed.poll(poll)
    assert followed.count("m", "", "availability") == (7.0 + 7.0, 7.0)


def test_of_several_models_nobody_knows_whose_an_answer_was() -> None:
    def poll(errors: float, failed: float) -> Readings:
        groups = dict(ended(stop=0, error=errors, http={"5xx": failed}).groups)
        groups |= dict(ended(stop=0, error=0, model="n").groups) | {TARGET: groups[TARGET]}
        return replace(ended(), groups=groups)

    followed = FollowedCounters(poll(0, 0), poll(1, 5))
    assert followed.count("m", "", "availability") == (1.0, 0.0)
    assert followed.count("n", "", "availability") == (0.0, 0.0)


def test_availability_is_not_told_where_the_server_does_not_say_how_requests_end() -> None:
    followed = FollowedCounters(ttft(histogram(0, 0, 0, 0)), ttft(histogram(1, 0, 0, 0)))
    assert set(followed.rows()["slo_requests_total"]) == {("m", "0", "ttft")}


def test_availability_can_be_left_out() -> None:
    counters = SloCounters((), availability=False)
    counters.follow(ended(stop=1), WindowStore(60.0, 300.0))
    assert list(counters.rows(up=True)) == []
