"""The limit that keeps waiting requests from being admitted."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from vllm_sidecar.derive.stalls import trusted

if TYPE_CHECKING:
    from vllm_sidecar.derive.inputs import EngineInputs

LIMITS = ("batch", "kv_cache", "adapter", "transfer", "unknown")
"""The batch is full (--max-num-seqs), the KV cache is full, all LoRA slots are taken (--max-loras), KV blocks are still
being transferred or a grammar is being compiled, or the reason is unknown."""
NEARLY_FULL = 0.9
"""Lowest KV usage at which requests may wait for blocks; below it a busy cache is what vLLM aims for."""
FULL = 0.98
"""Lowest KV usage at which the cache is the limit, unless --max-num-seqs is known to be reached."""
NEAR_SEATS = 0.9
"""Share of the seats that a full batch has taken at some poll of the window: finished requests are replaced later."""
PLATEAU = 0.5
"""Share of the polls with a queue at which as many run as ever did, if the limit is the batch and not the KV cache."""


def admission_limit(engine: EngineInputs) -> dict[str, float]:
    """Return 1 for the limit that requests wait for now, 0 for the others; empty while none waits."""
    if not _waiting(engine) or trusted(engine) is not True:
        return {}
    found = _limit(engine)
    return {limit: float(limit == found) for limit in LIMITS}


def seats(engine: EngineInputs) -> float:
    """Return how many requests fit into a batch: --max-num-seqs, otherwise the most observed.

    The most that ever ran while others waited are the seats only if so many run repeatedly: where the KV cache is the
    limit, the number changes with the length of the requests. Infinite if unknown.
    """
    known = engine.server.flag("max_num_seqs")
    if known:
        return known
    window = engine.window
    usage, learned = window.extent("kv_cache_usage_ratio"), window.progress.seats
    if not learned or window.increase("preemptions_total") or (usage is not None and usage.peak >= FULL):
        return inf
    polls = zip(window.values("requests_waiting"), window.values("requests_running"), strict=True)
    queued = [running or 0.0 for waiting, running in polls if waiting]
    return learned if sum(running >= learned for running in queued) > PLATEAU * len(queued) else inf


def _limit(engine: EngineInputs) -> str:
    window = engine.window
    gauges, deferred, waiting = window.latest.gauges, _deferred(engine), _waiting(engine)
    if deferred is None or deferred > 0.0:
        if _adapters_wait(engine):
            return "adapter"
        if deferred == waiting or _fetching(engine) >= waiting:
            return "transfer"
    running, usage = window.extent("requests_running"), window.extent("kv_cache_usage_ratio")
    most = running.peak if running else 0.0
    if window.increase("preemptions_total"):
        return "kv_cache"
    if gauges.get("requests_running", 0.0) > 0.0 and most >= NEAR_SEATS * seats(engine):
        return "batch"
    return "kv_cache" if usage is not None and usage.peak >= NEARLY_FULL else "unknown"


def _waiting(engine: EngineInputs) -> float:
    return engine.window.latest.gauges.get("requests_waiting", 0.0)


def _deferred(engine: EngineInputs) -> float | None:
    """Return how many wait for anything but capacity; None if vLLM does not expose it (before 0.20)."""
    gauges = engine.window.latest.gauges
    return gauges.get(("requests_waiting", "deferred"))


def _fetching(engine: EngineInputs) -> float:
    gauges = engine.window.latest.gauges
    return sum(value for key, value in gauges.items() if key[0] == "requests_kv_fetching")


def _adapters_wait(engine: EngineInputs) -> bool:
    """Return whether requests need more adapters than there are slots."""
    adapters, slots = engine.server.adapters, engine.server.flag("max_loras")
    if adapters is None:
        return False
    slots = adapters.slots if adapters.slots is not None else slots
    return slots is not None and len({*adapters.running, *adapters.waiting}) > slots
