"""KV cache: capacity in tokens, growth, preemptions and pressure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.derive.admission import NEARLY_FULL, seats
from vllm_sidecar.derive.stalls import trusted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.derive.inputs import EngineInputs

USAGE = "kv_cache_usage_ratio"
MOST_FROM_USAGE = 0.5
"""Largest score from usage alone: prefix caching fills the cache by design."""
FEWEST_HELD = 10
"""Successive polls without a request after which blocks still in use are not held by anything that runs."""


def capacity_tokens(engine: EngineInputs) -> float | None:
    """Return how many tokens one engine's KV cache holds; see `tokens_of`."""
    return tokens_of(engine.cache_config, engine.engines)


def tokens_of(config: Mapping[str, str], engines: int) -> float | None:
    """Return how many tokens the KV cache of each engine of a server holds, by its cache_config_info.

    From `kv_cache_size_tokens` (vLLM 0.24 on, per engine), otherwise blocks x block size, where vLLM exposes the sum of
    the blocks of all engines on each. None if vLLM exposes neither, or for hybrid models without the first: their
    blocks are of several kinds, and the product is meaningless (vllm#51163).
    """
    tokens = _number(config.get("kv_cache_size_tokens"))
    if tokens is not None:
        return tokens
    blocks, size = _number(config.get("num_gpu_blocks")), _number(config.get("block_size"))
    hybrid = config.get("mamba_block_size", "None") != "None"
    return None if blocks is None or size is None or hybrid else blocks * size / engines


def free_tokens(engine: EngineInputs) -> float | None:
    """Return how many more tokens fit now; None if capacity or usage is unknown."""
    capacity = capacity_tokens(engine)
    usage = engine.window.latest.gauges.get(USAGE)
    return None if capacity is None or usage is None else capacity * max(0.0, 1.0 - usage)


def seconds_to_full(engine: EngineInputs) -> float | None:
    """Return when the cache will be full if usage continues as from the start to the end of the window.

    None while usage does not grow, and after one poll only.
    """
    extent = engine.window.extent(USAGE)
    if extent is None or engine.window.seconds <= 0.0:
        return None
    growth = (extent.last - extent.first) / engine.window.seconds
    return max(0.0, 1.0 - extent.last) / growth if growth > 0.0 else None


def preemptions_per_request(engine: EngineInputs) -> float | None:
    """Return preemptions per finished request in the window; None if none finished or ran.

    If none finished, per the most requests that ran at the same time: requests that preempt each other forever are the
    worst case, which must not be hidden.
    """
    preempted = engine.window.increase("preemptions_total")
    finished = engine.window.observed("request_seconds")
    if preempted is None:
        return None
    running = engine.window.extent("requests_running")
    requests = finished.observations if finished else 0.0
    requests = requests or (running.peak if running else 0.0)
    return preempted / requests if requests > 0.0 else None


def pressure(engine: EngineInputs) -> float | None:
    """Score KV pressure from 0 (none) to 1: the largest of three parts.

    - preemptions / (preemptions + finished requests): the share of wasted work;
    - usage averaged over the polls at which requests waited for capacity and the cache was nearly full, or requests
      were preempted in the window, counting the others as 0: requests that wait with room in the cache wait for
      something else, such as a place in a full batch;
    - usage above 0.9, scaled so that a full cache alone is 0.5: context only, because prefix caching fills it by
      design.

    0 if the gauges froze when the clients left; None if they froze and it is unknown whether clients wait, and if the
    server does not expose KV usage.
    """
    window, live = engine.window, trusted(engine)
    extent = window.extent(USAGE)
    if extent is None or live is None:
        return None
    if not live:
        return 0.0
    preempted = window.increase("preemptions_total") or 0.0
    finished = window.observed("request_seconds")
    events = preempted + (finished.observations if finished else 0.0)
    damage = preempted / events if events > 0.0 else 0.0
    usage = MOST_FROM_USAGE * max(0.0, extent.peak - NEARLY_FULL) / (1.0 - NEARLY_FULL)
    return min(1.0, max(damage, _waited_for_capacity(engine), usage))


def _waited_for_capacity(engine: EngineInputs) -> float:
    """Mean usage over the window, counted as 0 at polls without requests that wait for KV cache."""
    window, places = engine.window, seats(engine)
    waiting = window.extent("requests_waiting")
    if waiting is None or waiting.peak <= 0.0:
        return 0.0
    split = ("requests_waiting", "capacity") in window.latest.gauges
    blocked = window.values(("requests_waiting", "capacity") if split else "requests_waiting")
    polls = zip(window.values(USAGE), blocked, window.values("requests_running"), strict=True)
    full = 0.0 if window.increase("preemptions_total") else NEARLY_FULL
    short = [usage for usage, waits, runs in polls if usage and waits and usage >= full and (runs or 0.0) < places]
    return sum(short) / window.polls


def held_ratio(engine: EngineInputs) -> float | None:
    """Return the lowest KV usage of the window if nothing ran or waited at any of its polls, otherwise 0.

    Also 0 after few polls; None if the server does not expose usage or running requests.
    """
    window = engine.window
    usage, running, waiting = (window.extent(x) for x in (USAGE, "requests_running", "requests_waiting"))
    if usage is None or running is None:
        return None
    if window.polls < FEWEST_HELD or running.peak > 0.0 or (waiting is not None and waiting.peak > 0.0):
        return 0.0
    return min(value for value in window.values(USAGE) if value is not None)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:  # "None" before the cache exists, and always in 0.8
        return None
    return value if value > 0.0 else None
