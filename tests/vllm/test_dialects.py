"""Every way in which a vLLM server may speak gives the same values; told by what is there, never by a version."""

from __future__ import annotations

import re

import pytest
from places import CAPTURES

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.series.readings import Group, Reading, Readings
from vllm_sidecar.vllm.normalize import Normalizer

V1 = (CAPTURES / "0.32.0__baseline__load.prom").read_text()
ENGINE = Group(Scope.ENGINE, ("tiny", "0"))


def read(body: str) -> Readings:
    """Read one body."""
    return Normalizer().normalize(DifferentialParser().parse(body.encode()))


def engine(body: str, number: str = "0") -> Reading:
    """Read one engine of the model tiny out of a body."""
    return read(body).groups[Group(Scope.ENGINE, ("tiny", number))]


def as_ray(body: str, prefix: str) -> str:
    """Write a body as Ray's agent does: its labels, and counters twice, with and without `_total`."""
    lines = []
    for line in body.splitlines():
        if line.startswith("#") or "vllm:" not in line or "_created" in line:
            continue
        name, rest = re.fullmatch(r"vllm:(\w+)(.*)", line).groups()  # type: ignore[union-attr]
        labelled = rest.replace("{", '{ReplicaId="r1",WorkerId="w1",', 1)
        lines.append(f"{prefix}{name}{labelled}")
        if name.endswith("_total"):
            lines.append(f"{prefix}{name.removesuffix('_total')}{labelled}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "body",
    [
        V1.replace("vllm:", "vllm_"),
        V1.replace("vllm:", "kserve_vllm:"),
        V1.replace("vllm:", "kserve_vllm_"),
        as_ray(V1, "ray_vllm:"),
        as_ray(V1, "ray_vllm_"),
        re.sub(r'\{engine="0",model_name="tiny"', '{model_name="tiny",engine="0"', V1),
        re.sub(r'\{engine="0"', '{unheard_of="x",engine="0"', V1),
    ],
    ids=["vllm_", "kserve_vllm:", "kserve_vllm_", "ray_vllm:", "ray_vllm_", "labels in another order", "a new label"],
)
def test_a_dialect_reads_as_vllms_own(body: str) -> None:
    assert engine(body) == engine(V1)
    assert read(body).missing == ()


def test_two_workers_behind_one_ray_agent_are_two_engines() -> None:
    one = as_ray(V1, "ray_vllm_")
    other = one.replace("w1", "w2").replace("0.0019533634476864847", "0.5")
    assert engine(one + other, "0-w1") == engine(one)
    assert engine(one + other, "0-w2") == engine(other)
    assert engine(one + other, "0-w2").gauges["kv_cache_usage_ratio"] == 0.5


def test_the_rust_front_end_is_read_and_named() -> None:
    body = (
        "# TYPE vllm:prompt_tokens counter\n"
        'vllm:prompt_tokens_total{model_name="tiny",engine="0"} 12\n'
        "# TYPE vllm:num_requests_running gauge\n"
        'vllm:num_requests_running{model_name="tiny",engine="0"} 3\n'
        "# TYPE vllm:time_to_first_token_seconds histogram\n"
        'vllm:time_to_first_token_seconds_sum{model_name="tiny",engine="0"} 0.5\n'
        'vllm:time_to_first_token_seconds_count{model_name="tiny",engine="0"} 2\n'
        'vllm:time_to_first_token_seconds_bucket{model_name="tiny",engine="0",le="0.25"} 1\n'
        'vllm:time_to_first_token_seconds_bucket{model_name="tiny",engine="0",le="+Inf"} 2\n'
        "# EOF\n"
    )
    found = engine(body)
    assert found.counters == {"prompt_tokens_total": 12.0}
    assert found.gauges == {"requests_running": 3.0}
    assert found.histograms["time_to_first_token_seconds"] == ((0.25,), (1.0, 2.0), 0.5)
    assert read(body).dialect.front_end == "rust"


def test_types_without_samples_are_a_vllm_that_has_not_served_yet() -> None:
    assert read("# TYPE vllm:prompt_tokens counter\n# EOF\n").dialect.prefix == "vllm:"


def test_a_stale_copy_of_a_gauge_per_api_server_does_not_win_over_the_older_name_without_copies() -> None:
    copies = 'vllm:kv_cache_usage_perc{engine="0",model_name="tiny",pid="%d"} %s\n'
    old = 'vllm:gpu_cache_usage_perc{engine="0",model_name="tiny"} 0.2\n'
    stale = copies % (7, "0.9") + copies % (8, "0.2")
    assert engine(stale + old).gauges["kv_cache_usage_ratio"] == 0.2
    assert engine(stale).gauges["kv_cache_usage_ratio"] == 0.9


def test_two_names_of_one_thing_are_never_added_up() -> None:
    both = "".join(
        f'vllm:{name}{{engine="0",model_name="tiny"}} 7.0\n'
        for name in ("prefix_cache_queries_total", "gpu_prefix_cache_queries_total", "gpu_cache_usage_perc")
    )
    body = 'vllm:cache_config_info{engine="0",block_size="16"} 1.0\n' + both
    assert engine(body).counters == {"prefix_cache_queried_tokens_total": 7.0}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('{block_size="16"}', {"prefix_cache_queried_tokens_total": 160.0}),
        ('{engine="0",block_size="16"}', {"prefix_cache_queried_tokens_total": 10.0}),
        ('{block_size="None"}', {}),
    ],
    ids=["blocks before 0.9.0", "tokens after", "blocks of an unknown size are left out"],
)
def test_the_prefix_cache_counts_tokens_whatever_the_version(config: str, expected: dict[str, float]) -> None:
    body = (
        f"vllm:cache_config_info{config} 1.0\n"
        'vllm:gpu_prefix_cache_queries_total{engine="0",model_name="tiny"} 10.0\n'
        'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0\n'
    )
    assert engine(body).counters == expected


def test_v0_says_minus_one_for_a_cache_that_is_off() -> None:
    body = 'vllm:gpu_prefix_cache_hit_rate{model_name="tiny"} -1.0\nvllm:num_requests_running{model_name="tiny"} 1.0\n'
    found = read(body)
    assert found.groups[ENGINE].gauges == {"requests_running": 1.0}
    assert found.anomalies == {"negative": 1}
    assert found.dialect.engine == "v0"


def test_v0_spec_decode_counters_overcount_and_are_left_to_its_gauges() -> None:
    body = (
        'vllm:spec_decode_draft_acceptance_rate{model_name="tiny"} 0.5\n'
        'vllm:spec_decode_efficiency{model_name="tiny"} 0.4\n'
        'vllm:spec_decode_num_accepted_tokens_total{model_name="tiny"} 99999.0\n'
        'vllm:spec_decode_num_draft_tokens_total{model_name="tiny"} 99999.0\n'
        'vllm:spec_decode_num_emitted_tokens_total{model_name="tiny"} 99999.0\n'
    )
    found = read(body)
    assert found.groups[ENGINE].counters == {}
    assert found.groups[ENGINE].gauges == {
        "spec_decode_lifetime_acceptance_ratio": 0.5,
        "spec_decode_lifetime_efficiency_ratio": 0.4,
    }
    assert found.unknown == ()


def test_v0_waiting_includes_the_swapped_requests() -> None:
    body = 'vllm:num_requests_waiting{model_name="tiny"} 3.0\nvllm:num_requests_swapped{model_name="tiny"} 2.0\n'
    assert engine(body).gauges == {
        ("requests_waiting", "unspecified"): 3.0,
        ("requests_waiting", "swapped"): 2.0,
        "requests_waiting": 5.0,
    }


def test_prefill_and_decode_are_swapped_back_for_0_6_4_only() -> None:
    def body(edge: str) -> str:
        times = "".join(
            f'vllm:request_{name}_time_seconds_bucket{{model_name="tiny",le="+Inf"}} {count}\n'
            f'vllm:request_{name}_time_seconds_bucket{{model_name="tiny",le="1.0"}} 0.0\n'
            for name, count in (("prefill", 1.0), ("decode", 2.0))
        )
        return f'vllm:iteration_tokens_total_bucket{{model_name="tiny",le="{edge}"}} 1.0\n{times}'

    for edge, prefill in (("8096.0", 2.0), ("8192.0", 1.0)):
        assert engine(body(edge)).histograms["request_prefill_seconds"].cumulative[-1] == prefill
        assert engine(body(edge)).histograms["request_decode_seconds"].cumulative[-1] == 3.0 - prefill


def test_engines_of_a_data_parallel_server_stay_apart() -> None:
    second = "\n".join(line for line in V1.splitlines() if 'engine="0"' in line).replace('engine="0"', 'engine="1"')
    body = V1 + second.replace(" 16.0", " 5.0") + "\n"
    assert engine(body, "0").gauges["requests_running"] == 16.0
    assert engine(body, "1").gauges["requests_running"] == 5.0


def test_custom_buckets_are_taken_as_they_come() -> None:
    body = "".join(
        f'vllm:request_queue_time_seconds_bucket{{engine="0",model_name="tiny",le="{edge}"}} {count}\n'
        for edge, count in (("+Inf", 5), ("0.01", 2), ("1", 4))
    )
    assert engine(body).histograms["request_queue_seconds"] == ((0.01, 1.0), (2.0, 4.0, 5.0), None)


def test_the_newest_lora_info_counts_and_stale_ones_do_not() -> None:
    line = 'vllm:lora_requests_info{max_lora="2",running_lora_adapters="%s",waiting_lora_adapters="%s"} %s\n'
    body = line % ("old", "", "1.7e9") + line % ("b,a", "c", "1.8e9") + line % ("older", "", "1.6e9")
    assert read(body).adapters == (("a", "b"), ("c",), 2)


def test_a_family_of_a_newer_vllm_is_listed() -> None:
    body = V1 + '# TYPE vllm:brand_new_total counter\nvllm:brand_new_total{engine="0",model_name="tiny"} 1.0\n'
    assert read(body).unknown == ("vllm:brand_new_total",)


@pytest.mark.parametrize(
    "counts",
    [("3", "2", "5"), ("NaN", "2", "5"), ("1", "2", "NaN"), ("-1", "2", "5")],
    ids=["falling", "NaN", "NaN count", "negative"],
)
def test_a_histogram_that_cannot_be_is_left_out_and_counted(counts: tuple[str, ...]) -> None:
    line = 'vllm:request_queue_time_seconds_bucket{engine="0",model_name="tiny",le="%s"} %s\n'
    body = "".join(line % pair for pair in zip(("0.3", "1.0", "+Inf"), counts, strict=True))
    found = read(body)
    assert found.groups[ENGINE].histograms == {}
    assert found.anomalies == {"bad_histogram": 1}


def test_a_sum_that_falls_while_its_count_does_not_is_counted_and_the_histogram_stays() -> None:
    """Streaming-input sessions observe negative queue times (vllm#56238)."""

    def body(count: int, total: float) -> bytes:
        name = "vllm:request_queue_time_seconds"
        return (
            f'{name}_bucket{{engine="0",model_name="tiny",le="0.3"}} {count}\n'
            f'{name}_bucket{{engine="0",model_name="tiny",le="+Inf"}} {count}\n'
            f'{name}_sum{{engine="0",model_name="tiny"}} {total}\n'
        ).encode()

    parser, normalizer = DifferentialParser(), Normalizer()
    polls = [normalizer.normalize(parser.parse(body(*values))) for values in ((5, 2.0), (6, 1.5), (6, 1.5), (1, 0.1))]
    assert [dict(poll.anomalies) for poll in polls] == [{}, {"sum_fell": 1}, {}, {}]
    assert polls[1].groups[ENGINE].histograms["request_queue_seconds"].total == 1.5
