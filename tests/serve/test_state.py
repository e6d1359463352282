"""The state in words, from what a snapshot holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from readings import ENGINE, readings

from vllm_sidecar.catalog.reasons import HINTS, Reason
from vllm_sidecar.config import Config
from vllm_sidecar.series.health import MAX_FAILED_POLLS, Health
from vllm_sidecar.serve.snapshot import Snapshot
from vllm_sidecar.serve.state import Level, State, engine_states, seconds_text, target_state, without_targets
from vllm_sidecar.vllm.probes.identity import ServerIdentity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UP = Health("vllm").succeeded(last_success=5.0, seconds=0.01)
FIRST, SECOND = 'model_name="m",engine="0"', 'model_name="m",engine="1"'
GPUS = {
    "gpu_utilization_ratio": [('gpu="0"', 1.0), ('gpu="1"', 1.0)],
    "gpu_power_watts": [('gpu="0"', 90.0), ('gpu="1"', 100.0)],
}


def snapshot(health: Health = UP, restarts: int = 0, **samples: float | Mapping[str, float]) -> Snapshot:
    """Make a snapshot; a number is the value of the first engine."""
    series = {
        name: list(value.items()) if not isinstance(value, float) else [(FIRST, value)]
        for name, value in samples.items()
    }
    read = readings({ENGINE: {"requests_running": 1.0}}) if health.up else None
    return Snapshot("", series, health, ServerIdentity(), read, restarts, restarts, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("samples", "name", "severity", "text"),
    [
        ({"requests_running": 0.0}, "idle", Level.FINE, "idle: no requests"),
        (
            {"requests_running": 8.0, "recent_generation_tokens_per_second": 912.4},
            "healthy",
            Level.FINE,
            "healthy: 8 running, 912 tokens/s",
        ),
        (
            {
                "requests_running": 8.0,
                "requests_waiting": {FIRST + ',reason="capacity"': 10.0, FIRST + ',reason="deferred"': 2.0},
                "live_queue_wait_seconds": 3.1,
            },
            "queueing",
            Level.WATCH,
            "queueing: 12 waiting, 3.1 s",
        ),
        (
            {"requests_running": 8.0, "requests_waiting": 99.0, "live_queue_wait_seconds": 42.0},
            "queueing",
            Level.BAD,
            "queueing: 99 waiting, 42 s",
        ),
        (
            {"requests_running": 8.0, "requests_waiting": 1.0, "live_queue_wait_seconds": 0.01},
            "healthy",
            Level.FINE,
            "healthy: 8 running",
        ),
        (
            {"requests_running": 8.0, "stalled": 1.0, "work_without_progress_seconds": 140.0},
            "stalled",
            Level.BAD,
            "stalled for 140 s: running 8, waiting 0, no tokens",
        ),
        (
            {"requests_running": 0.0, "stalled": 1.0, "work_without_progress_seconds": 140.0},
            "stalled",
            Level.BAD,
            "stalled for 140 s: clients wait for answers, but the engine reports no requests",
        ),
        (
            {"requests_running": 3.0, "work_without_progress_seconds": 60.0},
            "no_progress",
            Level.WATCH,
            "no progress for 60 s: running 3, waiting 0, no tokens",
        ),
        (
            {"requests_running": 3.0, "progress_age_seconds": 30.0},
            "no_progress",
            Level.WATCH,
            "no progress for 30 s: running 3, waiting 0, no tokens",
        ),
        ({"requests_running": 3.0, "progress_age_seconds": 5.0}, "healthy", Level.FINE, "healthy: 3 running"),
        ({"requests_running": 0.0, "progress_age_seconds": 30.0}, "idle", Level.FINE, "idle: no requests"),
        (
            {"requests_running": 0.0, "requests_waiting": 6.0, "live_queue_wait_seconds": 30.0}
            | {"work_without_progress_seconds": 30.0},
            "queueing",
            Level.BAD,
            "queueing: 6 waiting, 30 s, none running",
        ),
        (
            {"requests_running": 16.0, "requests_waiting": 6.0, "live_queue_wait_seconds": 30.0}
            | {"admission_limit": {f'{FIRST},limit="batch"': 1.0, f'{FIRST},limit="kv_cache"': 0.0}},
            "queueing",
            Level.BAD,
            "queueing: 6 waiting, 30 s, 16 running: the batch is full",
        ),
        (
            {"requests_running": 0.0, "engine_healthy": 0.0, "stalled": 1.0},
            "unhealthy",
            Level.BAD,
            "unhealthy: vLLM reports that this engine failed",
        ),
        (
            {"requests_running": 106.0, "gauges_stale": 1.0, "clients_left": 1.0},
            "idle",
            Level.FINE,
            "idle: the clients left, the gauges are frozen at 106 requests",
        ),
        (
            {"requests_running": 0.0, "kv_cache_held_ratio": 0.97},
            "kv_cache_held",
            Level.WATCH,
            "KV cache held: 97% used, but no request is running or waiting",
        ),
        (
            {"requests_running": 0.0, "recent_requests_per_second": 25.2, "recent_prompt_tokens_per_second": 3000.0},
            "healthy",
            Level.FINE,
            "healthy: 25 requests/s, 3000 prompt tokens/s",
        ),
        (
            {"requests_running": 1.0, "recent_requests_per_second": 0.25},
            "healthy",
            Level.FINE,
            "healthy: 1 running, 0.25 requests/s",
        ),
        ({"requests_running": 0.0, "engine_sleeping": 1.0}, "asleep", Level.WATCH, "asleep"),
        (
            {"requests_running": 0.0, "engine_sleeping": 1.0, "requests_waiting": 3.0},
            "asleep",
            Level.BAD,
            "asleep while 3 requests wait",
        ),
        (
            {"requests_running": 2.0, "gauges_stale": 1.0},
            "gauges_stale",
            Level.WATCH,
            "gauges frozen at 2 running, and no progress",
        ),
        (
            {
                "requests_running": 9.0,
                "requests_waiting": 4.0,
                "kv_cache_pressure_ratio": 0.9,
                "recent_preemptions_per_request": 0.5,
                "recent_kv_cache_usage_peak_ratio": 0.99,
                "live_queue_wait_seconds": 30.0,
            },
            "kv_cache_full",
            Level.BAD,
            "KV cache full: up to 99% used, 0.5 preemptions per request, 4 waiting",
        ),
        (
            {"requests_running": 9.0, "recent_error_ratio": {"": 0.3}},
            "failing",
            Level.BAD,
            "failing: 30% of the requests fail: server errors, or no answer until their clients left",
        ),
    ],
)
def test_a_state_has_a_name_a_severity_and_words(
    samples: dict[str, float], name: str, severity: Level, text: str
) -> None:
    assert target_state(snapshot(**samples)) == (name, severity, text)


def test_a_stall_says_what_the_gpus_do() -> None:
    stalled = snapshot(requests_running=8.0, stalled=1.0, work_without_progress_seconds=140.0)
    text = "stalled for 140 s: running 8, waiting 0, no tokens, GPU 100% at 95 W"
    assert target_state(stalled, GPUS).text == text


def test_a_source_that_is_down_says_why_and_what_to_do() -> None:
    down = UP
    for _ in range(MAX_FAILED_POLLS):
        down = down.failed(Reason.REFUSED, "nobody there")
    state = target_state(snapshot(down))
    assert (state.name, state.severity) == ("down", Level.BAD)
    assert state.text.startswith("down: refused. ")


@pytest.mark.parametrize("reason", [Reason.NOT_AN_ENGINE, Reason.SEVERAL_SERVERS])
def test_an_address_of_no_single_engine_is_told_as_that(reason: Reason) -> None:
    for health in (Health("vllm"), UP):
        state = target_state(snapshot(health.failed(reason, "a router")))
        assert (state.name, state.severity, state.text) == (reason.value, Level.BAD, HINTS[reason])


def test_before_the_first_answer_it_says_so() -> None:
    assert target_state(snapshot(Health("vllm"))).name == "starting"


def test_a_server_without_engines_says_so() -> None:
    assert target_state(snapshot()).name == "no_engines"


def test_the_worst_engine_speaks_for_the_target() -> None:
    two = snapshot(requests_running={FIRST: 1.0, SECOND: 2.0}, stalled={FIRST: 0.0, SECOND: 1.0})
    assert [(text, state.name) for text, state in engine_states(two)] == [(FIRST, "healthy"), (SECOND, "stalled")]
    assert target_state(two).name == "stalled"


@pytest.mark.parametrize(("seconds", "text"), [(3.14, "3.1 s"), (140.0, "140 s"), (1500.0, "25 min")])
def test_durations_have_the_digits_that_people_read(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(("restarts", "name"), [(2, "idle"), (3, "restarting"), (50, "restarting")])
def test_a_server_that_keeps_restarting_is_not_fine(restarts: int, name: str) -> None:
    state = target_state(snapshot(restarts=restarts, requests_running=0.0))
    assert state.name == name
    assert (state.severity is Level.BAD) == (name == "restarting")


def test_states_take_time_in_proportion_to_the_engines_and_not_to_their_square() -> None:
    def seconds(engines: int) -> float:
        series = {f'model_name="m",engine="{n}"': 1.0 for n in range(engines)}
        many = snapshot(requests_running=series, requests_waiting=series, stalled=series)
        began = time.perf_counter()
        assert len(engine_states(many)) == engines
        return time.perf_counter() - began

    few = min(seconds(200) for _ in range(3))
    assert min(seconds(2000) for _ in range(3)) < 40 * few


def source(error: dict[str, str] | None = None, last_success: float | None = 1.0, **targets: int) -> dict[str, Any]:
    """The status of a source of discovery."""
    return {"discovery": "kubernetes.0", "last_error": error, "last_success": last_success, "targets": targets}


@pytest.mark.parametrize(
    ("found", "severity", "words"),
    [
        ((), Level.WATCH, "no server is listed by the sources of discovery"),
        ((source(watched=0),), Level.WATCH, "no server is listed by the sources of discovery"),
        ((source(last_success=None),), Level.WATCH, "no server is watched: waiting for the list kubernetes.0"),
        (
            (source(watched=0, filtered=38, invalid=2),),
            Level.WATCH,
            "no server is watched of those that are listed: 38 filtered, 2 invalid",
        ),
        (
            (source(), source({"reason": "unauthorized", "detail": "status 403", "hint": "Create a role."})),
            Level.BAD,
            "no server is watched: the list kubernetes.0 cannot be read (unauthorized). Create a role.",
        ),
    ],
    ids=["no source has a status", "empty", "not yet read", "nothing is selected", "one of two fails"],
)
def test_a_gateway_without_servers_says_why(found: Sequence[dict[str, Any]], severity: Level, words: str) -> None:
    config = Config.model_validate({"discovery": {"kubernetes": [{}]}})
    assert without_targets(config, found) == State("no_servers", severity, words)
