"""Whether the engine gets anything done: age of the last progress, stalls with their witnesses, gauges that froze.

`/health` says 200 during a freeze, and running/waiting freeze at their last value when all requests are aborted at
once on a server that is then idle (vllm#22545). So a stall needs work in flight, no change in any progress signal,
and a second witness; without a witness the gauges are called stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.derive.gpu_load import UTILIZATION, ours, unexplained

if TYPE_CHECKING:
    from vllm_sidecar.derive.views import Engine
    from vllm_sidecar.window import Window

SLEEPING = (("engine_sleep_state", "weights_offloaded"), ("engine_sleep_state", "discard_all"))

OPEN_FDS = "server_open_fds"
FEWEST_CONNECTIONS = 2.0
"""One more may be somebody who looks at the metrics."""

FRONT_END_ROUTES = frozenset(
    (
        "none",
        "/tokenize",
        "/detokenize",
        "/sleep",
        "/wake_up",
        "/pause",
        "/resume",
        "/reset_prefix_cache",
        "/reset_mm_cache",
        "/collective_rpc",
        "/start_profile",
        "/stop_profile",
        "/scale_elastic_ep",
        "/is_scaling_elastic_ep",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
    )
)
"""Routes that take POST and give no engine a request; `none` stands for all that are unknown."""


def sleeping(engine: Engine) -> float | None:
    """Return 1 while the engine sleeps, 0 while it is awake, None where vLLM does not tell (before 0.11.1)."""
    return sleeping_state(engine.window)


def sleeping_state(window: Window) -> float | None:
    """Return the same for the window of an engine."""
    states = [window.latest.gauges[key] for key in SLEEPING if key in window.latest.gauges]
    return float(max(states) > 0.0) if states else None


def age_seconds(engine: Engine) -> float:
    """Return the time since any progress signal changed; grows on an idle engine too."""
    return engine.window.now - engine.window.pulse.progress_at


def witnesses(engine: Engine) -> dict[str, float]:
    """Return 1 for each witness that the work in flight is real, else 0.

    - `waiting_grew`: more requests wait than at the last progress;
    - `http_traffic`: more HTTP requests ended in the second half of the time without progress than finished in any
      engine: clients that gave up, or were refused. The first half is left out, for a mass abort ends many at once and
      is what freezes gauges; so are requests that never reach an engine;
    - `connections_grew`: the API server has more open files than at the last progress: a front end counts a request
      only when it ends, but each that arrives on a new connection shows here;
    - `http_in_flight`: the front end has more open requests than all other engines have (only with
      --enable-server-load-tracking);
    - `gpu_busy`: more of the server's GPUs have been busy without a break than engines that make progress explain.
    """
    window, server = engine.window, engine.server
    grew = window.latest.gauges.get("requests_waiting", 0.0) > window.pulse.waiting_at_progress
    found = {"waiting_grew": float(grew)}
    if server.window is not None:
        half = (still_since(window) + window.now) / 2.0
        ended = sum(server.window.increase_since(half, key) or 0.0 for key in server.window.latest.counters
                    if key[0] == "http_requests_total" and _reaches_an_engine(*key[1:]))  # fmt: skip
        found["http_traffic"] = float(ended > sum(_finished_since(half, other) for other in server.engines.values()))
        files, before = server.window.latest.gauges.get(OPEN_FDS), window.pulse.open_fds_at_progress
        if files is not None and before is not None:
            found["connections_grew"] = float(files - before >= FEWEST_CONNECTIONS)
    if server.requests_in_flight is not None:
        elsewhere = sum(in_flight(other) for other in server.engines.values() if other is not window)
        found["http_in_flight"] = float(server.requests_in_flight > elsewhere)
    if any(UTILIZATION in gpu.latest for gpu in ours(server)):
        found["gpu_busy"] = float(bool(unexplained(server, window, still_since(window))))
    return found


def in_flight(window: Window) -> float:
    """Requests that run or wait, as the gauges say."""
    gauges = window.latest.gauges
    return gauges.get("requests_running", 0.0) + gauges.get("requests_waiting", 0.0)


def still_since(window: Window) -> float:
    """Since when nothing moved though there was work: an idle engine is not expected to make progress."""
    pulse = window.pulse
    return pulse.progress_at if pulse.busy_since is None else max(pulse.progress_at, pulse.busy_since)


def _reaches_an_engine(handler: str, method: str, status: str) -> bool:
    return method == "POST" and status != "4xx" and handler not in FRONT_END_ROUTES


def _finished_since(at: float, window: Window) -> float:
    keys = [key for key in window.latest.counters if key[0] == "requests_finished_total"]
    return sum(window.increase_since(at, key) or 0.0 for key in keys)


def _frozen(engine: Engine) -> bool:
    window = engine.window
    still = window.now - still_since(window) >= engine.server.settings.stall_after
    return still and in_flight(window) > 0.0 and not sleeping(engine)


def stalled(engine: Engine) -> float:
    """Return 1 while work in flight has made no progress for the configured time and a witness says that it is real."""
    return float(_frozen(engine) and any(witnesses(engine).values()))


def gauges_stale(engine: Engine) -> float:
    """Return 1 while the gauges claim work, nothing moves, and no witness speaks for a stall; else 0."""
    return float(_frozen(engine) and not any(witnesses(engine).values()))


def stall_witnesses(engine: Engine) -> dict[str, float]:
    """Return the witnesses while something is frozen; empty otherwise, for they mean nothing then."""
    return witnesses(engine) if _frozen(engine) else {}
