"""Whether the engine gets anything done: age of the last progress, stalls with their witnesses, gauges that froze.

`/health` says 200 during a freeze, and running/waiting freeze at their last value when all requests are aborted at
once on a server that is
then idle (vllm#22545). So a stall needs work in flight, no change in any progress signal, and a second witness;
without a witness the gauges are called stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.derive.views import Engine

SLEEPING = (("engine_sleep_state", "weights_offloaded"), ("engine_sleep_state", "discard_all"))


def sleeping(engine: Engine) -> float | None:
    """Return 1 while the engine sleeps, 0 while it is awake, None where vLLM does not tell (before 0.11.1)."""
    states = [engine.window.latest.gauges[key] for key in SLEEPING if key in engine.window.latest.gauges]
    return float(max(states) > 0.0) if states else None


def age_seconds(engine: Engine) -> float:
    """Return the time since any progress signal changed; grows on an idle engine too."""
    return engine.window.now - engine.window.progress_at


def in_flight(engine: Engine) -> float:
    """Return the requests that run or wait, as the gauges say."""
    gauges = engine.window.latest.gauges
    return gauges.get("requests_running", 0.0) + gauges.get("requests_waiting", 0.0)


def witnesses(engine: Engine) -> dict[str, float]:
    """Return 1 for each witness that the work in flight is real, else 0.

    - `waiting_grew`: more requests wait than at the last progress;
    - `http_traffic`: HTTP requests ended in the second half of the time since then (clients that gave up, or were
      refused) though
      none finished in the engine; the first half is left out, for a mass abort ends many at once and is what freezes
      gauges;
    - `http_in_flight`: the front end has open requests (only with --enable-server-load-tracking).
    """
    window, server = engine.window, engine.server
    grew = window.latest.gauges.get("requests_waiting", 0.0) > window.waiting_at_progress
    found = {"waiting_grew": float(grew)}
    if server.window is not None:
        keys = [key for key in server.window.latest.counters if key[0] == "http_requests_total" and key[2] == "POST"]
        half = (window.progress_at + window.now) / 2.0
        ended = sum(server.window.increase_since(half, key) or 0.0 for key in keys)
        found["http_traffic"] = float(ended > 0.0)
    if server.requests_in_flight is not None:
        found["http_in_flight"] = float(server.requests_in_flight > 0.0)
    return found


def _frozen(engine: Engine) -> bool:
    return (
        in_flight(engine) > 0.0 and age_seconds(engine) >= engine.server.settings.stall_after and not sleeping(engine)
    )


def stalled(engine: Engine) -> float:
    """Return 1 while work in flight has made no progress for the configured time and a witness says that it is real."""
    return float(_frozen(engine) and any(witnesses(engine).values()))


def gauges_stale(engine: Engine) -> float:
    """Return 1 while the gauges claim work, nothing moves, and no witness speaks for a stall; else 0."""
    return float(_frozen(engine) and not any(witnesses(engine).values()))


def stall_witnesses(engine: Engine) -> dict[str, float]:
    """Return the witnesses while something is frozen; empty otherwise, for they mean nothing then."""
    return witnesses(engine) if _frozen(engine) else {}
