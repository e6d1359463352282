"""Stage 4: lives of the server, gaps, and engines that come and go."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readings import ENGINE, MODEL, OTHER_ENGINE, START, TARGET, histogram, readings
from vllm_sidecar.model import Scope
from vllm_sidecar.window import Windows

if TYPE_CHECKING:
    from readings import Poll
    from vllm_sidecar.model import Group, Readings

TOKENS = "generation_tokens_total"
STOP = ("requests_finished_total", "stop")
ERROR = ("requests_finished_total", "error")
TTFT = "time_to_first_token_seconds"


def windows(*polls: Readings, every: float = 1.0, length: float = 60.0) -> Windows:
    made = Windows(length, 300.0)
    for i, poll in enumerate(polls):
        made.append(START + i * every, poll)
    return made


def increases(*polls: Readings) -> list[float | None]:
    """Increase of the generated tokens after each poll."""
    made, found = Windows(60.0, 300.0), []
    for i, poll in enumerate(polls):
        made.append(START + i, poll)
        window = made.get(ENGINE)
        found.append(window.increase(TOKENS) if window else None)
    return found


BASE: Poll = {TOKENS: 100, STOP: 7, TTFT: histogram(5, 0, 0, 0, total=5.0)}
FACTS = {"started": 50.0, "created": {ENGINE: 60.0}, "cache_config": {ENGINE: {"num_gpu_blocks": "9"}}}


@pytest.mark.parametrize(
    "after",
    [
        readings({**BASE, TOKENS: 900}, **{**FACTS, "started": 51.0}),
        readings({**BASE, TOKENS: 900}, **{**FACTS, "created": {ENGINE: 61.0}}),
        readings({**BASE, TOKENS: 900}, **{**FACTS, "cache_config": {ENGINE: {"num_gpu_blocks": "8"}}}),
        readings({**BASE, TOKENS: 99}, **FACTS),
        readings({**BASE, TOKENS: 900, STOP: 6}, **FACTS),
        readings({**BASE, TOKENS: 900, TTFT: histogram(4, 0, 0, 0, total=9.0)}, **FACTS),
    ],
    ids=[
        "the process started at another time",
        "the counters were made at another time",
        "the KV cache has another size",
        "a counter fell",
        "one counter of many fell",
        "the count of a histogram fell",
    ],
)
def test_a_new_life_is_counted_and_begins_all_windows_anew(after: Readings) -> None:
    seen = windows(readings(BASE, **FACTS), readings({**BASE, TOKENS: 130}, **FACTS))
    assert seen.restarts == 0
    assert seen.append(START + 2, after) is True
    window = seen.get(ENGINE)
    assert window is not None
    assert (seen.restarts, seen.gaps, window.polls, window.increase(TOKENS)) == (1, 0, 1, None)
    assert seen.append(START + 3, after) is False
    assert (seen.restarts, window.increase(TOKENS)) == (1, 0.0)


@pytest.mark.parametrize(
    ("facts", "restarts"),
    [(FACTS, 0), ({"started": 50.0}, 0), ({"created": {ENGINE: 60.0}}, 0), ({}, 1)],
    ids=["the server tells its age", "of the process", "of the counters", "it does not tell"],
)
def test_a_counter_that_went_away_is_a_new_life_only_where_nothing_tells_the_age(
    facts: dict[str, object], restarts: int
) -> None:
    seen = windows(readings(BASE, **facts), readings({**BASE, TOKENS: 130}, **facts))
    seen.append(START + 2, readings({TOKENS: 900, TTFT: BASE[TTFT]}, **facts))
    assert seen.restarts == restarts


@pytest.mark.parametrize(
    "after",
    [
        readings({**BASE, TOKENS: 101, TTFT: histogram(6, 0, 0, 0, total=4.0)}, **FACTS),
        readings({**BASE, TOKENS: 101, ERROR: 1}, **FACTS),
        readings({**BASE, TOKENS: 101}, **{**FACTS, "started": None}),
        readings({**BASE, TOKENS: 101}, **{**FACTS, "created": {}}),
        readings({ENGINE: {**BASE, TOKENS: 101}, OTHER_ENGINE: {TOKENS: 1}}, **FACTS),
    ],
    ids=[
        "the sum of a histogram fell",
        "a counter came up",
        "no start is told any more",
        "no creation is told any more",
        "an engine came up",
    ],
)
def test_the_same_life_goes_on(after: Readings) -> None:
    seen = windows(readings(BASE, **FACTS), after)
    window = seen.get(ENGINE)
    assert window is not None
    assert (seen.restarts, seen.gaps, window.increase(TOKENS)) == (0, 0, 1.0)


def test_a_start_that_is_told_for_the_first_time_is_no_restart() -> None:
    assert windows(readings(BASE), readings(BASE, **FACTS)).restarts == 0


def test_an_engine_that_gets_its_cache_configuration_later_is_no_restart() -> None:
    first = readings(BASE, cache_config={})
    assert windows(first, readings(BASE, cache_config={ENGINE: {"block_size": "16"}})).restarts == 0


def test_an_engine_whose_cache_configuration_went_away_is_no_restart() -> None:
    both = {ENGINE: {"block_size": "16"}, OTHER_ENGINE: {"block_size": "16"}}
    assert windows(readings(BASE, cache_config=both), readings(BASE, cache_config={ENGINE: both[ENGINE]})).restarts == 0


def test_a_restart_of_one_engine_begins_the_windows_of_all_anew() -> None:
    before = readings({ENGINE: {TOKENS: 100}, OTHER_ENGINE: {TOKENS: 100}})
    seen = windows(before, readings({ENGINE: {TOKENS: 110}, OTHER_ENGINE: {TOKENS: 3}}))
    assert {group: window.polls for group, window in seen.of(Scope.ENGINE).items()} == {ENGINE: 1, OTHER_ENGINE: 1}
    assert seen.restarts == 1


def test_the_first_poll_gives_nothing_and_is_no_restart() -> None:
    seen = windows(readings(BASE, **FACTS))
    assert (seen.restarts, seen.gaps) == (0, 0)
    assert increases(readings(BASE)) == [None]


def test_around_a_restart_nothing_is_counted_that_both_lives_share() -> None:
    old = [readings({TOKENS: 1_000_000 + 10 * i}, started=50.0) for i in range(3)]
    new = [readings({TOKENS: 5 * i}, started=70.0) for i in range(3)]
    assert increases(*old, *new) == [None, 10.0, 20.0, None, 5.0, 10.0]


def test_a_new_counter_that_is_already_higher_than_the_old_one_makes_no_spike() -> None:
    old = [readings({TOKENS: 100 + i}, started=50.0) for i in range(3)]
    new = [readings({TOKENS: 90_000 + i}, started=70.0) for i in range(3)]
    assert increases(*old, *new) == [None, 1.0, 2.0, None, 1.0, 2.0]


def test_after_a_restart_a_series_comes_up_at_its_first_use_and_counts_from_zero() -> None:
    polls = [readings({TOKENS: 100, ERROR: 1}), readings({TOKENS: 0}), readings({TOKENS: 9, ERROR: 1})]
    window = windows(*polls).get(ENGINE)
    assert window is not None
    assert window.increases(ERROR[0]) == {("error",): 1.0}


def test_a_counter_that_was_left_out_of_one_body_is_no_huge_increase_when_it_is_back() -> None:
    polls = [{TOKENS: 1_000_000 + i, STOP: 5} for i in range(6)]
    del polls[2][TOKENS]
    assert increases(*map(readings, polls)) == [None, 1.0, None, None, 1.0, 2.0]
    assert windows(*map(readings, polls)).restarts == 1


def test_polls_missed_for_longer_than_the_window_begin_it_anew() -> None:
    seen = windows(readings({TOKENS: 100}), readings({TOKENS: 160}), every=60.0)
    window = seen.get(ENGINE)
    assert window is not None
    assert (seen.gaps, window.increase(TOKENS)) == (0, 60.0)
    assert seen.append(START + 120.5, readings({TOKENS: 400})) is False
    window = seen.get(ENGINE)
    assert window is not None
    assert (seen.gaps, seen.restarts, window.polls, window.increase(TOKENS)) == (1, 0, 1, None)


def test_a_restart_within_a_gap_is_a_restart() -> None:
    seen = windows(readings({TOKENS: 100}), readings({TOKENS: 4}), every=500.0)
    assert (seen.gaps, seen.restarts) == (0, 1)


def test_an_engine_that_went_away_has_no_window_and_begins_anew_when_it_is_back() -> None:
    both = {ENGINE: {TOKENS: 5}, OTHER_ENGINE: {TOKENS: 1_000}}
    seen = windows(readings(both), readings({ENGINE: {TOKENS: 6}}))
    assert seen.of(Scope.ENGINE).keys() == {ENGINE}
    assert seen.get(OTHER_ENGINE) is None
    seen.append(START + 2, readings({ENGINE: {TOKENS: 7}, OTHER_ENGINE: {TOKENS: 1_500}}))
    back, stayed = seen.get(OTHER_ENGINE), seen.get(ENGINE)
    assert back is not None
    assert stayed is not None
    assert (back.polls, back.increase(TOKENS), stayed.increase(TOKENS), seen.restarts) == (1, None, 2.0, 0)


def test_windows_are_kept_apart_by_scope() -> None:
    seen = windows(readings({ENGINE: {}, MODEL: {}, TARGET: {}}))
    assert [list(seen.of(scope)) for scope in (Scope.ENGINE, Scope.MODEL, Scope.TARGET)] == [
        [ENGINE],
        [MODEL],
        [TARGET],
    ]


SERIES = (TOKENS, STOP, ERROR)


@st.composite
def servers(draw: st.DrawFn) -> list[tuple[float, Readings, float]]:
    """Polls of a server with restarts, gaps, engines and series that come and go; each with the tokens made so far."""
    polls: list[tuple[float, Readings, float]] = []
    at, started, made = START, 1.0, 0.0
    values: dict[Group, dict] = {ENGINE: dict.fromkeys(SERIES, 0.0), OTHER_ENGINE: dict.fromkeys(SERIES, 0.0)}
    tells = draw(st.booleans())
    for _ in range(draw(st.integers(1, 30))):
        waited = draw(st.sampled_from([1.0, 1.0, 1.0, 20.0, 60.0, 61.0, 300.0]))
        restarts = draw(st.integers(0, 5)) == 0
        at += waited
        if restarts:
            started += 1.0
            values = {group: dict.fromkeys(SERIES, 0.0) for group in values}
        for group, counters in values.items():
            for key in SERIES:
                grew = draw(st.sampled_from([0.0, 1.0, 7.0, 1e3, 1e9]))
                counters[key] += grew
                made += grew if group == ENGINE and key == TOKENS else 0.0
        hidden = draw(st.sets(st.sampled_from([*SERIES, OTHER_ENGINE]), max_size=2))
        if not polls or restarts or waited > 60.0:  # what is not there then is new when it comes up
            hidden = set()
        groups = {
            group: {key: value for key, value in counters.items() if key not in hidden}
            for group, counters in values.items()
            if group not in hidden
        }
        polls.append((at, readings(groups, started=started if tells else None), made))
    return polls


@given(polls=servers())
def test_no_increase_is_ever_negative_or_more_than_the_server_did(polls: list[tuple[float, Readings, float]]) -> None:
    seen = Windows(60.0, 300.0)
    told = [(START, 0.0)]
    for at, poll, made in polls:
        seen.append(at, poll)
        if TOKENS in poll.groups[ENGINE].counters:
            told.append((at, made))
        for window in seen.of(Scope.ENGINE).values():
            for key in SERIES:
                increase = window.increase(key)
                assert increase is None or (increase >= 0.0 and isfinite(increase))
            assert window.polls > 1 or window.increases(STOP[0]) == {}
            times = [time for time, _ in window.current()]
            assert all(later - earlier <= 60.0 for earlier, later in pairwise(times))
        window = seen.get(ENGINE)
        assert window is not None
        tokens = window.increase(TOKENS)
        if tokens is not None:
            base = max(made for time, made in told if time <= at - window.seconds)
            assert tokens <= made - base
