"""What one window says of the readings in it."""

from __future__ import annotations

import gc
import tracemalloc
from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import BOUNDS, START, histogram, observed, reading, window

from vllm_sidecar.quantiles.buckets import Observed
from vllm_sidecar.series.readings import Reading
from vllm_sidecar.series.window import COARSE, Extent, Increase, Window

TOKENS = "generation_tokens_total"
STOP = ("requests_finished_total", "stop")
LENGTH = ("requests_finished_total", "length")
TTFT = "time_to_first_token_seconds"


def test_a_counter_grows_by_the_difference_of_the_ends_of_the_window() -> None:
    assert window({TOKENS: 100}, {TOKENS: 130}, {TOKENS: 175}).increase(TOKENS) == 75.0


def test_one_poll_says_nothing_of_counters_and_histograms() -> None:
    seen = window({TOKENS: 100, STOP: 4, TTFT: observed(0.5)})
    assert (seen.increase(TOKENS), seen.increases(STOP[0]), seen.observed(TTFT)) == (None, {}, None)
    assert (seen.polls, seen.seconds) == (1, 0.0)


def test_a_counter_that_the_newest_poll_lacks_has_no_increase() -> None:
    assert window({}, {}).increase(TOKENS) is None
    assert window({}, {}).increases(STOP[0]) == {}


def test_a_counter_that_comes_up_in_the_window_counts_from_zero() -> None:
    seen = window({TOKENS: 10}, {TOKENS: 10, STOP: 3})
    assert seen.increase(STOP) == 3.0
    assert seen.increases(STOP[0]) == {("stop",): 3.0}


def test_the_series_of_a_labelled_counter_are_found_when_they_come_up_one_by_one() -> None:
    seen = window({STOP: 1}, {STOP: 2})
    assert seen.increases(STOP[0]) == {("stop",): 1.0}
    seen.append(START + 2, reading({STOP: 5, LENGTH: 2, TOKENS: 1}))
    assert seen.increases(STOP[0]) == {("stop",): 4.0, ("length",): 2.0}


def test_a_poll_exactly_at_the_edge_is_the_base_of_the_window() -> None:
    seen = window(*({TOKENS: i} for i in range(11)), every=10.0, length=60.0)
    assert (seen.increase(TOKENS), seen.seconds, seen.polls) == (6.0, 60.0, 7)


def test_without_a_poll_at_the_edge_the_last_one_before_it_is_the_base() -> None:
    seen = window(*({TOKENS: i} for i in range(8)), every=25.0, length=60.0)
    assert (seen.increase(TOKENS), seen.seconds, seen.polls) == (3.0, 75.0, 4)


def test_a_window_never_holds_fewer_than_its_last_two_polls() -> None:
    seen = window({TOKENS: 1}, {TOKENS: 5}, {TOKENS: 6}, every=90.0, length=60.0)
    assert (seen.increase(TOKENS), seen.seconds, seen.polls) == (1.0, 90.0, 2)


def test_history_is_every_poll_of_the_window_and_before_it_one_each_few_seconds() -> None:
    seen = window(*({TOKENS: i} for i in range(100)), every=1.0, length=10.0, keep=30.0)
    times = [at - START for at, _ in seen.history()]
    assert times == [70.0, 75.0, 80.0, 85.0, *map(float, range(89, 100))]
    assert [at - START for at, _ in seen.current()] == list(map(float, range(89, 100)))
    assert [made.counter(TOKENS) for _, made in seen.history()] == times


@given(
    gaps=st.lists(st.floats(0.05, 50.0), min_size=1, max_size=300),
    length=st.floats(1.0, 100.0),
    kept=st.floats(1.0, 10.0),
)
def test_what_is_kept_is_ordered_and_bounded_at_any_pace(gaps: list[float], length: float, kept: float) -> None:
    seen = Window(length, length * kept)
    at = START
    for gap in gaps:
        at += gap
        seen.append(at, reading({TOKENS: at}))
        times = [time for time, _ in seen.history()]
        assert times == sorted(set(times))
        older = [time for time in times if time < at - length]
        assert len(older) <= (length * kept - length) / COARSE + 2
        assert len(times) - len(older) <= length / 0.05 + 1
        assert all(time >= at - max(length * kept, length + max(gaps)) for time in times)


def test_a_day_of_polls_keeps_as_many_readings_as_an_hour() -> None:
    counts = []
    seen = Window(60.0, 300.0)
    for i in range(24 * 3600):
        seen.append(START + i, reading({}))
        if i % 3600 == 3599:
            counts.append(sum(1 for _ in seen.history()))
    assert set(counts) == {61 + 48}


def test_a_full_window_of_an_engine_under_load_takes_a_quarter_of_a_mebibyte() -> None:
    names, bounds = [f"h{n}" for n in range(16)], tuple(map(float, range(1, 20)))
    seen = Window(60.0, 300.0)
    tracemalloc.start()
    try:
        for i in range(400):
            histograms = {name: histogram(*([float(i)] * 20), total=i / 7.0, bounds=bounds) for name in names}
            seen.append(START + i, Reading({f"c{n}_total": i + n / 7.0 for n in range(40)}, {}, histograms))
        gc.collect()  # also empties Python's own lists of free tuples
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert sum(1 for _ in seen.history()) == 61 + 48
    assert held < 0.3 * 2**20


def test_a_histogram_has_counts_per_bucket_and_their_sum() -> None:
    seen = window({TTFT: histogram(1, 0, 2, 0, total=7.0)}, {TTFT: histogram(3, 4, 2, 1, total=20.5)})
    assert seen.observed(TTFT) == Increase(BOUNDS, [2.0, 4.0, 0.0, 1.0], 7.0, 13.5)


def test_each_poll_has_what_was_observed_since_the_one_before() -> None:
    counts = [(1, 0, 0, 0), (1, 0, 0, 0), (1, 2, 0, 1), (2, 2, 0, 1)]
    totals = [0.5, 0.5, 9.0, 8.0]
    polls = [{TTFT: histogram(*one, total=total)} for one, total in zip(counts, totals, strict=True)]
    expected = [Observed(((1, 2.0), (3, 1.0)), 8.5), Observed(((0, 1.0),), None)]
    assert window(*polls).observed_by_poll(TTFT) == expected
    assert window({}, *polls).observed_by_poll(TTFT) == [Observed(((0, 1.0),), 0.5), *expected]
    assert window(*polls[:1]).observed_by_poll(TTFT) == window(*polls[:2]).observed_by_poll(TTFT) == []


def test_polls_that_cannot_be_told_apart_are_one() -> None:
    counts = [(1, 0, 0, 0), (2, 3, 0, 0), (2, 2, 0, 0), (3, 3, 0, 0)]
    polls = [{TTFT: histogram(*one, total=float(i))} for i, one in enumerate(counts)]
    assert window(*polls).observed_by_poll(TTFT) == [Observed(((0, 2.0), (1, 3.0)), 3.0)]
    polls[2] = {}
    seen = window(*polls)
    assert seen.observed_by_poll(TTFT) == [Observed(((0, 2.0), (1, 3.0)), 3.0)]


def test_a_histogram_that_did_not_change_observed_nothing() -> None:
    same = histogram(1, 0, 2, 0, total=7.0)
    nothing = Increase(BOUNDS, [0.0, 0.0, 0.0, 0.0], 0.0, 0.0)
    assert window({TTFT: same}, {TTFT: same}).observed(TTFT) == nothing
    assert window({TTFT: same}, {TTFT: histogram(1, 0, 2, 0, total=7.0)}).observed(TTFT) == nothing
    without = histogram(1, 0, 2, 0, total=None)
    assert window({TTFT: without}, {TTFT: without}).observed(TTFT) == nothing._replace(total=None)


def test_a_histogram_that_comes_up_in_the_window_counts_from_zero() -> None:
    assert window({}, {TTFT: histogram(1, 0, 2, 0, total=7.0)}).observed(TTFT) == Increase(BOUNDS, [1, 0, 2, 0], 3, 7.0)


@pytest.mark.parametrize(
    ("before", "after"), [(9.0, 8.5), (None, 12.0), (9.0, None)], ids=["fell", "was not there", "is not there"]
)
def test_where_the_sum_cannot_be_trusted_the_counts_are_kept(before: float | None, after: float | None) -> None:
    seen = window({TTFT: histogram(1, 0, 0, 0, total=before)}, {TTFT: histogram(1, 2, 0, 0, total=after)})
    assert seen.observed(TTFT) == Increase(BOUNDS, [0.0, 2.0, 0.0, 0.0], 2.0, None)


def test_other_bounds_say_nothing_until_the_old_ones_left_the_window() -> None:
    seen = window(*({TTFT: histogram(i, 0, 0, 0)} for i in range(3)), length=3.0)
    other = (5.0, 6.0)
    found = []
    for i in range(3, 8):
        seen.append(START + i, reading({TTFT: histogram(0, i, 0, bounds=other)}))
        found.append(seen.observed(TTFT))
    assert found == [None, None, None, Increase(other, [0, 3, 0], 3, 0.0), Increase(other, [0, 3, 0], 3, 0.0)]


def test_a_bucket_that_fell_says_nothing() -> None:
    assert window({TTFT: histogram(3, 0, 0, 0)}, {TTFT: histogram(1, 4, 0, 0)}).observed(TTFT) is None


def test_a_histogram_that_was_left_out_of_one_body_is_not_new_when_it_is_back() -> None:
    polls = [{TTFT: histogram(100 + i, 0, 0, 0)} for i in range(8)]
    polls[3] = {}
    seen, found = Window(3.0, 3.0), []
    for i, poll in enumerate(polls):
        seen.append(START + i, reading(poll))
        increase = seen.observed(TTFT)
        found.append(increase.observations if increase else None)
    assert found == [None, 1.0, 2.0, None, 3.0, 3.0, None, 3.0]


def test_the_extent_of_a_gauge_is_over_the_polls_of_the_window_alone() -> None:
    seen = window(*({"requests_running": value} for value in (90, 2, 8, 5)), every=1.0, length=2.0)
    assert seen.extent("requests_running") == Extent(8.0, 5.0, 2.0, 5.0)
    seen.append(START + 4, reading({"requests_running": 2}))
    assert seen.extent("requests_running") == Extent(8.0, 5.0, 8.0, 2.0)


def test_the_extent_of_a_gauge_skips_polls_without_it_but_needs_the_newest() -> None:
    seen = window({}, {"requests_running": 4}, {}, {"requests_running": 2})
    assert seen.extent("requests_running") == Extent(4.0, 3.0, 4.0, 2.0)
    assert list(seen.values("requests_running")) == [None, 4.0, None, 2.0]
    seen.append(START + 4, reading({}))
    assert seen.extent("requests_running") is None


@given(values=st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=1, max_size=40), length=st.integers(1, 20))
def test_an_extent_asked_for_at_every_poll_equals_one_asked_for_at_the_last(
    values: list[float | None], length: int
) -> None:
    polls = [{} if value is None else {"requests_running": value} for value in values]
    followed = Window(length, length)
    for i, poll in enumerate(polls):
        followed.append(START + i, reading(poll))
        followed.extent("requests_running")
    kept = [value for value in values[-length - 1 :] if value is not None]
    expected = None
    if values[-1] is not None:
        expected = Extent(max(kept), pytest.approx(sum(kept) / len(kept)), kept[0], kept[-1])
    assert followed.extent("requests_running") == expected
    assert window(*polls, length=length).extent("requests_running") == expected


def test_increase_since_counts_from_the_last_reading_not_after_that_time() -> None:
    seen = window({TOKENS: 0}, {TOKENS: 10}, {TOKENS: 30}, {TOKENS: 60}, every=10.0)
    asked = [START - 5, START, START + 10, START + 19.9, START + 20, START + 30, START + 99]
    assert [seen.increase_since(at, TOKENS) for at in asked] == [60.0, 60.0, 50.0, 50.0, 30.0, 0.0, 0.0]


def test_increase_since_reaches_back_beyond_the_window() -> None:
    seen = window(*({TOKENS: i} for i in range(200)), every=1.0, length=10.0, keep=100.0)
    assert seen.increase_since(START + 152, TOKENS) == 199.0 - 150.0
    assert seen.increase_since(START, TOKENS) == 199.0 - 100.0


def test_increase_since_takes_a_counter_that_was_not_there_as_zero_and_lacks_one_that_is_not_there() -> None:
    seen = window({}, {STOP: 2}, {STOP: 7})
    assert seen.increase_since(START, STOP) == 7.0
    assert seen.increase_since(START + 1, STOP) == 5.0
    assert seen.increase_since(START, LENGTH) is None


@given(
    counts=st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=2, max_size=20),
    falls=st.lists(st.floats(-10, 100), min_size=20, max_size=20),
)
def test_what_a_histogram_observed_is_never_negative_and_adds_up(counts: list[list[int]], falls: list[float]) -> None:
    seen, sums, total = Window(5.0, 5.0), [0.0] * 4, 0.0
    for i, (grew, change) in enumerate(zip(counts, falls, strict=False)):
        sums = [a + b for a, b in zip(sums, grew, strict=True)]
        total += change
        seen.append(START + i, reading({TTFT: histogram(*sums, total=total)}))
        seen.observed_by_poll(TTFT)  # from now on it is kept up to date
    increase = seen.observed(TTFT)
    assert increase is not None
    assert min(increase.counts) >= 0.0
    assert (
        sum(increase.counts) == increase.observations == sum(map(sum, counts[-5:] if len(counts) > 5 else counts[1:]))
    )
    assert increase.total is None or (increase.total >= 0.0 and isfinite(increase.total))
    by_poll = [0.0] * 4
    for poll in seen.observed_by_poll(TTFT):
        for bucket, count in poll.bins:
            by_poll[bucket] += count
    assert by_poll == increase.counts
    fresh = Window(5.0, 5.0)
    for at, one in seen.current():
        fresh.append(at, one.reading())
    assert fresh.observed_by_poll(TTFT) == seen.observed_by_poll(TTFT)


ITL = "inter_token_latency_seconds"


def test_a_histogram_lost_in_the_body_in_which_another_comes_up_is_not_counted_from_zero() -> None:
    seen = window({TTFT: observed(0.5, 0.5), TOKENS: 1}, {ITL: observed(0.5), TOKENS: 2}, every=1.0, length=2.0)
    for at in range(2, 5):
        seen.append(START + at, reading({TTFT: observed(0.5, 0.5, 0.5), ITL: observed(0.5), TOKENS: at}))
    assert seen.observed(TTFT) is None or seen.observed(TTFT).observations == 0.0  # type: ignore[union-attr]


def test_a_shorter_window_is_cut_from_the_polls_of_the_longer_one_and_the_rest_is_history() -> None:
    seen = window(*({TOKENS: 10 * i, TTFT: observed(*[0.5] * i)} for i in range(61)), every=1.0, length=60.0)
    assert seen.observed_by_poll(TTFT)
    seen.resize(20.0, 300.0)
    assert (seen.seconds, seen.polls, seen.increase(TOKENS)) == (20.0, 21, 200.0)
    assert len(seen.observed_by_poll(TTFT)) == 20
    assert next(seen.history())[0] == START
    seen.append(START + 61, reading({TOKENS: 610, TTFT: observed(*[0.5] * 61)}))
    assert (seen.seconds, seen.increase(TOKENS), len(seen.observed_by_poll(TTFT))) == (20.0, 200.0, 20)


def test_a_longer_window_takes_in_what_was_history() -> None:
    seen = window(*({TOKENS: 10 * i} for i in range(61)), every=1.0, length=20.0)
    seen.resize(60.0, 300.0)
    assert (seen.seconds, seen.increase(TOKENS)) == (60.0, 600.0)
    assert seen.extent("requests_running") is None
    assert seen.progress.progress_at == START + 60


def test_what_is_kept_for_shorter_is_dropped() -> None:
    seen = window(*({TOKENS: 10 * i} for i in range(61)), every=1.0, length=10.0)
    seen.resize(10.0, 30.0)
    assert next(seen.history())[0] >= START + 30.0


def test_a_window_without_a_poll_can_be_resized() -> None:
    seen = Window(60.0, 300.0)
    seen.resize(30.0, 60.0)
    seen.append(START, reading({TOKENS: 1}))
    assert seen.polls == 1
