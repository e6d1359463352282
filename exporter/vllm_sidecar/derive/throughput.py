"""Tokens per second, and batch utilization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.derive.stalls import trusted

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.derive.inputs import EngineInputs


def rate_of(counter: str) -> Callable[[EngineInputs], float | None]:
    """Make the derivation of a counter's rate per second in the window; None after one poll only."""

    def rate(engine: EngineInputs) -> float | None:
        increase = engine.window.increase(counter)
        return increase / engine.window.seconds if increase is not None and engine.window.seconds > 0.0 else None

    return rate


def requests_per_second(engine: EngineInputs) -> float | None:
    """Return the rate at which requests finished in the window, for any reason; None after one poll only.

    Also None if the server exposes neither outcomes of requests nor their durations.
    """
    window = engine.window
    by_reason, took = window.increases("requests_finished_total"), window.observed("request_seconds")
    if window.seconds <= 0.0 or not (by_reason or took):
        return None
    return (sum(by_reason.values()) if by_reason else took.observations if took else 0.0) / window.seconds


def computed_prompt_ratio(engine: EngineInputs) -> float | None:
    """Return the share of the prompt tokens that were computed here rather than taken from a cache.

    None if no prompt token arrived, or if vLLM does not expose the cached ones (before 0.16).
    """
    window = engine.window
    by_source = window.increases("prompt_tokens_by_source_total")
    if by_source:
        whole = sum(by_source.values())
        return by_source.get(("local_compute",), 0.0) / whole if whole > 0.0 else None
    whole, cached = window.increase("prompt_tokens_total") or 0.0, window.increase("prompt_tokens_cached_total")
    return max(0.0, 1.0 - cached / whole) if whole > 0.0 and cached is not None else None


def tokens_per_step(engine: EngineInputs) -> float | None:
    """Return the mean number of tokens per engine step; None without a step."""
    steps = engine.window.observed("iteration_tokens")
    return steps.total / steps.observations if steps and steps.observations > 0.0 and steps.total is not None else None


def batch_occupancy(engine: EngineInputs) -> float | None:
    """Return mean running requests / --max-num-seqs; None if no source exposes the flag.

    0 if the gauge froze when the clients left; None if it froze and it is unknown whether clients wait.
    """
    running, most = engine.window.extent("requests_running"), engine.server.flag("max_num_seqs")
    live = trusted(engine)
    if not running or not most or live is None:
        return None
    return running.mean / most if live else 0.0
