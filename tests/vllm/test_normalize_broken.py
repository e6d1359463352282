"""Values that cannot be true and bodies that make no sense: they are left out and counted, and the rest stays."""

from __future__ import annotations

from math import inf, isfinite

import captured
import pytest
from captured import ENGINE, engine, read
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.vllm.normalize import Normalizer

LABELS = '{engine="0",model_name="tiny"}'
BUCKET = 'vllm:request_queue_time_seconds_bucket{engine="0",model_name="tiny",le="%s"} %s\n'
LINES = captured.text(captured.BASELINE).splitlines()


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_a_value_that_is_not_finite_is_unknown_not_zero(value: str) -> None:
    body = f"vllm:num_requests_running{LABELS} {value}\nvllm:prompt_tokens_total{LABELS} {value}\n"
    body += f"vllm:num_requests_waiting{LABELS} {value}\nvllm:generation_tokens_total{LABELS} 3\n"
    found = read(body)
    assert found.groups[ENGINE] == ({"generation_tokens_total": 3.0}, {}, {})
    assert found.anomalies == {"not_finite": 3}


def test_all_waiting_is_unknown_when_a_part_of_it_is() -> None:
    line = 'vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="%s"} %s\n'
    body = f"vllm:num_requests_waiting{LABELS} 5\n" + line % ("capacity", 3) + line % ("deferred", "NaN")
    assert engine(body).gauges == {("requests_waiting", "capacity"): 3.0}


def test_negative_counters_and_gauges_are_dropped_and_counted() -> None:
    found = read(f"vllm:num_requests_running{LABELS} -1\nvllm:prompt_tokens_total{LABELS} -5\n")
    assert found.groups[ENGINE] == ({}, {}, {})
    assert found.anomalies == {"negative": 2}


def test_what_is_more_than_64_bits_can_count_is_impossible() -> None:
    body = f"vllm:num_requests_running{LABELS} 1.7e308\nvllm:prompt_tokens_total{LABELS} 1e300\n"
    body += f"vllm:num_requests_waiting{LABELS} 2\nvllm:generation_tokens_total{LABELS} 9e18\n"
    found = read(body)
    assert found.groups[ENGINE].counters == {"generation_tokens_total": 9e18}
    assert "requests_running" not in found.groups[ENGINE].gauges
    assert found.anomalies == {"impossible": 2}
    whole = BUCKET % ("0.3", "1e300") + BUCKET % ("+Inf", "1e300")
    assert read(whole).anomalies == {"bad_histogram": 1}
    summed = BUCKET % ("0.3", "1") + BUCKET % ("+Inf", "2")
    found = read(summed + 'vllm:request_queue_time_seconds_sum{engine="0",model_name="tiny"} 1e300\n')
    assert found.groups[ENGINE].histograms["request_queue_seconds"].total is None
    assert found.anomalies == {"impossible": 1}


@pytest.mark.parametrize(
    ("count", "anomaly"),
    [("NaN", "not_finite"), ("+Inf", "not_finite"), ("-Inf", "not_finite"), ("-1", "negative"), ("-1.7e308",
     "negative"), ("1e300", "impossible"), ("7", "bad_histogram")],
)  # fmt: skip
def test_a_count_that_contradicts_its_buckets_is_counted_and_the_buckets_are_used(count: str, anomaly: str) -> None:
    body = BUCKET % (1, 2) + BUCKET % ("+Inf", 3) + f"vllm:request_queue_time_seconds_sum{LABELS} 4\n"
    found = read(body + f"vllm:request_queue_time_seconds_count{LABELS} {count}\n")
    assert found.groups[ENGINE].histograms["request_queue_seconds"] == Histogram((1.0,), (2.0, 3.0), 4.0)
    assert found.anomalies == {anomaly: 1}
    assert read(body + f"vllm:request_queue_time_seconds_count{LABELS} 3\n").anomalies == {}


def test_a_bucket_whose_bound_is_no_number_is_counted_and_the_others_are_used() -> None:
    found = read(BUCKET % (1, 2) + BUCKET % ("fast", 2) + BUCKET % ("+Inf", 3))
    assert found.groups[ENGINE].histograms["request_queue_seconds"] == Histogram((1.0,), (2.0, 3.0), None)
    assert found.anomalies == {"bad_histogram": 1}


@pytest.mark.parametrize("value", ["NaN", "-5", "1e300", "12"])
def test_a_creation_time_that_cannot_be_true_is_counted(value: str) -> None:
    found = read(f"vllm:prompt_tokens_total{LABELS} 3\nvllm:prompt_tokens_created{LABELS} {value}\n")
    assert found.created == {}
    assert sum(found.anomalies.values()) == 1


def test_a_sum_that_is_not_finite_leaves_the_buckets() -> None:
    body = BUCKET % (1, 2) + BUCKET % ("+Inf", 3) + f"vllm:request_queue_time_seconds_sum{LABELS} NaN\n"
    found = read(body)
    assert found.groups[ENGINE].histograms == {"request_queue_seconds": Histogram((1.0,), (2.0, 3.0), None)}
    assert found.anomalies == {"not_finite": 1}


@pytest.mark.parametrize("count", ["5e-324", "0.5", "2.0000000001"])
def test_a_bucket_with_a_part_of_an_observation_is_dropped_with_its_histogram(count: str) -> None:
    found = read(BUCKET % (1, count) + BUCKET % ("+Inf", 3))
    assert found.groups[ENGINE].histograms == {}
    assert found.anomalies == {"bad_histogram": 1}


@pytest.mark.parametrize(
    "edges",
    [("0.5", "1.0"), ("+Inf",), ("x", "+Inf"), ("NaN", "+Inf")],
    ids=["no +Inf", "+Inf only", "no number", "NaN"],
)
def test_a_histogram_without_its_bounds_is_dropped_and_counted(edges: tuple[str, ...]) -> None:
    found = read("".join(BUCKET % (edge, 1) for edge in edges) + f"vllm:num_requests_running{LABELS} 1\n")
    assert found.groups[ENGINE].histograms == {}
    assert found.anomalies == {"bad_histogram": 1}


def test_copies_with_other_bounds_than_the_first_are_left_out_and_counted() -> None:
    body = (BUCKET % (1, 2) + BUCKET % ("+Inf", 3)).replace("{", '{pid="a",')
    found = read(body + body.replace('"a"', '"b"') + body.replace('"a"', '"c"').replace('le="1"', 'le="2"'))
    assert found.groups[ENGINE].histograms["request_queue_seconds"] == Histogram((1.0,), (4.0, 6.0), None)
    assert found.anomalies == {"bad_histogram": 1}


def test_the_newest_of_ten_thousand_stale_adapters_is_the_one_that_runs() -> None:
    line = 'vllm:lora_requests_info{max_lora="8",running_lora_adapters="a%d",waiting_lora_adapters=""} %d\n'
    adapters = read("".join(line % (n, 1_700_000_000 + n * 7919 % 10_000) for n in range(10_000))).adapters
    assert adapters
    (name,) = adapters.running
    assert int(name[1:]) * 7919 % 10_000 == 9_999


def test_ten_thousand_adapters_at_once_are_all_read() -> None:
    names = [f"adapter-{n:05}" for n in range(10_000)]
    line = 'vllm:lora_requests_info{max_lora="x",running_lora_adapters="%s",waiting_lora_adapters=""} 1\n'
    assert read(line % ",".join(names)).adapters == (tuple(names), (), None)


def test_adapters_whose_time_is_unknown_do_not_count() -> None:
    line = 'vllm:lora_requests_info{max_lora="1",running_lora_adapters="%s",waiting_lora_adapters=""} %s\n'
    adapters = read(line % ("a", "NaN") + line % ("b", "1") + line % ("c", "+Inf")).adapters
    assert adapters
    assert adapters.running == ("b",)
    assert read(line % ("a", "NaN")).adapters is None


ODD_VALUES = st.sampled_from(["NaN", "+Inf", "-Inf", "-1", "0", "1e308", "5", "99999999"])


def changes(*kinds: str) -> st.SearchStrategy[list[tuple[int, str, str]]]:
    return st.lists(
        st.tuples(st.integers(0, len(LINES) - 1), st.sampled_from(["value", *kinds]), ODD_VALUES), max_size=40
    )


def changed(places: list[tuple[int, str, str]]) -> bytes:
    """Put odd values in, drop lines, and give lines a twin with another label."""
    lines = list(LINES)
    for place, kind, value in places:
        line = lines[place]
        if kind == "value" and line and not line.startswith("#"):
            lines[place] = line.rpartition(" ")[0] + " " + value
        elif kind == "drop":
            lines[place] = ""
        elif kind == "twin" and line and not line.startswith("#"):
            lines.append(captured.add_label(line, f'twin="{len(lines)}"'))
    return ("\n".join(lines) + "\n").encode()


@given(changes("value", "drop", "twin"))
def test_whatever_a_body_says_a_reading_holds_only_what_can_be_true(places: list[tuple[int, str, str]]) -> None:
    found = Normalizer().normalize(DifferentialParser().parse(changed(places)))
    for reading in found.groups.values():
        assert all(0.0 <= value < inf for part in reading[:2] for value in part.values())
        for histogram in reading.histograms.values():
            assert list(histogram.cumulative) == sorted(histogram.cumulative)
            assert 0.0 <= histogram.cumulative[0] <= histogram.cumulative[-1] < inf
            assert histogram.total is None or isfinite(histogram.total)
            assert len(histogram.cumulative) == len(histogram.bounds) + 1


@given(st.lists(changes("value", "drop"), min_size=2, max_size=3))
def test_a_normalizer_that_remembers_reads_each_body_as_a_new_one_does(polls: list[list[tuple[int, str, str]]]) -> None:
    parser, normalizer = DifferentialParser(), Normalizer()
    for poll in (*polls, polls[0], []):
        exposition = parser.parse(changed(poll))
        ours, fresh = normalizer.normalize(exposition), Normalizer().normalize(exposition)
        for part in ("groups", "dialect", "started", "created", "adapters", "sources", "missing", "unknown"):
            assert getattr(ours, part) == getattr(fresh, part), part
