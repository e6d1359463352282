"""All series of one target after one poll."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from gpus import steady
from readings import ENGINE, MODEL, OTHER_ENGINE, START, TARGET, histogram, readings

from vllm_sidecar.catalog import DERIVED, GPU_FIELDS, OWN, SERVER, SIGNALS
from vllm_sidecar.catalog.reasons import VLLM_REASONS, Reason
from vllm_sidecar.catalog.types import Kind, Scope
from vllm_sidecar.derive.inputs import DeriveSettings, GpuInputs
from vllm_sidecar.exposition.metric_values import Histogram, Summary
from vllm_sidecar.series.health import ANOMALIES, Health
from vllm_sidecar.series.readings import Adapters
from vllm_sidecar.series.readings import Engine as Identified
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.serve.snapshot import CHECKLIST, MOST_TEXTS, Snapshotter
from vllm_sidecar.vllm.probes import ProbeHealth
from vllm_sidecar.vllm.probes.identity import ModelCard, ServerIdentity

if TYPE_CHECKING:
    from readings import Poll

    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.serve.snapshot import Snapshot

UP = Health(
    "vllm", model_name="m", models=("m",), watched_since=1.0, certificates={"server": (1.0e9, 2.0e9)}
).succeeded(last_success=5.0, seconds=0.01)
DOWN = Health("vllm", model_name="m").failed(Reason.REFUSED, "nobody there")
IDENTITY = ServerIdentity(
    version="0.32.0",
    models=(ModelCard("org/m", "/models/m"), ModelCard("lora", "/loras/a", "org/m")),
    flags={"max_num_seqs": 8, "max_model_len": 2048, "enable_prefix_caching": True, "generation_config": "auto"},
    fingerprint="0123456789ab",
    changes=1,
    last_change=77.0,
    requests_in_flight=3.0,
)
HISTOGRAMS = [entry.signal.name for entry in DERIVED if entry.signal.kind is Kind.SUMMARY]


def everything(i: int) -> dict:
    """Return the i-th poll of a server that has every signal that anything is derived from."""
    engine: Poll = {
        "requests_running": 3,
        "requests_waiting": 2 + i,
        ("requests_waiting", "capacity"): 1 + i,
        ("requests_waiting", "deferred"): 1,
        "kv_cache_usage_ratio": 0.1 + 0.01 * i,
        ("engine_sleep_state", "weights_offloaded"): 0,
        "iteration_tokens": histogram(i, 0, 0, 0, total=9.0 * i),
        ("requests_finished_total", "stop"): i,
        ("spec_decode_position_accepted_tokens_total", "0"): i,
        ("prompt_tokens_by_source_total", "local_compute"): i,
    }
    engine |= {name.removeprefix("recent_"): histogram(9 * i, 0, 0, 0, total=4.0 * i) for name in HISTOGRAMS}
    read = {name for entry in DERIVED for name in entry.reads if name.endswith("_total")}
    read -= {entry.signal.name for entry in GPU_FIELDS}
    engine |= {name: 10 * i for name in read if not SIGNALS[name].labels}
    return {
        ENGINE: engine,
        OTHER_ENGINE: engine,
        MODEL: {("requests_rejected_total", "max_num_queued_reqs"): i},
        TARGET: {("http_requests_total", "/v1/completions", "POST", "2xx"): i},
    }


def scraped(i: int) -> Readings:
    return readings(
        everything(i),
        started=50.0,
        cache_config={key: {"kv_cache_size_tokens": "9000"} for key in (ENGINE, OTHER_ENGINE)},
        adapters=Adapters(("a",), ("b",), 4),
        sources={"preemptions_total": ("vllm:num_preemptions_total",)},
        missing=("kv_cache_usage_ratio",),
    )


PROBES = {"/version": ProbeHealth(60.0, 0.001, 2, 1.7e9, 0.01), "/load": ProbeHealth(10.0)}


def snapshotter(*labels: tuple[str, str]) -> Snapshotter:
    return Snapshotter("", labels, DeriveSettings(stall_after=1.0))


def take(*polls: Readings, labels: tuple[tuple[str, str], ...] = (), gpus: GpuInputs | None = None) -> Snapshot:
    seen, made = WindowStore(60.0, 300.0), snapshotter(*labels)
    for i, poll in enumerate(polls):
        seen.append(START + i, poll)
    return made.take(polls[-1], seen, IDENTITY, UP, gpus=gpus, probes=PROBES, startup=90.0)


def rows(snapshot: Snapshot, name: str) -> dict[str, object]:
    """Return the series of one signal by the text of their labels."""
    found = dict(snapshot.samples.get(name, ()))
    assert len(found) == len(snapshot.samples.get(name, ())), f"a series of {name} stands twice"
    return found


def frozen() -> Snapshot:
    """Return a snapshot in which all signals are derived: after progress nothing but the queue has moved."""
    *before, last = map(scraped, range(1, 15))  # long enough to learn the costs of steps
    still = everything(14)
    for group in (ENGINE, OTHER_ENGINE):
        still[group] = {**still[group], "requests_waiting": 18}
    quiet = readings(
        still,
        started=50.0,
        cache_config=last.cache_config,
        adapters=last.adapters,
        sources=last.sources,
        missing=last.missing,
    )
    fields = {"utilization_ratio": 1.0, "power_watts": 200.0, "power_limit_watts": 700.0, "memory_used_bytes": 8e10}
    gpus = GpuInputs([steady(i, **fields) for i in range(4)], warm={f"GPU-{i}": 7e10 for i in range(4)})
    return take(*before, last, quiet, quiet, gpus=gpus)


def test_every_derived_signal_can_be_had() -> None:
    found = frozen().samples
    assert [entry.signal.name for entry in DERIVED if entry.signal.name not in found] == []


def test_every_signal_of_the_server_and_of_the_sidecars_polls_can_be_had() -> None:
    found = frozen().samples
    named = {
        entry.name for entry in (*SERVER, *OWN) if entry.scope is not Scope.SIDECAR and "config_" not in entry.name
    }
    assert named - found.keys() == {"last_success_age_seconds"}, "which is measured when it is scraped"


def test_every_series_has_the_name_the_labels_and_the_kind_of_the_catalog() -> None:
    kinds = {Kind.HISTOGRAM: Histogram, Kind.SUMMARY: Summary}
    for name, series in frozen().samples.items():
        signal = SIGNALS[name]
        for text, value in series:
            names = re.findall(r'(?:^|,)([a-z_]+)="', text)
            named = names[: len(signal.label_names)] if signal.further_labels else names
            assert named == [label for label in signal.label_names if label in names], (name, text)
            missing = set(signal.label_names) - set(names)
            assert not missing or name in ("server_config_info", "model_info"), (name, text)
            assert type(value) is kinds.get(signal.kind, float), (name, text)


def test_the_labels_of_the_target_stand_on_every_series() -> None:
    found = take(scraped(0), scraped(1), labels=(("target", "a"), ("zone", "b")))
    texts = [text for series in found.samples.values() for text, _ in series]
    assert len(texts) > 100
    assert {text[:20] for text in texts} <= {'target="a",zone="b",', 'target="a",zone="b"'}


def test_no_series_stands_twice() -> None:
    found = frozen()
    assert all(rows(found, name) for name in found.samples)


def test_a_value_is_told_by_engine_by_model_or_by_target_as_its_scope_says() -> None:
    found = take(scraped(0), scraped(10))
    assert rows(found, "recent_generation_tokens_per_second") == {
        'model_name="m",engine="0"': 100.0,
        'model_name="m",engine="1"': 100.0,
    }
    assert rows(found, "data_parallel_engines") == {'model_name="m"': 2.0}
    assert rows(found, "recent_requests_rejected") == {'model_name="m",reason="max_num_queued_reqs"': 10.0}
    assert rows(found, "recent_http_error_ratio") == {'side="client"': 0.0, 'side="server"': 0.0}
    assert rows(found, "recent_error_ratio") == {"": 0.0}
    assert rows(found, "lora_adapter_active") == {
        'lora_adapter="a",state="running"': 1.0,
        'lora_adapter="b",state="waiting"': 1.0,
    }
    assert rows(found, "kv_cache_capacity_tokens")['model_name="m",engine="1"'] == 9000.0


def test_the_waiting_requests_are_told_by_reason_only_and_add_up() -> None:
    found = take(scraped(0), scraped(4))
    assert rows(found, "requests_waiting") == {
        f'model_name="m",engine="{engine}",reason="{reason}"': number
        for engine in "01"
        for reason, number in (("capacity", 5.0), ("deferred", 1.0))
    }
    by_reason = [value for text, value in rows(found, "requests_waiting").items() if 'engine="0"' in text]
    assert sum(by_reason) == everything(4)[ENGINE]["requests_waiting"]


def test_what_the_server_says_is_exported_as_it_stands() -> None:
    found = take(scraped(0), scraped(7))
    for group, poll in everything(7).items():
        scoped = ",".join(f'{k}="{v}"' for k, v in zip(group.scope.labels, group.labels, strict=True))
        for key, value in poll.items():
            name, values = (key, ()) if isinstance(key, str) else (key[0], key[1:])
            if name != "requests_waiting":
                own = [f'{k}="{v}"' for k, v in zip(SIGNALS[name].labels, values, strict=True)]
                assert rows(found, name)[",".join(filter(None, [scoped, *own]))] == value, key


def test_after_the_first_poll_nothing_is_derived_that_needs_two() -> None:
    found = take(scraped(3)).samples
    needs_two = {
        "recent_generation_tokens_per_second",
        "recent_requests",
        "recent_cache_hit_ratio",
        "recent_error_ratio",
    }
    assert needs_two & found.keys() == set()
    assert {"recent_requests_running_peak", "kv_cache_free_tokens", "progress_age_seconds"} <= found.keys()


def test_of_a_source_that_is_down_only_its_health_and_what_the_sidecar_counts_is_there() -> None:
    seen, made = WindowStore(60.0, 300.0), snapshotter()
    seen.append(START, scraped(0))
    seen.append(START + 1, scraped(1))
    assert len(made.take(scraped(1), seen, IDENTITY, UP).samples) > 80
    down = made.take(None, seen, IDENTITY, DOWN, startup=90.0)
    assert down.readings is None
    assert down.samples.keys() == {
        "up", "polls_total", "poll_failures_total", "poll_interval_seconds", "poll_server_time_ratio",
        "rejected_lines_total", "dropped_values_total", "config_changes_total", "config_last_change_timestamp_seconds",
        "server_restarts_total", "server_startup_seconds", "window_gaps_total", "limit_hits_total",
    }  # fmt: skip
    assert rows(down, "up") == {'source="vllm",model_name="m"': 0.0}


def test_of_each_probe_its_failures_cost_and_last_success_are_shown_also_while_the_source_is_down() -> None:
    found = snapshotter().take(None, WindowStore(60.0, 300.0), IDENTITY, DOWN, probes=PROBES)
    assert found.probes == PROBES
    assert rows(found, "probe_failures_total") == {'probe="/version"': 2.0, 'probe="/load"': 0.0}
    assert rows(found, "probe_interval_seconds") == {'probe="/version"': 60.0, 'probe="/load"': 10.0}
    assert rows(found, "probe_server_time_ratio") == {'probe="/version"': 0.001, 'probe="/load"': 0.0}
    assert rows(found, "probe_last_success_timestamp_seconds") == {'probe="/version"': 1.7e9}
    assert rows(found, "probe_duration_seconds") == {'probe="/version"': 0.01}


def test_before_the_first_poll_every_reason_and_anomaly_is_counted_from_zero() -> None:
    found = snapshotter().take(None, WindowStore(60.0, 300.0), ServerIdentity(), Health("vllm"))
    assert rows(found, "poll_failures_total") == {
        f'source="vllm",reason="{reason.value}"': 0.0 for reason in VLLM_REASONS
    }
    assert rows(found, "dropped_values_total") == {f'source="vllm",anomaly="{name}"': 0.0 for name in ANOMALIES}
    assert (rows(found, "server_restarts_total"), rows(found, "window_gaps_total")) == ({"": 0.0}, {"": 0.0})
    assert rows(found, "config_changes_total") == {"": 0.0}


def test_restarts_and_gaps_are_those_of_the_windows() -> None:
    fallen = readings({ENGINE: {"preemptions_total": 0}}, started=1.79e9 + 9)
    seen, first = WindowStore(60.0, 300.0), readings({ENGINE: {"preemptions_total": 5}}, started=1.79e9)
    for at, poll in [(0.0, first), (1.0, fallen), (100.0, fallen)]:
        seen.append(START + at, poll)
    found = snapshotter().take(fallen, seen, ServerIdentity(), UP)
    assert (rows(found, "server_restarts_total"), rows(found, "window_gaps_total")) == ({"": 1.0}, {"": 1.0})
    assert found.restarts == 1


def test_each_signal_of_the_checklist_is_missing_or_not() -> None:
    found = take(scraped(0))
    assert rows(found, "signal_missing") == {
        f'signal="{name}"': float(name == "kv_cache_usage_ratio") for name in CHECKLIST
    }
    assert rows(found, "signal_source_info") == {
        'signal="preemptions_total",source_metric="vllm:num_preemptions_total"': 1.0
    }


def test_the_identity_of_the_server_is_told_with_its_flags_and_models() -> None:
    found = take(scraped(0))
    assert rows(found, "server_info") == {'version="0.32.0",front_end="python",engine_generation="v1"': 1.0}
    assert rows(found, "server_config_info") == {
        'fingerprint="0123456789ab",max_model_len="2048",enable_prefix_caching="true",generation_config="auto"': 1.0
    }
    assert rows(found, "model_info") == {
        'model_name="org/m",root="/models/m",model="org--m"': 1.0,
        'model_name="lora",root="/loras/a",parent="org/m",model="lora"': 1.0,
    }
    assert rows(found, "config_max_num_seqs") == {"": 8.0}
    assert rows(found, "config_enable_prefix_caching") == {"": 1.0}
    assert "config_max_loras" not in found.samples
    assert rows(found, "server_start_timestamp_seconds") == {"": 50.0}
    assert rows(found, "http_requests_in_flight") == {"": 3.0}


@pytest.mark.parametrize(
    ("started", "created", "expected"),
    [(50.0, {ENGINE: 60.0}, {"": 50.0}), (None, {ENGINE: 60.0, OTHER_ENGINE: 55.0}, {"": 55.0}), (None, {}, {})],
    ids=["of the process", "of the first counters", "not told"],
)
def test_the_start_of_the_server(started: float | None, created: dict, expected: dict[str, float]) -> None:
    found = take(readings({ENGINE: {}}, started=started, created=created))
    assert rows(found, "server_start_timestamp_seconds") == expected


def test_the_capacity_of_data_parallel_engines_is_the_part_of_each() -> None:
    config = {key: {"num_gpu_blocks": "1000", "block_size": "16"} for key in (ENGINE, OTHER_ENGINE)}
    found = take(readings({ENGINE: {}, OTHER_ENGINE: {}}, cache_config=config))
    assert rows(found, "kv_cache_capacity_tokens") == {
        'model_name="m",engine="0"': 8000.0,
        'model_name="m",engine="1"': 8000.0,
    }


def test_an_engine_that_went_away_has_no_series() -> None:
    seen, made = WindowStore(60.0, 300.0), snapshotter()
    for i, groups in enumerate([{ENGINE: {}, OTHER_ENGINE: {}}, {ENGINE: {}}]):
        seen.append(START + i, readings(groups))
        found = made.take(readings(groups), seen, ServerIdentity(), UP)
    assert list(rows(found, "progress_age_seconds")) == ['model_name="m",engine="0"']
    assert made._texts.keys() == {ENGINE, MODEL, TARGET}


@pytest.mark.slow
def test_adapters_that_come_and_go_leave_no_texts_behind_for_ever() -> None:
    seen, made, most = WindowStore(60.0, 300.0), snapshotter(), 0
    for i in range(10_000):
        names = (f"adapter-{i}",)
        poll = readings({ENGINE: {}}, adapters=Adapters(names, names, 4))
        seen.append(START + i, poll)
        found = made.take(poll, seen, ServerIdentity(), UP)
        assert rows(found, "lora_adapter_active") == {f'lora_adapter="adapter-{i}",state="active"': 1.0}
        most = max(most, sum(map(len, made._texts.values())))
    assert MOST_TEXTS < most < MOST_TEXTS + 1000 + 200


def test_failures_and_sources_follow_from_poll_to_poll() -> None:
    """They change rarely, so their series are kept; what changed must show, and an older snapshot stays as it was."""
    seen, made, health = WindowStore(60.0, 300.0), snapshotter(), UP
    polls = [
        readings({ENGINE: {}}, sources={"preemptions_total": ("vllm:num_preemptions_total",)}),
        readings({ENGINE: {}}, sources={"preemptions_total": ("ray_vllm_num_preemptions",)}, missing=CHECKLIST[:1]),
    ]
    found = []
    for i, poll in enumerate(polls):
        seen.append(START + i, poll)
        health = health.failed(Reason.TIMEOUT, "late") if i else health
        found.append(made.take(poll, seen, ServerIdentity(), health))
    late = [rows(snapshot, "poll_failures_total")['source="vllm",reason="timeout"'] for snapshot in found]
    missing = [rows(snapshot, "signal_missing")[f'signal="{CHECKLIST[0]}"'] for snapshot in found]
    sources = [list(rows(snapshot, "signal_source_info")) for snapshot in found]
    assert (late, missing) == ([0.0, 1.0], [0.0, 1.0])
    assert sources == [
        ['signal="preemptions_total",source_metric="vllm:num_preemptions_total"'],
        ['signal="preemptions_total",source_metric="ray_vllm_num_preemptions"'],
    ]


def test_engines_are_told_with_the_labels_that_the_server_gave_them() -> None:
    poll = replace(
        readings({ENGINE: {}}), engines={ENGINE: Identified(ENGINE, {"engine": "0", "worker": "w", "pod": "p"})}
    )
    found = take(poll, labels=(("zone", "b"),))
    assert rows(found, "engine_info") == {'zone="b",model_name="m",engine="0",exported_pod="p",worker="w"': 1.0}


def test_unknown_labels_are_counted() -> None:
    assert rows(take(readings({ENGINE: {}})), "unknown_labels") == {"": 0.0}
    poll = replace(readings({ENGINE: {}}), unknown_labels=("cluster", "worker"))
    assert rows(take(poll), "unknown_labels") == {"": 2.0}
