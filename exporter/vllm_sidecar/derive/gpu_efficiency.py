"""Efficiency and balance of the GPUs under the engines' load, and GPUs that are unexpectedly busy or idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.derive.gpu_load import UTILIZATION, all_of_ours, ours, unexplained
from vllm_sidecar.derive.inputs import EngineInputs
from vllm_sidecar.derive.stalls import in_flight, sleeping_state, still_since, trusted

if TYPE_CHECKING:
    from vllm_sidecar.derive.inputs import ServerInputs
    from vllm_sidecar.gpu.device_window import GpuWindow
    from vllm_sidecar.series.window import Window

POWER, POWER_LIMIT, ACTIVITY = "gpu_power_watts", "gpu_power_limit_watts", "gpu_sm_active_ratio"
SLACK = 6.0
"""Most seconds from the start of the GPUs' window to the engine's for which a rate is wrong by at most a tenth."""
LOW_POWER = 0.5
"""Share of the power limit below which a busy GPU computes little: spinning kernels draw about a third."""
IDLE_UNTIL = 0.2
STARVED_AFTER = 10.0
"""Shortest time for which requests must have waited before idle GPUs count as starved."""
BALANCES = {"utilization": UTILIZATION, "power": POWER, "sm_activity": ACTIVITY}


def _counted(window: Window, counter: str, since: float, until: float) -> float | None:
    """Return the increase of a counter between two times, from the nearest polls before them."""
    first = last = None
    began = 0.0
    for at, reading in window.history():
        if first is None or at <= since:
            began, first = at, reading
        if at <= until:
            last = reading
    if first is None or began > since + SLACK or counter not in window.latest.counters:
        return None
    ended = (last.counter(counter) if last else None) or 0.0
    return max(0.0, ended - (first.counter(counter) or 0.0))


def tokens_per_joule(server: ServerInputs) -> dict[str, float]:
    """Return prompt and generation tokens per joule over the GPUs' window; empty if energy is unknown.

    The energy includes all GPUs of the server, also idle ones. Empty after one poll, and while no energy was used.
    """
    gpus = all_of_ours(server)
    used = [gpu.joules() for gpu in gpus]
    joules = sum(each for each in used if each is not None)
    if not gpus or None in used or joules <= 0.0:
        return {}
    since, until = max(gpu.since for gpu in gpus), min(gpu.since + gpu.seconds for gpu in gpus)
    found = {}
    for kind in ("prompt", "generation"):
        counted = [_counted(each, f"{kind}_tokens_total", since, until) for each in server.engines.values()]
        if counted and None not in counted:
            found[kind] = sum(each for each in counted if each is not None) / joules
    return found


def request_watts(server: ServerInputs) -> float | None:
    """Return mean power of all GPUs over mean running requests; None while none run, or without power readings."""
    power = [gpu.mean(POWER) for gpu in all_of_ours(server)]
    running = [extent.mean for each in server.engines.values() if (extent := each.extent("requests_running"))]
    if not power or None in power or sum(running) <= 0.0:
        return None
    return sum(each for each in power if each is not None) / sum(running)


def generation_tokens_per_second(server: ServerInputs) -> float | None:
    """Return generated tokens per second per GPU; None without GPUs, and after one poll."""
    gpus = all_of_ours(server)
    rates = [
        increase / each.seconds
        for each in server.engines.values()
        if each.seconds > 0.0 and (increase := each.increase("generation_tokens_total")) is not None
    ]
    return sum(rates) / len(gpus) if gpus and rates else None


def imbalance(server: ServerInputs) -> dict[str, float]:
    """Return 1 - min / max of the GPUs' means, of the worst group: 0 is balanced, a slow GPU raises it.

    A group is tensor parallel: its GPUs do the same work in step, while stages of a pipeline need not. Neighbors in
    NVML's order form a group, as vLLM assigns them; if no source exposes the size of a group, the engines are assumed
    to share the GPUs equally. Empty if a group has one GPU, and if any group is incomplete.
    """
    gpus = all_of_ours(server)
    size = int(server.flag("tensor_parallel_size") or len(gpus) // max(1, len(server.engines)))
    if size < 2 or len(gpus) % size:
        return {}
    groups = [gpus[start : start + size] for start in range(0, len(gpus), size)]
    found = {}
    for load, signal in BALANCES.items():
        spreads = [spread for group in groups if (spread := _spread(group, signal)) is not None]
        if spreads:
            found[load] = max(spreads)
    return found


def _spread(group: list[GpuWindow], signal: str) -> float | None:
    means = [gpu.mean(signal) for gpu in group]
    known = [mean for mean in means if mean is not None]
    return 1.0 - min(known) / max(known) if len(known) == len(means) and max(known) > 0.0 else None


def busy_without_progress(server: ServerInputs) -> dict[str, float]:
    """Return, by power, 1 while an engine has work and makes no progress, but its GPUs are busy.

    It becomes 1 after half the time to a stall. `low`: they draw less than half of their limit, as in a collective that
    waits for a lost rank; `high`: they compute something that never ends. `unknown`: power or limit are unknown. Empty
    if no GPU exposes its utilization.
    """
    gpus = ours(server)
    if not any(UTILIZATION in gpu.latest for gpu in gpus):
        return {}
    spinning: list[GpuWindow] = []
    for engine in server.engines.values():
        since = still_since(engine)
        still = engine.now - since >= server.settings.stall_after / 2.0
        if still and in_flight(engine) > 0.0 and not sleeping_state(engine):
            spinning += unexplained(server, engine, since)
    levels = {_level(gpu) for gpu in spinning}
    kinds = ("low", "high") if all(_level(gpu) != "unknown" for gpu in gpus) else ("low", "high", "unknown")
    return {kind: float(kind in levels) for kind in kinds}


def _level(gpu: GpuWindow) -> str:
    power, limit = gpu.latest.get(POWER), gpu.latest.get(POWER_LIMIT)
    if power is None or not limit:
        return "unknown"
    return "low" if power < LOW_POWER * limit else "high"


def starved(server: ServerInputs) -> float | None:
    """Return 1 while requests wait and every GPU is idle, 0 otherwise; None if no GPU exposes its utilization.

    0 where the gauge froze when the clients left. None if it froze and it is unknown whether clients wait, unless
    another engine is starved.
    """
    gpus = [gpu for gpu in all_of_ours(server) if UTILIZATION in gpu.latest]
    if not gpus:
        return None
    waiting = [
        EngineInputs(model, seen, server) for (model, *_), seen in server.engines.items() if _waits_for(seen, gpus)
    ]
    found = {trusted(engine) for engine in waiting}
    return 1.0 if True in found else None if None in found else 0.0


def _waits_for(engine: Window, gpus: list[GpuWindow]) -> bool:
    """Return whether requests have waited for a while, by the gauge, and all GPUs were idle meanwhile."""
    since = engine.progress.waiting_since
    if since is None or engine.now - since < STARVED_AFTER or sleeping_state(engine):
        return False
    means = [gpu.mean(UTILIZATION, since) for gpu in gpus]
    return all(mean is not None and mean < IDLE_UNTIL for mean in means)


def memory_growth(server: ServerInputs) -> dict[tuple[str, str], float]:
    """Return the increase of memory in use since the end of warm-up, in bytes by device; negative if it shrank.

    vLLM allocates its memory before it serves, so a later increase is a leak, fragmentation or another program.
    """
    gpus = server.gpus
    if gpus is None:
        return {}
    return {
        gpu.device.labels: used - gpus.warm[gpu.device.uuid]
        for gpu in gpus.windows
        if gpu.device.uuid in gpus.warm and (used := gpu.latest.get("gpu_memory_used_bytes")) is not None
    }
