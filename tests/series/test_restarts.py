"""Restarts, counter resets, several servers behind one address, and start times that jump."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from followed_server import BEGAN, DURATION, ERROR, POSTS, STOP, TOKENS, FollowedAddress, body, engine, silent
from readings import ENGINE, START, TARGET, histogram, readings

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.readings import Group
from vllm_sidecar.series.restarts import CONFIRM, MOST_PROCESSES, Restarts
from vllm_sidecar.series.server_process import FORGET, HOLD, MOST_GROUPS

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings


def test_the_first_poll_is_neither_a_restart_nor_an_increase() -> None:
    seen = FollowedAddress(body(900))
    assert (seen.state, seen.increase()) == ((0, False), None)


def test_counters_that_grow_are_one_process() -> None:
    seen = FollowedAddress(body(900), body(901), body(905))
    assert (seen.state, seen.increase()) == ((0, False), 5.0)


@pytest.mark.parametrize("skew", [0.0, 3600.0, -3600.0], ids=["no skew", "ahead", "behind"])
@pytest.mark.parametrize("requests", [3, 5000], ids=["counters that fell", "counters that are already higher"])
def test_a_process_that_started_after_the_last_answer_is_a_restart(requests: int, skew: float) -> None:
    seen = FollowedAddress(body(900, BEGAN - 1000 + skew), body(901, BEGAN - 1000 + skew), skew=skew)
    seen.outage(30)
    change = seen.poll(body(requests, BEGAN + 12 + skew))
    assert change is not None
    assert change.restarted
    assert change.fresh == {ENGINE, TARGET}
    assert (seen.state, seen.increase()) == ((1, False), None)
    seen.poll(body(requests + 2, BEGAN + 12 + skew))
    assert (seen.state, seen.increase()) == ((1, False), 2.0)


def test_a_restart_between_two_polls_needs_no_poll_that_failed() -> None:
    seen = FollowedAddress(body(900), body(901))
    assert seen.poll(body(0, BEGAN + 1.5)) is not None
    assert seen.state == (1, False)


def test_each_of_many_restarts_is_counted() -> None:
    seen = FollowedAddress(body(900))
    for count in range(1, 20):
        seen.outage(10)
        seen.poll(body(2, BEGAN + seen.seconds))
        assert seen.state == (count, False)


def test_a_clock_that_is_an_hour_wrong_and_unknown_hides_no_restart_after_an_outage() -> None:
    """Without a Date header the sidecar's own clock stands in."""
    seen = FollowedAddress(body(900, BEGAN - 4600), body(901, BEGAN - 4600))
    seen.outage(30)
    assert seen.poll(body(1, BEGAN - 3580)) is not None
    assert seen.state == (1, False)


@pytest.mark.parametrize("turns", [1, 20], ids=["in turn", "sticky"])
@pytest.mark.parametrize("first", [0, 1])
def test_two_servers_behind_one_address_are_said_to_be_several_and_nothing_restarts(turns: int, first: int) -> None:
    servers, seen = [body(900, BEGAN - 9000), body(40, BEGAN - 500)], FollowedAddress()
    taken = 0
    for poll in range(240):
        taken += seen.poll(servers[(poll // turns + first) % 2]) is not None
    assert (taken, seen.state) == (turns, (0, True))


def test_a_replica_that_started_long_after_but_not_before_the_last_answer_is_another_server() -> None:
    seen = FollowedAddress(body(900), *[body(900)] * 100)
    assert seen.poll(body(5, BEGAN + 50)) is None
    assert seen.state == (0, True)


def test_a_start_time_that_goes_back_is_another_server() -> None:
    seen = FollowedAddress(body(900, BEGAN - 100))
    seen.outage()
    assert seen.poll(body(950, BEGAN - 200)) is None


def test_a_server_that_answers_alone_for_a_while_is_followed_from_there_on() -> None:
    seen = FollowedAddress(body(900, BEGAN - 500))
    assert seen.poll(body(40, BEGAN - 9000)) is None
    assert seen.poll(body(900, BEGAN - 500)) is None
    for _ in range(int(HOLD)):
        assert seen.poll(body(45, BEGAN - 9000)) is None
    change = seen.poll(body(46, BEGAN - 9000))
    assert change is not None
    assert (change.resumed, change.restarted, change.fresh) == (True, False, frozenset())
    assert (seen.state, seen.increase()) == ((0, False), None)
    seen.poll(body(48, BEGAN - 9000))
    assert (seen.state, seen.increase()) == ((0, False), 2.0)


def test_a_younger_server_that_takes_over_is_followed_after_a_minute() -> None:
    """A rolling update behind a Service: the new pod is up before the old one ends."""
    seen = FollowedAddress(body(900, BEGAN - 9000), body(901, BEGAN - 9000))
    for _ in range(int(CONFIRM)):
        assert seen.poll(body(45, BEGAN - 500)) is None
    change = seen.poll(body(46, BEGAN - 500))
    assert change is not None
    assert (change.resumed, change.restarted, change.fresh) == (True, False, frozenset())
    assert (seen.state, seen.increase()) == ((0, False), None)
    seen.poll(body(48, BEGAN - 500))
    assert (seen.state, seen.increase()) == ((0, False), 2.0)


def test_every_return_of_the_other_server_makes_the_wait_begin_again() -> None:
    servers, seen = [body(900, BEGAN - 9000), body(40, BEGAN - 500)], FollowedAddress(body(900, BEGAN - 9000))
    assert seen.poll(servers[1]) is None
    for turn in range(2, 8):
        for _ in range(int(HOLD) - 20):
            assert seen.poll(servers[turn % 2]) is None
    assert seen.state == (0, True)


def test_a_restart_while_several_servers_answer_is_not_counted() -> None:
    seen = FollowedAddress(body(900, BEGAN - 9000))
    seen.poll(body(40, BEGAN - 500))
    assert seen.poll(body(0, BEGAN + 1.5)) is None
    assert seen.state == (0, True)


def test_polls_that_another_backend_fails_are_no_restart() -> None:
    seen = FollowedAddress(body(900))
    for i in range(1, 40):
        seen.outage(1)
        assert seen.poll(body(900 + i)) is not None
    assert seen.state == (0, False)


def test_a_process_that_answers_nothing_for_a_minute_goes_on_where_it_was() -> None:
    seen = FollowedAddress(body(900), body(901))
    seen.outage(58)
    seen.poll(body(930))
    assert (seen.state, seen.increase()) == ((0, False), 30.0)


# Without a start time


def test_counters_that_fall_together_after_an_outage_are_a_restart() -> None:
    seen = FollowedAddress(silent(900), silent(901))
    seen.outage(20)
    change = seen.poll(silent(2))
    assert change is not None
    assert change.restarted
    assert seen.state == (1, False)
    for i in range(3, 2000):  # also past what the process before had counted
        assert seen.poll(silent(i)) is not None
    assert seen.state == (1, False)


def test_counters_that_fall_without_an_outage_are_a_restart_once_nothing_older_returns() -> None:
    seen = FollowedAddress(silent(900), silent(901))
    for i in range(int(CONFIRM)):
        assert seen.poll(silent(1 + i)) is None
    change = seen.poll(silent(61))
    assert change is not None
    assert change.restarted
    assert change.fresh == {ENGINE, TARGET}
    assert seen.state == (1, False)


@pytest.mark.parametrize("turns", [1, 20], ids=["in turn", "sticky"])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("other", [0, 3, 500], ids=["idle", "few requests", "many requests"])
def test_two_servers_without_a_start_time_are_told_apart_by_their_counters(turns: int, first: int, other: int) -> None:
    seen = FollowedAddress()
    for poll in range(240):
        which = (poll // turns + first) % 2
        seen.poll(silent([900, other][which] + poll / 10))
    assert seen.state == (0, True)


def test_replicas_of_which_each_has_counted_more_of_something_are_told_apart_too() -> None:
    one = readings({ENGINE: {TOKENS: 900, STOP: 50, ERROR: 3, "preemptions_total": 7}})
    two = readings({ENGINE: {TOKENS: 950, STOP: 60, ERROR: 2, "preemptions_total": 9}})
    seen = FollowedAddress(one, two)
    assert [seen.poll(poll) for poll in (one, two, one)] == [None, None, None]
    assert seen.state == (0, True)


def test_a_jump_of_requests_that_were_never_open_is_another_server() -> None:
    def poll(requests: float) -> Readings:
        return readings({ENGINE: {STOP: requests, DURATION: histogram(0, 0, requests, 0), "requests_running": 5}})

    seen = FollowedAddress(poll(10), poll(15))
    assert seen.poll(poll(5000)) is None


def test_one_worker_of_several_that_dies_makes_no_restart() -> None:
    before = readings({ENGINE: {TOKENS: 900, STOP: 50, ERROR: 3}, TARGET: {POSTS: 53}})
    after = readings({ENGINE: {TOKENS: 400, STOP: 51, ERROR: 3}, TARGET: {POSTS: 54}})
    seen = FollowedAddress(before, after, after)
    assert seen.state == (0, False)


def test_a_start_that_is_exposed_for_the_first_time_or_no_more_is_no_restart() -> None:
    seen = FollowedAddress(silent(900), body(901), silent(902))
    assert (seen.state, seen.increase()) == ((0, False), 2.0)


def test_seconds_since_boot_are_not_taken_for_a_start_time() -> None:
    """A sandbox whose kernel exposes no boot time has them: each restart of its pod has the same."""
    seen = FollowedAddress(body(900, 21.5), body(901, 21.5))
    seen.outage(20)
    seen.poll(body(0, 20.9))
    assert seen.state == (1, False)


# Memory


def test_engines_that_come_and_go_are_forgotten() -> None:
    seen = Restarts()
    for i in range(3 * MOST_GROUPS):
        seen.follow(START + i / 10, readings({Group(Scope.ENGINE, ("m", str(i))): engine(1)}, started=BEGAN - 9))
        (process,) = seen._known
        assert len(process.values) <= MOST_GROUPS
    seen.follow(START + 300.0 + FORGET, readings({ENGINE: engine(1)}, started=BEGAN - 9))
    assert set(seen._known[0].values) == {ENGINE}


@pytest.mark.parametrize("exposed", [True, False])
def test_a_few_processes_are_remembered(exposed: bool) -> None:
    seen = FollowedAddress(body(900, BEGAN - 9000 if exposed else None))
    for i in range(40):
        seen.poll(body(1000 - i, BEGAN - 9001 - i if exposed else None))
    assert len(seen.windows._restarts._known) <= MOST_PROCESSES


def test_nothing_new_costs_nothing() -> None:
    seen = FollowedAddress(body(1), body(2))
    poll = replace(body(2))
    assert seen.poll(poll) is seen.poll(poll)


# Start times that cannot be trusted


JUMPS = {
    "back and forth": (0.0, -999.0),
    "jitter of the boot time": (0.0, 1.0, 0.0, -1.0),
    "a clock that is set ahead for good": (0.0, 3600.0, 3600.0, 3600.0),
    "years ahead, and back": (0.0, 3.0e8, 0.0),
    "later each time": tuple(map(float, range(60))),
}


@pytest.mark.parametrize("jumps", JUMPS.values(), ids=JUMPS)
def test_a_start_time_that_jumps_while_the_same_counters_go_on_is_the_same_process(jumps: tuple[float, ...]) -> None:
    seen, made = FollowedAddress(), {ENGINE: BEGAN - 990.5}
    for poll in range(60):
        jump = jumps[poll % len(jumps)]
        assert seen.poll(body(900 + poll, BEGAN - 1000 + jump, created=made)) is not None
    assert (seen.state, seen.increase()) == ((0, False), 59.0)
    seen.outage(30)
    assert seen.poll(body(1, BEGAN + seen.seconds - 5, created={ENGINE: BEGAN + seen.seconds - 4})) is not None
    assert seen.state == (1, False), "a restart after it is seen as one"


def test_replicas_whose_counters_were_created_at_the_same_time_are_still_several() -> None:
    servers, seen, made = [body(900, BEGAN - 9000), body(40, BEGAN - 500)], FollowedAddress(), {ENGINE: BEGAN - 400}
    taken = sum(seen.poll(replace(servers[poll % 2], created=made)) is not None for poll in range(240))
    assert (taken, seen.state) == (1, (0, True))


def test_a_later_start_time_without_an_outage_and_with_high_counters_is_no_restart() -> None:
    """Without creation times: nothing tells a clock that was set from a younger server that took over."""
    seen = FollowedAddress(body(900), body(901))
    for poll in range(int(CONFIRM)):
        assert seen.poll(body(902 + poll, BEGAN + 3600)) is None
    change = seen.poll(body(965, BEGAN + 3600))
    assert change is not None
    assert (change.resumed, change.restarted, change.fresh) == (True, False, frozenset())
    assert seen.state == (0, False)
