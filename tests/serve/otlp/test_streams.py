"""Start times, increases, restarts and ends of the series that are pushed."""

from __future__ import annotations

import pytest

from vllm_sidecar.catalog.otlp import OtlpMetric
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.serve.otlp.points import Key, Point
from vllm_sidecar.serve.otlp.streams import FORGET, Collected, Streams

COUNTER, GAUGE = "generation_tokens_total", "requests_running"
HISTOGRAM = "time_to_first_token_seconds"
SIDECAR_STARTED = 100.0


def point(value: float | Histogram, signal: str = COUNTER, began: float | None = 50.0, labels: str = "") -> Point:
    return Point(Key(OtlpMetric(signal, signal), labels), (), value, "a", began)


def values(collected: Collected) -> list[tuple[float | Histogram, float]]:
    return [(sent.value, sent.start) for sent in collected.sent]


def pushed(streams: Streams, at: float, *points: Point) -> list[tuple[float | Histogram, float]]:
    """Return values and start times of a push that the receiver accepts."""
    collected = streams.follow(points, at)
    streams.accepted(collected)
    return values(collected)


def test_a_cumulative_counter_starts_with_its_process_and_again_when_that_restarts() -> None:
    streams = Streams(SIDECAR_STARTED, delta=False)
    assert pushed(streams, 110.0, point(7.0)) == [(7.0, 50.0)]
    assert pushed(streams, 120.0, point(9.0)) == [(9.0, 50.0)]
    assert pushed(streams, 130.0, point(9.5, began=125.0)) == [(9.5, 125.0)], "it may be above its old value"


def test_without_a_start_time_a_fallen_counter_starts_at_the_push_before() -> None:
    streams = Streams(SIDECAR_STARTED, delta=False)
    assert pushed(streams, 110.0, point(7.0, began=None)) == [(7.0, 110.0)]
    assert pushed(streams, 120.0, point(9.0, began=None)) == [(9.0, 110.0)]
    assert pushed(streams, 130.0, point(1.0, began=None)) == [(1.0, 120.0)]


def test_a_series_that_appears_on_a_known_target_counts_from_zero_since_the_push_before() -> None:
    for delta in (False, True):
        streams = Streams(SIDECAR_STARTED, delta=delta)
        pushed(streams, 110.0, point(7.0, began=None))
        found = pushed(streams, 120.0, point(7.0, began=None), point(3.0, began=None, labels="new"))
        assert found[1] == (3.0, 110.0)


def test_a_start_time_in_the_future_of_this_clock_is_now() -> None:
    assert pushed(Streams(SIDECAR_STARTED, delta=False), 110.0, point(7.0, began=115.0)) == [(7.0, 110.0)]


def test_increases_begin_at_the_first_push_and_add_up_over_failed_ones() -> None:
    streams = Streams(SIDECAR_STARTED, delta=True)
    assert pushed(streams, 110.0, point(7.0)) == []
    assert pushed(streams, 120.0, point(9.0)) == [(2.0, 110.0)]
    assert values(streams.follow([point(12.0)], 130.0)) == [(3.0, 120.0)]  # the receiver does not take it
    assert pushed(streams, 140.0, point(13.0)) == [(4.0, 120.0)]
    assert pushed(streams, 150.0, point(13.0)) == [(0.0, 140.0)]


def test_increases_of_a_process_that_started_after_the_sidecar_are_all_that_it_counted() -> None:
    streams = Streams(SIDECAR_STARTED, delta=True)
    assert pushed(streams, 130.0, point(7.0, began=120.0)) == [(7.0, 120.0)]
    assert pushed(streams, 140.0, point(2.0, began=135.0)) == [(2.0, 135.0)]


def test_a_counter_goes_on_after_an_outage_of_its_target_and_is_forgotten_after_a_long_one() -> None:
    streams = Streams(SIDECAR_STARTED, delta=True)
    pushed(streams, 110.0, point(7.0))
    pushed(streams, 120.0)
    assert pushed(streams, 130.0, point(9.0)) == [(2.0, 110.0)]
    pushed(streams, 140.0 + FORGET)
    assert pushed(streams, 150.0 + FORGET, point(11.0)) == []


def test_increases_of_histograms_have_their_buckets_and_an_unknown_sum_where_it_fell() -> None:
    streams = Streams(SIDECAR_STARTED, delta=True)
    pushed(streams, 110.0, point(Histogram((1.0,), (1.0, 2.0), 5.0), HISTOGRAM))
    found = pushed(streams, 120.0, point(Histogram((1.0,), (1.0, 4.0), 9.0), HISTOGRAM))
    assert found == [(Histogram((1.0,), (0.0, 2.0), 4.0), 110.0)]
    found = pushed(streams, 130.0, point(Histogram((1.0,), (2.0, 5.0), 8.0), HISTOGRAM))
    assert found == [(Histogram((1.0,), (1.0, 1.0), None), 120.0)]


@pytest.mark.parametrize(
    "after", [Histogram((1.0,), (0.0, 4.0), 9.0), Histogram((2.0,), (1.0, 4.0), 9.0)], ids=["bucket", "bounds"]
)
def test_a_histogram_whose_bucket_fell_or_whose_bounds_changed_is_a_new_one(after: Histogram) -> None:
    streams = Streams(SIDECAR_STARTED, delta=False)
    pushed(streams, 110.0, point(Histogram((1.0,), (1.0, 2.0), 5.0), HISTOGRAM, began=None))
    assert pushed(streams, 120.0, point(after, HISTOGRAM, began=None)) == [(after, 110.0)]


def test_a_series_that_ends_is_marked_until_the_receiver_has_the_mark_and_only_if_it_had_the_series() -> None:
    streams = Streams(SIDECAR_STARTED, delta=False)
    pushed(streams, 110.0, point(7.0), point(3.0, GAUGE))
    streams.follow([point(1.0, labels="never accepted")], 115.0)
    for at in (120.0, 130.0):
        collected = streams.follow([], at)
        assert [sent.point.key.metric.signal for sent in collected.ended] == [COUNTER, GAUGE]
    streams.accepted(collected)
    assert streams.follow([], 140.0).ended == []


def test_increases_that_end_need_no_mark() -> None:
    streams = Streams(SIDECAR_STARTED, delta=True)
    pushed(streams, 110.0, point(7.0, began=105.0), point(3.0, GAUGE))
    assert [sent.point.key.metric.signal for sent in streams.follow([], 120.0).ended] == [GAUGE]
