"""Traps of single dialects and versions, and names of which several stand for one thing."""

from __future__ import annotations

import re

import captured
import pytest
from captured import ENGINE, engine, read
from prometheus_client.parser import text_string_to_metric_families as parse_text

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.series.readings import Group
from vllm_sidecar.serve.metrics import Exporter
from vllm_sidecar.vllm.normalize import Normalizer

pytestmark = pytest.mark.io

V1 = captured.text(captured.BASELINE)
NOT_IN_RUST = r"cache_config_info|sleep_state|mm_cache|admission_rej|kv_fetch|_created|process_|python_|http_re"
LABELS = '{engine="0",model_name="tiny"}'


def as_rust(body: str) -> str:
    """Write a body as the Rust front end does: OpenMetrics, integers, model_name first, sums before buckets."""
    lines = []
    for family in parse_text(captured.without(body, NOT_IN_RUST)):
        lines.append(f"# HELP {family.name} Some text..")
        lines.append(f"# TYPE {family.name} {family.type}")
        samples = family.samples
        for sample in [one for one in samples if "_bucket" not in one.name] + [
            one for one in samples if "_bucket" in one.name
        ]:
            order = sorted(sample.labels, key=lambda name: (name == "le", name != "model_name", name))
            pairs = ",".join(f'{name}="{sample.labels[name]}"' for name in order)
            value = int(sample.value) if sample.value == int(sample.value) else sample.value
            lines.append(f"{sample.name}{{{pairs}}} {value}")
    return "\n".join([*lines, "# EOF"]) + "\n"


def test_a_whole_body_of_the_rust_front_end_reads_as_the_python_one_does() -> None:
    rust, python = read(as_rust(V1)), read(captured.without(V1, NOT_IN_RUST.replace("cache_config_info|", "")))
    assert rust.groups == python.groups
    assert len(rust.groups[ENGINE].counters) > 20
    assert (rust.missing, rust.unknown, rust.started) == ((), (), None)
    assert (rust.dialect.front_end, rust.dialect.engine, rust.dialect.multiprocess) == ("rust", "v1", False)


@pytest.mark.parametrize("prefix", ["ray_vllm:", "ray_vllm_"])
def test_ray_may_leave_total_away_from_every_counter(prefix: str) -> None:
    def shorten(line: str) -> str:
        return re.sub(r"^(vllm:\w+)_total(?=\{)", r"\1", line)

    body = captured.map_samples(captured.without(V1, "_created|^#|^http|^process"), shorten).replace("vllm:", prefix)
    found = read(body)
    assert found.groups[ENGINE].counters == engine(V1).counters
    assert found.sources["prompt_tokens_total"] == (prefix + "prompt_tokens",)
    assert found.missing == ()


def test_a_counter_without_total_is_none_of_vllms_own() -> None:
    assert read(f"vllm:prompt_tokens{LABELS} 5\n").groups == {}


def test_waiting_requests_of_several_ray_workers_stay_apart_by_reason() -> None:
    line = 'ray_vllm_num_requests_waiting%s{WorkerId="%s",model_name="m",engine="0"%s} %s\n'
    by_reason = "".join(line % ("_by_reason", worker, ',reason="capacity"', 2) for worker in "ab")
    body = "".join(line % ("", worker, "", 2) for worker in "ab") + by_reason
    for number in ("0-a", "0-b"):
        assert engine(body, "m", number).gauges == {("requests_waiting", "capacity"): 2.0, "requests_waiting": 2.0}


def test_copies_of_waiting_requests_by_process_are_not_added_up() -> None:
    lines = "".join(f'vllm:num_requests_waiting{{pid="{pid}",engine="0",model_name="m"}} 3\n' for pid in (7, 8))
    swapped = "".join(f'vllm:num_requests_swapped{{pid="{pid}",engine="0",model_name="m"}} 1\n' for pid in (7, 8))
    assert engine(lines + swapped, "m").gauges["requests_waiting"] == 4.0


def test_models_of_one_server_stay_apart() -> None:
    other = captured.map_samples(V1, lambda line: line.replace('model_name="tiny"', 'model_name="big"'))
    second = "\n".join(line for line in captured.vllm_lines(other) if 'model_name="big"' in line) + "\n"
    found = read(V1 + second.replace(" 16.0\n", " 9.0\n"))
    big = Group(Scope.ENGINE, ("big", "0"))
    assert found.groups[big].counters.keys() == found.groups[ENGINE].counters.keys()
    assert found.groups[big].gauges["requests_running"] == 9.0
    assert found.groups[ENGINE] == engine(V1)


def test_copies_of_a_gauge_per_process_give_the_highest_where_there_is_no_better_name() -> None:
    body = "".join(f'vllm:kv_offload_cpu_cache_usage_perc{{model_name="m",pid="{n}"}} 0.{n}\n' for n in (1, 3, 2))
    assert engine(body, "m").gauges == {"kv_offload_cpu_cache_usage_ratio": 0.3}


@pytest.mark.parametrize(
    ("old", "new", "signal"),
    [
        ("request_queue_time_seconds", "time_in_queue_requests", "request_queue_seconds"),
        ("inter_token_latency_seconds", "time_per_output_token_seconds", "inter_token_latency_seconds"),
    ],
)
def test_a_histogram_is_found_under_its_older_name(old: str, new: str, signal: str) -> None:
    renamed = re.sub(rf"(?<=vllm:){old}", new, V1)
    assert engine(renamed).histograms[signal] == engine(V1).histograms[signal]
    assert read(renamed).sources[signal] == (f"vllm:{new}",)


def test_of_two_names_of_one_histogram_the_newer_counts() -> None:
    line = 'vllm:time_in_queue_requests_bucket{engine="0",model_name="tiny",le="%s"} 9\n'
    assert engine(V1 + line % 1 + line % "+Inf") == engine(V1)


def test_offloading_is_read_from_its_older_names_by_direction_where_there_is_no_newer_one() -> None:
    line = 'vllm:kv_offload_total_%s_total{engine="0",model_name="tiny",transfer_type="%s"} %s\n'
    numbers = {
        ("bytes", "CPU_to_GPU"): 5,
        ("bytes", "GPU_to_CPU"): 7,
        ("time", "CPU_to_GPU"): 0.5,
        ("time", "GPU_to_CPU"): 0.7,
    }
    old = "".join(line % (*what, number) for what, number in numbers.items())
    assert engine(old).counters == {
        "kv_offload_loaded_bytes_total": 5.0,
        "kv_offload_stored_bytes_total": 7.0,
        "kv_offload_load_seconds_total": 0.5,
        "kv_offload_store_seconds_total": 0.7,
    }
    assert read(old).sources["kv_offload_loaded_bytes_total"] == ("vllm:kv_offload_total_bytes_total",)
    both = old + f"vllm:kv_offload_load_bytes_total{LABELS} 6\n"
    assert engine(both).counters["kv_offload_loaded_bytes_total"] == 6.0


def times(edge: str, labels: str) -> str:
    lines = (
        f'vllm:request_{name}_time_seconds_bucket{{{labels}le="{le}"}} {count if le == "+Inf" else 0}\n'
        for name, count in (("prefill", 1), ("decode", 2))
        for le in ("1.0", "+Inf")
    )
    return f'vllm:iteration_tokens_total_bucket{{{labels}le="{edge}"}} 1\n' + "".join(lines)


def test_times_that_are_swapped_back_name_the_metric_that_they_come_from() -> None:
    sources = read(times("8096.0", 'model_name="m",')).sources
    assert sources["request_prefill_seconds"] == ("vllm:request_decode_time_seconds",)
    assert sources["request_decode_seconds"] == ("vllm:request_prefill_time_seconds",)


def test_a_bound_of_8096_among_the_custom_buckets_of_v1_swaps_nothing() -> None:
    found = engine(times("8096.0", 'engine="0",model_name="m",'), "m")
    assert found.histograms["request_prefill_seconds"].cumulative == (0.0, 1.0)


def test_block_counts_are_missing_where_nobody_tells_the_size_of_a_block() -> None:
    body = (
        'vllm:cache_config_info{block_size="16",cache_dtype="auto"} 1\n'
        'vllm:gpu_prefix_cache_hits_total{engine="0",model_name="m"} 2\nvllm:num_requests_running{model_name="m"} 1\n'
    )
    assert engine(body, "m").counters == {"prefix_cache_hit_tokens_total": 32.0}
    unknown = body.replace("16", "None")
    assert engine(unknown, "m").counters == {}
    assert "prefix_cache_hit_tokens_total" in read(unknown).missing


def test_a_sidecar_pointed_at_a_sidecar_sees_no_vllm() -> None:
    found = read(Exporter(60.0).render(openmetrics=False).decode() + "vllm_sidecar_requests_running 5\n")
    assert found.dialect.prefix == ""
    assert found.unknown == ()
    assert not any(group.scope is Scope.ENGINE for group in found.groups)


@pytest.mark.parametrize(
    "line",
    [
        "# TYPE vllm:new_seconds histogram",
        'vllm:new_seconds_bucket{le="+Inf"} 1',
        "vllm:new_seconds_created 1",
        "# TYPE vllm:new_seconds counter\nvllm:new_seconds_total 1",
        "# TYPE vllm:new_seconds summary\nvllm:new_seconds_sum 1\nvllm:new_seconds_count 1",
    ],
    ids=["histogram without samples", "bucket", "creation time", "OpenMetrics counter", "summary"],
)
def test_a_new_family_is_listed_once_by_its_own_name(line: str) -> None:
    assert read(f"vllm:num_requests_running 1\n{line}\n").unknown == ("vllm:new_seconds",)


@pytest.mark.parametrize("name", ["nixl_bytes_transferred_sum", "tokens_total", "kv_offload_size", "diffusion_x_total"])
def test_a_family_that_is_known_and_not_used_is_not_listed(name: str) -> None:
    assert read(f"vllm:num_requests_running 1\nvllm:{name} 1\n").unknown == ()


def test_a_histogram_that_did_not_change_is_the_same_object_as_at_the_poll_before() -> None:
    parser, normalizer = DifferentialParser(), Normalizer()
    first = normalizer.normalize(parser.parse(V1.encode())).groups[ENGINE].histograms
    moved = V1.replace("vllm:request_params_n_sum" + LABELS + " ", "vllm:request_params_n_sum" + LABELS + " 1")
    second = normalizer.normalize(parser.parse(moved.encode())).groups[ENGINE].histograms
    assert {name for name in first if first[name] is not second[name]} == {"request_params_n"}
