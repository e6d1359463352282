"""What the sidecar and its rules say of each field case, at the times of production."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path

import promtool
import pytest
from promtool_series import series
from samples import others_slow
from scenario_run import SCRAPE

from field.cases import (
    ODD_NAMES,
    Case,
    balanced,
    compiling,
    deaf,
    dynamo,
    embedding,
    full_batch,
    hang,
    held,
    livelock,
    odd_names,
    router,
    runaway,
    stages,
    triton,
)
from field.play import Played, play

pytestmark = pytest.mark.io

RULES = sorted((Path(__file__).parents[2] / "rules").glob("*.rules.yml"))
UNAVAILABLE = "VllmReplicasUnavailable"
STALLED = "VllmEngineStalled"
WAITS = "VllmQueueWaitHigh"
BURN = "VllmTimeToFirstTokenSloBurn"
ERRORS = "VllmErrorRatioHigh"
"""Requests whose clients gave up."""
NOT_ONE = "VllmTargetNotOneServer"


def states(*names: str) -> frozenset[str]:
    return frozenset(names)


def alerts(*found: tuple[str, str, str]) -> frozenset[tuple[str, str, str]]:
    return frozenset(found)


def in_turn(now: float) -> int:
    return int(now) % 2


def sticky(now: float) -> int:
    return int(now // 20) % 2


def at_random(now: float) -> int:
    return (int(now) * 7919 % 101) % 2


def every_second_fails(now: float) -> int:
    return 0 if int(now) % 2 else -1


FINE = states("healthy", "idle")
CASES: dict[str, Case] = {
    "stages, healthy": Case(lambda: stages(hung=False), 3, FINE),
    "stages, the talker hangs": Case(lambda: stages(hung=True), 5, states("stalled"), alerts((UNAVAILABLE, "Omni-30B", "")), tickets=alerts((STALLED, "Omni-30B", "1-0"))),
    "two models, healthy": Case(triton, 3, FINE),
    "two models, one queues": Case(lambda: triton(slow=True), 5, states("queueing"), alerts((WAITS, "llama_big", ""), (BURN, "llama_big", ""))),
    "two models, one hangs": Case(lambda: triton(hung=True), 5, states("gauges_stale"), tickets=alerts(("VllmGaugesStale", "llama_big", "1"))),
    "two ranks, healthy": Case(dynamo, 3, FINE),
    "two ranks, one hangs": Case(lambda: dynamo(hung=True), 6, states("stalled"), alerts((UNAVAILABLE, "Qwen/Qwen3-0.6B", "")), tickets=alerts((STALLED, "Qwen/Qwen3-0.6B", "1"))),
    "odd names": Case(odd_names, 2, FINE),
    "a router": Case(router, 6, states("not_an_engine"), tickets=alerts((NOT_ONE, "", ""))),
    "two replicas in turn": Case(lambda: balanced(in_turn), 6, states("several_servers"), tickets=alerts((NOT_ONE, "", ""))),
    "two replicas, 20 s each": Case(lambda: balanced(sticky), 6, states("several_servers"), tickets=alerts((NOT_ONE, "", ""))),
    "two replicas at random": Case(lambda: balanced(at_random), 6, states("several_servers"), tickets=alerts((NOT_ONE, "", ""))),
    "two replicas without start times": Case(lambda: balanced(in_turn, starts=False), 6, states("several_servers"), tickets=alerts((NOT_ONE, "", ""))),
    "a leader and a worker that fails": Case(lambda: balanced(every_second_fails, counted=1), 6, FINE),
    "a dead input thread, files": Case(lambda: deaf(load=False), 5.5, states("stalled"), alerts((UNAVAILABLE, "m", ""), (ERRORS, "m", "")), tickets=alerts((STALLED, "m", "0"))),
    "a dead input thread, /load": Case(lambda: deaf(load=True), 5.5, states("stalled"), alerts((UNAVAILABLE, "m", ""), (ERRORS, "m", "")), tickets=alerts((STALLED, "m", "0"))),
    "a hang with patient clients": Case(hang, 5, states("stalled"), alerts((UNAVAILABLE, "m", "")), tickets=alerts((STALLED, "m", "0"))),
    "a hang, only HTTP counters": Case(lambda: hang(files=False), 5, states("stalled"), alerts((UNAVAILABLE, "m", "")), tickets=alerts((STALLED, "m", "0"))),
    "a hang, only open files": Case(lambda: hang(posts=False), 5, states("gauges_stale")),
    "a hang, nothing of HTTP": Case(lambda: hang(files=False, posts=False), 5, states("gauges_stale")),
    "a hang with few arrivals": Case(lambda: hang(few=True), 5, states("stalled"), alerts((UNAVAILABLE, "m", "")), tickets=alerts((STALLED, "m", "0"))),
    "a mass abort": Case(lambda: hang(leave=True), 6, states("idle")),
    "a mass abort, only HTTP counters": Case(lambda: hang(leave=True, files=False), 6, states("idle")),
    "a mass abort, only open files": Case(lambda: hang(leave=True, posts=False), 6, states("gauges_stale")),
    "a livelock that grows": Case(lambda: livelock(grows=True), 5, states("stalled"), pages=alerts((UNAVAILABLE, "metal", "")), tickets=alerts((STALLED, "metal", "0"))),
    "a livelock": Case(lambda: livelock(grows=False), 5, states("stalled"), pages=alerts((UNAVAILABLE, "metal", "")), tickets=alerts((STALLED, "metal", "0"))),
    "KV blocks are held": Case(lambda: held(then_waits=False), 6, states("kv_cache_held"), tickets=alerts(("VllmKvCacheHeld", "glm", "0"))),
    "KV blocks are held and requests wait": Case(lambda: held(then_waits=True), 6, states("stalled"), pages=alerts((UNAVAILABLE, "glm", "")), tickets=alerts((STALLED, "glm", "0"))),
    "embeddings": Case(lambda: embedding(queueing=False), 3, states("healthy")),
    "embeddings queue": Case(lambda: embedding(queueing=True), 4, states("queueing"), pages=alerts((WAITS, "embed-8b", ""), (BURN, "embed-8b", ""))),
    "one compilation": Case(lambda: compiling(often=False), 5, FINE),
    "compilations again and again": Case(lambda: compiling(often=True), 7, states("healthy", "down")),
    "one endless request": Case(runaway, 4, states("queueing"), pages=alerts((WAITS, "xpu", ""), ("VllmInterTokenLatencySloBurn", "xpu", ""))),
    "a full batch": Case(full_batch, 4, states("queueing"), pages=alerts((WAITS, "qwen-72b", ""), (BURN, "qwen-72b", ""))),
    "a full batch of known size": Case(full_batch, 4, states("queueing"), config={"vllm": {"args": "serve q --max-num-seqs 16"}}, pages=alerts((WAITS, "qwen-72b", ""), (BURN, "qwen-72b", ""))),
}  # fmt: skip


QUICK = ("stages, the talker hangs", "a router", "a full batch")
"""Cases of the quick run: a page about an engine, a ticket, a page about a queue."""


@cache
def played(name: str) -> Played:
    return asyncio.run(play(CASES[name]))


@pytest.mark.parametrize(
    "name", others_slow(CASES, *QUICK, "odd names", "two replicas in turn", "a hang, only open files")
)
def test_the_state_at_the_end_is_true(name: str) -> None:
    assert played(name).state.name in CASES[name].states, played(name).state.text


def fired(severity: str, minutes: float) -> str:
    """Ask which alerts fired at any time, and about whom; of burns only the fastest."""
    selector = f'alertstate="firing",severity="{severity}",long_window=~"|1h"'
    return f"count by (alertname, model_name, engine) (max_over_time(ALERTS{{{selector}}}[{minutes * 60.0:g}s]))"


def expected(found: frozenset[tuple[str, str, str]]) -> list[dict[str, object]]:
    names = ("alertname", "model_name", "engine")
    pairs = [[(n, v) for n, v in zip(names, each, strict=True) if v] for each in sorted(found)]
    return [{"labels": "{" + ",".join(f'{n}="{v}"' for n, v in each) + "}", "value": 1} for each in pairs]


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(tuple(CASES), marks=pytest.mark.slow)], ids=["some cases", "all cases"]
)
def test_exactly_the_right_alerts_fire_at_the_times_of_production(names: tuple[str, ...], tmp_path: Path) -> None:
    """All of them in one run of promtool; pages exactly, tickets those that a case names."""
    tests = []
    for name in names:
        case = CASES[name]
        minutes = played(name).scrapes.scrapes * SCRAPE / 60.0
        at = f"{minutes * 60.0 - SCRAPE:g}s"
        asked = [{"expr": fired("page", minutes), "eval_time": at, "exp_samples": expected(case.pages)}]
        asked += [
            {"expr": f'count by (alertname) (max_over_time(ALERTS{{alertname="{alert}",alertstate="firing"}}[{minutes * 60.0:g}s]))',
             "eval_time": at, "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}]}
            for alert, *_ in case.tickets
        ]  # fmt: skip
        found = series(played(name).scrapes)
        tests.append({"name": name, "interval": f"{SCRAPE:g}s", "input_series": found, "promql_expr_test": asked})
    file = tmp_path / "field.yml"
    rules = [str(path) for path in RULES]
    file.write_text(json.dumps({"rule_files": rules, "evaluation_interval": f"{SCRAPE:g}s", "tests": tests}))
    result = promtool.test_rules(file)
    assert result.ok, result.output


NO_RESTART = [name for name in CASES if "replicas" in name or "compilation" in name or "leader" in name]


@pytest.mark.parametrize("name", others_slow(NO_RESTART, "two replicas in turn"))
def test_what_is_no_restart_is_not_counted_as_one(name: str) -> None:
    seen = played(name)
    assert max(seen.ever("server_restarts_total")) == 0.0
    counted = seen.counted()
    if seen.state.name == "several_servers":
        assert counted is None, "what several servers count is absent"
    else:
        assert counted == pytest.approx(seen.ran, abs=5)


def test_stages_and_models_are_engines_of_their_own() -> None:
    assert len(played("stages, healthy").values("requests_running")) == 3
    stalled = played("stages, the talker hangs").values("stalled")
    assert [labels for labels, value in stalled.items() if value] == ['model_name="Omni-30B",engine="1-0"']
    info = played("stages, healthy").values("engine_info", 'stage="1"', 'replica="0"')
    assert ['engine="1-0"' in labels for labels in info] == [True]
    two = played("two models, healthy")
    assert len(two.values("requests_running", 'model_name="llama_big"')) == 1
    assert not any(two.ever("recent_requests", "aborted"))
    assert not any("vllm_time" in labels for labels in played("stages, healthy").values("signal_source_info"))


def test_what_is_no_engine_makes_none() -> None:
    seen = played("a router")
    assert not seen.ever("requests_running")
    assert not seen.ever("live_queue_wait_seconds")
    assert seen.values("up", 'source="vllm"') == {'source="vllm"': 0.0}


def test_each_odd_name_has_a_label_for_autoscalers_of_its_own() -> None:
    labels = played("odd names").values("saturation_ratio")
    slugs = {text.split('model="')[1].split('"')[0] for text in labels}
    assert len(labels) == len(slugs) == len(ODD_NAMES)


FULL_BATCH = ("a full batch", "a full batch of known size", "one endless request")


@pytest.mark.parametrize("name", others_slow((*FULL_BATCH, "a livelock"), "a full batch"))
def test_a_queue_without_a_full_kv_cache_is_no_pressure(name: str) -> None:
    assert max(played(name).ever("kv_cache_pressure_ratio")) <= 0.5


@pytest.mark.parametrize("name", others_slow(FULL_BATCH, "a full batch"))
def test_the_batch_is_named_as_the_limit(name: str) -> None:
    limits = played(name).values("admission_limit")
    assert [text.split('limit="')[1].rstrip('"') for text, value in limits.items() if value] == ["batch"]


@pytest.mark.parametrize("name", ["a mass abort", "a mass abort, only HTTP counters"])
def test_frozen_gauges_drive_nothing_after_a_mass_abort(name: str) -> None:
    seen = played(name)
    assert seen.fault is not None
    assert all(state.name in ("idle", "healthy") for at, state in seen.states if at > seen.fault + 60.0)
    for signal in ("live_queue_wait_seconds", "saturation_ratio", "kv_cache_pressure_ratio"):
        assert not any(seen.values(signal).values()), signal


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if {alert for alert, *_ in case.pages} - {ERRORS[0]} == {STALLED}]
)
def test_a_stall_is_seen_within_its_time_and_a_minute(name: str) -> None:
    seen = played(name)
    assert seen.fault is not None
    first = next(at for at, state in seen.states if state.name == "stalled")
    patience = 60.0 if "input thread" in name else 0.0
    assert first - seen.fault <= 120.0 + 60.0 + patience


def test_an_embedding_server_is_not_idle_between_two_gauges() -> None:
    text = played("embeddings").state.text
    assert "25 requests/s" in text
    assert "prompt tokens/s" in text
