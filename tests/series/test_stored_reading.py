"""A stored reading has the values of the reading that it was made of, whole or compressed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from readings import BOUNDS

from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.readings import Key, Reading
from vllm_sidecar.series.stored_reading import StoredReading

KEYS: st.SearchStrategy[Key] = st.sampled_from(["a_total", "b", ("c_total", "stop"), ("c_total", "")])
NUMBERS = st.floats(0.0, 2.0**63)
HISTOGRAMS = st.builds(
    lambda counts, total, bounds: Histogram(bounds, tuple(sorted(counts)), total),
    st.lists(NUMBERS, min_size=4, max_size=4),
    st.none() | NUMBERS,
    st.sampled_from([BOUNDS, (1.0, 2.0, 3.0)]),
)
READINGS = st.builds(
    Reading,
    st.dictionaries(KEYS, NUMBERS),
    st.dictionaries(KEYS, NUMBERS),
    st.dictionaries(st.sampled_from(["x", "y"]), HISTOGRAMS),
)


@given(readings=st.lists(READINGS, min_size=1, max_size=5))
def test_every_value_of_each_of_several_polls_is_read_as_it_was(readings: list[Reading]) -> None:
    stored: StoredReading | None = None
    for reading in readings:
        stored = stored.followed_by(reading) if stored else StoredReading.of(reading)
        for form in (stored, stored.compressed()):
            assert form.reading() == reading
            assert {key: form.counter(key) for key in reading.counters} == reading.counters
            assert {key: form.gauge(key) for key in reading.gauges} == reading.gauges
            assert {name: form.histogram(name) for name in reading.histograms} == reading.histograms
            assert (form.counter("missing"), form.gauge("missing"), form.histogram("missing")) == (None, None, None)


@given(reading=READINGS)
def test_a_poll_without_a_change_is_stored_as_the_one_before(reading: Reading) -> None:
    before = StoredReading.of(reading)
    assert before.followed_by(reading._replace(counters=dict(reading.counters))) is before
