"""The look-alike speaks as vLLM does: names, labels, types and buckets of each release, and one meaning in all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from places import TESTS

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.dialects import DIALECTS
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.script import read_script
from vllm_sidecar.vllm.normalize import Normalizer

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Reading


EXISTED = [line.split() for line in (TESTS / "vllm_families.txt").read_text().splitlines() if line[0] != "#"]
ALL_FEATURES = "healthy 30s -> spec-collapse 1s -> lora-thrash 1s -> dp-imbalance 30s -> healthy"


def release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def look(dialect: str, script: str = ALL_FEATURES) -> Lookalike:
    script = script.replace("dp-imbalance", "prefix-drop") if dialect == "v0" else script
    one = Lookalike(read_script(script, None, {"dialect": dialect}), 1_800_000_000.0)
    one.advance(60.0)
    return one


def body(dialect: str) -> str:
    return exposition(look(dialect)).decode()


def readings(dialect: str) -> dict[str, Reading]:
    """Read the first engine, and the server."""
    found = Normalizer().normalize(DifferentialParser().parse(body(dialect).encode()))
    assert found.unknown == ()
    return {group.scope.value: reading for group, reading in found.groups.items() if group.labels[1:] != ("1",)}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_family_existed_in_that_release(dialect: str) -> None:
    newest = (999,)
    then = {
        name: kind
        for name, kind, first, last in EXISTED
        if release(first) <= DIALECTS[dialect].key <= (newest if last == "-" else release(last))
    }
    missing = {family.name for family in DIALECTS[dialect].families} - set(then)
    assert missing == set()
    assert all(then[family.name] == family.kind for family in DIALECTS[dialect].families)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_sidecar_reads_it_without_a_complaint_and_knows_the_dialect(dialect: str) -> None:
    parsed = DifferentialParser().parse(body(dialect).encode())
    found = Normalizer().normalize(parsed)
    assert parsed.rejected_count == 0
    assert found.anomalies == {}
    assert found.dialect.prefix == DIALECTS[dialect].prefix
    assert found.dialect.engine == DIALECTS[dialect].engine
    assert (found.dialect.front_end == "rust") == DIALECTS[dialect].rust


@pytest.mark.parametrize("dialect", sorted(set(DIALECTS) - {"v0", "0.33"}))
def test_the_same_run_reads_the_same_in_every_dialect_of_v1(dialect: str) -> None:
    newest, other = readings("0.33")[Scope.ENGINE.value], readings(dialect)[Scope.ENGINE.value]
    shared = other.histograms.keys() & newest.histograms.keys()
    assert {"time_to_first_token_seconds", "inter_token_latency_seconds", "request_queue_seconds"} <= shared
    assert {name: other.histograms[name] for name in shared} == {name: newest.histograms[name] for name in shared}
    counters = other.counters.keys() & newest.counters.keys()
    assert {"prompt_tokens_total", "prefix_cache_hit_tokens_total", "preemptions_total"} <= counters
    assert {name: other.counters[name] for name in counters} == {name: newest.counters[name] for name in counters}
    gauges = other.gauges.keys() & newest.gauges.keys()
    assert {"requests_running", "kv_cache_usage_ratio"} <= gauges
    assert {name: other.gauges[name] for name in gauges} == {name: newest.gauges[name] for name in gauges}


def shape(text: str) -> dict[str, set[str]]:
    """Sample name -> label names and bounds that it comes with; without values, models and what differs by feature."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line.startswith("vllm:") and "cache_config_info" not in line:
            name, _, labels = line.rpartition(" ")[0].partition("{")
            form = re.sub(r'(model_name|engine)="[^"]*"', r"\1", labels.rstrip("}"))
            found.setdefault(name, set()).add(form)
    return found


def test_the_newest_dialect_has_the_series_of_a_real_server() -> None:
    real = shape((TESTS / "captures" / "0.32.0__baseline__load.prom").read_text())
    simulated = shape(exposition(look("0.33", "healthy")).decode())
    tokens = re.compile(
        r"vllm:request_(prompt|generation|max_num_generation|params_max|prefill_kv_computed)_?tokens_bucket"
    )
    differing = {name for name in real if real[name] != simulated.get(name, set()) and not tokens.match(name)}
    assert differing == set()
    assert set(simulated) - set(real) == set()


def test_the_rust_front_end_ends_with_eof_and_has_no_created_series() -> None:
    text = body("rust")
    assert text.endswith("# EOF\n")
    assert "_created" not in text
    assert "python_info" not in text
    assert '_total{model_name="' in text


def test_ray_writes_counters_without_total_and_its_own_labels() -> None:
    line = next(line for line in body("ray").splitlines() if line.startswith("ray_vllm_prompt_tokens{"))
    assert 'ReplicaId="' in line
    assert 'WorkerId="' in line
