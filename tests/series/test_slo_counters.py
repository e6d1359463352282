"""The counters of service levels, from poll to poll, over restarts, gaps and bodies that lack something."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from followed_counters import AT_BOUND, BEGAN, BETWEEN, TTFT, FollowedCounters, available, ended, ttft
from hypothesis import given
from hypothesis import strategies as st
from readings import ENGINE, MODEL, OTHER_ENGINE, histogram, observed, readings

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.good_observations import Objective
from vllm_sidecar.series.readings import Group
from vllm_sidecar.series.server_process import FORGET, HOLD
from vllm_sidecar.series.slo_counters import MOST_COUNTS, SloCounters
from vllm_sidecar.series.store import WindowStore

if TYPE_CHECKING:
    from readings import Poll

    from vllm_sidecar.series.readings import Readings


def test_counters_begin_at_zero_though_the_server_has_counted_before() -> None:
    assert FollowedCounters(ttft(histogram(5, 6, 7, 8))).count() == (0.0, 0.0)
    assert available(ended(stop=9, error=3, http={"5xx": 7})) == (0.0, 0.0)


def test_what_comes_between_two_polls_is_counted() -> None:
    followed = FollowedCounters(ttft(histogram(5, 6, 7, 8)), ttft(histogram(6, 8, 10, 12)))
    assert followed.count() == (10.0, 3.0)


def test_polls_that_see_nothing_new_count_nothing() -> None:
    seen = histogram(1, 1, 1, 1)
    assert FollowedCounters(
        ttft(histogram(0, 0, 0, 0)), ttft(seen), ttft(seen), ttft(histogram(1, 1, 1, 1))
    ).count() == (4, 2)


def test_what_came_while_polls_failed_is_counted_afterwards() -> None:
    followed = FollowedCounters(ttft(histogram(1, 0, 0, 0)))
    followed.poll(ttft(histogram(11, 0, 5, 0)), after=600.0)
    assert followed.windows.gaps == 1
    assert followed.count() == (15.0, 10.0)


def test_a_later_process_goes_on_counting_from_what_the_one_before_had() -> None:
    old, new = {"started": BEGAN}, {"started": BEGAN + 9}
    followed = FollowedCounters(
        ttft(histogram(10, 0, 0, 0), **old),
        ttft(histogram(20, 0, 0, 0), **old),
        ttft(histogram(3, 0, 2, 0), **new),
        ttft(histogram(4, 0, 2, 0), **new),
    )
    assert followed.windows.restarts == 1
    assert followed.count() == (16.0, 14.0)


def test_a_later_process_that_has_already_counted_more_is_counted_whole() -> None:
    followed = FollowedCounters(
        ttft(histogram(1, 0, 0, 0), started=BEGAN), ttft(histogram(5, 0, 0, 0), started=BEGAN + 9)
    )
    assert followed.count() == (5.0, 5.0)


def test_counters_fall_for_no_body() -> None:
    whole = {TTFT: histogram(1000, 0, 0, 0), "preemptions_total": 3.0}
    torn = {TTFT: histogram(1001, 0, 0, 0)}
    followed = FollowedCounters(readings(whole), readings(torn), readings({**whole, TTFT: histogram(1002, 0, 0, 0)}))
    assert followed.count() == (2.0, 2.0)


def test_an_engine_whose_counters_were_not_made_again_goes_on() -> None:
    def poll(first: float, second: float, made: float) -> Readings:
        groups = {ENGINE: {TTFT: histogram(first, 0, 0, 0)}, OTHER_ENGINE: {TTFT: histogram(second, 0, 0, 0)}}
        return readings(groups, started=BEGAN, created={ENGINE: BEGAN, OTHER_ENGINE: made})  # type: ignore[arg-type]

    followed = FollowedCounters(poll(1000, 1000, BEGAN), poll(1002, 4, BEGAN + 50))
    assert followed.windows.restarts == 0
    assert followed.count("m", "0", "ttft") == (2.0, 2.0)
    assert followed.count("m", "1", "ttft") == (4.0, 4.0)


def test_an_engine_that_joins_with_a_past_is_counted_from_then_on() -> None:
    def poll(first: float, second: float) -> Readings:
        return readings(
            {ENGINE: {TTFT: histogram(first, 0, 0, 0)}, OTHER_ENGINE: {TTFT: histogram(second, 0, 0, 0)}},
            started=BEGAN,
        )

    alone = readings({ENGINE: {TTFT: histogram(10, 0, 0, 0)}}, started=BEGAN)
    followed = FollowedCounters(alone, poll(10, 800), poll(10, 805), alone, alone, poll(10, 809))
    assert followed.count("m", "1", "ttft") == (9.0, 9.0)
    assert followed.count("m", "0", "ttft") == (0.0, 0.0)


def test_counters_that_were_0_for_one_poll_count_what_came_and_no_more() -> None:
    seen = [ttft(histogram(n, 0, 0, 0), started=BEGAN) for n in (5000, 5003, 0, 5004, 5006)]
    assert FollowedCounters(*seen).count() == (6.0, 6.0)


def test_a_part_that_leaves_a_sum_and_returns_counts_nothing() -> None:
    def poll(rejected: float) -> Readings:
        return ended(stop=0, rejected=rejected)

    assert available(poll(800), poll(803), poll(303), poll(304), poll(806)) == (6.0, 0.0)


@pytest.mark.parametrize("value", [1e12, 1e300, 1.7e308])
def test_an_increase_that_no_server_can_have_counts_nothing(value: float) -> None:
    followed = FollowedCounters(ended(stop=3, error=1), ended(stop=4, error=1))
    followed.poll(ended(stop=value, error=value))
    assert followed.count("m", "", "availability") == (1.0, 1.0)


def test_an_impossible_value_that_stays_is_where_counting_goes_on() -> None:
    followed = FollowedCounters(ttft(histogram(1, 0, 0, 0)), ttft(histogram(1e12, 0, 0, 0)))
    followed.poll(ttft(histogram(1e12 + 1, 0, 0, 0)))
    followed.poll(ttft(histogram(1e12 + 5, 0, 0, 0)))
    assert followed.count() == (5.0, 5.0)


def test_while_several_servers_answer_nothing_is_counted_nor_afterwards() -> None:
    followed = FollowedCounters(
        ttft(histogram(9000, 0, 0, 0), started=BEGAN), ttft(histogram(9002, 0, 0, 0), started=BEGAN)
    )  # fmt: skip
    for i in range(int(HOLD)):
        with pytest.raises(PollError):
            followed.poll(ttft(histogram(40 + i, 0, 0, 0), started=BEGAN - 500))
    followed.poll(ttft(histogram(600, 0, 0, 0), started=BEGAN - 500))
    followed.poll(ttft(histogram(603, 0, 0, 0), started=BEGAN - 500))
    assert followed.count() == (5.0, 5.0)


def test_objectives_that_stay_keep_their_counts_when_others_change() -> None:
    slow, other = Objective("slow", TTFT, 4.0), Objective("ttft", TTFT, 1.0)

    def poll(requests: float) -> Readings:
        stop = ("requests_finished_total", "stop")
        return readings({stop: requests, TTFT: histogram(requests, 0, 0, 0)}, started=BEGAN)

    followed = FollowedCounters(poll(100), poll(103))
    followed.counters.use((AT_BOUND, slow), availability=True)
    followed.poll(poll(105))
    followed.poll(poll(109))
    assert followed.count("m", "", "availability") == followed.count() == (9.0, 9.0)
    assert followed.count("m", "0", "slow") == (6.0, 6.0)
    followed.counters.use((other, slow), availability=False)
    followed.poll(poll(110))
    assert followed.count() == (1.0, 1.0)
    assert followed.count("m", "0", "slow") == (7.0, 7.0)
    assert ("m", "", "availability") not in followed.rows()["slo_requests_total"]
    followed.counters.use((AT_BOUND,), availability=True)
    followed.poll(poll(113))
    assert followed.count("m", "", "availability") == followed.count() == (3.0, 3.0)
    assert ("m", "0", "slow") not in followed.rows()["slo_requests_total"]


def test_a_histogram_that_a_body_left_out_is_counted_from_where_it_was() -> None:
    followed = FollowedCounters(
        ttft(histogram(9, 0, 0, 0)), readings({"requests_running": 1}), ttft(histogram(12, 0, 0, 0))
    )
    assert followed.count() == (3.0, 3.0)


def test_an_engine_that_comes_up_later_began_at_zero() -> None:
    followed = FollowedCounters(readings({MODEL: {}}), ttft(histogram(2, 0, 0, 1)))
    assert followed.count() == (3.0, 2.0)


def test_a_histogram_that_the_first_bodies_left_out_is_counted_from_when_it_is_seen() -> None:
    first = readings({("requests_finished_total", "stop"): 900})
    both = {("requests_finished_total", "stop"): 900, TTFT: histogram(900, 0, 0, 0)}
    assert FollowedCounters(first, readings(both)).count() == (0.0, 0.0)


def test_a_bucket_that_fell_or_bounds_that_changed_count_nothing() -> None:
    fell = FollowedCounters(ttft(histogram(5, 5, 0, 0)), ttft(histogram(4, 7, 0, 0)), ttft(histogram(5, 7, 0, 0)))
    assert fell.count() == (1.0, 1.0)
    other = histogram(9, 0, 0, 0, 0, bounds=(1.0, 2.0, 3.0, 4.0))
    changed = FollowedCounters(ttft(histogram(1, 0, 0, 0)), ttft(other))
    assert changed.count() == (0.0, 0.0)


def test_a_threshold_between_bounds_is_estimated_and_said_to_be() -> None:
    followed = FollowedCounters(
        ttft(histogram(0, 0, 0, 0)), ttft(observed(1.2)), ttft(observed(1.2, 1.9)), objective=BETWEEN
    )
    assert followed.count() == (2.0, 1.0)
    assert followed.rows()["slo_exact"] == {("m", "0", "ttft"): 0.0}
    assert FollowedCounters(ttft(observed(1.2))).rows()["slo_exact"] == {("m", "0", "ttft"): 1.0}


def test_of_many_estimated_polls_good_is_never_more_than_all() -> None:
    polls = [ttft(observed(*[1.2, 1.4, 1.6, 1.8][: 1 + i % 4], times=i)) for i in range(1, 40)]
    found: list[tuple[float, float]] = []
    followed = FollowedCounters(objective=BETWEEN)
    at_most: list[float] = [0.0, 0.0]
    total = histogram(0, 0, 0, 0)
    for poll in polls:
        grown = poll.groups[ENGINE].histograms[TTFT]
        total = type(total)(
            total.bounds,
            tuple(a + b for a, b in zip(total.cumulative, grown.cumulative, strict=True)),
            (total.total or 0.0) + (grown.total or 0.0),
        )
        followed.poll(ttft(total))
        found.append(followed.count())
        assert found[-1][0] >= at_most[0]
        assert at_most[1] <= found[-1][1] <= found[-1][0]
        at_most = list(found[-1])
    assert 0.3 < at_most[1] / at_most[0] < 0.9


def test_a_bucket_is_split_anew_each_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    monkeypatch.setattr("vllm_sidecar.series.slo_counters.split", lambda *_: calls.append(1.0) or 0.25)
    followed = FollowedCounters(ttft(histogram(0, 0, 0, 0)), objective=BETWEEN)
    for i in range(1, 11):
        followed.poll(ttft(histogram(0, 2 * i, 0, 0, total=3.0 * i)))
    assert followed.count() == (20.0, 5.0)
    assert len(calls) == 2


BODIES = st.one_of(
    st.none(),
    st.tuples(st.lists(st.integers(0, 30), min_size=4, max_size=4), st.floats(-5.0, 99.0), st.integers(0, 2)),
)
"""A poll: nothing of the engine, or growth per bucket, of the sum, and which life of the server it is."""


@given(st.lists(BODIES, max_size=12), st.sampled_from([AT_BOUND, BETWEEN]), st.booleans())
def test_whatever_a_server_says_counters_never_fall_and_good_is_part_of_all(
    bodies: list[tuple[list[int], float, int] | None], objective: Objective, tells_its_age: bool
) -> None:
    followed, before = FollowedCounters(objective=objective), {}

    def poll(made: Poll) -> None:
        with suppress(PollError):  # several servers, as far as anybody can see
            followed.poll(readings(made, started=BEGAN + life if tells_its_age else None))

    counts, total, life = [0.0] * 4, 0.0, 0
    for body in bodies:
        if body is None:
            poll({"requests_running": 1.0})
        else:
            grown, summed, at = body
            if at != life:
                counts, total, life = [0.0] * 4, 0.0, at
            counts = [old + new for old, new in zip(counts, grown, strict=True)]
            total += summed
            seen = histogram(*counts, total=total)
            poll({TTFT: seen})
        rows = followed.rows()
        after = {name: rows.get(name, {}) for name in ("slo_requests_total", "slo_good_requests_total")}
        for name, series in before.items():
            assert all(after[name][labels] >= value for labels, value in series.items())
        for labels, every in after["slo_requests_total"].items():
            assert 0.0 <= after["slo_good_requests_total"][labels] <= every + 1e-9
        before = after


def test_the_threshold_is_told_by_model() -> None:
    counters = SloCounters((AT_BOUND, Objective("ttft", TTFT, 1.0, "n")), availability=False)
    groups = {group: {TTFT: histogram(1, 0, 0, 0)} for group in (ENGINE, Group(Scope.ENGINE, ("n", "0")))}
    counters.follow(readings(groups), WindowStore(60.0, 300.0))  # type: ignore[arg-type]
    found = {labels: value for name, labels, value in counters.rows(up=True) if name == "slo_threshold_seconds"}
    assert found == {("m", "ttft"): 2.0, ("n", "ttft"): 1.0}


def test_while_the_server_is_down_its_counts_stay_and_nothing_is_said_of_now() -> None:
    followed = FollowedCounters(ttft(histogram(1, 0, 0, 0)), ttft(histogram(2, 0, 0, 0)))
    assert set(followed.rows()) == {
        "slo_requests_total",
        "slo_good_requests_total",
        "slo_exact",
        "slo_threshold_seconds",
    }
    assert followed.rows(up=False) == {
        "slo_requests_total": {("m", "0", "ttft"): 1.0},
        "slo_good_requests_total": {("m", "0", "ttft"): 1.0},
    }


def named(model: str) -> Readings:
    return readings({Group(Scope.ENGINE, (model, "0")): {TTFT: histogram(1, 0, 0, 0)}}, started=BEGAN)


def test_counts_of_models_that_come_and_go_are_bounded() -> None:
    followed = FollowedCounters()
    for i in range(2 * MOST_COUNTS):
        followed.poll(named(f"m{i}"), after=0.01)
        assert len(followed.counters._counts) <= MOST_COUNTS
        assert len(followed.counters._series) <= MOST_COUNTS


def test_counts_of_a_model_that_is_gone_for_long_end() -> None:
    followed = FollowedCounters(named("old"), named("new"))
    followed.poll(named("new"), after=FORGET - 1.0)
    assert {model for model, *_ in followed.rows()["slo_requests_total"]} == {"old", "new"}
    followed.poll(named("new"), after=2.0)
    assert {model for model, *_ in followed.rows()["slo_requests_total"]} == {"new"}


def test_counts_stay_while_a_server_is_down_for_long() -> None:
    followed = FollowedCounters(named("m"))
    followed.poll(named("m"), after=10 * FORGET)
    assert followed.count() == (0.0, 0.0)


FAST = Objective("fast", TTFT, 0.5)


def test_objectives_that_come_and_go_leave_the_others_their_counts() -> None:
    followed = FollowedCounters(ttft(observed(1.5)), ttft(observed(1.5, 1.5, 9.0)))
    assert followed.count() == (2.0, 1.0)
    followed.counters.use((AT_BOUND, FAST), availability=True)
    followed.poll(ttft(observed(1.5, 1.5, 9.0, 0.25)))
    assert followed.count() == (3.0, 2.0)
    assert followed.count("m", "0", "fast") == (1.0, 1.0), "counted from the poll before on, which knew the histogram"
    followed.counters.use((FAST,), availability=True)
    followed.poll(ttft(observed(1.5, 1.5, 9.0, 0.25, 0.25)))
    assert followed.count("m", "0", "fast") == (2.0, 2.0)
    assert ("m", "0", "ttft") not in followed.rows().get("slo_requests_total", {})
    assert ("m", "ttft") not in followed.rows()["slo_threshold_seconds"]


@pytest.mark.parametrize("changed", [AT_BOUND._replace(threshold=4.0), AT_BOUND._replace(histogram="request_seconds")])
def test_an_objective_that_means_something_else_begins_at_0(changed: Objective) -> None:
    followed = FollowedCounters(ttft(observed(1.5)), ttft(observed(1.5, 1.5)))
    followed.counters.use((changed,), availability=True)
    assert ("m", "0", "ttft") not in followed.rows().get("slo_requests_total", {})


def test_an_objective_of_another_model_changes_nothing_for_this_one() -> None:
    followed = FollowedCounters(ttft(observed(1.5)), ttft(observed(1.5, 1.5)))
    followed.counters.use((AT_BOUND, AT_BOUND._replace(model="other", threshold=4.0)), availability=True)
    assert followed.count() == (1.0, 1.0)
    followed.counters.use((AT_BOUND, AT_BOUND._replace(model="m", threshold=4.0)), availability=True)
    assert ("m", "0", "ttft") not in followed.rows().get("slo_requests_total", {})


def test_availability_that_is_turned_off_and_on_begins_at_0() -> None:
    followed = FollowedCounters(ended(stop=1), ended(stop=3))
    assert followed.count("m", "", "availability") == (2.0, 2.0)
    followed.counters.use((AT_BOUND,), availability=False)
    assert "slo_requests_total" not in followed.rows()
    followed.poll(ended(stop=4))
    followed.counters.use((AT_BOUND,), availability=True)
    followed.poll(ended(stop=6))
    assert followed.count("m", "", "availability") == (2.0, 2.0)
