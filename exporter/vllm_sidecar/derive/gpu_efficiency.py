"""Engine and GPUs in one picture: efficiency, balance, and GPUs that are busy or idle when they should not be."""

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
"""Seconds by which the engine's polls may begin after the GPUs' without a rate being wrong by more than a tenth."""
LOW_POWER = 0.5
"""Share of the limit below which a busy GPU computes nothing much: spinning kernels draw about a third."""
IDLE_UNTIL = 0.2
STARVED_AFTER = 10.0
"""Seconds for which requests must have waited before idle GPUs are called starved."""
BALANCES = {"utilization": UTILIZATION, "power": POWER, "sm_activity": ACTIVITY}


def _counted(window: Window, counter: str, since: float, until: float) -> float | None:
    """Return what a counter grew by between two times, as the polls nearest before them say."""
    first: tuple[float, float] | None = None
    last = 0.0
    for at, reading in window.history():
        value = reading.counters.get(counter, 0.0)
        if first is None or at <= since:
            first = at, value
        if at <= until:
            last = value
    if first is None or first[0] > since + SLACK or counter not in window.latest.counters:
        return None
    return max(0.0, last - first[1])


def tokens_per_joule(server: ServerInputs) -> dict[str, float]:
    """Return prompt and generation tokens per joule over the GPUs' window; empty where energy is not known.

    Energy is that of all GPUs of the server, idle ones too. Empty after one poll, and while nothing was drawn.
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
    """Return mean power of all GPUs over mean running requests; None while none run, or without power."""
    power = [gpu.mean(POWER) for gpu in all_of_ours(server)]
    running = [extent.mean for each in server.engines.values() if (extent := each.extent("requests_running"))]
    if not power or None in power or sum(running) <= 0.0:
        return None
    return sum(each for each in power if each is not None) / sum(running)


def generation_tokens_per_second(server: ServerInputs) -> float | None:
    """Return generated tokens per second and GPU; None without GPUs, and after one poll."""
    gpus = all_of_ours(server)
    rates = [
        increase / each.seconds
        for each in server.engines.values()
        if each.seconds > 0.0 and (increase := each.increase("generation_tokens_total")) is not None
    ]
    return sum(rates) / len(gpus) if gpus and rates else None


def imbalance(server: ServerInputs) -> dict[str, float]:
    """Return 1 - min / max of the GPUs' means, of the worst group: 0 is balanced, a straggler makes it rise.

    A group is tensor parallel: its GPUs do the same work in step, while stages of a pipeline need not. They are taken
    to be neighbours in NVML's order, as vLLM assigns them; where no source tells how many there are, the engines are
    taken to share the GPUs equally. Empty where a group has one GPU, and where not all groups are whole.
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
    """Return, by power, 1 while an engine has work, makes no progress, and GPUs spin all the same.

    It begins at half the time after which a stall is called. `low`: they draw less than half of their limit, as in a
    collective that waits for a rank that is gone; `high`: they compute something that never ends. `unknown` where
    power or limit are. Empty where no GPU tells its utilisation.
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
    """Return 1 while requests wait and every GPU is idle, 0 otherwise; None where no GPU tells its utilisation.

    Nobody waits where the gauge froze when the clients left. None as well where it froze and nothing says whether
    anybody waits, unless another engine is starved.
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
    """Tell whether requests have been waiting for a while, by the gauge, and all GPUs were idle meanwhile."""
    since = engine.progress.waiting_since
    if since is None or engine.now - since < STARVED_AFTER or sleeping_state(engine):
        return False
    means = [gpu.mean(UTILIZATION, since) for gpu in gpus]
    return all(mean is not None and mean < IDLE_UNTIL for mean in means)


def memory_growth(server: ServerInputs) -> dict[tuple[str, str], float]:
    """Return bytes by which memory in use grew since the end of warm-up, by device; negative where it shrank.

    vLLM takes its memory before it serves, so what comes later is a leak, fragmentation or another program.
    """
    gpus = server.gpus
    if gpus is None:
        return {}
    return {
        gpu.device.labels: used - gpus.warm[gpu.device.uuid]
        for gpu in gpus.windows
        if gpu.device.uuid in gpus.warm and (used := gpu.latest.get("gpu_memory_used_bytes")) is not None
    }
