"""Restarts, counter resets, several servers behind one address, gaps, and engines that come and go."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from readings import ENGINE, MODEL, OTHER_ENGINE, START, TARGET, histogram, readings

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.readings import Group
from vllm_sidecar.series.restarts import CONFIRM, MOST_PROCESSES, Restarts
from vllm_sidecar.series.server_process import FORGET, HOLD, MOST_GROUPS
from vllm_sidecar.series.store import WindowStore

if TYPE_CHECKING:
    from readings import Poll

    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.series.server_process import Change

TOKENS = "generation_tokens_total"
STOP = ("requests_finished_total", "stop")
ERROR = ("requests_finished_total", "error")
POSTS = ("http_requests_total", "/v1/completions", "POST", "2xx")
TTFT = "time_to_first_token_seconds"
DURATION = "request_seconds"
BEGAN = 1.79e9
"""Unix time of the first poll on the server's clock."""


def engine(requests: float) -> Poll:
    """What an engine has counted after so many requests."""
    return {TOKENS: 100 * requests, STOP: requests, TTFT: histogram(requests, 0, 0, 0, total=requests / 2)}


def body(requests: float, started: float | None = BEGAN - 1000, **facts: object) -> Readings:
    """One poll of a server with one engine after so many requests."""
    return readings({ENGINE: engine(requests), TARGET: {POSTS: requests}}, started=started, **facts)  # type: ignore[arg-type]


class Followed:
    """Windows that follow an address, a poll each second; `clock` is how far the server's is ahead of the true time."""

    def __init__(self, *polls: Readings, skew: float = 0.0) -> None:
        self.windows = WindowStore(60.0, 300.0)
        self.seconds, self.skew = -1.0, skew
        for poll in polls:
            assert self.poll(poll) is not None

    def poll(self, poll: Readings, after: float = 1.0) -> Change | None:
        """Return what is new with a poll; None where several servers answer."""
        self.seconds += after
        try:
            return self.windows.append(START + self.seconds, poll, BEGAN + self.seconds + self.skew)
        except PollError as error:
            if error.reason is not Reason.SEVERAL_SERVERS or not self.windows.several:
                raise
            return None

    def outage(self, polls: int = 5) -> None:
        for _ in range(polls):
            self.seconds += 1.0
            self.windows.missed()

    @property
    def state(self) -> tuple[int, bool]:
        return self.windows.restarts, self.windows.several

    def increase(self, group: Group = ENGINE) -> float | None:
        window = self.windows.get(group)
        return window.increase(STOP) if window else None


def test_the_first_poll_is_neither_a_restart_nor_an_increase() -> None:
    seen = Followed(body(900))
    assert (seen.state, seen.increase()) == ((0, False), None)


def test_counters_that_grow_are_one_process() -> None:
    seen = Followed(body(900), body(901), body(905))
    assert (seen.state, seen.increase()) == ((0, False), 5.0)


@pytest.mark.parametrize("skew", [0.0, 3600.0, -3600.0], ids=["no skew", "ahead", "behind"])
@pytest.mark.parametrize("requests", [3, 5000], ids=["counters that fell", "counters that are already higher"])
def test_a_process_that_started_after_the_last_answer_is_a_restart(requests: int, skew: float) -> None:
    seen = Followed(body(900, BEGAN - 1000 + skew), body(901, BEGAN - 1000 + skew), skew=skew)
    seen.outage(30)
    change = seen.poll(body(requests, BEGAN + 12 + skew))
    assert change is not None
    assert change.restarted
    assert change.fresh == {ENGINE, TARGET}
    assert (seen.state, seen.increase()) == ((1, False), None)
    seen.poll(body(requests + 2, BEGAN + 12 + skew))
    assert (seen.state, seen.increase()) == ((1, False), 2.0)


def test_a_restart_between_two_polls_needs_no_poll_that_failed() -> None:
    seen = Followed(body(900), body(901))
    assert seen.poll(body(0, BEGAN + 1.5)) is not None
    assert seen.state == (1, False)


def test_each_of_many_restarts_is_counted() -> None:
    seen = Followed(body(900))
    for count in range(1, 20):
        seen.outage(10)
        seen.poll(body(2, BEGAN + seen.seconds))
        assert seen.state == (count, False)


def test_a_clock_that_is_an_hour_wrong_and_unknown_hides_no_restart_after_an_outage() -> None:
    """Without a Date header the sidecar's own clock stands in."""
    seen = Followed(body(900, BEGAN - 4600), body(901, BEGAN - 4600))
    seen.outage(30)
    assert seen.poll(body(1, BEGAN - 3580)) is not None
    assert seen.state == (1, False)


@pytest.mark.parametrize("turns", [1, 20], ids=["in turn", "sticky"])
@pytest.mark.parametrize("first", [0, 1])
def test_two_servers_behind_one_address_are_said_to_be_several_and_nothing_restarts(turns: int, first: int) -> None:
    servers, seen = [body(900, BEGAN - 9000), body(40, BEGAN - 500)], Followed()
    taken = 0
    for poll in range(240):
        taken += seen.poll(servers[(poll // turns + first) % 2]) is not None
    assert (taken, seen.state) == (turns, (0, True))


def test_a_replica_that_started_long_after_but_not_before_the_last_answer_is_another_server() -> None:
    seen = Followed(body(900), *[body(900)] * 100)
    assert seen.poll(body(5, BEGAN + 50)) is None
    assert seen.state == (0, True)


def test_a_start_time_that_goes_back_is_another_server() -> None:
    seen = Followed(body(900, BEGAN - 100))
    seen.outage()
    assert seen.poll(body(950, BEGAN - 200)) is None


def test_a_server_that_answers_alone_for_a_while_is_followed_from_there_on() -> None:
    seen = Followed(body(900, BEGAN - 500))
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
    seen = Followed(body(900, BEGAN - 9000), body(901, BEGAN - 9000))
    for _ in range(int(CONFIRM)):
        assert seen.poll(body(45, BEGAN - 500)) is None
    change = seen.poll(body(46, BEGAN - 500))
    assert change is not None
    assert (change.resumed, change.restarted, change.fresh) == (True, False, frozenset())
    assert (seen.state, seen.increase()) == ((0, False), None)
    seen.poll(body(48, BEGAN - 500))
    assert (seen.state, seen.increase()) == ((0, False), 2.0)


def test_every_return_of_the_other_server_makes_the_wait_begin_again() -> None:
    servers, seen = [body(900, BEGAN - 9000), body(40, BEGAN - 500)], Followed(body(900, BEGAN - 9000))
    assert seen.poll(servers[1]) is None
    for turn in range(2, 8):
        for _ in range(int(HOLD) - 20):
            assert seen.poll(servers[turn % 2]) is None
    assert seen.state == (0, True)


def test_a_restart_while_several_servers_answer_is_not_counted() -> None:
    seen = Followed(body(900, BEGAN - 9000))
    seen.poll(body(40, BEGAN - 500))
    assert seen.poll(body(0, BEGAN + 1.5)) is None
    assert seen.state == (0, True)


def test_polls_that_another_backend_fails_are_no_restart() -> None:
    seen = Followed(body(900))
    for i in range(1, 40):
        seen.outage(1)
        assert seen.poll(body(900 + i)) is not None
    assert seen.state == (0, False)


def test_a_process_that_answers_nothing_for_a_minute_goes_on_where_it_was() -> None:
    seen = Followed(body(900), body(901))
    seen.outage(58)
    seen.poll(body(930))
    assert (seen.state, seen.increase()) == ((0, False), 30.0)


# Without a start time


def silent(requests: float, **facts: object) -> Readings:
    """A poll of a server that exposes no start time: several API servers, or the Rust front end."""
    return body(requests, None, **facts)


def test_counters_that_fall_together_after_an_outage_are_a_restart() -> None:
    seen = Followed(silent(900), silent(901))
    seen.outage(20)
    change = seen.poll(silent(2))
    assert change is not None
    assert change.restarted
    assert seen.state == (1, False)
    for i in range(3, 2000):  # also past what the process before had counted
        assert seen.poll(silent(i)) is not None
    assert seen.state == (1, False)


def test_counters_that_fall_without_an_outage_are_a_restart_once_nothing_older_returns() -> None:
    seen = Followed(silent(900), silent(901))
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
    seen = Followed()
    for poll in range(240):
        which = (poll // turns + first) % 2
        seen.poll(silent([900, other][which] + poll / 10))
    assert seen.state == (0, True)


def test_replicas_of_which_each_has_counted_more_of_something_are_told_apart_too() -> None:
    one = readings({ENGINE: {TOKENS: 900, STOP: 50, ERROR: 3, "preemptions_total": 7}})
    two = readings({ENGINE: {TOKENS: 950, STOP: 60, ERROR: 2, "preemptions_total": 9}})
    seen = Followed(one, two)
    assert [seen.poll(poll) for poll in (one, two, one)] == [None, None, None]
    assert seen.state == (0, True)


def test_a_jump_of_requests_that_were_never_open_is_another_server() -> None:
    def poll(requests: float) -> Readings:
        return readings({ENGINE: {STOP: requests, DURATION: histogram(0, 0, requests, 0), "requests_running": 5}})

    seen = Followed(poll(10), poll(15))
    assert seen.poll(poll(5000)) is None


def test_one_worker_of_several_that_dies_makes_no_restart() -> None:
    before = readings({ENGINE: {TOKENS: 900, STOP: 50, ERROR: 3}, TARGET: {POSTS: 53}})
    after = readings({ENGINE: {TOKENS: 400, STOP: 51, ERROR: 3}, TARGET: {POSTS: 54}})
    seen = Followed(before, after, after)
    assert seen.state == (0, False)


def test_a_start_that_is_exposed_for_the_first_time_or_no_more_is_no_restart() -> None:
    seen = Followed(silent(900), body(901), silent(902))
    assert (seen.state, seen.increase()) == ((0, False), 2.0)


def test_seconds_since_boot_are_not_taken_for_a_start_time() -> None:
    """A sandbox whose kernel exposes no boot time has them: each restart of its pod has the same."""
    seen = Followed(body(900, 21.5), body(901, 21.5))
    seen.outage(20)
    seen.poll(body(0, 20.9))
    assert seen.state == (1, False)


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

    seen = Followed(poll(900, **before), poll(901, **before))
    assert seen.poll(poll(902, **after)) is not None
    assert seen.state == (0, False)
    assert (seen.increase(ENGINE), seen.increase(OTHER_ENGINE)) == (None, 2.0)
    assert seen.poll(poll(904, **{**after, "change": {}})) is not None
    assert seen.increase(OTHER_ENGINE) == 4.0


def test_an_engine_whose_counters_all_fell_began_at_zero() -> None:
    def poll(first: float, second: float) -> Readings:
        return readings({ENGINE: engine(first), OTHER_ENGINE: engine(second)})

    seen = Followed(poll(900, 900))
    change = seen.poll(poll(901, 2))
    assert change is not None
    assert (change.restarted, change.broken, change.fresh) == (False, {OTHER_ENGINE}, {OTHER_ENGINE})


def test_counters_that_were_0_for_one_poll_make_no_huge_increase() -> None:
    seen = Followed(*[body(n) for n in (900, 901, 0, 902, 903)])
    assert (seen.state, seen.increase()) == ((0, False), 1.0)


def test_counters_that_grow_past_their_old_values_one_by_one_go_on() -> None:
    polls = [{TOKENS: 900.0, STOP: 9.0}, *({TOKENS: 150.0 * i, STOP: float(i)} for i in range(20))]
    seen = Followed(*[readings(poll, started=BEGAN - 9) for poll in polls])
    assert seen.increase() == 19.0


def test_a_sum_that_falls_is_no_reset() -> None:
    before = readings({TTFT: histogram(5, 0, 0, 0, total=5.0), STOP: 5}, started=BEGAN - 9)
    after = readings({TTFT: histogram(6, 0, 0, 0, total=4.0), STOP: 6}, started=BEGAN - 9)
    seen = Followed(before, after)
    assert (seen.state, seen.increase()) == ((0, False), 1.0)


# What a body lacks


@pytest.mark.parametrize("started", [BEGAN - 1000, None], ids=["with a start time", "without"])
def test_a_counter_that_was_left_out_is_no_huge_increase_when_it_is_back(started: float | None) -> None:
    polls = [{STOP: 1_000_000 + i, TOKENS: 5} for i in range(6)]
    del polls[2][STOP]
    seen, found = Followed(), []
    for poll in polls:
        seen.poll(readings(poll, started=started))
        found.append(seen.increase())
    assert found == [None, 1.0, None, None, 1.0, 2.0]
    assert (seen.state, seen.windows.gaps) == ((0, False), 0)


def test_what_a_process_left_out_is_forgotten_with_it() -> None:
    seen = Followed(readings({STOP: 5, TOKENS: 5}, started=BEGAN - 9), readings({TOKENS: 5}, started=BEGAN - 9))
    seen.poll(readings({TOKENS: 0}, started=BEGAN + 1.5))
    seen.poll(readings({TOKENS: 0, STOP: 7}, started=BEGAN + 1.5))
    assert (seen.state, seen.increase()) == ((1, False), 7.0)


def test_a_counter_that_comes_up_counts_from_zero() -> None:
    seen = Followed(readings({TOKENS: 5}), readings({TOKENS: 5, STOP: 3}))
    assert seen.increase() == 3.0


def test_an_engine_that_is_born_counts_from_zero_and_one_that_joins_with_a_past_does_not() -> None:
    seen = Followed(readings({MODEL: {TOKENS: 0}}, started=BEGAN - 9), readings({ENGINE: engine(3)}, started=BEGAN - 9))
    assert seen.increase() == 3.0
    change = seen.poll(readings({ENGINE: engine(3), OTHER_ENGINE: engine(500)}, started=BEGAN - 9))
    assert change is not None
    assert change.fresh == frozenset()
    assert (seen.increase(ENGINE), seen.increase(OTHER_ENGINE)) == (3.0, None)


@pytest.mark.parametrize(("made", "fresh"), [(BEGAN - 600, False), (BEGAN + 0.7, True)], ids=["long ago", "just now"])
def test_where_creation_times_are_exposed_they_say_whether_an_engine_is_new(made: float, fresh: bool) -> None:
    seen = Followed(readings({ENGINE: engine(3)}, started=BEGAN - 9))
    both = readings({ENGINE: engine(3), OTHER_ENGINE: engine(4)}, started=BEGAN - 9, created={OTHER_ENGINE: made})
    change = seen.poll(both)
    assert change is not None
    assert (OTHER_ENGINE in change.fresh) is fresh


def test_an_engine_that_went_away_has_no_window_and_a_new_one_when_it_is_back() -> None:
    both = {ENGINE: {STOP: 5}, OTHER_ENGINE: {STOP: 1_000}}
    seen = Followed(readings(both), readings({ENGINE: {STOP: 6}}))
    assert seen.windows.of(Scope.ENGINE).keys() == {ENGINE}
    seen.poll(readings({ENGINE: {STOP: 7}, OTHER_ENGINE: {STOP: 1_500}}))
    assert (seen.increase(OTHER_ENGINE), seen.increase(ENGINE), seen.state) == (None, 2.0, (0, False))


def test_polls_missed_for_longer_than_the_window_begin_it_anew() -> None:
    seen = Followed(body(100))
    seen.poll(body(160), after=60.0)
    assert (seen.windows.gaps, seen.increase()) == (0, 60.0)
    seen.poll(body(400), after=60.5)
    assert (seen.windows.gaps, seen.state, seen.increase()) == (1, (0, False), None)


def test_a_restart_within_a_gap_is_a_restart() -> None:
    seen = Followed(body(100))
    seen.poll(body(4, BEGAN + 300), after=500.0)
    assert (seen.windows.gaps, seen.state) == (0, (1, False))


def test_windows_take_other_lengths_and_keep_their_polls() -> None:
    seen = Followed(*[body(i) for i in range(100)])
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
    seen = Followed(body(900, BEGAN - 9000 if exposed else None))
    for i in range(40):
        seen.poll(body(1000 - i, BEGAN - 9001 - i if exposed else None))
    assert len(seen.windows._restarts._known) <= MOST_PROCESSES


def test_nothing_new_costs_nothing() -> None:
    seen = Followed(body(1), body(2))
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
    seen, made = Followed(), {ENGINE: BEGAN - 990.5}
    for poll in range(60):
        jump = jumps[poll % len(jumps)]
        assert seen.poll(body(900 + poll, BEGAN - 1000 + jump, created=made)) is not None
    assert (seen.state, seen.increase()) == ((0, False), 59.0)
    seen.outage(30)
    assert seen.poll(body(1, BEGAN + seen.seconds - 5, created={ENGINE: BEGAN + seen.seconds - 4})) is not None
    assert seen.state == (1, False), "a restart after it is seen as one"


def test_replicas_whose_counters_were_created_at_the_same_time_are_still_several() -> None:
    servers, seen, made = [body(900, BEGAN - 9000), body(40, BEGAN - 500)], Followed(), {ENGINE: BEGAN - 400}
    taken = sum(seen.poll(replace(servers[poll % 2], created=made)) is not None for poll in range(240))
    assert (taken, seen.state) == (1, (0, True))


def test_a_later_start_time_without_an_outage_and_with_high_counters_is_no_restart() -> None:
    """Without creation times: nothing tells a clock that was set from a younger server that took over."""
    seen = Followed(body(900), body(901))
    for poll in range(int(CONFIRM)):
        assert seen.poll(body(902 + poll, BEGAN + 3600)) is None
    change = seen.poll(body(965, BEGAN + 3600))
    assert change is not None
    assert (change.resumed, change.restarted, change.fresh) == (True, False, frozenset())
    assert seen.state == (0, False)
