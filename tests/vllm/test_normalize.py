"""Every recorded server, normalised: each value is the server's own to the last digit, and nothing is invented."""

from __future__ import annotations

from collections import defaultdict
from math import inf

import captured
import pytest
from captured import ENGINE
from prometheus_client.parser import text_string_to_metric_families as parse_text
from rows import for_each

from vllm_sidecar.catalog import HTTP_REQUESTS, OPEN_FDS, UPSTREAM
from vllm_sidecar.catalog.types import Kind, Scope, Upstream
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.readings import Group, Key

CLEAN = [name for name in captured.TEXT_NAMES if "after-slash" not in name]
CHECKLIST = tuple(entry.signal.name for entry in UPSTREAM if entry.checklist)
V0_HAS_NO_COUNTERS_FOR = ("prefix_cache_queried_tokens_total", "prefix_cache_hit_tokens_total")
GAUGES_COME_WITH_THE_FIRST_REQUEST = ("requests_running", "requests_waiting", "kv_cache_usage_ratio")
MISSING = {
    "0.9.2__v0__idle.prom": CHECKLIST,
    "0.9.2__v0__load.prom": V0_HAS_NO_COUNTERS_FOR,
    "0.9.2__v0__after.prom": V0_HAS_NO_COUNTERS_FOR,
    "0.32.0__asc2__idle.prom": GAUGES_COME_WITH_THE_FIRST_REQUEST,
    "0.32.0__nologstats__idle.prom": CHECKLIST,
}
"""What a recorded server does not give of the checklist; all others give all of it."""


def samples(name: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Samples of a capture by name, as prometheus_client reads them."""
    found = defaultdict(list)
    for family in parse_text(captured.text(name)):
        for sample in family.samples:
            found[sample.name].append((sample.labels, sample.value))
    return found


def group_of(entry: Upstream, labels: dict[str, str]) -> Group:
    values = {"model_name": labels.get("model_name", ""), "engine": labels.get("engine", "0")}
    return Group(entry.signal.scope, tuple(values[label] for label in entry.signal.scope.labels))


def expected_scalars(name: str, kind: Kind) -> dict[tuple[Group, Key], float]:
    """Counters or gauges of a capture, found by their newest name that is there, without the code under test."""
    found = samples(name)
    result = {}
    for entry in (*UPSTREAM, HTTP_REQUESTS, OPEN_FDS):
        names = [("" if entry in (HTTP_REQUESTS, OPEN_FDS) else "vllm:") + alias for alias in entry.aliases]
        source = next((one for one in names if one in found), None)
        if entry.signal.kind is not kind or source is None or entry.signal.name == "requests_waiting":
            continue
        for labels, value in found[source]:
            key = (entry.signal.name, *(labels[label] for label in entry.signal.labels))
            result[group_of(entry, labels), key if len(key) > 1 else entry.signal.name] = value
    return result


def test_every_capture_is_named_by_version_variant_and_state() -> None:
    assert captured.TEXT_NAMES
    assert all(len(name.removesuffix(".prom").split("__")) == 3 for name in captured.TEXT_NAMES)


@for_each("name", CLEAN)
def test_counters_equal_the_servers_own_to_the_last_digit(name: str) -> None:
    groups = captured.read(captured.text(name)).groups
    ours = {(group, key): value for group, reading in groups.items() for key, value in reading.counters.items()}
    assert ours == expected_scalars(name, Kind.COUNTER)


@for_each("name", CLEAN)
def test_gauges_equal_the_servers_own_to_the_last_digit(name: str) -> None:
    groups = captured.read(captured.text(name)).groups
    ours = {
        (group, key): value
        for group, reading in groups.items()
        for key, value in reading.gauges.items()
        if "requests_waiting" not in (key, key[0])
    }
    assert ours == expected_scalars(name, Kind.GAUGE)


@for_each("name", CLEAN)
def test_waiting_requests_are_split_by_reason_and_add_up_to_the_servers_total(name: str) -> None:
    found = samples(name)
    for labels, total in found["vllm:num_requests_waiting"]:
        group = Group(Scope.ENGINE, (labels["model_name"], labels.get("engine", "0")))
        gauges = captured.read(captured.text(name)).groups[group].gauges
        split = {key[1]: value for key, value in gauges.items() if key[0] == "requests_waiting"}
        assert set(split) == ({"capacity", "deferred"} if name.startswith("0.32") else {"unspecified"})
        assert gauges["requests_waiting"] == sum(split.values()) == total


@for_each("name", CLEAN)
def test_histograms_equal_the_servers_own_to_the_last_digit(name: str) -> None:
    found = samples(name)
    groups = captured.read(captured.text(name)).groups
    ours = {(group, key): value for group, reading in groups.items() for key, value in reading.histograms.items()}
    theirs = {}
    for entry in UPSTREAM:
        source = next((f"vllm:{alias}" for alias in entry.aliases if f"vllm:{alias}_bucket" in found), None)
        if entry.signal.kind is not Kind.HISTOGRAM or source is None:
            continue
        buckets = sorted((float(labels["le"]), value) for labels, value in found[f"{source}_bucket"])
        ((labels, total),) = found[f"{source}_sum"]
        bounds = tuple(edge for edge, _ in buckets if edge < inf)
        theirs[group_of(entry, labels), entry.signal.name] = Histogram(bounds, tuple(n for _, n in buckets), total)
        assert found[f"{source}_count"][0][1] == buckets[-1][1]
    assert ours == theirs


@for_each("name", CLEAN)
def test_what_a_server_does_not_give_is_named_and_nothing_else(name: str) -> None:
    assert captured.read(captured.text(name)).missing == MISSING.get(name, ())


@for_each("name", captured.NAMES)
def test_no_recorded_server_has_a_family_that_the_catalog_does_not_know(name: str) -> None:
    assert captured.read(captured.text(name)).unknown == ()


@for_each("name", captured.NAMES)
def test_no_recorded_value_is_dropped(name: str) -> None:
    assert captured.read(captured.text(name)).anomalies == {}


@for_each("name", captured.NAMES)
def test_each_source_is_a_name_of_the_body_and_belongs_to_a_signal_that_is_read(name: str) -> None:
    body = captured.text(name)
    found = captured.read(body)
    given = {
        key if isinstance(key, str) else key[0] for reading in found.groups.values() for part in reading for key in part
    }
    assert set(found.sources) == given
    for source in (name for names in found.sources.values() for name in names):
        assert any(line.startswith((source + "{", source + " ", source + "_bucket{")) for line in body.splitlines())


def total(name: str, signal: str) -> float:
    """A counter summed over its labels."""
    counters = captured.engine(captured.text(name)).counters
    return sum(value for key, value in counters.items() if signal in (key, key[0]))


def count(name: str, signal: str) -> float:
    return captured.engine(captured.text(name)).histograms[signal].cumulative[-1]


@for_each("name", captured.LOADED)
def test_the_three_aborted_requests_had_a_first_token_and_no_end(name: str) -> None:
    assert count(name, "time_to_first_token_seconds") == total(name, "requests_finished_total") + 3


@for_each("name", captured.LOADED)
def test_what_is_observed_at_the_end_of_a_request_is_observed_once_for_each(name: str) -> None:
    finished = total(name, "requests_finished_total")
    for signal in ("request_seconds", "request_queue_seconds", "request_prefill_seconds", "request_generation_tokens"):
        assert count(name, signal) == finished


@for_each("name", captured.LOADED)
def test_a_request_for_two_sequences_counts_its_parameters_once_in_v1(name: str) -> None:
    requests, sequences = count(name, "request_params_n"), total(name, "requests_finished_total")
    assert requests == count(name, "request_max_generation_tokens")
    assert requests == sequences if "__v0__" in name else requests < sequences


@for_each("name", captured.LOADED)
def test_tokens_of_aborted_requests_are_generated_and_belong_to_no_finished_one(name: str) -> None:
    finished = captured.engine(captured.text(name)).histograms["request_generation_tokens"].total
    assert finished is not None
    assert 12 <= total(name, "generation_tokens_total") - finished <= 423


@for_each("name", [name for name in captured.LOADED if name.startswith("0.32")])
def test_prompt_tokens_by_source_add_up_to_the_prompt_tokens(name: str) -> None:
    assert total(name, "prompt_tokens_by_source_total") == total(name, "prompt_tokens_total") > 0


@for_each(
    ("name", "signal", "source"),
    [
        ("0.9.2__v0__load.prom", "kv_cache_usage_ratio", "vllm:gpu_cache_usage_perc"),
        ("0.9.2__v1__load.prom", "kv_cache_usage_ratio", "vllm:kv_cache_usage_perc"),
        ("0.9.2__v1__load.prom", "prefix_cache_hit_tokens_total", "vllm:prefix_cache_hits_total"),
        ("0.9.2__v1__load.prom", "inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
        ("0.12.0__v1-hidden__idle.prom", "inter_token_latency_seconds", "vllm:inter_token_latency_seconds"),
        ("0.12.0__v1__load.prom", "time_per_output_token_seconds", "vllm:request_time_per_output_token_seconds"),
        ("0.32.0__baseline__load.prom", "http_requests_total", "http_requests_total"),
        ("0.32.0__baseline__idle-slash.openmetrics", "prompt_tokens_total", "vllm_prompt_tokens_total"),
    ],
)
def test_the_name_that_a_signal_is_read_from_is_told(name: str, signal: str, source: str) -> None:
    assert captured.read(captured.text(name)).sources[signal] == (source,)


def test_the_renamed_samples_of_an_openmetrics_body_read_as_the_text_does() -> None:
    text = captured.read(captured.text("0.32.0__baseline__idle.prom"))
    openmetrics = captured.read(captured.text("0.32.0__baseline__idle-slash.openmetrics"))
    assert openmetrics.groups == text.groups
    assert openmetrics.dialect.front_end == "python"


@pytest.mark.parametrize(
    ("name", "engine", "multiprocess"),
    [
        ("0.9.2__v0__after.prom", "v0", True),
        ("0.9.2__v1__after.prom", "v1", False),
        ("0.32.0__asc2__after.prom", "v1", True),
        ("0.32.0__baseline__after.prom", "v1", False),
    ],
)
def test_the_generation_and_the_number_of_processes_are_read_off_the_body(
    name: str, engine: str, multiprocess: bool
) -> None:
    dialect = captured.read(captured.text(name)).dialect
    assert (dialect.prefix, dialect.engine, dialect.front_end, dialect.multiprocess) == (
        "vllm:",
        engine,
        "python",
        multiprocess,
    )


def test_the_times_at_which_a_server_and_its_counters_were_made_are_read() -> None:
    found = captured.read(captured.text("0.32.0__baseline__load.prom"))
    assert found.started == 1795459776.27
    assert found.created == {ENGINE: 1795459826.9288466}


def test_several_api_servers_do_not_tell_when_they_were_made() -> None:
    found = captured.read(captured.text("0.32.0__asc2__after.prom"))
    assert (found.started, found.created) == (None, {})


def test_only_the_whitelisted_labels_of_the_cache_config_are_kept() -> None:
    config = captured.read(captured.text("0.32.0__baseline__idle.prom")).cache_config[ENGINE]
    assert config["num_gpu_blocks"] == "8192"
    assert config["block_size"] == "128"
    assert "engine" not in config
    assert len(config) < 14


@pytest.mark.parametrize(
    ("state", "running"), [("idle", None), ("load", ("ad1", "ad2")), ("after", ())], ids=["idle", "load", "after"]
)
def test_the_adapters_of_the_newest_lora_info_are_read(state: str, running: tuple[str, ...] | None) -> None:
    adapters = captured.read(captured.text(f"0.32.0__lora__{state}.prom")).adapters
    assert (adapters and (adapters.running, adapters.slots)) == (running if running is None else (running, 2))


def test_a_sleeping_engine_says_so() -> None:
    gauges = captured.engine(captured.text("0.32.0__dev-sleep__sleep1.prom")).gauges
    assert gauges["engine_sleep_state", "weights_offloaded"] == 1.0
    assert gauges["engine_sleep_state", "awake"] == 0.0


def test_speculation_and_preemptions_of_the_servers_that_had_them_are_counted() -> None:
    drafts = captured.engine(captured.text("0.32.0__ngram-hits__after.prom")).counters
    accepted = drafts["spec_decode_accepted_tokens_total"]
    assert 0 < accepted < drafts["spec_decode_draft_tokens_total"]
    positions = [value for key, value in drafts.items() if key[0] == "spec_decode_position_accepted_tokens_total"]
    assert sum(positions) == accepted
    preempted = captured.engine(captured.text("0.32.0__preempt__after.prom")).counters["preemptions_total"]
    assert preempted > 50
