"""Totals of a server's requests in its window and before it."""

from __future__ import annotations

from readings import ENGINE, OTHER_ENGINE, START, histogram, readings

from vllm_sidecar.series.request_totals import request_totals
from vllm_sidecar.series.store import WindowStore

PROMPT, OUTPUT, CORRUPTED = "request_prompt_tokens", "request_generation_tokens", "requests_corrupted_total"


def store(*polls: dict, every: float = 10.0) -> WindowStore:
    made = WindowStore(60.0, 300.0)
    for number, poll in enumerate(polls):
        made.append(START + number * every, readings(poll))
    return made


def lengths(count: float, prompt: float | None, output: float) -> dict:
    return {PROMPT: histogram(0, 0, 0, count, total=prompt), OUTPUT: histogram(0, 0, 0, count, total=output)}


def test_what_the_server_counted_before_the_window_is_its_past() -> None:
    first, last = lengths(100, 10_000, 5_000), lengths(120, 16_000, 5_400)
    found = request_totals(store({ENGINE: first}, {ENGINE: last}), START - 500.0)
    assert found is not None
    assert found.recent is not None
    assert (found.before.seconds, found.before.requests, found.before.prompt_tokens) == (500.0, 100.0, 10_000.0)
    assert (found.recent.seconds, found.recent.requests) == (10.0, 20.0)
    assert (found.recent.prompt_tokens, found.recent.output_tokens) == (6_000.0, 400.0)


def test_engines_are_added_and_what_none_counts_is_unknown() -> None:
    first = {ENGINE: lengths(10, 100, 50), OTHER_ENGINE: lengths(20, 300, 50)}
    last = {ENGINE: lengths(11, 110, 55) | {CORRUPTED: 1}, OTHER_ENGINE: lengths(22, 320, 60) | {CORRUPTED: 2}}
    found = request_totals(store(first, last), None)
    assert found is not None
    assert found.recent is not None
    assert (found.before.requests, found.before.seconds, found.before.corrupted) == (30.0, None, None)
    assert (found.recent.requests, found.recent.prompt_tokens, found.recent.corrupted) == (3.0, 30.0, 3.0)
    assert (found.recent.hit_tokens, found.recent.queried_tokens) == (None, None)


def test_a_sum_that_falls_is_unknown() -> None:
    found = request_totals(store({ENGINE: lengths(10, 100, 9)}, {ENGINE: lengths(11, 90, 9)}), None)
    assert found is not None
    assert found.recent is not None
    assert (found.recent.requests, found.recent.prompt_tokens) == (1.0, None)


def test_one_poll_has_only_a_past_and_a_server_without_engines_has_none() -> None:
    found = request_totals(store({ENGINE: lengths(10, 100, 9)}), START)
    assert found is not None
    assert (found.recent, found.before.requests, found.before.seconds) == (None, 10.0, None)
    assert request_totals(store({}), None) is None
