"""Windows of a server's groups: counter resets, series that are left out, gaps, engines that come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from followed_server import BEGAN, STOP, TOKENS, TTFT, FollowedAddress, body, engine
from readings import ENGINE, MODEL, OTHER_ENGINE, START, TARGET, histogram, readings

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.readings import Group
from vllm_sidecar.series.store import WindowStore

if TYPE_CHECKING:
    from readings import Poll

    from vllm_sidecar.series.readings import Readings

# Counter resets


@pytest.mark.parametrize("started", [BEGAN - 1000, None], ids=["with a start time", "without"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"change": {TOKENS: 90.0}}),
        ({"created": {ENGINE: BEGAN - 999}}, {"created": {ENGINE: BEGAN + 1.5}}),
        ({"cache_config": {ENGINE: {"num_gpu_blocks": "9"}}}, {"cache_config": {ENGINE: {"num_gpu_blocks": "8"}}}),
    ],
    ids=["a counter fell alone", "counters were made again", "the KV cache has another size"],
)
def test_a_counter_reset_of_one_engine_begins_its_windows_anew_and_is_no_restart(
    started: float | None, before: dict, after: dict
) -> None:
    def poll(requests: float, change: Poll | None = None, **facts: object) -> Readings:
        groups = {ENGINE: {**engine(requests), **(change or {})}, OTHER_ENGINE: engine(7 + requests)}
        return readings(groups, started=started, **facts)  # type: ignore[arg-type]

    seen = FollowedAddress(poll(900, **before), poll(901, **before))
    assert seen.poll(poll(902, **after)) is not None
    assert seen.state == (0, False)
    assert (seen.increase(ENGINE), seen.increase(OTHER_ENGINE)) == (None, 2.0)
    assert seen.poll(poll(904, **{**after, "change": {}})) is not None
    assert seen.increase(OTHER_ENGINE) == 4.0


def test_an_engine_whose_counters_all_fell_began_at_zero() -> None:
    def poll(first: float, second: float) -> Readings:
        return readings({ENGINE: engine(first), OTHER_ENGINE: engine(second)})

    seen = FollowedAddress(poll(900, 900))
    change = seen.poll(poll(901, 2))
    assert change is not None
    assert (change.restarted, change.broken, change.fresh) == (False, {OTHER_ENGINE}, {OTHER_ENGINE})


def test_counters_that_were_0_for_one_poll_make_no_huge_increase() -> None:
    seen = FollowedAddress(*[body(n) for n in (900, 901, 0, 902, 903)])
    assert (seen.state, seen.increase()) == ((0, False), 1.0)


def test_counters_that_grow_past_their_old_values_one_by_one_go_on() -> None:
    polls = [{TOKENS: 900.0, STOP: 9.0}, *({TOKENS: 150.0 * i, STOP: float(i)} for i in range(20))]
    seen = FollowedAddress(*[readings(poll, started=BEGAN - 9) for poll in polls])
    assert seen.increase() == 19.0


def test_a_sum_that_falls_is_no_reset() -> None:
    before = readings({TTFT: histogram(5, 0, 0, 0, total=5.0), STOP: 5}, started=BEGAN - 9)
    after = readings({TTFT: histogram(6, 0, 0, 0, total=4.0), STOP: 6}, started=BEGAN - 9)
    seen = FollowedAddress(before, after)
    assert (seen.state, seen.increase()) == ((0, False), 1.0)


# What a body lacks


@pytest.mark.parametrize("started", [BEGAN - 1000, None], ids=["with a start time", "without"])
def test_a_counter_that_was_left_out_is_no_huge_increase_when_it_is_back(started: float | None) -> None:
    polls = [{STOP: 1_000_000 + i, TOKENS: 5} for i in range(6)]
    del polls[2][STOP]
    seen, found = FollowedAddress(), []
    for poll in polls:
        seen.poll(readings(poll, started=started))
        found.append(seen.increase())
    assert found == [None, 1.0, None, None, 1.0, 2.0]
    assert (seen.state, seen.windows.gaps) == ((0, False), 0)


def test_what_a_process_left_out_is_forgotten_with_it() -> None:
    seen = FollowedAddress(readings({STOP: 5, TOKENS: 5}, started=BEGAN - 9), readings({TOKENS: 5}, started=BEGAN - 9))
    seen.poll(readings({TOKENS: 0}, started=BEGAN + 1.5))
    seen.poll(readings({TOKENS: 0, STOP: 7}, started=BEGAN + 1.5))
    assert (seen.state, seen.increase()) == ((1, False), 7.0)


def test_a_counter_that_comes_up_counts_from_zero() -> None:
    seen = FollowedAddress(readings({TOKENS: 5}), readings({TOKENS: 5, STOP: 3}))
    assert seen.increase() == 3.0


def test_an_engine_that_is_born_counts_from_zero_and_one_that_joins_with_a_past_does_not() -> None:
    seen = FollowedAddress(
        readings({MODEL: {TOKENS: 0}}, started=BEGAN - 9), readings({ENGINE: engine(3)}, started=BEGAN - 9)
    )
    assert seen.increase() == 3.0
    change = seen.poll(readings({ENGINE: engine(3), OTHER_ENGINE: engine(500)}, started=BEGAN - 9))
    assert change is not None
    assert change.fresh == frozenset()
    assert (seen.increase(ENGINE), seen.increase(OTHER_ENGINE)) == (3.0, None)


@pytest.mark.parametrize(("made", "fresh"), [(BEGAN - 600, False), (BEGAN + 0.7, True)], ids=["long ago", "just now"])
def test_where_creation_times_are_exposed_they_say_whether_an_engine_is_new(made: float, fresh: bool) -> None:
    seen = FollowedAddress(readings({ENGINE: engine(3)}, started=BEGAN - 9))
    both = readings({ENGINE: engine(3), OTHER_ENGINE: engine(4)}, started=BEGAN - 9, created={OTHER_ENGINE: made})
    change = seen.poll(both)
    assert change is not None
    assert (OTHER_ENGINE in change.fresh) is fresh


def test_an_engine_that_went_away_has_no_window_and_a_new_one_when_it_is_back() -> None:
    both = {ENGINE: {STOP: 5}, OTHER_ENGINE: {STOP: 1_000}}
    seen = FollowedAddress(readings(both), readings({ENGINE: {STOP: 6}}))
    assert seen.windows.of(Scope.ENGINE).keys() == {ENGINE}
    seen.poll(readings({ENGINE: {STOP: 7}, OTHER_ENGINE: {STOP: 1_500}}))
    assert (seen.increase(OTHER_ENGINE), seen.increase(ENGINE), seen.state) == (None, 2.0, (0, False))


def test_polls_missed_for_longer_than_the_window_begin_it_anew() -> None:
    seen = FollowedAddress(body(100))
    seen.poll(body(160), after=60.0)
    assert (seen.windows.gaps, seen.increase()) == (0, 60.0)
    seen.poll(body(400), after=60.5)
    assert (seen.windows.gaps, seen.state, seen.increase()) == (1, (0, False), None)


def test_a_restart_within_a_gap_is_a_restart() -> None:
    seen = FollowedAddress(body(100))
    seen.poll(body(4, BEGAN + 300), after=500.0)
    assert (seen.windows.gaps, seen.state) == (0, (1, False))


def test_windows_take_other_lengths_and_keep_their_polls() -> None:
    seen = FollowedAddress(*[body(i) for i in range(100)])
    seen.windows.resize(30.0, 100.0)
    seen.poll(body(100))
    window = seen.windows.get(ENGINE)
    assert window is not None
    assert (seen.increase(), window.seconds) == (30.0, 30.0)
    seen.windows.resize(120.0, 300.0)
    for i in range(101, 191):
        seen.poll(body(i))
    assert (seen.increase(), window.seconds) == (120.0, 120.0)


def test_windows_are_kept_apart_by_scope() -> None:
    seen = WindowStore(60.0, 300.0)
    seen.append(START, readings({ENGINE: {}, MODEL: {}, TARGET: {}}))
    assert [list(seen.of(scope)) for scope in (Scope.ENGINE, Scope.MODEL, Scope.TARGET)] == [
        [ENGINE],
        [MODEL],
        [TARGET],
    ]


# Floods


def test_a_thousand_new_models_in_one_poll_are_a_thousand_steps_and_the_old_ones_are_whole_until_the_last() -> None:
    def poll(first: int, count: int) -> Readings:
        return readings({Group(Scope.ENGINE, (f"m{first + n}", "0")): engine(900) for n in range(count)})

    store = WindowStore(60.0, 300.0)
    store.append(START, poll(0, 3))
    old = set(store.of(Scope.ENGINE))
    steps = store.steps(START + 1.0, poll(2, 1000))
    pauses = 0
    for _ in steps:
        pauses += 1
        assert set(store.of(Scope.ENGINE)) == old
        assert all(window.polls for window in store.of(Scope.ENGINE).values())

    assert pauses == 1001
    assert len(store.of(Scope.ENGINE)) == 1000
    assert sorted({window.polls for window in store.of(Scope.ENGINE).values()}) == [1, 2]
