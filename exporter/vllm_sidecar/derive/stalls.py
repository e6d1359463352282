"""Whether clients are answered: age of the last progress, stalls with their corroborating signals, frozen gauges.

`/health` answers 200 during a freeze, and running/waiting freeze at their last value when all requests are aborted at
once on a server that is then idle (vllm#22545). Work is therefore defined by clients that wait, not by the gauges:

- signs from the front end while no engine makes progress apply to all engines that are awake, also idle ones;
- work in the gauges of an engine counts while its clients have not left, and another signal corroborates it.

Work is a stall if it has waited without a break, and without progress, for the configured time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.upstream import ASLEEP
from vllm_sidecar.derive.gpu_load import UTILIZATION, ours, unexplained
from vllm_sidecar.series.progress import SETTLE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.derive.inputs import EngineInputs, ServerInputs
    from vllm_sidecar.series.window import Window

SLEEPING = tuple(("engine_sleep_state", state) for state in ASLEEP)
DEFERRED = ("requests_waiting", "deferred")

CORROBORATING = (
    "engine_unhealthy",
    "http_traffic",
    "http_in_flight",
    "connections_grew",
    "requests_open",
    "waiting_grew",
    "sibling_progress",
    "gpu_busy",
)
"""Signals that can corroborate a stall:

- `engine_unhealthy`: vLLM itself reports that the engine failed (`engine_healthy` 0);
- `http_traffic`: HTTP requests to engines still end, but no engine finished one or sent a first token;
- `http_in_flight`: `/load` has more open requests than at the last progress, or than other engines have;
- `connections_grew`: the API server has more open files than at the last progress, which arrived as requests do;
- `requests_open`: the gauges claim work, but fewer HTTP requests ended than that: its clients have not left (work that
  the first poll found without progress may be older, and its clients may have left before);
- `waiting_grew`: more requests wait than at the last progress, so the gauge is not frozen;
- `sibling_progress`: other engines of the same model answer requests continuously;
- `gpu_busy`: more of the server's GPUs have been busy without a break than engines that make progress explain.
"""

MANY_ENDED = 5
"""Unanswered HTTP requests, soon after the last progress, that show that none was answered since then."""
FEWEST_NEW_FILES = 2.0
"""One more may be a client that reads the metrics."""
LEFT_SHARE = 0.9
"""Share of the claimed requests that must have ended for their clients to have left."""
SIBLING_ANSWERS = 5.0
"""Answers of each sibling that make an engine with none of these requests implausible."""
SIBLING_SECONDS = 0.5
"""Share of the time to a stall for which siblings must continue."""


def sleeping(engine: EngineInputs) -> float | None:
    """Return 1 while the engine sleeps, 0 while it is awake, None if vLLM does not expose it (before 0.11.1)."""
    return sleeping_state(engine.window)


def sleeping_state(window: Window) -> float | None:
    """Return the same for the window of an engine."""
    states = [window.latest.gauges[key] for key in SLEEPING if key in window.latest.gauges]
    return float(max(states) > 0.0) if states else None


def age_seconds(engine: EngineInputs) -> float:
    """Return the time since any progress signal changed; grows on an idle engine too."""
    return engine.window.now - engine.window.progress.progress_at


def in_flight(window: Window) -> float:
    """Running and waiting requests according to the gauges."""
    gauges = window.latest.gauges
    return gauges.get("requests_running", 0.0) + gauges.get("requests_waiting", 0.0)


def still_since(window: Window) -> float:
    """Time since which there was work but no progress: an idle engine is not expected to make progress."""
    return window.progress.still_since


def corroborating_signals(engine: EngineInputs) -> dict[str, float]:
    """Return the signals that clients wait for an engine without progress, and since when."""
    since, found = still_since(engine.window), {}
    if _unhealthy(engine):  # its failure needs no waiting time
        found["engine_unhealthy"] = min(since, engine.window.now - engine.server.settings.stall_after)
    if _is_paused_or_asleep(engine):
        return found
    found |= _shown_by_the_front_end(engine.server)
    if _claims_work(engine) and not clients_left(engine) and not _waits_for_others(engine):
        found |= {name: min(since, found.get(name, since)) for name in _corroborating(engine)}
    return found


def _unhealthy(engine: EngineInputs) -> bool:
    return engine.window.latest.gauges.get("engine_healthy", 1.0) <= 0.0


def _is_paused_or_asleep(engine: EngineInputs) -> bool:
    return bool(sleeping(engine)) or engine.server.front_end.on_hold


def _claims_work(engine: EngineInputs) -> bool:
    """Return whether the gauges claim work without progress; very recent work may still progress."""
    window = engine.window
    return in_flight(window) > 0.0 and window.now - still_since(window) >= _settled_after(engine)


def _settled_after(engine: EngineInputs) -> float:
    return min(SETTLE_SECONDS, engine.server.settings.stall_after)


def _shown_by_the_front_end(server: ServerInputs) -> dict[str, float]:
    """Return the signs of the front end that clients wait though no engine makes progress, and since when."""
    front, found = server.front_end, {}
    if front.ends_unanswered:
        first = front.unanswered_first
        soon = first - front.progress_at <= server.settings.stall_after
        found["http_traffic"] = front.progress_at if soon and front.unanswered >= MANY_ENDED else first
    if front.in_flight_since is not None:
        found["http_in_flight"] = front.in_flight_since
    if front.connections_since is not None:
        found["connections_grew"] = front.connections_since
    return found


def clients_left(engine: EngineInputs) -> float:
    """Return 1 while the gauges claim work whose clients have left: as many requests ended as they claim, unanswered.

    While other engines continue, requests that end later may have been theirs.
    """
    if not _claims_work(engine):
        return 0.0
    window, server = engine.window, engine.server
    departed, aborted = window.progress.departed, window.progress.aborted
    alone = server.front_end.progress_at <= window.progress.still_since
    ended = (departed.so_far if alone else departed.soon) * server.front_end.requests_per_post
    return float(max(ended, aborted.so_far) >= LEFT_SHARE * in_flight(window))


def _corroborating(engine: EngineInputs) -> Iterator[str]:
    """Yield the signals that the work in the gauges is real."""
    window, server = engine.window, engine.server
    gauges, front, load = window.latest.gauges, server.front_end, server.requests_in_flight
    # Deferred requests may wait for their client: a session that is open and silent.
    counted = front.measured and not window.progress.may_be_old
    if counted and load != 0.0 and in_flight(window) > gauges.get(DEFERRED, 0.0):
        yield "requests_open"
    if gauges.get("requests_waiting", 0.0) > window.progress.waiting_at_progress:
        yield "waiting_grew"
    if front.connections >= FEWEST_NEW_FILES:
        yield "connections_grew"
    if load is not None and load > sum(in_flight(other) for other in server.engines.values() if other is not window):
        yield "http_in_flight"
    if _siblings_progress(engine):
        yield "sibling_progress"
    if any(UTILIZATION in gpu.latest for gpu in ours(server)) and unexplained(server, window, still_since(window)):
        yield "gpu_busy"


def _siblings(engine: EngineInputs) -> list[Window]:
    return [
        window
        for (model, *_), window in engine.server.engines.items()
        if model == engine.model_name and window is not engine.window
    ]


def _siblings_progress(engine: EngineInputs) -> bool:
    """Return whether other engines of the model answered so many requests that this one should have had some of them.

    A single request that its client canceled freezes the gauges of a rank, too, and the next few may well go to
    another.
    """
    since, siblings = still_since(engine.window), _siblings(engine)
    going = since + SIBLING_SECONDS * engine.server.settings.stall_after
    if not any(other.progress.progress_at >= going for other in siblings):
        return False
    return sum(_answered_since(since, other) for other in siblings) >= SIBLING_ANSWERS * len(siblings)


def _answered_since(at: float, window: Window) -> float:
    keys = [key for key in window.latest.counters if key[0] == "requests_finished_total"]
    return sum(window.increase_since(at, key) or 0.0 for key in keys)


def _old_enough(engine: EngineInputs) -> list[str]:
    since = engine.window.now - engine.server.settings.stall_after
    return [name for name, at in corroborating_signals(engine).items() if at <= since]


def waited_seconds(engine: EngineInputs) -> float:
    """Return for how long clients have waited for the engine without any progress; 0 while none is known to wait."""
    found = corroborating_signals(engine)
    seconds = engine.window.now - min(found.values(), default=engine.window.now)
    return seconds if seconds >= _settled_after(engine) else 0.0


def stalled(engine: EngineInputs) -> float:
    """Return 1 while clients have waited without progress for the configured time, or vLLM reports a failed engine."""
    return float(bool(_old_enough(engine)))


def gauges_stale(engine: EngineInputs) -> float:
    """Return 1 while no client waits for the work in the gauges, or no other signal corroborates it; otherwise 0."""
    return float(trusted(engine) is not True)


def trusted(engine: EngineInputs) -> bool | None:
    """Return whether the gauges of running and waiting requests are trusted.

    False: their clients have left, so that the engine is idle. None: they froze, and it is unknown whether clients
    wait.
    """
    if _is_paused_or_asleep(engine) or not _claims_work(engine):
        return True
    if clients_left(engine):
        return False
    still = engine.window.now - still_since(engine.window) >= engine.server.settings.stall_after
    return None if still and not _waits_for_others(engine) and not corroborating_signals(engine) else True


def _waits_for_others(engine: EngineInputs) -> bool:
    """Return whether all work is deferred while other engines of the model progress: a stage waits for another one."""
    deferred = engine.window.latest.gauges.get(DEFERRED, 0.0)
    since = still_since(engine.window)
    return deferred >= in_flight(engine.window) and any(x.progress.progress_at > since for x in _siblings(engine))


def stall_corroborated(engine: EngineInputs) -> dict[str, float]:
    """Return 1 for each signal that corroborates a stall, otherwise 0; empty while the engine does not look frozen."""
    found = _old_enough(engine)
    return {name: float(name in found) for name in CORROBORATING} if found or trusted(engine) is None else {}
